from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from base_residual.config.resolve import make_config
from base_residual.errors import ConfigError, ShapeError
from base_residual.losses import (
    LATER_WEIGHTS,
    AdaptiveBaseResidualLoss,
    BaseResidualLoss,
    LossWeights,
    PlainLoss,
    ReconKind,
    decomposition_terms,
    low_pass,
    make_loss,
    masked_mean,
    reconstruction,
)


def reference_low_pass(depth: np.ndarray, kernel: int, valid: np.ndarray) -> np.ndarray:
    """Pixel by pixel: the weighted mean of the valid pixels within a centred window."""
    height, width = depth.shape
    result = np.zeros_like(depth)
    for row in range(height):
        for column in range(width):
            total = weight = 0.0
            for r in range(height):
                for c in range(width):
                    # A pixel counts by the part of it that the box covers.
                    inside = 1.0
                    for distance in (abs(r - row), abs(c - column)):
                        inside *= min(1.0, max(0.0, (kernel + 1) / 2 - distance))
                    if valid[r, c]:
                        total += inside * depth[r, c]
                        weight += inside
            result[row, column] = total / weight if weight > 0 else 0.0
    return result


def random_scene(seed: int, side: int = 12, holes: float = 0.3) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    maps = {
        name: 5 * torch.rand(2, 1, side, side, generator=rng, dtype=torch.float64) for name in ("base", "final", "gt")
    }
    maps["residual"] = maps["final"] - maps["base"]
    maps["gt"] = maps["gt"] * (torch.rand(2, 1, side, side, generator=rng) > holes)
    return maps


@settings(max_examples=15)
@given(kernel=st.integers(1, 9), seed=st.integers(0, 1000), holes=st.floats(0, 0.9))
def test_low_pass_equals_a_plain_float64_reference(kernel: int, seed: int, holes: float) -> None:
    gt = random_scene(seed, side=9, holes=holes)["gt"]
    found = low_pass(gt, kernel, gt > 0)
    for image, smooth in zip(gt[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(smooth, reference_low_pass(image, kernel, image > 0), atol=1e-9)


def test_low_pass_leaves_out_what_is_no_number_at_invalid_pixels() -> None:
    depth = torch.full((1, 1, 6, 6), 3.0)
    depth[0, 0, 2, 3] = torch.nan
    torch.testing.assert_close(low_pass(depth, 3, depth > 0), torch.full((1, 1, 6, 6), 3.0))


@given(kernel=st.integers(1, 30), seed=st.integers(0, 1000))
def test_low_pass_is_centred_so_that_it_commutes_with_flipping(kernel: int, seed: int) -> None:
    gt = random_scene(seed)["gt"]
    flipped = low_pass(gt.flip(-1), kernel, gt.flip(-1) > 0).flip(-1)
    torch.testing.assert_close(flipped, low_pass(gt, kernel, gt > 0))


@given(kernel=st.integers(1, 40), depth=st.floats(0.1, 30))
def test_low_pass_leaves_a_flat_wall_with_holes_as_it_is(kernel: int, depth: float) -> None:
    valid = random_scene(3)["gt"] > 0
    wall = torch.where(valid, depth, 0.0).double()
    found = low_pass(wall, kernel, valid)
    torch.testing.assert_close(found[valid], wall[valid])


def test_low_pass_keeps_the_size_and_kernel_one_changes_nothing() -> None:
    depth = torch.rand(1, 1, 7, 31)
    assert low_pass(depth, 16).shape == depth.shape
    torch.testing.assert_close(low_pass(depth, 1), depth)


def test_low_pass_is_zero_where_nothing_is_valid() -> None:
    nothing = torch.zeros(1, 1, 8, 8)
    assert torch.equal(low_pass(nothing, 3, nothing > 0), nothing)


@pytest.mark.parametrize("kernel", [0, -1, 2.5, float("nan"), float("inf")])
def test_low_pass_refuses_a_kernel_that_is_no_number_of_pixels(kernel: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^The low-pass kernel is {kernel}; expected is a whole number of at least"):
        low_pass(torch.ones(1, 1, 8, 8), kernel)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BaseResidualLoss(lambda_base=-1.0), "weight of the term 'base' is -1.0; expected is a finite"),
        (lambda: BaseResidualLoss(lambda_sparse=float("nan")), "weight of the term 'sparse' is nan"),
        (lambda: BaseResidualLoss(lowpass_kernel=0), "^The low-pass kernel is 0"),
        (lambda: BaseResidualLoss(recon="l2"), "Unknown reconstruction 'l2'"),  # type: ignore[arg-type]
        (lambda: AdaptiveBaseResidualLoss(warmup_epochs=-1), "^The warm-up's number of epochs is -1"),
        (lambda: AdaptiveBaseResidualLoss(later=LossWeights(float("inf"), 1, 1)), "weight of the term 'recon' is inf"),
    ],
)
def test_a_loss_of_impossible_weights_is_not_made(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_near_wall_of_the_empty_room_is_a_layout_as_well() -> None:
    near, far = torch.full((1, 1, 4, 4), 0.6), torch.full((1, 1, 4, 4), 2.0)
    assert float(decomposition_terms(near, far - near, far, far, 2, empty_room=near).base) == 0.0


def test_the_least_weights_and_kernels_are_possible() -> None:
    parts = [torch.full((1, 1, 4, 4), depth) for depth in (2.0, 1.0, 3.0, 5.0)]
    total, _ = BaseResidualLoss(lambda_sparse=0.0, lambda_base=0.0, lowpass_kernel=1)(*parts)
    assert float(total) == pytest.approx(2.0)
    assert AdaptiveBaseResidualLoss(warmup_epochs=0).weights == LATER_WEIGHTS


def test_low_pass_keeps_full_precision_where_networks_do_not() -> None:
    depth = 25 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = low_pass(depth, 8)
    assert torch.equal(found, low_pass(depth, 8))


def test_low_pass_takes_every_pixel_without_a_mask() -> None:
    depth = random_scene(8, holes=0.5)["gt"]
    torch.testing.assert_close(low_pass(depth, 3), low_pass(depth, 3, torch.ones_like(depth, dtype=torch.bool)))


def test_a_single_pixel_far_away_weighs_as_much_as_any() -> None:
    depth, valid = torch.full((1, 1, 1, 9), 4.0), torch.zeros(1, 1, 1, 9, dtype=torch.bool)
    valid[..., 8] = True
    assert low_pass(depth, 16, valid)[0, 0, 0, 0] == 4.0  # at the very edge of an even box, half in
    assert low_pass(depth, 15, valid)[0, 0, 0, 0] == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_a_plain_float64_reference(seed: int) -> None:
    scene = random_scene(seed)
    total, terms = BaseResidualLoss(1.0, 0.8, 0.2, lowpass_kernel=4)(**scene)
    base, residual, final, gt = (scene[name].numpy() for name in ("base", "residual", "final", "gt"))
    valid = gt > 0
    smooth = np.stack([reference_low_pass(image, 4, image > 0) for image in gt[:, 0]])[:, None]
    recon, layout = np.abs(final - gt)[valid].mean(), np.abs(base - smooth)[valid].mean()
    sparse = np.abs(residual)[valid].mean()
    np.testing.assert_allclose([float(term) for term in terms], [recon, layout, sparse], rtol=1e-10)
    assert float(total) == pytest.approx(recon + 0.8 * layout + 0.2 * sparse, rel=1e-10)


def test_the_other_reconstruction_is_the_mean_of_each_images_rmse() -> None:
    scene = random_scene(5)
    scene["gt"][1] = 0
    _, terms = BaseResidualLoss(recon="rmse")(**scene)
    final, gt = scene["final"][0].numpy(), scene["gt"][0].numpy()
    assert float(terms.recon) == pytest.approx(np.sqrt(np.mean((final - gt)[gt > 0] ** 2)), rel=1e-5)


@pytest.mark.parametrize("recon", ["l1", "rmse"])
def test_gradients_are_right_in_float64(recon: ReconKind) -> None:
    scene = random_scene(1, side=5)
    inputs = [scene[name].requires_grad_() for name in ("base", "residual", "final")]
    loss = BaseResidualLoss(lowpass_kernel=2, recon=recon)
    assert torch.autograd.gradcheck(lambda *parts: loss(*parts, scene["gt"])[0], inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_the_low_pass_are_right_in_float64(masked: bool) -> None:
    depth, valid = random_scene(2, side=5, holes=0)["gt"].requires_grad_(), random_scene(3, side=5)["gt"] > 0
    assert torch.autograd.gradcheck(lambda maps: low_pass(maps, 3, valid if masked else None), [depth])


def test_gradients_through_the_sum_of_the_parts_are_right_in_float64_during_the_warm_up() -> None:
    scene, loss = random_scene(6, side=5), AdaptiveBaseResidualLoss(10, lowpass_kernel=2)
    loss.set_epoch(5)

    def total(base: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return loss(base, residual, (base + residual).clamp(0, 4), scene["gt"])[0]

    assert torch.autograd.gradcheck(total, [scene[name].requires_grad_() for name in ("base", "residual")])


@pytest.mark.parametrize("recon", ["l1", "rmse"])
def test_the_means_divide_by_the_count_that_they_are_given(recon: ReconKind) -> None:
    scene = random_scene(7)
    _, plain = BaseResidualLoss(recon=recon)(**scene)
    _, halves = BaseResidualLoss(recon=recon, count=lambda here: 2 * here)(**scene)
    torch.testing.assert_close([2 * term for term in halves], list(plain))


def test_a_mean_over_nothing_is_zero_and_over_one_pixel_its_value() -> None:
    values = torch.tensor([3.0, float("nan")])
    assert masked_mean(values, torch.tensor([False, False])) == 0
    assert masked_mean(values, torch.tensor([True, False])) == 3
    # A share of a pixel comes of a count that is the mean over many processes.
    assert masked_mean(values, torch.tensor([True, False]), lambda here: here / 4) == 12


def test_the_root_of_a_perfect_prediction_is_a_millimetre() -> None:
    gt = random_scene(9)["gt"]
    assert float(reconstruction(gt, gt, gt > 0, "rmse")) == pytest.approx(0.001)
    assert float(reconstruction(gt, gt, gt > 0)) == 0
    one_pixel = torch.zeros_like(gt, dtype=torch.bool)
    one_pixel[:, :, 0, 0] = True
    assert float(reconstruction(gt + 2, gt, one_pixel, "rmse")) == pytest.approx(2.0, rel=1e-6)


def test_holes_do_not_move_the_loss() -> None:
    scene = random_scene(2)
    before, _ = BaseResidualLoss(lowpass_kernel=3)(**scene)
    hole = scene["gt"] == 0
    for name in ("base", "residual", "final"):
        scene[name] = torch.where(hole, 1e6, scene[name])
    after, _ = BaseResidualLoss(lowpass_kernel=3)(**scene)
    torch.testing.assert_close(before, after)


def test_a_map_without_any_valid_pixel_costs_nothing_and_stays_finite() -> None:
    scene = {name: torch.ones(1, 1, 8, 8, requires_grad=name != "gt") for name in ("base", "residual", "final", "gt")}
    total, _ = BaseResidualLoss()(**scene | {"gt": torch.zeros(1, 1, 8, 8)})
    total.backward()
    assert total.item() == 0
    assert scene["base"].grad is not None
    assert torch.isfinite(scene["base"].grad).all()


def test_a_given_mask_wins_over_the_holes() -> None:
    scene = random_scene(4, holes=0)
    mask = torch.zeros_like(scene["gt"], dtype=torch.bool)
    mask[..., :3] = True
    terms = decomposition_terms(**scene, kernel=1, valid_mask=mask)
    assert float(terms.recon) == pytest.approx(float((scene["final"] - scene["gt"]).abs()[mask].mean()))


@pytest.mark.parametrize("name", ["base", "residual", "final"])
def test_unequal_shapes_are_refused_in_words(name: str) -> None:
    scene = random_scene(0) | {name: torch.zeros(2, 1, 6, 6)}
    sentence = rf"^{name} has shape \(2, 1, 6, 6\) and gt \(2, 1, 12, 12\); expected are equal \(B, 1, H, W\)\.$"
    with pytest.raises(ShapeError, match=sentence):
        BaseResidualLoss()(**scene)


def test_maps_without_a_channel_are_refused_in_words() -> None:
    flat = {name: tensor[:, 0] for name, tensor in random_scene(0).items()}
    with pytest.raises(ShapeError, match="expected are equal"):
        BaseResidualLoss()(**flat)


def test_the_documented_defaults() -> None:
    assert BaseResidualLoss().weights == LossWeights(1.0, 0.8, 0.2)
    assert BaseResidualLoss().lowpass_kernel == AdaptiveBaseResidualLoss().lowpass_kernel == 16
    assert BaseResidualLoss().recon == AdaptiveBaseResidualLoss().recon == "l1"
    adaptive = AdaptiveBaseResidualLoss()
    assert adaptive.weights == (0.5, 1.5, 0.3)
    for epoch, weights in {1: (0.5, 1.5, 0.3), 20: (0.5, 1.5, 0.3), 21: (1.0, 0.5, 0.3), 99: (1.0, 0.5, 0.3)}.items():
        adaptive.set_epoch(epoch)
        assert adaptive.weights == weights


def test_a_warm_up_of_no_epochs_is_over_at_once_and_one_of_an_epoch_is_not() -> None:
    assert AdaptiveBaseResidualLoss(warmup_epochs=0).weights == (1.0, 0.5, 0.3)
    assert AdaptiveBaseResidualLoss(warmup_epochs=1).weights == (0.5, 1.5, 0.3)


@pytest.mark.parametrize("recon", ["l1", "rmse"])
@pytest.mark.parametrize("nearest", [None, 2.0])
def test_the_loss_of_a_plain_network_is_the_reconstruction_alone(recon: ReconKind, nearest: float | None) -> None:
    scene = random_scene(10)
    mask = None if nearest is None else scene["gt"] > nearest
    _, expected = BaseResidualLoss(recon=recon, count=lambda here: 2 * here)(**scene, valid_mask=mask)
    plain = PlainLoss(recon, count=lambda here: 2 * here)
    total, terms = plain(**scene, valid_mask=mask)
    assert (total, *terms) == (expected.recon, expected.recon, 0, 0)
    assert plain.weights == (1.0, 0.0, 0.0)


def test_a_plain_network_costs_the_mean_error_unless_told_otherwise() -> None:
    scene = random_scene(11)
    assert PlainLoss()(**scene)[0] == BaseResidualLoss()(**scene)[1].recon


def test_fixed_weights_do_not_care_which_epoch_it_is() -> None:
    loss = BaseResidualLoss(0.7, 0.6, 0.5)
    loss.set_epoch(99)
    assert loss.weights == (0.7, 0.6, 0.5)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("original", (0.8, 0.2, 16)), ("aggressive", (1.0, 0.3, 24)), ("conservative", (0.5, 0.1, 12))],
)
def test_presets_of_the_design_at_256_pixels(preset: str, expected: tuple[float, float, int]) -> None:
    loss = make_loss(make_config({"data": {"name": "batvisionv2"}}, preset=preset).loss)
    assert (loss.weights.base, loss.weights.sparse, loss.lowpass_kernel) == expected


def test_the_kernel_of_a_preset_follows_the_size_of_the_map() -> None:
    config = make_config({"data": {"output_size": 64}}, preset="aggressive")
    assert config.loss.lowpass_kernel == 6


def test_adaptive_in_the_configuration_gives_the_adaptive_loss() -> None:
    loss = make_loss(make_config({"loss": {"adaptive": True, "warmup_epochs": 3}}).loss)
    assert isinstance(loss, AdaptiveBaseResidualLoss)
    assert loss.warmup_epochs == 3


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_loss_of_a_configuration_has_all_its_settings(adaptive: bool) -> None:
    layer = {"recon": "rmse", "lambda_recon": 0.9, "lambda_base": 0.4, "lambda_sparse": 0.1, "lowpass_kernel": 5}

    def count(here: torch.Tensor) -> torch.Tensor:
        return here

    loss = make_loss(make_config({"loss": layer | {"adaptive": adaptive}}).loss, count)
    assert isinstance(loss, AdaptiveBaseResidualLoss) == adaptive
    assert (loss.recon, loss.lowpass_kernel, loss.count) == ("rmse", 5, count)
    assert loss.weights == (pytest.approx((0.45, 0.75, 0.15)) if adaptive else (0.9, 0.4, 0.1))


@pytest.mark.parametrize(
    ("preset", "warmup", "later"),
    [
        ("original", (0.5, 1.5, 0.3), (1.0, 0.5, 0.3)),
        ("default", (0.5, 1.875, 0.03), (1.0, 0.625, 0.03)),
        ("aggressive", (0.5, 1.875, 0.45), (1.0, 0.625, 0.45)),
    ],
)
def test_adaptive_weights_follow_the_lambdas_of_the_preset(
    preset: str, warmup: tuple[float, ...], later: tuple[float, ...]
) -> None:
    """With the design's lambdas they are the design's, to the last digit; with others they scale."""
    loss = make_loss(make_config({"loss": {"adaptive": True, "warmup_epochs": 3}}, preset=preset).loss)
    for epoch, weights in {3: warmup, 4: later}.items():
        loss.set_epoch(epoch)
        assert loss.weights == (weights if preset == "original" else pytest.approx(weights))


def test_a_mask_of_another_shape_or_kind_and_an_unknown_term_are_refused() -> None:
    parts = [torch.rand(2, 1, 4, 4) for _ in range(4)]
    for mask in (torch.ones(1, 1, 4, 4, dtype=torch.bool), torch.ones(2, 1, 4, 4)):
        with pytest.raises(ShapeError, match="valid_mask has shape"):
            BaseResidualLoss()(*parts, valid_mask=mask)
    with pytest.raises(ConfigError, match=r"Unknown reconstruction 'L1'\. Known are l1, rmse"):
        BaseResidualLoss(recon="L1")(*parts)  # type: ignore[arg-type]
