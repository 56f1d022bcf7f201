"""A training that begins with the weights of another, and the models that come with the package."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from conftest import TINY, write_batvision
from matplotlib.figure import Figure
from test_cli import brdepth, sentence
from torch import Tensor

from base_residual.config.resolve import load_layer, make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.deploy import predict
from base_residual.errors import CheckpointError, ConfigError, RunError, TrainingInterrupted
from base_residual.evaluation.comparison import compare_runs
from base_residual.evaluation.elsewhere import OTHER_ROOMS
from base_residual.files.tensors import read_header
from base_residual.models import released
from base_residual.models.adopt import adopt
from base_residual.models.checkpoint import Start, save_checkpoint
from base_residual.models.factory import create_model, load_checkpoint, load_model, load_start
from base_residual.models.network import DepthNet
from base_residual.models.released import DEFAULT, find_weights, sample
from base_residual.training.fine_tuning import FEW_RECORDINGS, fine_tuning_config
from base_residual.training.run_state import Position, check_alike
from base_residual.training.trackers import Tracker
from base_residual.training.trainer import Trainer

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def small() -> DepthNet:
    return load_model(DEFAULT)


@pytest.fixture(scope="module")
def heard() -> tuple[Tensor, int]:
    sound, rate = soundfile.read(sample()[0], dtype="float32")
    return torch.from_numpy(sound.T.copy()), rate


def like(model: DepthNet, **data: float) -> DepthNet:
    assert model.config is not None
    torch.manual_seed(1)
    return create_model(make_config(model.config.model_dump(mode="json"), {"data": data})).eval()


def test_the_same_network_predicts_the_same(small: DepthNet, heard: tuple[Tensor, int]) -> None:
    other = like(small)
    adopt(other, small, 3.0)
    for mine, theirs in zip(other.predict(*heard), small.predict(*heard), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("times", [2, 4])
def test_a_map_of_another_side_begins_as_the_same_map(small: DepthNet, heard: tuple[Tensor, int], times: int) -> None:
    other = like(small, output_size=times * small.output_size)
    adopt(other, small, 3.0)
    expected = small.predict(*heard)
    found = [F.interpolate(part, expected.final.shape[-2:], mode="area") for part in other.predict(*heard)]
    assert (found[0] - expected.base).square().mean().sqrt() < 0.01
    assert (found[2] - expected.final).square().mean().sqrt() < 0.08
    # What an untrained residual would be off by.
    assert (found[2] - expected.final).square().mean() < 0.1 * expected.residual.square().mean()


@pytest.mark.parametrize("times", [2, 4])
def test_new_stages_pass_on_what_they_get_while_they_train_too(small: DepthNet, times: int) -> None:
    other = like(small, output_size=times * small.output_size)
    adopt(other, small, 3.0)
    before, added = len(small.residual_decoder.stages), other.residual_decoder.stages
    norm = added[before - 2]
    normal = torch.randn(8, len(norm.weight), 32, 32)
    given = torch.relu(norm.bias[:, None, None] + norm.weight.abs()[:, None, None] * normal)
    for training in (False, True):
        passed = torch.nn.Sequential(*added[before:]).train(training)(given)
        assert (passed - F.interpolate(given, scale_factor=times)).abs().mean() < 0.05 * given.mean()


@pytest.mark.parametrize("max_depth", [10.0, 16.0, 30.0])
def test_another_largest_depth_keeps_the_metres(small: DepthNet, heard: tuple[Tensor, int], max_depth: float) -> None:
    other = like(small, max_depth=max_depth)
    expected = small.predict(*heard)
    adopt(other, small, float(expected.final.mean()))
    found = other.predict(*heard)
    scale = expected.final.std()
    assert (found.final - expected.final).square().mean().sqrt() < 0.35 * scale
    assert (found.base - expected.base).square().mean().sqrt() < 0.35 * scale


def test_a_largest_depth_before_the_rooms_own_does_not_make_heads_steep(small: DepthNet) -> None:
    other = like(small, max_depth=2.0)
    adopt(other, small, 3.0)
    steeper = other.base_decoder.head.weight.norm() / small.base_decoder.head.weight.norm()
    assert 1 < steeper < 2  # a sigmoid at half of its height is at most twice as flat as one at its foot


def test_networks_of_other_settings_are_refused_in_one_sentence(tiny: MakeConfig) -> None:
    model = create_model(tiny())
    with pytest.raises(
        ConfigError, match=r"model\.base_channels=4, and the settings say 8\. Leave model\.base_channels"
    ):
        adopt(create_model(tiny({"model": {"base_channels": 8}})), model, 3.0)
    with pytest.raises(ConfigError, match=r"audio\.sample_rate=44100, .*recordings of other rates are resampled"):
        adopt(create_model(tiny({"audio": {"sample_rate": 48_000}})), model, 3.0)
    with pytest.raises(ConfigError, match="maps of 32 x 32 pixels do not fit maps of 48 x 48"):
        adopt(create_model(tiny({"data": {"output_size": 48}})), model, 3.0)


def test_a_baseline_gives_its_weights_too(tiny: MakeConfig) -> None:
    plain, echo = {"model": {"name": "plain"}}, torch.randn(1, 2, 2500)
    model = create_model(tiny(plain)).eval()
    model.initialise_depth(2.0)
    other = create_model(tiny(plain, {"data": {"max_depth": 10.0}})).eval()
    adopt(other, model, 2.0)
    assert (other.predict(echo).final - model.predict(echo).final).abs().mean() < 0.05


def test_a_two_dimensional_network_gives_its_weights_to_its_like_alone(tiny: MakeConfig) -> None:
    unet, echo = {"model": {"name": "unet"}}, torch.randn(1, 2, 2500)
    model, other = create_model(tiny(unet)).eval(), create_model(tiny(unet)).eval()
    adopt(other, model, 2.0)
    assert torch.equal(other.predict(echo).final, model.predict(echo).final)
    for name, value in {"max_depth": 10.0, "output_size": 64}.items():
        with pytest.raises(ConfigError, match=f"fit its own {name} alone"):
            adopt(create_model(tiny(unet, {"data": {name: value}})), model, 2.0)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    results = {"tracking": {"results_dir": str(tmp_path_factory.mktemp("first"))}, "trainer": {"epochs": 3}}
    return Trainer(make_config(TINY, results), trackers=[]).fit().run_dir


def test_a_run_begins_with_the_weights_and_says_so(first: Path, tmp_path: Path) -> None:
    init = first / "best.safetensors"
    results = {
        "tracking": {"results_dir": str(tmp_path)},
        "trainer": {"learning_rate": 1e-9, "epochs": 1, "average": 0},
    }
    config = fine_tuning_config(init, TINY, results)
    found = Trainer(config, init=init, trackers=[]).fit()
    given, kept = (load_model(run / "best.safetensors") for run in (first, found.run_dir))
    for theirs, mine in zip(given.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    start = Start(f"{first.name}/best.safetensors", load_start(init)[1].sha256)
    assert found.start == start
    assert load_checkpoint(found.run_dir / "best.safetensors").model.provenance.start == start
    assert json.loads(read_header(found.run_dir / "last.safetensors")["start"])["sha256"] == start.sha256
    assert json.loads((found.run_dir / "evaluation.json").read_text())["start"] == start._asdict()
    assert (found.run_dir / "config.yaml").read_text().startswith(f"# It began with the weights of {start}.\n")
    compared = compare_runs([first, found.run_dir])
    assert compared.differing["start"] == ["random weights", str(start)]


def test_a_run_that_goes_on_still_knows_where_it_began(first: Path, tmp_path: Path) -> None:
    init, results = first / "best.safetensors", {"tracking": {"results_dir": str(tmp_path)}}
    config = fine_tuning_config(init, TINY, results, {"trainer": {"epochs": 1, "lr_schedule": "constant"}})
    with pytest.raises(
        RunError, match=r"^--init begins a run, and --resume goes on .* --config .*config\.yaml --resume\.$"
    ):
        Trainer(config, init=init, resume=True)
    began = Trainer(config, init=init, trackers=[]).fit().start
    again = make_config({"trainer": {"epochs": 2}}, file=load_layer(config.run_dir / "config.yaml"))  # as it is advised
    assert Trainer(again, resume=True, trackers=[]).fit().start == began
    assert began is not None


def test_a_run_that_is_stopped_says_how_it_goes_on(first: Path, tmp_path: Path) -> None:
    class Stop(Tracker):
        def step(self, epoch: int, done: int, steps: int) -> None:
            signal.raise_signal(signal.SIGINT)

    init = first / "best.safetensors"
    config = fine_tuning_config(init, TINY, {"tracking": {"results_dir": str(tmp_path)}})
    said = f"brdepth train --config {config.run_dir / 'config.yaml'} --resume goes on from there"
    with pytest.raises(TrainingInterrupted, match=re.escape(said)):
        Trainer(config, init=init, trackers=[Stop()]).fit()


def test_processes_with_other_weights_do_not_train_together(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = []
    processes = SimpleNamespace(gathered=lambda own: gathered.append(own) or own)
    for start in (None, Start("a", "0a" * 32), Start("b", "0b" * 32)):
        check_alike(Position.at_start({}, start), tiny(), processes)
    assert len({tuple(own.flatten().tolist()) for own in gathered if own.dtype == torch.int64}) == 3


def test_what_does_not_fit_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    nowhere = ("--dataset", "batvisionv2", "--data-root", tmp_path / "none")
    for words, said in {
        ("--size", "base"): "model.base_channels=16, and the settings say 32",
        ("--set", "data.output_size=96"): "do not fit maps of 96 x 96",
        ("--set", "data.output_size=96", "--dry-run"): "do not fit maps of 96 x 96",
    }.items():
        assert said in sentence(brdepth("train", "--init", DEFAULT, *nowhere, *words, code=2))
    assert "known" not in sentence(brdepth("train", "--init", "smal", code=2))
    assert "did you mean 'small'?" in sentence(brdepth("predict", "smal", "a.wav", code=2))


def test_a_folder_of_the_same_name_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()
    assert len(json.loads(brdepth("predict", "--json"))["predictions"]) == 1
    assert load_model(DEFAULT).output_size == released.released()[DEFAULT].output_size
    (tmp_path / "run").mkdir()
    assert "run is a folder" in sentence(brdepth("predict", "run", "a.wav", code=2))


def test_the_settings_are_those_of_the_network_beneath_what_is_given(tiny: MakeConfig, tmp_path: Path) -> None:
    given = tiny({"model": {"base_grid": 3}, "data": {"max_depth": 6.0, "output_size": 48}})
    save_checkpoint(tmp_path / "m.safetensors", create_model(given), 0, [])
    found = fine_tuning_config(tmp_path / "m.safetensors", {"data": {"name": "own", "root": "/data"}})
    assert (found.model, found.audio) == (given.model, given.audio)
    assert (found.data.max_depth, found.data.output_size, found.data.name) == (6.0, 48, "own")
    assert {name: getattr(found.trainer, name) for name in FEW_RECORDINGS["trainer"]} == FEW_RECORDINGS["trainer"]
    asked = {"data": {"max_depth": 7.0}, "trainer": {"epochs": 3}}
    wins = fine_tuning_config(tmp_path / "m.safetensors", asked, file={"trainer": {"seed": 5, "epochs": 9}})
    assert (wins.data.max_depth, wins.trainer.epochs, wins.trainer.seed) == (7.0, 3, 5)


def test_what_comes_with_the_package_is_what_was_released(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert DEFAULT in released.released()
    for name, about in released.released().items():
        loaded = load_checkpoint(name)
        assert (loaded.model.output_size, loaded.model.max_depth) == (about.output_size, about.max_depth)
        assert find_weights(name).stat().st_size < 16 * 2**20
        assert all(rmse < blind for rmse, blind in about.rmse.values())
    folder = find_weights(DEFAULT).parent
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + (b" " if file.suffix == ".safetensors" else b""))
    monkeypatch.setattr(released, "_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"is not the file that was released\. Install the package again"):
        load_model(DEFAULT)


def test_a_file_of_the_same_name_is_preferred(
    tiny: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / DEFAULT, create_model(tiny()), 0, [])
    assert load_model(DEFAULT).output_size == 32


def test_the_recording_of_the_package_is_understood(small: DepthNet, heard: tuple[Tensor, int]) -> None:
    truth = torch.from_numpy(resize_depth(read_depth(sample()[1], small.max_depth), small.output_size))
    off = (small.predict(*heard).final[0, 0] - truth).square().mean().sqrt()
    assert off < (truth - truth.median()).square().mean().sqrt()


def test_weights_of_half_the_precision_are_read(tiny: MakeConfig, tmp_path: Path) -> None:
    model = create_model(tiny()).eval()
    exact = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    save_checkpoint(tmp_path / "m.safetensors", model, 0, [])
    found = load_model(tmp_path / "m.safetensors").state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, exact[name], rtol=1e-3, atol=1e-4)


def test_without_a_checkpoint_the_released_model_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", *soundfile.read(sample()[0]), subtype="FLOAT")
    own, named, shown = (
        json.loads(brdepth("predict", *words, "--json"))["predictions"]
        for words in (["a.wav", "--out", "own"], [DEFAULT, "a.wav", "--out", "named"], [])
    )
    (alone,) = shown
    assert alone["recording"] == str(sample()[0])
    depths = [np.load(one["depth"]) for one in (*own, *named, alone)]
    assert all(np.array_equal(depth, depths[0]) for depth in depths)
    assert (tmp_path / "predictions" / "room_depth.png").is_file()


def test_the_picture_of_the_packages_recording_has_the_ground_truth(
    tiny: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = []
    monkeypatch.setattr(predict, "decomposition_figure", lambda rows, _: panels.extend(rows) or Figure())
    save_checkpoint(tmp_path / "m.safetensors", create_model(tiny()), 0, [])
    brdepth("predict", tmp_path / "m.safetensors", "--out", tmp_path)
    truth = np.load(sample()[1]) / 1000
    assert panels[0].gt.shape == (32, 32)  # of the network that predicts
    assert panels[0].gt.mean() == pytest.approx(truth[truth > 0].clip(max=8).mean(), rel=0.02)


def test_a_released_model_is_scored_on_rooms_that_it_was_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = released.TRIED_ON["simulation"]
    assert rooms["seed"] != load_checkpoint(DEFAULT).config.simulation.seed
    monkeypatch.setitem(rooms, "train_rooms", 6)
    monkeypatch.setitem(rooms, "test_rooms", 3)
    found = json.loads(brdepth("eval", DEFAULT, "--json"))
    assert found["metrics"]["images"] == 3
    assert found["dataset"] == "simulated"
    assert 0 < found["metrics"]["rmse"] < 3


def test_the_released_models_are_listed() -> None:
    listed = json.loads(brdepth("models", "--json"))
    assert listed.keys() == released.released().keys()
    said = brdepth("models")
    for name, about in released.released().items():
        assert f"{about.output_size} x {about.output_size}" in said
        assert f"{name}: {about.about}" in " ".join(said.split())


def test_the_page_of_ones_own_robot_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/robot.md but the last two, whose network is the one before, on rooms of another program."""
    root = Path(__file__).parents[1]
    page = (root / "docs" / "robot.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)).splitlines()
    monkeypatch.chdir(tmp_path)
    own_robot(tmp_path / "robot")
    shutil.copy(sample()[0], "echo.wav")
    shutil.copy(sample()[1], "depth.npy")
    said = {}
    for command in commands:
        words = shlex.split(command)
        if words[0] == "brdepth" and words[1] not in ("export", "benchmark"):
            few = ("--epochs", "1", "--quiet") if words[1] == "train" else ()
            said[" ".join(words[1:3])] = brdepth(*words[1:], *few, *(("--json",) if words[1] != "check-data" else ()))
    assert json.loads(said["predict echo.wav"])["predictions"][0]["depth"] == "predictions/echo_depth.npy"
    assert json.loads(said["eval small"])["checkpoint"] == DEFAULT
    trained = json.loads(said["train --init"])
    assert trained["start"]["name"] == DEFAULT
    assert trained["checkpoint"] in commands[-1]
    data = load_checkpoint(trained["checkpoint"]).config.data
    assert (data.max_depth, data.field_of_view) == (load_model(DEFAULT).max_depth, (86, 57))
    assert json.loads(said[f"eval {trained['checkpoint']}"])["metrics"]["rmse"] < 1.5
    assert Path(json.loads(said[f"visualize {trained['checkpoint']}"])["picture"]).is_file()


def own_robot(root: Path) -> None:
    """Lay out recordings as the page says, with the tables that it shows."""
    shutil.copytree(OTHER_ROOMS / "Exam", root / "Home", ignore=shutil.ignore_patterns("*.csv"))
    header, *rows = (OTHER_ROOMS / "Exam" / "test.csv").read_text().replace("Exam", "Home").splitlines()
    for split, part in (("train", rows[:6]), ("val", rows[6:9]), ("test", rows[9:12])):
        (root / "Home" / f"{split}.csv").write_text("\n".join([header, *part]) + "\n")


# How the released models are made, and what they are worth where recordings are few.


@pytest.fixture
def world_script(script: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    pytest.importorskip("pyroomacoustics", reason="the exam's rooms are those of pyroomacoustics")
    return script


def test_a_trained_network_is_released_in_half_precision_without_its_folders(
    world_script: Callable[[str], ModuleType], first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain = world_script("pretrain")
    monkeypatch.setattr(pretrain, "WEIGHTS", tmp_path)
    trained, recipe = load_checkpoint(first / "best.safetensors"), pretrain.RECIPES[DEFAULT]
    path = pretrain.release("own", recipe, first / "best.safetensors")
    loaded = load_checkpoint(path)
    assert path.stat().st_size < 0.7 * (first / "best.safetensors").stat().st_size
    assert (loaded.epoch, loaded.history) == (trained.epoch, trained.history)
    assert loaded.config.simulation.train_rooms == recipe.rooms["train_rooms"]
    assert str(first.parent) not in path.read_bytes()[: 2**16].decode(errors="replace")
    echo = torch.randn(1, 2, 2500)
    torch.testing.assert_close(loaded.model.predict(echo), trained.model.predict(echo), rtol=0.01, atol=0.01)


def test_the_first_recordings_of_a_world_are_a_dataset_beside_all_that_validates_and_tests(
    world_script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    root = write_batvision(tmp_path / "world", count=4)
    some = world_script("few_recordings").some_of(root, 2, tmp_path)
    config = make_config({"data": {"name": "batvisionv2", "root": some, "follow_links": True, "prepare": False}})
    counts = [len(open_dataset("batvisionv2", some, split, config)) for split in ("train", "val", "test")]
    assert counts == [2, 4, 4]


def test_the_rate_that_validates_best_is_run_with_every_seed(world_script: Callable[[str], ModuleType]) -> None:
    val = {(0.1, 0): 3.0, (0.2, 0): 1.9, (0.3, 0): 9.0}
    asked = list[tuple[float, int]]()

    def run(rate: float, seed: int) -> dict[str, float]:
        asked.append((rate, seed))
        return {"rate": rate, "val": val.get((rate, seed), 0.0), "test": 2.0 + 2.0 * seed}

    few = world_script("few_recordings")
    few.run_all((0.1, 0.2, 0.3), 2, run)
    assert asked == [(0.1, 0), (0.2, 0), (0.3, 0), (0.2, 1)]
    key = {"start": "small", "recordings": 30}
    runs = [{**key, "weights": "new", "seed": seed, **run(rate, seed)} for rate, seed in asked[:4]]
    runs += [{**key, "weights": "old", "seed": 0, "rate": 0.4, "val": 0.1, "test": 9.0}]
    point = {**key, "rate": 0.2, "mean": 3.0, "std": pytest.approx(2**0.5), "seeds": 2}
    assert few.points_of(runs, "new") == [point]
    assert few.points_of(runs, "other") == []
