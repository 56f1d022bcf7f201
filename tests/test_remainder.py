"""The remainder: its head, its calibration, its figures, and all that it goes into."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from golden import inputs
from test_cli import brdepth, sentence

from base_residual.config.resolve import make_config
from base_residual.config.run_layout import BEST
from base_residual.config.schema import Config
from base_residual.data.sample import EchoSample, collate
from base_residual.errors import CheckpointError, ConfigError, DataError, PredictionError
from base_residual.evaluation import evaluate
from base_residual.evaluation.intervals import RANKED, IntervalFigures, rank
from base_residual.files.tensors import read_header, read_tensors, write_tensors
from base_residual.losses import laplace
from base_residual.models.adopt import adopt
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.decomposition import DepthDecomposition
from base_residual.models.factory import create_model, load_checkpoint, load_model
from base_residual.models.network import DepthNet
from base_residual.models.remainder import FACTORS, LEAST, Calibration, Remainder
from base_residual.training import calibration
from base_residual.training.calibration import calibrate, fitted, least_places, places_of
from base_residual.training.run_folder import calibrate_best
from base_residual.training.trainer import Trainer

MakeConfig = Callable[..., Config]
PROMISE = Calibration(0.8, 1.5, 9, "room", "simulated rooms")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remainder is fitted in few steps, where it need not be a good one."""
    monkeypatch.setattr(calibration, "STEPS", 4)
    monkeypatch.setattr(calibration, "PASSES", 2)


def heard(count: int, config: Config) -> list[EchoSample]:
    """Recordings with a depth map each, the same on every processor."""
    batch = inputs.batch(config, count)
    return [EchoSample(batch.waveform[row], batch.depth[row, 0], f"hall/{row}") for row in range(count)]


def calibrated(config: Config) -> DepthNet:
    torch.manual_seed(0)
    model = create_model(config).eval()
    model.expect_remainder(PROMISE)
    return model


def test_a_laplace_likelihood_is_greatest_where_the_scale_is_the_mean_error() -> None:
    error, valid = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False])
    assert laplace(error, torch.full((3,), 2.0), valid) == pytest.approx(1 + math.log(2))
    likelihoods = {scale: float(laplace(error, torch.full((3,), scale), valid)) for scale in (1.5, 1.9, 2.0, 2.1, 3.0)}
    assert min(likelihoods, key=likelihoods.__getitem__) == 2.0


@pytest.mark.parametrize(
    "model", [{}, {"decoder": "map", "base_decoder": "map"}, {"name": "plain"}, {"name": "unet"}], ids=str
)
def test_every_network_has_a_remainder_within_its_bounds(tiny: MakeConfig, model: dict[str, str]) -> None:
    net = calibrated(tiny({"model": model}))
    echoes = inputs.batch(tiny(), 3).waveform
    prediction, plain = net.predict(echoes), create_model(tiny({"model": model})).eval()
    assert prediction.remainder.shape == prediction.final.shape
    assert float(prediction.remainder.min()) > 1.5 * LEAST
    assert float(prediction.remainder.max()) < 1.5 * net.max_depth
    assert prediction.level == 0.8
    plain.load_state_dict({name: net.state_dict()[name] for name in plain.state_dict()})
    for ours, theirs in zip(prediction, plain.predict(echoes), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unfitted_remainder_expects_a_twentieth_of_the_largest_depth() -> None:
    torch.manual_seed(0)
    scale = Remainder(4, True, 8.0)(torch.rand(4, 4, 16, 8), DepthDecomposition(*3 * [torch.rand(2, 1, 32, 32) + 1]))
    assert scale.shape == (2, 1, 32, 32)
    assert scale.mean().item() == pytest.approx(0.4, rel=0.2)


def test_no_gradient_of_the_remainder_reaches_the_prediction(tiny: MakeConfig) -> None:
    model = calibrated(tiny()).train()
    features = model.features(inputs.batch(tiny(), 2).waveform)
    parts, bound = model.bound(features)
    assert bound is not None
    bound.sum().backward()
    assert model.remainder is not None
    own = {id(weights) for weights in model.remainder.parameters()}
    assert all((weights.grad is not None) == (id(weights) in own) for weights in model.parameters())
    assert parts.final.requires_grad


def test_swapping_the_ears_flips_the_remainder(tiny: MakeConfig) -> None:
    model = calibrated(tiny())
    echo = inputs.batch(tiny(), 1).waveform
    flipped = model.predict(echo.flip(1)).remainder.flip(-1)
    torch.testing.assert_close(flipped, model.predict(echo).remainder, rtol=1e-4, atol=1e-4)


def test_a_network_without_one_says_so(tiny: MakeConfig) -> None:
    prediction = create_model(tiny()).predict(inputs.batch(tiny(), 1).waveform)
    with pytest.raises(ConfigError, match="brdepth calibrate"):
        _ = prediction.remainder


@pytest.mark.parametrize(("level", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.91, 11)])
def test_a_promise_needs_so_many_places(level: float, least: int) -> None:
    assert least_places(level) == least
    assert 1 / (least + 1) <= 1 - level + 1e-9
    assert 1 / least > 1 - level + 1e-9


def test_a_place_is_a_room_or_a_location_or_a_recording() -> None:
    rooms = [f"Simulated_Rooms/val_{room:06d}_{pose}" for room in range(4) for pose in range(2)]
    assert places_of(rooms, 0.8) == ("room", [name[:-2] for name in rooms])
    halls = [f"hall {place}/audio_{row}" for place in range(4) for row in range(3)]
    assert places_of(halls, 0.8) == ("location", [name.partition("/")[0] for name in halls])
    wings = [f"house/{name}" for name in halls]
    assert places_of(wings, 0.8) == ("location", [name.rpartition("/")[0] for name in wings])
    few = [f"hall {row % 3}/audio_{row}" for row in range(6)]
    assert places_of(few, 0.8) == ("recording", few)
    assert places_of([*rooms, "hall/1"], 0.8)[0] == "recording"
    with pytest.raises(DataError, match=r"There are 4 rooms with a measured pixel .* level of 0\.9 needs 9"):
        places_of(rooms, 0.9)


def test_a_calibration_holds_its_promise_for_one_place_more_and_no_smaller_factor_does(tiny: MakeConfig) -> None:
    config = tiny()
    samples, model = heard(12, config), create_model(config).eval()
    before = model.predict(samples[0].waveform)
    found = calibrate(model, samples[:8], samples, "some halls", 0.75)
    assert (found.level, found.places, found.kind, found.data) == (0.75, 12, "recording", "some halls")
    assert model.calibration == found
    batch = collate(samples, model.max_depth)
    parts, bound = model.bound(model.features(batch.waveform))
    assert bound is not None
    for ours, theirs in zip(model.predict(samples[0].waveform), before, strict=True):
        assert torch.equal(ours, theirs)
    off, valid = (parts.final - batch.depth).abs().flatten(1), (batch.depth > 0).flatten(1)
    for factor, holds in ((1.0001, True), (0.99, False)):
        outside = ((off > factor * bound.flatten(1)) & valid).sum(dim=1) / valid.sum(dim=1)
        assert (float((outside.sum() + 1) / 13) <= 0.25) is holds


def test_a_place_counts_once_however_often_it_was_heard(tiny: MakeConfig) -> None:
    samples = heard(10, tiny())
    again = [EchoSample(one.waveform, one.depth, f"hall/val_{row:06d}_0") for row, one in enumerate(samples)]
    first = [EchoSample(samples[0].waveform, samples[0].depth, f"hall/val_000000_{pose}") for pose in range(1, 30)]
    once, often = create_model(tiny()).eval(), create_model(tiny()).eval()
    often.load_state_dict(once.state_dict())
    found = calibrate(once, samples, again, "halls", 0.8)
    assert calibrate(often, samples, [*again, *first], "halls", 0.8) == found
    assert (found.kind, found.places) == ("room", 10)


def test_a_fitted_scale_is_larger_where_errors_are(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "STEPS", 90)
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    rows = torch.arange(32)[:, None] < 16
    near = float(model.predict(samples[0].waveform).final.mean())
    halves = [one._replace(depth=torch.where(rows, near, 7.9).expand(32, 32).contiguous()) for one in samples]
    model.initialise_depth(near)
    calibrate(model, halves, halves, "halls", 0.8)
    _, bound = model.bound(model.features(samples[0].waveform[None]))
    assert bound is not None
    assert float(bound[0, 0, 20:].mean()) > 2 * float(bound[0, 0, :12].mean())


def test_a_failed_calibration_leaves_the_network_alone(tiny: MakeConfig) -> None:
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    empty = [one._replace(depth=torch.zeros(32, 32)) for one in samples]
    for arguments, words in (
        ((samples, samples[:3], "halls"), "There are 3 recordings to calibrate by"),
        ((samples, empty, "halls"), "There are 0 recordings with a measured pixel"),
        ((empty, samples, "halls"), "Nothing was measured"),
    ):
        with pytest.raises(DataError, match=words):
            calibrate(model, *arguments)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="a share of the pixels between 0 and 1"):
            calibrate(model, samples, samples, "halls", level)
    next(model.parameters()).data.fill_(math.nan)
    with pytest.raises(PredictionError, match="hall/0"):
        calibrate(model, samples, samples, "halls")
    assert (model.remainder, model.calibration) == (None, None)


def test_a_calibration_is_the_same_each_time_whatever_was_drawn_before(tiny: MakeConfig) -> None:
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    first = calibrate(model, samples, samples, "halls")
    weights = model.state_dict()
    torch.rand(3)
    state = torch.random.get_rng_state()
    assert calibrate(model, samples, samples, "halls") == first
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_holds_the_remainder(tiny: MakeConfig, tmp_path: Path) -> None:
    model, path = calibrated(tiny()), tmp_path / "a.safetensors"
    save_checkpoint(path, model, 1, [])
    again, echo = load_model(path), inputs.batch(tiny(), 1).waveform
    assert again.calibration == PROMISE
    assert torch.equal(again.predict(echo).remainder, model.predict(echo).remainder)
    other = create_model(tiny())
    adopt(other, again, 3.0)  # a training begins with it, and will have a remainder of its own
    assert other.calibration is None
    header, tensors = read_header(path), read_tensors(path, again.state_dict())
    for wrong in ({"level": 1.5}, {"factor": 1e4}, {"factor": 1e-3}, {"places": 0}, {"kind": None}, {"kind": "hall"}):
        damaged = header | {"calibration": json.dumps(json.loads(header["calibration"]) | wrong)}
        write_tensors(path, tensors, damaged)
        with pytest.raises(CheckpointError, match=r"^The header of .* is damaged"):
            load_model(path)


def test_a_network_in_another_precision_is_calibrated_in_it(tiny: MakeConfig) -> None:
    samples, model = heard(12, tiny()), create_model(tiny()).eval().to(torch.bfloat16)
    calibrate(model, samples, samples, "halls")
    assert model.remainder is not None
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
    assert model.predict(samples[0].waveform).remainder.isfinite().all()


def test_a_run_whose_calibration_fails_is_tested_all_the_same(tiny: MakeConfig, tmp_path: Path) -> None:
    samples, path = heard(12, tiny()), tmp_path / BEST
    model = create_model(tiny()).eval()
    calibrate(model, samples, samples, "halls")
    save_checkpoint(path, model, 1, [])
    why = calibrate_best(tmp_path, load_checkpoint(path), samples, samples[:3], "halls", 2)
    assert why.startswith("There are 3 recordings to calibrate by")
    assert load_model(path).calibration is None
    endless = [one._replace(waveform=one.waveform * math.inf) for one in samples]
    assert "hall/" in calibrate_best(tmp_path, load_checkpoint(path), samples, endless, "halls", 2)
    assert calibrate_best(tmp_path, load_checkpoint(path), samples, samples, "halls", 2) == ""
    assert load_model(path).calibration is not None


def test_a_calibration_says_what_it_promises() -> None:
    assert str(PROMISE) == "80% of the pixels, set by 9 rooms (simulated rooms)"
    assert str(PROMISE._replace(level=0.995, places=1)) == "99.5% of the pixels, set by 1 room (simulated rooms)"


def test_figures_of_an_interval_by_hand() -> None:
    figures = IntervalFigures(0.75, 3.0)
    gt = torch.tensor([[0.5, 1.5, 2.5, 0.0], [0.5, 0.5, 2.5, 2.5]]).view(2, 1, 2, 2)
    final = torch.tensor([[0.6, 1.7, 2.0, 9.0], [0.5, 0.6, 2.4, 2.1]]).view(2, 1, 2, 2)
    remainder = torch.tensor([[0.2, 0.2, 0.2, 1.0], [0.1, 0.2, 0.3, 0.2]]).view(2, 1, 2, 2) + 1e-6
    figures.update(final, remainder, gt)
    found = figures.compute()
    assert found["level"] == 0.75
    assert found["coverage"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found["coverage_worst_tenth"] == pytest.approx(2 / 3)
    assert found["held_images"] == 1.0  # at least 0.65 of each
    assert found["remainder_mean"] == pytest.approx(0.2, abs=1e-5)
    assert found["remainder_over_mae"] == pytest.approx(0.2 / ((0.8 / 3 + 0.6 / 4) / 2), abs=1e-4)
    true = {"coverage_0_m": 1.0, "coverage_1_m": 1.0, "coverage_2_m": 1 / 3}
    predicted = {"coverage_predicted_0_m": 1.0, "coverage_predicted_1_m": 1.0, "coverage_predicted_2_m": 1 / 3}
    by_metre = {name: value for name, value in found.items() if name.endswith("_m")}
    assert by_metre == pytest.approx(true | predicted)
    near = IntervalFigures(0.75, 3.0, min_depth=1.0)
    near.update(final, remainder, gt)
    assert near.compute()["coverage"] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_figures_of_an_interval_do_not_depend_on_the_batches_nor_on_who_has_them() -> None:
    rng = torch.Generator().manual_seed(0)
    gt, final, remainder = (4 * torch.rand(23, 1, 8, 8, generator=rng) for _ in range(3))
    gt[0] = 0  # of an image without a measured pixel nothing is known
    whole, parts = IntervalFigures(0.9, 4.0), IntervalFigures(0.9, 4.0)
    whole.update(final, remainder, gt)
    for some in (slice(0, 5), slice(5, 23)):
        parts.update(final[some], remainder[some], gt[some])
    assert parts.compute() == pytest.approx(whole.compute())
    other = IntervalFigures(0.9, 4.0)
    other.update(final[:5], remainder[:5], gt[:5])
    ranked = torch.nn.functional.pad(whole._ranked[0], (0, 0, 0, RANKED - 64), value=math.nan)  # as it travels
    rest = iter((whole._rows[0][5:], ranked[5:]))
    other.share(lambda own: torch.cat([own, next(rest)]))
    assert other.compute() == pytest.approx(whole.compute())
    empty = IntervalFigures(0.9, 4.0)
    everything = iter((whole._rows[0], ranked))
    empty.share(lambda own: torch.cat([own, next(everything)]))
    assert empty.compute() == pytest.approx(whole.compute())


def test_images_are_held_where_at_most_a_tenth_is_missing() -> None:
    figures = IntervalFigures(0.9, 1.0)
    gt = torch.full((20, 1, 1, 10), 0.5)
    off = torch.zeros(20, 1, 1, 10)
    off[:4, ..., :3] = 0.3  # 0.7 of these four, but 0.6 of the first
    off[0, ..., 3] = 0.3
    off[4:6, ..., :2] = 0.3  # 0.8 of these two: held
    figures.update(gt + off, torch.full_like(gt, 0.1), gt)
    found = figures.compute()
    assert found["held_images"] == pytest.approx(16 / 20)
    assert found["coverage_worst_tenth"] == pytest.approx((0.6 + 0.7) / 2)
    assert found["coverage"] == pytest.approx((0.6 + 3 * 0.7 + 2 * 0.8 + 14) / 20)


def test_many_pixels_are_ranked_by_some_of_them_in_all_columns_and_rows() -> None:
    figures = IntervalFigures(0.9, 400.0)
    maps = torch.arange(128 * 128.0).view(1, 1, 128, 128).expand(2, -1, -1, -1) / 100 + 1
    figures.update(maps, maps, maps + 0.1)
    assert figures._ranked[0].shape == (2, RANKED, 3)
    assert not figures._ranked[0].isnan().any()
    again = IntervalFigures(0.9, 400.0)
    again.update(maps, maps, maps + 0.1)
    assert torch.equal(again._ranked[0], figures._ranked[0])  # the same ones each time
    pixels = ((figures._ranked[0][0, :, 2] - 1) * 100).round().long()
    assert min(len((pixels % 128).unique()), len((pixels // 128).unique())) > 120


def test_a_prediction_that_is_not_finite_is_named_and_not_scored(tiny: MakeConfig) -> None:
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    calibrate(model, samples, samples, "halls")
    assert model.remainder is not None
    for weights in (next(model.remainder.parameters()), next(model.parameters())):
        kept = weights.data.clone()
        weights.data.fill_(math.nan)
        with pytest.raises(PredictionError, match="hall/0"):
            evaluate(model, samples)
        with pytest.raises(PredictionError, match="the echo"):
            model.predict(samples[0].waveform)
        weights.data = kept


def test_a_ranking_is_judged_against_the_errors_themselves() -> None:
    # Errors 1, 2, 3: of the most certain ones, means 1, 1.5, 2 at best, in shares of the mean 0.5, 0.75, 1.
    pixels = torch.tensor([[1.0, 1.0, 3.0], [2.0, 2.0, 2.0], [3.0, 3.0, 1.0], [math.nan, 9.0, 9.0]])
    found = rank(pixels)
    assert found.remainder == pytest.approx(0.0)
    assert found.depth == pytest.approx(((3 / 2 - 1 / 2) + (2.5 / 2 - 1.5 / 2) + 0) / 3)  # the other way round
    assert found.random == pytest.approx((1 - 0.5 + 1 - 0.75 + 0) / 3)
    assert rank(pixels / 1000) == pytest.approx(found)  # in shares of the mean error


def test_an_evaluation_has_the_figures_of_a_calibrated_network(tiny: MakeConfig) -> None:
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    assert evaluate(model, samples).interval == {}
    assert evaluate(model, samples).by_metre() == ""
    calibrate(model, samples, samples, "halls")
    found = evaluate(model, samples, batch_size=5)
    found.check()
    assert 0.9 <= found.interval["coverage"] < 1
    assert ("coverage", f"{found.interval['coverage']:.4f}", "the level") in found.rows()
    assert not any(name.endswith("_m") for name, _, _ in found.rows())
    held = {name: share for name, share in found.interval.items() if name.startswith("coverage_predicted_")}
    metres = ", ".join(f"{name.split('_')[2]} m {share:.0%}" for name, share in held.items())
    assert found.by_metre() == f"Within the remainder, by metre of predicted depth: {metres}."
    assert "by metre" in found._repr_html_()
    broken = {"coverage": 1.5}, {"coverage_3_m": -0.1}, {"glory": 1.0}
    for wrong in broken:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}"):
            type(found)(found.metrics, found.decomposition, found.protocol, found.interval | wrong).check()


def test_a_run_with_enough_rooms_ends_with_a_remainder(tiny: MakeConfig) -> None:
    rooms = {"train_rooms": 8, "val_rooms": 9, "test_rooms": 4}
    result = Trainer(tiny({"simulation": rooms, "trainer": {"epochs": 1}}), trackers=[]).fit()
    assert result.calibration is not None, result.uncalibrated
    assert result.calibration == Calibration(0.9, result.calibration.factor, 9, "room", "simulated rooms")
    model = load_model(result.run_dir / "best.safetensors")
    assert model.calibration == result.calibration
    assert model.provenance.history == result.history
    written = json.loads((result.run_dir / "evaluation.json").read_text())
    assert written["calibration"]["places"] == 9
    assert written["interval"] == result.test.interval
    mean = result.test.interval["remainder_mean"]
    assert result.sentences()[-1].startswith(
        f"Remainder for 90% of the pixels, set by 9 rooms (simulated rooms): {mean:.2f} m on average; on the test "
    )


def test_a_run_with_too_few_rooms_says_why_it_has_none(tiny: MakeConfig) -> None:
    result = Trainer(tiny({"trainer": {"epochs": 1}}), trackers=[]).fit()
    assert (result.calibration, result.test.interval) == (None, {})
    assert result.sentences()[-1] == (
        "No remainder, which would say how far off a pixel may be. There are 4 recordings to calibrate by, and a level "
        "of 0.9 needs 9. Hold out more of them, or give a lower level."
    )


def test_the_command_calibrates_and_predict_writes_the_remainder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path = tmp_path / "rooms", tmp_path / "best.safetensors"
    brdepth(
        "simulate",
        root,
        "--rooms",
        4,
        "--val-rooms",
        5,
        "--test-rooms",
        2,
        "--poses",
        1,
        "--output-size",
        32,
        "--max-depth",
        8,
    )
    model = create_model(make_config(TINY, {"data": {"name": "batvisionv2"}})).eval()
    save_checkpoint(path, model, 1, [])
    monkeypatch.chdir(tmp_path)
    sound = next(root.glob("*/audio/*.wav"))
    assert "is not calibrated" in brdepth("predict", path, sound, "--out", "plain", "--no-picture")
    assert [file.name for file in (tmp_path / "plain").iterdir()] == [f"{sound.stem}_depth.npy"]
    said = brdepth("calibrate", path, "--data-root", root, "--level", 0.8)
    assert "Remainder for 80% of the pixels, set by 5 rooms (BatVision V2)." in said
    out = tmp_path / "best_calibrated.safetensors"
    assert f"Checkpoint: {out}" in "".join(said.splitlines())
    assert path.read_bytes() != out.read_bytes()
    found = json.loads(
        brdepth("calibrate", path, "--data-root", root, "--level", 0.8, "--out", "b.safetensors", "--json")
    )
    assert found["calibration"]["level"] == found["interval"]["level"] == 0.8
    assert "coverage" in brdepth("eval", out, "--data-root", root)
    told = json.loads(brdepth("predict", out, sound, "--out", "bound", "--parts", "--scan", "--json"))
    assert told["level"] == 0.8
    remainder = np.load(told["predictions"][0]["remainder"])
    parts, depth = np.load(told["predictions"][0]["parts"]), np.load(told["predictions"][0]["depth"])
    assert remainder.dtype == np.float32
    np.testing.assert_array_equal(parts["remainder"], remainder)
    assert float(parts["level"]) == 0.8
    scan = json.loads(Path(told["predictions"][0]["scan"]).read_text())
    camera = load_model(out).camera
    assert camera is not None
    nearest = camera.scan(torch.from_numpy(depth - remainder).clamp(min=0)).ranges
    np.testing.assert_allclose(scan["ranges_at_least"], nearest, atol=1e-4)
    assert "data-root" in sentence(brdepth("calibrate", "small", code=2))
    for name in ("a.pt", "rooms"):
        said = sentence(brdepth("calibrate", path, "--data-root", root, "--out", tmp_path / name, code=2))
        assert "is no name of a checkpoint" in said
    for depth in root.glob("*/depth/test_*.npy"):
        np.save(depth, np.zeros_like(np.load(depth)))
    said = brdepth("calibrate", path, "--data-root", root, "--level", 0.8, "--out", "c.safetensors")
    assert "What it holds on a test split is not known." in said
    assert load_model("c.safetensors").calibration is not None
    assert "needs 19" in sentence(brdepth("calibrate", path, "--data-root", root, "--level", 0.95, code=2))


@pytest.mark.parametrize(
    ("half_maps", "shape", "expected"),
    [
        (True, (4, 3, 8, 4), (4.35627, 3.62348, 6.02569, 3.18641, 4.65026, 2.55544)),
        (False, (2, 3, 16, 16), (2.04131, 1.63608, 1.89134, 2.43833, 2.89818, 1.16652)),
        (False, (2, 3, 24, 20), (2.14757, 3.43722, 1.88026, 3.68961, 1.30641, 1.7683)),
    ],
    ids=["half maps", "whole maps", "maps of another size"],
)
def test_a_remainder_with_fixed_weights_gives_fixed_numbers(
    half_maps: bool, shape: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    remainder = inputs.filled(Remainder(3, half_maps, 8.0).requires_grad_(False))
    rng = inputs.stream("remainder")
    features = torch.from_numpy(rng.uniform(0, 1, shape)).float()
    ends = (0, 8), (-1.6, 1.6), (0, 8)  # of base, residual and final
    maps = [torch.from_numpy(rng.uniform(low, high, (2, 1, 16, 16))).float() for low, high in ends]
    scale = remainder(features, DepthDecomposition(*maps))
    found = scale[0, 0].flatten()[::50].tolist()
    assert found == pytest.approx(list(expected), rel=1e-4)


def test_the_bounds_of_a_calibration_are_those_that_can_be_found() -> None:
    assert (len(FACTORS), FACTORS[0], FACTORS[-1]) == (2001, pytest.approx(0.01), pytest.approx(1000.0))
    for fine in ({"factor": FACTORS[0]}, {"factor": FACTORS[-1]}, {"places": 1}, {"places": 10**9 - 1}):
        PROMISE._replace(**fine).check()
    for wrong in (
        {"level": 0.0},
        {"level": 1.0},
        {"factor": FACTORS[0] / 1.001},
        {"factor": FACTORS[-1] * 1.001},
        {"places": 0},
        {"places": 10**9},
        {"kind": "hall"},
    ):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"^a calibration that cannot be, with {name}="):
            PROMISE._replace(**wrong).check()


def test_a_calibration_tells_how_far_it_is_and_takes_recordings_from_everywhere(
    tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    told = list[tuple[str, int, int]]()
    monkeypatch.setattr(calibration, "MOST", 6)
    calibrate(model, samples, samples, "halls", 0.8, 5, lambda *progress: told.append(progress))
    fitting, holding = "Fitting the remainder", "Calibrating"
    assert told == [(fitting, 5, 6), (fitting, 6, 6), (holding, 5, 12), (holding, 10, 12), (holding, 12, 12)]
    features = model.draw_from(model.features(samples[0].waveform[None]))[1]
    monkeypatch.setattr(calibration, "MOST", 1000)
    monkeypatch.setattr(calibration, "BATCH", 2)
    monkeypatch.setattr(calibration, "MEMORY", 4 * 4 * features.numel())  # of float32
    told.clear()
    calibrate(model, samples, samples, "halls", 0.8, 5, lambda *progress: told.append(progress))
    assert told[0] == (fitting, 4, 4)


def test_near_pixels_count_and_holes_do_not(tiny: MakeConfig) -> None:
    model = create_model(tiny()).eval()
    near = [one._replace(depth=one.depth.clamp(max=0.9)) for one in heard(12, tiny())]
    holes = [one._replace(depth=torch.where(torch.arange(32) < 20, one.depth, 0.0)) for one in near]
    whole, partly = (calibrate(model, near, some, "halls", 0.8) for some in (near, holes))
    assert whole.places == partly.places == 12
    parts, bound = model.bound(model.features(collate(holes).waveform))
    assert bound is not None
    off, valid = (parts.final - collate(holes).depth).abs(), collate(holes).depth > 0
    outside = torch.where(valid, off > bound, False).flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1)
    assert float(outside.sum() + 1) / 13 <= 0.2 + 1e-4


def test_a_remainder_is_fitted_to_near_pixels_and_not_to_holes(
    tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "STEPS", 90)
    samples, model = heard(12, tiny()), create_model(tiny()).eval()
    batch = collate(samples)
    with torch.no_grad():
        parts, features = model.draw_from(model.features(batch.waveform))
    left = torch.arange(32) < 16
    right_or_hole = [
        one._replace(depth=torch.where(left, final[0], 0.0).contiguous())
        for one, final in zip(samples, parts.final, strict=True)
    ]
    assert float(fitted(model, right_or_hole)(features, parts).mean()) < 0.2  # nothing is off where it was measured
    near = [one._replace(depth=torch.full((32, 32), 0.5)) for one in samples]
    assert float((parts.final - 0.5).abs().mean()) > 2
    assert float(fitted(model, near)(features, parts).mean()) > 2
