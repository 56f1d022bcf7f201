from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from base_residual.config.schema import Config
from base_residual.data.sample import EchoDataset
from base_residual.errors import ConfigError, DataError, PredictionError, ShapeError
from base_residual.losses import BaseResidualLoss
from base_residual.models.decomposition import DepthDecomposition, compose, raw_of
from base_residual.models.factory import create_base_residual_model, create_model
from base_residual.models.network import BaseResidualNet, PlainNet


@settings(max_examples=30)
@given(
    max_depth=st.floats(0.5, 100),
    bound=st.floats(0.01, 1),
    scale=st.floats(0.01, 1e4),
    seed=st.integers(0, 100),
    detach=st.booleans(),
)
def test_the_parts_keep_their_bounds_whatever_the_network_says(
    max_depth: float, bound: float, scale: float, seed: int, detach: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    raw = scale * torch.randn(2, 1, 1, 8, 8, generator=rng)
    base, residual, final = compose(raw[0], raw[1], max_depth, bound, detach)
    slack = 1e-5 * max_depth
    assert base.min() >= 0
    assert base.max() <= max_depth + slack
    assert residual.abs().max() <= bound * max_depth + slack
    assert final.min() >= 0
    assert final.max() <= max_depth
    torch.testing.assert_close(final, (base + residual).clamp(0, max_depth))


def test_the_activations_are_those_of_the_design() -> None:
    base, residual, final = compose(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5), 30.0)
    assert float(base[0, 0, 0, 0]) == 15.0
    assert float(residual[0, 0, 0, 0]) == pytest.approx(np.tanh(0.5) * 0.2 * 30)
    assert torch.equal(final, base + residual)


def test_after_the_warm_up_the_reconstruction_moves_no_weight_of_the_base_decoder(tiny: Callable[..., Config]) -> None:
    model = create_base_residual_model(tiny())
    assert model.front_end is not None
    x, gt = torch.randn(3, model.front_end.channels, model.encoder.steps), torch.rand(3, 1, 32, 32) + 1
    for detach, moves in ((False, True), (True, False)):
        model.zero_grad()
        total, _ = BaseResidualLoss(1.0, 0.0, 0.0)(*model(x, detach_base=detach), gt)
        total.backward()
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.base_decoder.parameters())
        assert moved == moves
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.residual_decoder.parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())


def test_after_the_warm_up_the_base_term_still_teaches_the_base() -> None:
    model = create_base_residual_model(base_channels=4, output_size=32)
    gt = torch.rand(1, 1, 32, 32) + 1
    total, _ = BaseResidualLoss(0.0, 1.0, 0.0, lowpass_kernel=2)(
        *model(torch.randn(1, 2, 32, 32), detach_base=True), gt
    )
    total.backward()
    assert all(p.grad is not None for p in model.base_decoder.parameters())


@pytest.mark.parametrize("bilinear", [True, False])
@pytest.mark.parametrize(("height", "width", "channels", "size"), [(64, 64, 2, 64), (32, 80, 3, 48), (16, 16, 1, 32)])
def test_plain_keywords_give_the_two_dimensional_network(
    bilinear: bool, height: int, width: int, channels: int, size: int
) -> None:
    model = create_base_residual_model(
        input_channels=channels, base_channels=4, bilinear=bilinear, output_size=size, max_depth=10.0
    )
    model.eval()
    base, residual, final = model(torch.randn(2, channels, height, width))
    assert base.shape == residual.shape == final.shape == (2, 1, size, size)
    assert final.max() <= 10.0


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("max_depth", float("nan")),
        ("max_depth", float("inf")),
        ("max_depth", 0.0),
        ("base_channels", 2.5),
        ("input_channels", 0),
        ("output_size", True),
        ("base_channels", "many"),
    ],
)
def test_a_keyword_that_makes_no_network_is_named(keyword: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^Wrong configuration: {keyword}: "):
        create_base_residual_model(**{keyword: value})


def test_the_plain_default_is_the_design() -> None:
    model = create_base_residual_model(input_channels=2)
    assert (model.max_depth, model.output_size, model.residual_bound) == (30.0, 256, 0.2)
    with torch.no_grad():
        parts = model.eval()(torch.zeros(1, 2, 256, 256))
    assert parts.final.shape == (1, 1, 256, 256)


def test_a_side_that_cannot_be_halved_says_what_to_do() -> None:
    model = create_base_residual_model(base_channels=4)
    with pytest.raises(
        ShapeError, match=r"250 x 256; expected are sides divisible by 16\. Pad or resize it to 256 x 256"
    ):
        model(torch.zeros(1, 2, 250, 256))


def test_an_echo_of_the_wrong_length_says_what_to_do(tiny: Callable[..., Config]) -> None:
    model = create_base_residual_model(tiny())
    with pytest.raises(ShapeError, match=r"expected is .*Cut or pad"):
        model(torch.zeros(1, 6, 100))


@pytest.mark.parametrize("name", ["base_residual", "plain", "unet"])
@pytest.mark.parametrize("depth", [1.5, 4.0])
def test_training_starts_at_the_mean_depth(tiny: Callable[..., Config], name: str, depth: float) -> None:
    model = create_model(tiny({"model": {"name": name}}))
    model.initialise_depth(depth)
    parts = model.predict(0.1 * torch.randn(2, 2, 3000))
    assert float(parts.base.mean()) == pytest.approx(depth, rel=0.25)
    assert float(parts.residual.abs().mean()) < 0.1


def test_predict_takes_one_echo_or_many_and_any_rate_and_leaves_the_mode_alone(
    tiny: Callable[..., Config], rooms: Callable[[str], EchoDataset]
) -> None:
    torch.manual_seed(0)
    model = create_base_residual_model(tiny()).train()
    echo = rooms("val")[0].waveform
    one = model.predict(echo.numpy())
    assert model.training
    assert one.final.shape == (1, 1, 32, 32)
    many = model.predict(torch.stack([echo, echo]))
    torch.testing.assert_close(many.final[1:], one.final, rtol=1e-4, atol=1e-4)
    longer, longest = (model.predict(torch.nn.functional.pad(echo, (0, silence))).final for silence in (500, 1500))
    torch.testing.assert_close(longest, longer, rtol=0, atol=0.005)
    assert model.predict(echo, sample_rate=22_050).final.shape == (1, 1, 32, 32)


def test_predict_refuses_one_ear_and_a_network_without_a_front_end(tiny: Callable[..., Config]) -> None:
    with pytest.raises(ShapeError, match="2 ears"):
        create_base_residual_model(tiny()).predict(torch.zeros(1, 3000))
    with pytest.raises(ConfigError, match="no front end"):
        create_base_residual_model(base_channels=4).predict(torch.zeros(2, 3000))


def test_sections_may_be_given_as_keywords(tiny: Callable[..., Config]) -> None:
    model = create_base_residual_model(tiny(), model={"residual_bound": 0.3})
    assert model.residual_bound == 0.3
    assert isinstance(create_base_residual_model(data={"output_size": 32}), BaseResidualNet)


@pytest.mark.parametrize("wrong", [{"base_chanels": 4}, {"base_channels": 0}, {"output_size": 32, "model": {}}])
def test_wrong_keywords_are_refused_in_words(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        create_base_residual_model(**wrong)


@pytest.mark.parametrize("front_end", ["matched", "waveform"])
def test_front_ends_over_time_fit_the_time_encoder(tiny: Callable[..., Config], front_end: str) -> None:
    model = create_model(tiny({"audio": {"front_end": front_end}}))
    assert model.predict(torch.randn(1, 2, 3000)).final.shape == (1, 1, 32, 32)


@pytest.mark.parametrize("front_end", ["spectrogram", "mel"])
def test_image_front_ends_fit_the_unet(tiny: Callable[..., Config], front_end: str) -> None:
    unet = {"encoder": "unet", "decoder": "unet", "base_decoder": "unet"}
    model = create_model(tiny({"audio": {"front_end": front_end}, "model": unet}))
    assert model.predict(torch.randn(1, 2, 3000)).final.shape == (1, 1, 32, 32)


def test_a_plain_network_has_no_residual(tiny: Callable[..., Config]) -> None:
    model = create_model(tiny({"model": {"name": "plain"}}))
    assert isinstance(model, PlainNet)
    parts = model.predict(torch.randn(1, 2, 3000))
    assert torch.equal(parts.base, parts.final)
    assert parts.residual.abs().max() == 0


@pytest.mark.parametrize("factor", [0.01, 3.0])
def test_a_louder_or_softer_recording_gives_the_same_depth(
    tiny: Callable[..., Config], rooms: Callable[[str], EchoDataset], factor: float
) -> None:
    model = create_base_residual_model(tiny())
    echo = rooms("val")[0].waveform
    torch.testing.assert_close(model.predict(factor * echo).final, model.predict(echo).final, rtol=1e-3, atol=1e-3)


def test_a_baseline_is_no_decomposition(tiny: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="The model 'unet' is a baseline and splits nothing"):
        create_base_residual_model(model={"name": "unet"})


def test_what_is_predicted_may_be_any_array_and_must_be_an_echo(tiny: Callable[..., Config]) -> None:
    net = create_base_residual_model(tiny())
    echo = 0.1 * np.random.default_rng(0).standard_normal((2, 2000))
    swapped, copied = net.predict(echo[::-1]), net.predict(torch.from_numpy(echo[::-1].copy()))
    assert torch.equal(swapped.final, copied.final)
    assert net.predict(echo, 44_100.0).final.shape == (1, 1, 32, 32)  # type: ignore[arg-type]
    for rate in (0, 1, 44_100.5):
        with pytest.raises(DataError, match=f"The echo has {rate} Hz; expected are 8000 to 192000"):
            net.predict(echo, rate)  # type: ignore[arg-type]
    echo[0, 5] = np.nan
    with pytest.raises(DataError, match="The waveform holds NaN, infinite samples"):
        net.predict(echo)


@pytest.mark.parametrize(
    ("how", "reaches"), [({}, True), ({"detach_base": False}, True), ({"detach_base": True}, False)]
)
def test_the_curriculum_alone_keeps_gradients_of_the_sum_from_the_base(how: dict[str, bool], reaches: bool) -> None:
    base_raw, residual_raw = (torch.zeros(1, 1, 2, 2, requires_grad=True) for _ in range(2))
    compose(base_raw, residual_raw, 10.0, **how).final.sum().backward()
    assert (base_raw.grad is not None) == reaches
    assert residual_raw.grad is not None


def test_the_raw_value_of_any_share_is_finite() -> None:
    assert torch.sigmoid(torch.tensor([raw_of(0.0), raw_of(0.3), raw_of(1.0)])).tolist() == pytest.approx(
        [1e-3, 0.3, 0.999]
    )


def test_what_is_not_finite_is_named_by_name_or_by_number() -> None:
    parts = DepthDecomposition(*(torch.ones(3, 1, 4, 4) for _ in range(3)))
    assert parts.require_finite() is parts
    parts.base[1, 0, 2, 3] = math.inf
    parts.final[2, 0, 0, 0] = math.nan
    assert parts.finite().tolist() == [True, False, False]
    with pytest.raises(PredictionError, match=r"for echo 2 of 3, echo 3 of 3 is not") as caught:
        parts.require_finite()
    assert list(caught.value.rows) == [1, 2]
    with pytest.raises(PredictionError, match="for left, right is not"):
        parts.require_finite(["here", "left", "right"])
    with pytest.raises(PredictionError, match="for the echo is not"):
        DepthDecomposition(*(part[1:2] for part in parts)).require_finite()
    two = DepthDecomposition(*(part[:2] for part in parts))
    with pytest.raises(PredictionError, match="for echo 2 of 2 is not"):
        two.require_finite()
