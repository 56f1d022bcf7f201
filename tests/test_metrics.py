from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from base_residual.errors import ShapeError
from base_residual.metrics import DEPTH_METRICS, DecompositionFigures, DepthMetrics, depth_metrics


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


def test_min_depth_selects_the_second_protocol() -> None:
    gt = torch.tensor([[[[0.3, 2.0]]]])
    pred = torch.tensor([[[[3.3, 2.0]]]])
    assert float(depth_metrics(pred, gt, 12.0, min_depth=0.5)["rmse"]) == 0
    assert float(depth_metrics(pred, gt, 12.0)["rmse"]) > 1


def test_predictions_are_clipped_before_anything_else() -> None:
    gt = torch.tensor([[[[12.0, 1.0]]]])
    found = depth_metrics(torch.tensor([[[[50.0, -5.0]]]]), gt, 12.0)
    assert float(found["rmse"]) == pytest.approx(0.999 / 2**0.5, rel=1e-4)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected are equal"):
        depth_metrics(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8), 12.0)


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


def test_an_idle_residual_is_seen_as_such() -> None:
    pred, gt = scene(5)
    found = figures(pred.clamp(0.1), torch.zeros_like(pred), gt)
    assert (found["residual_gain"], found["residual_abs_mean"], found["residual_detail_corr"]) == (0, 0, 0)


def test_figures_equal_a_plain_reference_over_valid_pixels() -> None:
    pred, gt = scene(6)
    rng = np.random.default_rng(0)
    base, residual = pred.clamp(0, 12), torch.from_numpy(rng.normal(0, 1, pred.shape)).float()
    found = figures(base, residual, gt)
    valid = (gt > 0).numpy()
    r, missing = residual.numpy()[valid].astype(np.float64), (gt - base).numpy()[valid].astype(np.float64)
    assert found["residual_detail_corr"] == pytest.approx(np.corrcoef(r, missing)[0, 1], abs=1e-4)
    assert found["residual_abs_mean"] == pytest.approx(np.abs(r).mean(), rel=1e-5)
    total = (base + residual).numpy()[valid]
    assert found["clamped_share"] == pytest.approx(np.mean((total < 0) | (total > 12)))


def test_a_base_that_is_the_ground_truth_has_all_its_detail() -> None:
    _, gt = scene(7, holes=0)
    assert figures(gt, torch.zeros_like(gt), gt)["base_smoothness"] == pytest.approx(1.0, rel=1e-5)
