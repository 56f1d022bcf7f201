"""A prediction is the same whatever a program has made of PyTorch, and one that is not finite gets nowhere."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import inputs
from typer.testing import CliRunner

from base_residual.acoustics.framing import echo_frames
from base_residual.cli.main import app
from base_residual.config.presets import Layer
from base_residual.config.schema import Config
from base_residual.deploy.benchmark import gflops
from base_residual.errors import PredictionError, ShapeError
from base_residual.evaluation import evaluate
from base_residual.evaluation.elsewhere import try_elsewhere
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_model
from base_residual.models.network import DepthNet
from base_residual.training.trainer import Trainer

MakeConfig = Callable[..., Config]
SPECTROGRAM: Layer = {
    "audio": {"front_end": "spectrogram"},
    "model": {"encoder": "unet", "decoder": "unet", "base_decoder": "unet"},
}
NETWORKS = [{}, {"model": {"name": "unet"}}, SPECTROGRAM]


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def surroundings() -> Iterator[None]:
    """All that a program can make of PyTorch, at once; the device stands for any on which nothing may be made."""
    with (
        default_type(torch.float64),
        torch.device("meta"),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.no_grad(),
    ):
        yield


@pytest.fixture(params=range(len(NETWORKS)), ids=["time", "unet", "spectrogram"])
def model(request: pytest.FixtureRequest, tiny: MakeConfig) -> DepthNet:
    torch.manual_seed(0)
    return create_model(tiny(NETWORKS[request.param])).eval()


@pytest.fixture
def echo(model: DepthNet) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (2, echo_frames(8.0))).astype(np.float32))


def test_a_prediction_does_not_depend_on_what_is_around_it(model: DepthNet, echo: torch.Tensor, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", model, 0, [])
    expected = model.predict(echo)
    with surroundings():
        loaded = load_model(tmp_path / "a.safetensors")
        found = loaded.predict(echo)
        assert {weights.dtype for weights in loaded.parameters()} == {torch.float32}
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
    loaded(loaded.features(echo[None])).final.mean().backward()  # it can still be trained


def test_a_training_does_not_depend_on_what_is_around_it(tiny: MakeConfig) -> None:
    rooms = {"simulation": {"train_rooms": 8, "val_rooms": 1, "test_rooms": 1}, "trainer": {"epochs": 1}}
    with surroundings():
        result = Trainer(tiny(rooms), trackers=[]).fit()
    expected = Trainer(tiny(rooms, {"tracking": {"experiment_name": "plain"}}), trackers=[]).fit()
    assert result.history == expected.history
    assert result.test.metrics == expected.test.metrics


def test_an_evaluation_does_not_depend_on_what_is_around_it(tiny: MakeConfig) -> None:
    samples, model = inputs.dataset(tiny(), 2), create_model(tiny())
    expected = evaluate(model, samples), try_elsewhere(model)
    with surroundings():
        found = evaluate(model, samples), try_elsewhere(model)
    assert found == expected


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_predicts_in_other_precisions(kind: torch.dtype, model: DepthNet, echo: torch.Tensor) -> None:
    expected = model.predict(echo).final
    found = model.to(kind).predict(echo).final
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 0.25
    assert gflops(model) > 0


def test_a_prediction_can_be_edited(model: DepthNet, echo: torch.Tensor) -> None:
    for around in (nullcontext, torch.inference_mode):
        with around():
            found = model.predict(echo)
        found.final.clamp_(max=1)
        found.base[0] += 1
        assert float(found.final.max()) <= 1


@pytest.mark.parametrize("shape", [(0, 2, 4000), (2, 0), (1, 2, 0), (0,), (0, 0, 0)])
def test_no_echo_is_refused_in_a_sentence(shape: tuple[int, ...], model: DepthNet) -> None:
    for call in (model.predict, model.decompose):
        with pytest.raises(ShapeError, match="expected is"):
            call(torch.zeros(shape))


def test_threads_share_a_network_in_training(model: DepthNet, echo: torch.Tensor) -> None:
    echoes = [torch.roll(echo, place, -1) for place in range(4)]
    expected = [model.predict(one).final for one in echoes]
    before = copy.deepcopy(model.state_dict())
    modes = {name: number % 2 == 0 for number, (name, _) in enumerate(model.named_modules())}
    for name, module in model.named_modules():
        module.training = modes[name]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: model.predict(echoes[place % 4]).final, range(16)))
    for place, final in enumerate(found):
        assert torch.equal(final, expected[place % 4])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_training_goes_on_while_others_predict(model: DepthNet, echo: torch.Tensor) -> None:
    modes, done = set(), threading.Event()
    model.train()
    model.encoder.register_forward_pre_hook(lambda module, _: modes.add((module is model.encoder, module.training)))

    def predict() -> None:
        while not done.is_set():
            model.predict(echo)

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(predict)
        for _ in range(5):
            model(model.features(torch.stack([echo, echo])))
        done.set()
        others.result()
    assert modes == {(True, True), (False, False)}


@pytest.fixture
def overflowing(model: DepthNet, tmp_path: Path) -> Path:
    """A checkpoint whose weights are finite, and whose predictions are not."""
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(3e38)
    path = tmp_path / "run" / "best.safetensors"
    save_checkpoint(path, model, 1, [])
    return path


@pytest.mark.parametrize("command", ["predict", "visualize", "visualize --audio", "eval", "export"])
@pytest.mark.parametrize("model", [0], indirect=True)
def test_a_prediction_that_is_not_finite_gets_nowhere(
    command: str, overflowing: Path, rooms: Callable[[str], object], tmp_path: Path
) -> None:
    rooms("test")
    sound = next(Path(os.environ["BRDEPTH_CACHE"]).glob("rooms-*/*/audio/test*.wav"))
    name, *rest = command.split()
    given = [str(overflowing), *rest]
    if name == "predict":
        given += [str(sound), "--out", str(tmp_path / "out")]
    elif rest:
        given += [str(sound)]
    done = CliRunner().invoke(app, [name, *given])
    assert done.exit_code == 2, done.output
    assert "is not finite" in done.stderr
    assert sound.stem in done.stderr or name == "export"
    assert not (tmp_path / "out").exists()
    assert [path.name for path in overflowing.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("model", [0], indirect=True)
def test_the_library_refuses_a_prediction_that_is_not_finite(
    overflowing: Path, rooms: Callable[[str], object], echo: torch.Tensor
) -> None:
    broken = load_model(overflowing)
    with pytest.raises(PredictionError, match="for the echo is not finite"):
        broken.predict(echo)
    with pytest.raises(PredictionError, match="for echo 1 of 2, echo 2 of 2 is"):
        broken.predict(torch.stack([echo, echo]))
    with pytest.raises(PredictionError, match=r"for .*test_000000"):
        evaluate(broken, rooms("test"))
