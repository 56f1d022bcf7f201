from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from base_residual import metrics as module
from base_residual.errors import ShapeError
from base_residual.losses import low_pass
from base_residual.metrics import (
    DEPTH_METRICS,
    DecompositionFigures,
    DepthMetrics,
    Evaluation,
    Protocol,
    depth_metrics,
    valid_pixels,
)


def reference(pred: np.ndarray, gt: np.ndarray, max_depth: float, min_depth: float) -> dict[str, float]:
    valid = (gt > 0) & (gt >= min_depth)
    p, g = np.clip(pred.astype(np.float64), 0.001, max_depth)[valid], gt.astype(np.float64)[valid]
    ratio = np.maximum(g / p, p / g)
    return {
        "rmse": np.sqrt(np.mean((g - p) ** 2)),
        "mae": np.mean(np.abs(g - p)),
        "abs_rel": np.mean(np.abs(g - p) / g),
        "log10": np.mean(np.abs(np.log10(g) - np.log10(p))),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }


def scene(seed: int, images: int = 3, holes: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.1, 12, (images, 1, 8, 8)) * (rng.random((images, 1, 8, 8)) > holes)
    gt[:, :, 0, 0] = 5.0
    pred = rng.uniform(-1, 14, gt.shape)
    return torch.from_numpy(pred).float(), torch.from_numpy(gt).float()


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), holes=st.floats(0, 0.95), min_depth=st.sampled_from([0.0, 0.5]))
def test_metrics_equal_a_float64_reference(seed: int, holes: float, min_depth: float) -> None:
    pred, gt = scene(seed, holes=holes)
    found = depth_metrics(pred, gt, 12.0, min_depth)
    for number in range(len(gt)):
        expected = reference(pred[number].numpy(), gt[number].numpy(), 12.0, min_depth)
        for name in DEPTH_METRICS:
            assert float(found[name][number]) == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("side", [1, 3, 600])
def test_metrics_of_maps_of_any_size_from_a_micrometre_to_max_depth_equal_the_reference(side: int) -> None:
    chance = torch.Generator().manual_seed(side)
    gt = 10 ** (7 * torch.rand(3, 1, side, side, generator=chance) - 6)
    pred = 12 * torch.rand(gt.shape, generator=chance)
    found = depth_metrics(pred, gt, 12.0)
    for number in range(3):
        expected = reference(pred[number].numpy(), gt[number].numpy(), 12.0, 0.0)
        for name in DEPTH_METRICS:
            assert float(found[name][number]) == pytest.approx(expected[name], rel=1e-5), name


def test_metrics_do_not_depend_on_how_many_images_fit_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, gt = scene(9, images=5)
    whole = depth_metrics(pred, gt, 12.0)
    for pixels in (1, 64, 130):  # less than an image, one, two
        monkeypatch.setattr(module, "CACHED_PIXELS", pixels)
        for name, values in depth_metrics(pred, gt, 12.0).items():
            assert torch.equal(values, whole[name])


def test_half_precision_is_measured_in_full() -> None:
    pred, gt = (maps.half() for maps in scene(10))
    for name, values in depth_metrics(pred, gt, 12.0).items():
        assert values.dtype == torch.float32
        assert torch.equal(values, depth_metrics(pred.float(), gt.float(), 12.0)[name])


def test_a_pixel_at_the_least_depth_counts() -> None:
    gt = torch.tensor([[[[0.5, 0.25, 0.0, -1.0]]]])
    assert valid_pixels(gt, 0.5).tolist() == [[[[True, False, False, False]]]]
    assert valid_pixels(gt).tolist() == [[[[True, True, False, False]]]]
    for min_depth, expected in ((0.5, 0.5), (0.0, (0.5 + 0.75) / 2)):
        found = depth_metrics(torch.ones_like(gt), gt, 12.0, min_depth)
        assert float(found["mae"]) == pytest.approx(expected)


def test_ratios_below_the_thresholds_count_in_both_directions() -> None:
    gt = torch.tensor([[[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]]])
    pred = torch.tensor([[[[1.24, 1 / 1.24, 1.55, 1 / 1.55, 1.94, 1 / 1.97]]]])
    found = depth_metrics(pred, gt, 12.0)
    assert [float(found[f"delta{power}"]) for power in (1, 2, 3)] == pytest.approx([2 / 6, 4 / 6, 5 / 6])


def test_no_images_have_no_metrics() -> None:
    assert all(len(values) == 0 for values in depth_metrics(*torch.empty(2, 0, 1, 4, 4), 12.0).values())


def test_a_perfect_prediction_scores_perfectly() -> None:
    _, gt = scene(0)
    metrics = DepthMetrics(12.0)
    metrics.update(gt, gt)
    found = metrics.compute()
    assert [found[name] for name in DEPTH_METRICS] == [0, 0, 0, 0, 1, 1, 1]


def test_the_mean_is_over_images_and_does_not_depend_on_the_batches() -> None:
    pred, gt = scene(1, images=7)
    whole, parts = DepthMetrics(12.0), DepthMetrics(12.0)
    whole.update(pred, gt)
    for start in range(0, 7, 2):
        parts.update(pred[start : start + 2], gt[start : start + 2])
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-6)
    assert whole.compute()["rmse"] == pytest.approx(float(depth_metrics(pred, gt, 12.0)["rmse"].mean()), rel=1e-6)


def test_an_image_without_a_valid_pixel_is_counted_and_not_scored() -> None:
    pred, gt = scene(2, images=3)
    alone = DepthMetrics(12.0)
    alone.update(pred[:2], gt[:2])
    gt[2] = 0
    metrics = DepthMetrics(12.0)
    metrics.update(pred, gt)
    found = metrics.compute()
    assert (found["images"], found["images_without_depth"]) == (2, 1)
    assert found["rmse"] == pytest.approx(alone.compute()["rmse"])


@pytest.mark.parametrize("rows", [slice(5, 6), slice(0, 1), slice(None)], ids=["measured", "hole", "all"])
def test_a_prediction_that_is_no_number_is_as_bad_as_can_be_and_not_left_out(rows: slice) -> None:
    pred, gt = scene(2, images=3)
    gt[1, 0, :2] = 0
    pred[1, 0, rows] = math.nan
    metrics = DepthMetrics(12.0)
    metrics.update(pred, gt)
    found = metrics.compute()
    assert (found["images"], found["images_without_depth"]) == (3, 0)
    assert all(found[name] == math.inf for name in ("rmse", "mae", "abs_rel", "log10"))
    shares = metrics.per_image()[:, -3:]
    assert ((shares >= 0) & (shares <= 1)).all()
    pred[1], gt[1] = math.nan, 0
    metrics.update(pred, gt)
    assert metrics.compute()["images_without_depth"] == 1


def test_min_depth_selects_the_second_protocol() -> None:
    gt = torch.tensor([[[[0.3, 2.0]]]])
    pred = torch.tensor([[[[3.3, 2.0]]]])
    assert float(depth_metrics(pred, gt, 12.0, min_depth=0.5)["rmse"]) == 0
    assert float(depth_metrics(pred, gt, 12.0)["rmse"]) > 1


def test_predictions_are_clipped_before_anything_else() -> None:
    gt = torch.tensor([[[[12.0, 1.0]]]])
    found = depth_metrics(torch.tensor([[[[50.0, -5.0]]]]), gt, 12.0)
    assert float(found["rmse"]) == pytest.approx(0.999 / 2**0.5, rel=1e-4)


def test_a_prediction_in_training_is_measured_without_gradients() -> None:
    pred = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)
    found = depth_metrics(pred * 2, torch.full((1, 1, 2, 2), 3.0), 10.0)
    assert found["mae"].item() == pytest.approx(1)
    assert not found["mae"].requires_grad


def test_unequal_shapes_are_refused() -> None:
    sentence = r"^The prediction has shape \(1, 1, 4, 4\) and gt \(1, 1, 8, 8\); expected are equal \(B, 1, H, W\)\.$"
    with pytest.raises(ShapeError, match=sentence):
        depth_metrics(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8), 12.0)
    with pytest.raises(ShapeError, match="expected are equal"):
        depth_metrics(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), 12.0)


def doubled(rows: torch.Tensor) -> torch.Tensor:
    """Gather for the first of two processes, of which the other one has added the same."""
    return torch.cat([rows, rows])


def test_the_metrics_of_all_processes_are_the_mean_over_all_images() -> None:
    pred, gt = scene(11, images=3)
    alone, shared = DepthMetrics(12.0), DepthMetrics(12.0)
    for metrics in (alone, shared):
        metrics.update(pred, gt)
    shared.share(doubled)
    assert shared.compute() == pytest.approx(alone.compute() | {"images": 6})
    idle, others = DepthMetrics(12.0), alone.per_image()
    assert idle.per_image().shape == (0, 7)
    idle.share(lambda rows: torch.cat([rows, others]))
    assert idle.compute() == alone.compute()


def test_the_figures_of_all_processes_are_those_of_all_images() -> None:
    base, gt = scene(12)
    residual = torch.full_like(base, 0.3)
    alone, shared = DecompositionFigures(3, 12.0), DecompositionFigures(3, 12.0)
    for found in (alone, shared):
        found.update(base, residual, (base + residual).clamp(0, 12), gt)
    shared.share(doubled)
    assert shared.compute() == pytest.approx(alone.compute())


def test_a_process_without_images_takes_the_figures_of_the_others() -> None:
    base, gt = scene(12)
    alone = DecompositionFigures(3, 12.0)
    alone.update(base, base / 10, (base + base / 10).clamp(0, 12), gt, gt + 1)
    expected = alone.compute()
    assert expected["base_layout_rmse"] > 0

    # The other process has all of them, in the order in which they are asked for.
    metrics = [alone._base, alone._final, *alone._layout.values()]
    others = iter([*(own.per_image() for own in metrics), *map(torch.stack, (alone._sums, alone._smallest))])

    def gathered(own: torch.Tensor) -> torch.Tensor:
        theirs = next(others)
        assert own.shape == (0, *theirs.shape[1:])  # so that processes can tell each other how many rows they have
        return torch.cat([own, theirs])

    idle = DecompositionFigures(3, 12.0)
    idle.share(gathered)
    assert idle.compute() == expected


def figures(base: torch.Tensor, residual: torch.Tensor, gt: torch.Tensor, kernel: int = 3) -> dict[str, float]:
    found = DecompositionFigures(kernel, 12.0)
    found.update(base, residual, (base + residual).clamp(0, 12.0), gt)
    return found.compute()


def test_a_residual_that_is_the_missing_detail_gains_everything() -> None:
    _, gt = scene(3, holes=0)
    base = torch.full_like(gt, 6.0)
    found = figures(base, gt - base, gt)
    assert found["residual_gain"] == pytest.approx(1.0)
    assert found["residual_detail_corr"] == pytest.approx(1.0, abs=1e-5)
    assert found["base_smoothness"] == pytest.approx(0.0, abs=1e-9)
    assert found["base_positive"] == 6.0


def test_a_residual_that_is_wrong_loses() -> None:
    _, gt = scene(4, holes=0)
    base = torch.full_like(gt, 6.0)
    found = figures(base, (base - gt) / 3, gt)
    assert found["residual_gain"] < 0
    assert found["residual_detail_corr"] == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("share", [-0.9, -0.6, -0.3, -0.1, 0.1, 0.3, 0.6, 0.9])
def test_rounding_makes_no_correlation_that_cannot_be(share: float) -> None:
    for seed in range(8):
        _, gt = scene(seed, images=1)
        base = torch.full_like(gt, 6.0)
        assert -1 <= figures(base, share * (gt - base), gt)["residual_detail_corr"] <= 1


def test_an_idle_residual_is_seen_as_such() -> None:
    pred, gt = scene(5)
    found = figures(pred.clamp(0.1), torch.zeros_like(pred), gt)
    assert (found["residual_gain"], found["residual_abs_mean"], found["residual_detail_corr"]) == (0, 0, 0)


@pytest.mark.parametrize("min_depth", [0.0, 3.0])
def test_figures_equal_a_plain_reference_over_valid_pixels(min_depth: float) -> None:
    pred, gt = scene(6, images=4)
    rng = np.random.default_rng(0)
    base, residual = pred.clamp(0, 12), torch.from_numpy(rng.normal(0.5, 2, pred.shape)).float()
    final, found = (base + residual).clamp(0, 12), DecompositionFigures(3, 12.0, min_depth)
    for part in (slice(0, 3), slice(3, 4)):
        found.update(base[part], residual[part], final[part], gt[part])
    figures = found.compute()
    valid = (gt > 0) & (gt >= min_depth)
    r, missing = (maps[valid].double().numpy() for maps in (residual, gt - base))
    assert figures["residual_detail_corr"] == pytest.approx(np.corrcoef(r, missing)[0, 1], abs=1e-5)
    assert figures["residual_abs_mean"] == pytest.approx(np.abs(r).mean(), rel=1e-5)
    total = (base + residual)[valid].numpy()
    assert 0 < np.mean(total < 0) < np.mean((total < 0) | (total > 12))
    assert figures["clamped_share"] == pytest.approx(np.mean((total < 0) | (total > 12)))
    assert figures["base_positive"] == float(base.min())
    measured, inside = torch.where(valid, gt, 0).double(), valid.numpy()
    energy = [
        float((maps - low_pass(maps, 3, valid)).square().numpy()[inside].sum()) for maps in (base.double(), measured)
    ]
    assert figures["base_smoothness"] == pytest.approx(energy[0] / energy[1], rel=1e-4)
    rmse = {
        name: np.mean([reference(p.numpy(), g.numpy(), 12.0, min_depth)["rmse"] for p, g in zip(maps, gt, strict=True)])
        for name, maps in (("base", base), ("final", final))
    }
    assert figures["base_rmse"] == pytest.approx(rmse["base"], rel=1e-5)
    assert figures["residual_gain"] == pytest.approx(1 - rmse["final"] / rmse["base"], rel=1e-4)
    assert list(figures) == [
        "base_positive",
        "base_smoothness",
        "base_rmse",
        "residual_abs_mean",
        "residual_gain",
        "residual_detail_corr",
        "clamped_share",
    ]


def test_centimetres_are_judged_as_metres_are() -> None:
    chance = torch.Generator().manual_seed(0)
    gt, base = (0.3 + size * torch.rand(1, 1, 8, 8, generator=chance) for size in (0.02, 0.01))
    found = figures(base, (gt - base) / 2, gt)
    assert found["residual_gain"] == pytest.approx(0.5, abs=1e-4)
    assert found["residual_detail_corr"] == pytest.approx(1.0, abs=1e-4)
    assert found["residual_abs_mean"] == pytest.approx(float((gt - base).abs().mean()) / 2, rel=1e-4)
    assert 0.1 < found["base_smoothness"] < 1  # a quarter of the detail's energy, but for chance


def test_the_least_base_is_that_of_all_batches() -> None:
    _, gt = scene(7)
    found = DecompositionFigures(3, 12.0)
    for lowest in (3.0, -0.5, 2.0):
        base = torch.full_like(gt, 6.0)
        base[0, 0, 0, 0] = lowest
        found.update(base, torch.zeros_like(gt), base, gt)
    assert found.compute()["base_positive"] == -0.5


def test_a_flat_ground_truth_has_no_detail_to_be_smooth_against_and_a_perfect_base_nothing_to_gain() -> None:
    gt = torch.full((1, 1, 8, 8), 4.0)
    found = figures(gt, torch.zeros_like(gt), gt)
    assert np.isnan(found["base_smoothness"])
    assert found["residual_gain"] == 0


def test_a_sum_at_the_bounds_is_not_clamped() -> None:
    gt = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    base, residual = torch.tensor([[[[0.0, 11.0, 1.0, 12.0]]]]), torch.tensor([[[[0.0, 1.0, -2.0, 0.5]]]])
    assert figures(base, residual, gt)["clamped_share"] == 0.5


def test_a_base_that_is_the_ground_truth_has_all_its_detail() -> None:
    _, gt = scene(7, holes=0)
    assert figures(gt, torch.zeros_like(gt), gt)["base_smoothness"] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_one_pixel_has_no_correlation_and_no_error(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    base, residual = 5 * torch.rand(1, 1, 8, 8, generator=rng), torch.rand(1, 1, 8, 8, generator=rng)
    gt = torch.zeros(1, 1, 8, 8)
    gt[..., 3, 3] = 4 + torch.rand(1, generator=rng)
    figures = DecompositionFigures(4, 10.0)
    figures.update(base, residual, base + residual, gt)
    assert -1 <= figures.compute()["residual_detail_corr"] <= 1


DEPTHS = {"rmse": 0.5, "mae": 0.25, "abs_rel": 0.1, "log10": 0.04, "delta1": 0.8, "delta2": 0.9, "delta3": 0.95}


COUNTS = {"images": 5, "images_without_depth": 2}
PARTS = {
    "base_positive": 0.3,
    "base_smoothness": 0.05,
    "base_rmse": 0.6,
    "residual_abs_mean": 0.2,
    "residual_gain": 0.16667,
    "residual_detail_corr": 0.4,
    "clamped_share": 0.01,
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"rmse": 8.0, "images": 1, "images_without_depth": 0},
        dict.fromkeys(DEPTH_METRICS, 0.0) | {"clamped_share": 0.0, "base_smoothness": 0.0},
        {"abs_rel": 3.0, "base_smoothness": 7.0, "base_rmse": 9.0},
        {"delta3": 1.0, "residual_gain": 1.0, "residual_detail_corr": 1.0, "clamped_share": 1.0},
        {"base_positive": -20.0, "residual_gain": -30.0, "residual_detail_corr": -1.0},
        {"base_smoothness": math.nan},  # of depth without detail
    ],
)
def test_figures_that_an_evaluation_can_give_are_taken(changed: dict[str, float]) -> None:
    found = DEPTHS | COUNTS | PARTS | changed
    depths, parts = ({name: found[name] for name in names} for names in (DEPTHS | COUNTS, PARTS))
    Evaluation(depths, parts, Protocol(8.0, 0.5, 32)).check()
    Evaluation(depths, {}, Protocol(8.0, 0.5, 32)).check()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rmse": -0.5}, "rmse=-0.5$"),
        ({"rmse": math.nan}, "rmse=nan$"),
        ({"images_without_depth": math.nan}, "images_without_depth=nan$"),
        ({"mae": math.inf}, "mae=inf$"),
        ({"delta1": 1.5}, "delta1=1.5$"),
        ({"residual_detail_corr": -1.5}, "residual_detail_corr=-1.5$"),
        ({"residual_gain": -math.inf}, "residual_gain=-inf$"),
        ({"base_rmse": -0.1}, "base_rmse=-0.1$"),
        ({"rmse": 8.1}, "errors beyond the largest depth$"),
        ({"images": 0}, "no images"),
        ({"zeal": 1.0, "beauty": 1.0}, "^there is a beauty in it$"),
        ({"log10": None, "mae": None}, "^there is no log10 in it$"),
        ({"residual_gain": None}, "^there is no residual_gain in it$"),
    ],
)
def test_figures_that_no_evaluation_gives_are_refused(changed: dict[str, float | None], words: str) -> None:
    found = DEPTHS | COUNTS | PARTS | changed
    kept = {name: value for name, value in found.items() if value is not None}
    parts = {name: kept.pop(name) for name in PARTS if name in kept}
    with pytest.raises(ValueError, match=words):
        Evaluation(kept, parts, Protocol(8.0, 0.5, 32)).check()


def test_figures_stand_in_a_table_with_their_units_and_the_better_direction() -> None:
    found = Evaluation(DEPTHS | COUNTS, PARTS, Protocol(8.0, 0.5, 32))
    assert found.rows() == [
        ("rmse", "0.5000 m", "lower"),
        ("mae", "0.2500 m", "lower"),
        ("abs_rel", "0.1000", "lower"),
        ("log10", "0.0400", "lower"),
        ("delta1", "0.8000", "higher"),
        ("delta2", "0.9000", "higher"),
        ("delta3", "0.9500", "higher"),
        ("base_positive", "0.3000 m", ">= 0"),
        ("base_smoothness", "0.0500", "below 0.25"),
        ("base_rmse", "0.6000 m", "above rmse"),
        ("residual_abs_mean", "0.2000 m", "< 1 m, not 0"),
        ("residual_gain", "0.1667", "> 0"),
        ("residual_detail_corr", "0.4000", "> 0"),
        ("clamped_share", "0.0100", "small"),
    ]
    table = found.table("Figures")
    assert (table.title, table.heads, table.right) == ("Figures", ("figure", "value", "better"), (1,))
    assert table.rows == found.rows()
    assert found.table().title == ""
    assert found.as_dict()["metrics"] == DEPTHS | COUNTS
    assert found.as_dict()["protocol"]["min_depth"] == 0.5


def test_an_evaluation_says_how_its_figures_were_taken() -> None:
    few = Evaluation(DEPTHS | COUNTS, {}, Protocol(8.0, 0.5, 32))
    how = "32 x 32 pixels (area mean of measured pixels), gt >= 0.5 m, predictions clipped to [0.001, 8] m"
    assert few.protocol_line() == (
        f"5 images, 2 without a measured pixel left out: {how}, per image, then over images."
    )
    every = Evaluation(DEPTHS | {"images": 5, "images_without_depth": 0}, {}, Protocol(8.0, 0.0, 32))
    assert every.protocol_line().startswith("5 images: 32 x 32 pixels (area mean of measured pixels), gt > 0, ")
    assert few._repr_html_() == (f"{few.table().to_html()}<p>{few.protocol_line().replace('>=', '&gt;=')}</p>")
