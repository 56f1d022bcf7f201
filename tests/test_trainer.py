from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, write_batvision
from safetensors.torch import load_file

from base_residual.config.resolve import make_config
from base_residual.config.run_layout import EVALUATION, STATE, Record
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.sample import EchoDataset, EchoSample
from base_residual.data.splits import look_at_split
from base_residual.errors import (
    CheckpointError,
    DataError,
    PredictionError,
    RunError,
    TrainingError,
    TrainingInterrupted,
)
from base_residual.evaluation import evaluate
from base_residual.evaluation.comparison import read_run
from base_residual.files.tensors import read_header, write_tensors
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_checkpoint
from base_residual.models.network import BaseResidualNet, DepthNet
from base_residual.training import interruption, trainer
from base_residual.training.batches import Batches, make_loader
from base_residual.training.terminal import ConsoleTracker, epoch_line
from base_residual.training.trackers import Tracker
from base_residual.training.trainer import Trainer, mean_depth

MakeConfig = Callable[..., Config]
Rooms = Callable[[str], EchoDataset]


def fit(config: Config, **options: object):  # type: ignore[no-untyped-def]
    return Trainer(config, trackers=[], **options).fit()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the tiny rooms, to be copied."""
    return fit(make_config(TINY, {"tracking": {"results_dir": str(tmp_path_factory.mktemp("finished"))}})).run_dir


@pytest.fixture
def run_dir(finished: Path, tiny: MakeConfig) -> Path:
    """The folder of the run of `tiny()`, finished."""
    return Path(shutil.copytree(finished, tiny().run_dir))


def history(run_dir: Path) -> list[Record]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def weights(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run_dir / f"{name}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class StopAt(Tracker):
    """Sends the signal of Ctrl-C after a step."""

    def __init__(self, epoch: int, step: int) -> None:
        self.where = (epoch, step)

    def step(self, epoch: int, done: int, steps: int) -> None:
        if (epoch, done) == self.where:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_asks_for_a_stop_and_a_later_one_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with interruption.interruptible() as interrupted:
        for number in (
            *interruption.TERMINATION,
            signal.SIGTERM,
            signal.SIGINT,
        ):  # in one moment: passed on by torchrun
            os.kill(os.getpid(), number)
        assert interrupted.is_set()
        monkeypatch.setattr(interruption, "AGAIN", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class Pictured(Tracker):
    """Remembers the order of pictures and epochs."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def picture(self, epoch: int, path: Path) -> None:
        assert path.name == f"epoch_{epoch:04}_decomposition.png"
        assert path.exists()
        self.told.append(f"picture {epoch}")

    def epoch(self, history: list[Record]) -> None:
        self.told.append(f"epoch {len(history)}")


def test_a_long_first_epoch_has_a_picture_before_it_ends_which_changes_no_number(
    tiny: MakeConfig, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_residual.training.trainer.FIRST_PICTURE", 0.0)
    watch = Pictured()
    run = Trainer(tiny(), trackers=[watch]).fit()
    assert watch.told == ["picture 1", "epoch 1", "picture 1", "epoch 2", "picture 2"]
    assert run.history == history(finished)
    assert same(weights(run.run_dir), weights(finished))
    later = Pictured()
    Trainer(tiny({"trainer": {"epochs": 3}}), trackers=[later], resume=True).fit()
    assert later.told == ["epoch 3", "picture 3"]


def test_a_run_leaves_behind_what_the_design_lists(tiny: MakeConfig) -> None:
    config = tiny({"tracking": {"experiment_name": "first"}, "trainer": {"picture_every": 1}})
    result = fit(config)
    found = {path.name for path in result.run_dir.iterdir()}
    assert found == {
        "config.yaml",
        "metrics.jsonl",
        "epoch_0001_decomposition.png",
        "epoch_0002_decomposition.png",
        "curves.png",
        "evaluation.json",
        "best.safetensors",
        "last.safetensors",
        "training_state.safetensors",
    }
    assert result.run_dir.name == "base_residual_simulated_BS8_Lr0.002_Muon_first"
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [line["epoch"] for line in lines] == [1, 2]
    expected = {f"train/loss_{name}" for name in ("total", "recon", "base", "sparse")}
    expected |= {
        "train/lambda_recon",
        "train/lambda_base",
        "train/lambda_sparse",
        "val/rmse",
        "val/abs_rel",
        "val/delta1",
    }
    assert expected <= lines[0].keys()
    assert load_checkpoint(result.run_dir / "best.safetensors").epoch == result.best_epoch
    assert result.best["val/rmse"] == min(record["val/rmse"] for record in result.history)
    assert json.loads((result.run_dir / "evaluation.json").read_text())["metrics"] == result.test.metrics
    assert set(result.blind) == {"mean_map", "constant"}


def test_the_loss_in_the_record_is_the_weighted_sum_of_its_terms(tiny: MakeConfig) -> None:
    record = fit(tiny({"loss": {"adaptive": True, "warmup_epochs": 1}})).history[-1]
    parts = sum(record[f"train/lambda_{name}"] * record[f"train/loss_{name}"] for name in ("recon", "base", "sparse"))
    assert record["train/loss_total"] == pytest.approx(parts, rel=1e-5)
    assert (record["train/lambda_recon"], record["train/lambda_base"]) == (1.0, 0.625)


def test_the_epoch_line_is_literally_that_of_the_design() -> None:
    terms = {"train/loss_total": 1.234, "train/loss_recon": 0.5, "train/loss_base": 0.6, "train/loss_sparse": 0.006}
    record: Record = {"epoch": 1, **terms, "val/rmse": 0.4567}
    line = epoch_line(record)
    assert line.startswith("Epoch 1: Loss=1.23 (recon=0.50, base=0.60, sparse=0.01)")
    assert line.endswith("val rmse 0.457 m")
    assert len(epoch_line(record | {"epoch": 1000})) <= 80


def test_what_is_done_once_is_announced_once(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = ConsoleTracker()
    for what in ("Rendering rooms", "Preparing recordings", "Preparing recordings"):
        for done in range(5):
            tracker.preparing(what, done, 5)
    tracker.close()
    assert capsys.readouterr().out == "Rendering rooms, once.\nPreparing recordings, once.\n"


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(tiny: MakeConfig) -> None:
    runs = [
        fit(tiny({"tracking": {"experiment_name": name}, "trainer": {"seed": seed}}))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert runs[0].history == runs[1].history
    assert same(weights(runs[0].run_dir), weights(runs[1].run_dir))
    assert runs[0].history != runs[2].history


def test_training_does_not_touch_the_global_random_state(tiny: MakeConfig) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(tiny())
    assert torch.equal(torch.rand(3), expected)


def test_ctrl_c_saves_and_resuming_gives_the_uninterrupted_run(tiny: MakeConfig) -> None:
    adaptive = {"loss": {"adaptive": True, "warmup_epochs": 1}}
    whole = fit(tiny(adaptive, {"tracking": {"experiment_name": "whole"}}))
    for epoch, step in ((1, 1), (1, 2), (2, 1)):
        config = tiny(adaptive, {"tracking": {"experiment_name": f"cut-{epoch}-{step}"}})
        with pytest.raises(TrainingInterrupted, match=f"Stopped in epoch {epoch} after {step} of 2 steps.*--resume"):
            Trainer(config, trackers=[StopAt(epoch, step)]).fit()
        resumed = fit(config, resume=True)
        assert resumed.history == whole.history
        assert same(weights(resumed.run_dir), weights(whole.run_dir))
        assert same(weights(resumed.run_dir, "best"), weights(whole.run_dir, "best"))
        assert (resumed.run_dir / "metrics.jsonl").read_bytes() == (whole.run_dir / "metrics.jsonl").read_bytes()


class StopAfterEpoch(Tracker):
    """Sends the signal of Ctrl-C at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.where = epoch

    def epoch(self, history: list[Record]) -> None:
        if len(history) == self.where:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_after_the_last_step_stops_before_the_test(tiny: MakeConfig) -> None:
    config = tiny({"tracking": {"experiment_name": "late"}})
    with pytest.raises(TrainingInterrupted, match=r"Stopped before the test.*--resume.*tests it"):
        Trainer(config, trackers=[StopAfterEpoch(2)]).fit()
    assert not (config.run_dir / EVALUATION).exists()
    assert len(fit(config, resume=True).history) == 2
    assert (config.run_dir / EVALUATION).exists()


class Refusing(Tracker):
    """Takes no run."""

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        raise RunError("No key.")


def test_a_tracker_that_refuses_leaves_no_run_behind(tiny: MakeConfig) -> None:
    config = tiny({"tracking": {"experiment_name": "refused"}})
    with pytest.raises(RunError, match="No key"):
        Trainer(config, trackers=[Refusing()]).fit()
    assert not config.run_dir.exists()
    done = fit(config)
    with pytest.raises(RunError, match="No key"):
        Trainer(config, trackers=[Refusing()], resume=True).fit()
    assert (done.run_dir / "best.safetensors").exists()


def test_resuming_begins_where_there_is_no_state_and_ends_at_once_where_all_is_done(tiny: MakeConfig) -> None:
    first = fit(tiny(), resume=True)
    again = fit(tiny(), resume=True)
    assert again.history == first.history
    assert again.picture == first.picture


def test_more_epochs_may_be_added_and_other_settings_may_not(
    tiny: MakeConfig, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = tiny({"trainer": {"epochs": 3}})
    with pytest.raises(TrainingInterrupted):
        Trainer(more, trackers=[StopAt(3, 1)], resume=True).fit()
    with pytest.raises(RunError, match="not the folder of a finished run"):  # it no longer is
        read_run(run_dir)
    longer = fit(more, resume=True)
    assert [record["epoch"] for record in longer.history] == [1, 2, 3]
    assert caplog.messages == [
        "The run was begun with 2 epochs and now has 3: its learning rate goes on along the new schedule."
    ]
    with pytest.raises(RunError, match=r"other settings: loss.lambda_base"):
        fit(tiny({"loss": {"lambda_base": 0.1}}), resume=True)


def test_a_state_is_not_taken_up_with_other_recordings(tiny: MakeConfig, rooms: Rooms) -> None:
    fit(tiny({"trainer": {"epochs": 1}}))
    fewer = [rooms("train")[index] for index in range(9)]
    with pytest.raises(RunError, match="saved by a run on 16 recordings in its train split, and now there are 9"):
        fit(tiny(), train=fewer, resume=True)
    for split, count in (("train", 16), ("val", 4), ("test", 4)):
        others = open_dataset("simulated", split=split, config=tiny({"simulation": {"seed": 1}}))
        with pytest.raises(RunError, match=f"on {count} recordings in its {split} split, and now there are others"):
            fit(tiny(), **{split: others}, resume=True)
    assert [record["epoch"] for record in fit(tiny(), resume=True).history] == [1, 2]


def test_a_run_that_ends_before_its_best_weights_says_so(tiny: MakeConfig, run_dir: Path) -> None:
    best = load_checkpoint(run_dir / "best.safetensors")
    save_checkpoint(run_dir / "best.safetensors", best.model, 4, best.history)  # as a kill in epoch 5 leaves it
    with pytest.raises(RunError, match=r"weights of epoch 4.*--epochs 4 or more"):
        fit(tiny(), resume=True)


def test_threads_are_those_of_the_settings_and_as_before_afterwards(tiny: MakeConfig) -> None:
    class Threads(Tracker):
        seen = 0

        def step(self, epoch: int, done: int, steps: int) -> None:
            self.seen = torch.get_num_threads()

    watch = Threads()
    Trainer(tiny({"trainer": {"threads": 2, "epochs": 1}}), trackers=[watch]).fit()
    assert (watch.seen, torch.get_num_threads()) == (2, 1)
    Trainer(tiny({"trainer": {"epochs": 2}}), trackers=[watch], resume=True).fit()  # another machine has others
    assert (watch.seen, torch.get_num_threads()) == (1, 1)


def test_a_run_does_not_end_before_its_last_epoch(tiny: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny({"trainer": {"epochs": 3}})
    with pytest.raises(TrainingInterrupted):
        Trainer(config, trackers=[StopAt(3, 1)]).fit()
    with pytest.raises(RunError, match=r"has 2 epochs and cannot end after 1 \(trainer\.epochs\)"):
        fit(tiny({"trainer": {"epochs": 1}}), resume=True)
    assert not caplog.records  # nothing is promised before
    assert fit(tiny({"trainer": {"epochs": 2}}), resume=True).picture.exists()


class Interrupting(Sequence[EchoSample]):
    """Samples whose reading gets the signals that end a run."""

    def __init__(self, samples: EchoDataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> EchoSample:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return self.samples[index]


def test_processes_that_read_serve_until_the_run_has_ended(rooms: Rooms) -> None:
    samples, others = rooms("val"), multiprocessing.active_children()  # of earlier tests
    loader = make_loader(Interrupting(samples), Batches(len(samples), 2, 0), 1, torch.device("cpu"))
    assert sum(len(batch.waveform) for batch in loader) == len(samples)
    (reader,) = (child for child in multiprocessing.active_children() if child not in others)
    reader.terminate()
    reader.join(20)
    assert reader.exitcode == 0


def test_processes_that_read_for_an_evaluation_serve_as_well(tiny: MakeConfig, rooms: Rooms) -> None:
    model, samples = create_model(tiny()), rooms("val")
    assert evaluate(model, Interrupting(samples), num_workers=1).metrics["images"] == len(samples)


def test_a_folder_with_a_run_is_not_touched_unless_asked(tiny: MakeConfig, run_dir: Path) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"already holds a run.*--resume.*--experiment-name.*--overwrite"):
        fit(tiny())
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    kept = {
        f"my_{name}{end}" for name in ("notes", "model", "best") for end in (".txt", ".png", ".safetensors", ".onnx")
    }
    kept |= {"notes.partial", ".notes.partial", "epoch_1_decomposition.png", "my_epoch_0001_decomposition.png"}
    for name in kept:
        (run_dir / name).write_text("mine")
    written = {
        "best.onnx",
        "best_test_decomposition.png",
        "epoch_0010_decomposition.png",
        f".brdepth-{'0' * 32}.partial",
    }
    for name in written:
        (run_dir / name).write_text("of the old weights")
    fit(tiny({"trainer": {"epochs": 1}}), overwrite=True)
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (run_dir / "epoch_0002_decomposition.png").exists()
    left = {path.name for path in run_dir.iterdir()}
    assert left >= kept
    assert not left & written


def test_a_folder_with_a_users_own_files_alone_holds_no_run(tiny: MakeConfig) -> None:
    config = tiny({"trainer": {"epochs": 1}})
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "my_notes.png").touch()
    assert (fit(config).run_dir / "my_notes.png").exists()


def test_resuming_and_overwriting_at_once_is_refused(tiny: MakeConfig) -> None:
    with pytest.raises(RunError, match="give one of them"):
        fit(tiny(), resume=True, overwrite=True)


def test_a_run_that_fails_at_once_leaves_no_folder(tiny: MakeConfig) -> None:
    config = tiny({"data": {"name": "batvisionv2", "root": "nowhere"}})
    with pytest.raises(DataError):
        fit(config)
    assert not config.run_dir.exists()


def test_two_runs_do_not_share_a_folder(tiny: MakeConfig) -> None:
    class Second(Tracker):
        def epoch(self, history: list[Record]) -> None:
            with pytest.raises(RunError, match="Another process is training"):
                fit(tiny(), overwrite=True)

    Trainer(tiny({"trainer": {"epochs": 1}}), trackers=[Second()]).fit()


def test_a_run_goes_on_whose_state_names_retired_settings(tiny: MakeConfig) -> None:
    run = Trainer(tiny({"trainer": {"epochs": 1}}), trackers=[]).fit().run_dir
    state = run / "training_state.safetensors"
    header, tensors = read_header(state), load_file(state)
    config = json.loads(header["config"])
    config["model"]["activations"], config["loss"]["schedule"] = "smooth", "step"
    write_tensors(state, tensors, header | {"config": json.dumps(config)})
    assert len(Trainer(tiny({"trainer": {"epochs": 2}}), resume=True, trackers=[]).fit().history) == 2


def test_a_damaged_state_is_refused_in_words(tiny: MakeConfig, run_dir: Path) -> None:
    state = run_dir / STATE
    tensors, header = load_file(state), read_header(state)
    place = json.loads(header["position"])
    for damaged in (
        {"config": header["config"]},
        header | {"config": "[]"},
        header | {"position": json.dumps(place | {"history": []})},
        header | {"position": json.dumps(place | {"epoch": "many"})},
    ):
        write_tensors(state, tensors, damaged)
        with pytest.raises(RunError, match=r"damaged.*--overwrite"):
            fit(tiny(), resume=True)
    write_tensors(state, {name: tensor for name, tensor in tensors.items() if not name.endswith(".step")}, header)
    with pytest.raises(RunError, match=r"optimiser's state is incomplete.*--overwrite"):
        fit(tiny(), resume=True)
    write_tensors(state, tensors | {"sums": torch.zeros(3)}, header)
    with pytest.raises(CheckpointError, match=r"do not fit .*sums"):
        fit(tiny(), resume=True)


def with_one_broken(rooms: Rooms, value: float) -> list[EchoSample]:
    """Sixteen recordings, one of which is not finite: with batches of eight, one step of each epoch is at fault."""
    samples = [rooms("train")[index] for index in range(16)]
    samples[3] = EchoSample(torch.full_like(samples[3].waveform, value), samples[3].depth, "broken")
    return samples


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_poisons_nothing(
    tiny: MakeConfig, rooms: Rooms, value: float
) -> None:
    config = tiny()
    sentence = r"not finite in epoch 1, in 1 of its steps, with .*broken.*learning_rate.*on_fault=skip.*--resume"
    with pytest.raises(TrainingError, match=sentence):
        fit(config, train=with_one_broken(rooms, value))
    assert not list(config.run_dir.glob("*.safetensors"))


def test_a_stopped_run_goes_on_without_the_steps_at_fault(
    tiny: MakeConfig, rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    samples = with_one_broken(rooms, float("nan"))
    with pytest.raises(TrainingError):
        fit(tiny(), train=samples)
    result = fit(tiny({"trainer": {"on_fault": "skip"}}), train=samples, resume=True)
    assert {record.message.count("broken") for record in caplog.records} == {1}
    assert "These steps were left out." in caplog.text
    assert all(np.isfinite(list(record.values())).all() for record in result.history)
    assert all(tensor.isfinite().all() for tensor in weights(result.run_dir).values())


def test_a_run_whose_every_step_is_at_fault_ends(tiny: MakeConfig, rooms: Rooms) -> None:
    samples = [EchoSample(s.waveform * float("nan"), s.depth, s.id) for s in with_one_broken(rooms, 0.0)]
    with pytest.raises(TrainingError, match="Not one step of epoch 1"):
        fit(tiny({"trainer": {"on_fault": "skip"}}), train=samples)


def test_a_validation_echo_that_is_not_finite_is_named(tiny: MakeConfig, rooms: Rooms) -> None:
    with pytest.raises(PredictionError, match="The prediction for broken is not finite"):
        fit(tiny(), val=with_one_broken(rooms, float("nan")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_depth_that_is_not_finite_is_named(tiny: MakeConfig, rooms: Rooms, value: float) -> None:
    samples = with_one_broken(rooms, 0.0)
    samples[3].depth[2, 2] = value
    with pytest.raises(DataError, match="The depth map of broken holds NaN or infinity"):
        fit(tiny(), train=samples)


def test_a_silent_echo_and_a_map_without_depth_are_learned_from_without_harm(tiny: MakeConfig, rooms: Rooms) -> None:
    samples = with_one_broken(rooms, 0.0)
    samples[5] = EchoSample(samples[5].waveform, torch.zeros_like(samples[5].depth), "dark")
    result = fit(tiny(), train=samples)
    assert all(np.isfinite(list(record.values())).all() for record in result.history)


def test_figures_that_flat_maps_do_not_define_are_null_in_the_files_and_nan_when_read(
    tiny: MakeConfig, rooms: Rooms
) -> None:
    flat = [EchoSample(rooms("val")[index].waveform, torch.full((32, 32), 2.0), str(index)) for index in range(4)]
    run_dir = fit(tiny(), val=flat, test=flat).run_dir
    for name in ("evaluation.json", "metrics.jsonl"):
        text = (run_dir / name).read_text()
        assert re.search(r'base_smoothness": null', text)
        assert not re.search(r"\b(NaN|Infinity)\b", text)
    for name in ("best.safetensors", STATE):
        assert not re.search(r"\b(NaN|Infinity)\b", json.dumps(read_header(run_dir / name)))
    assert all(
        math.isnan(record["val/base_smoothness"]) for record in load_checkpoint(run_dir / "best.safetensors").history
    )
    run = read_run(run_dir)
    assert math.isnan(run.test.decomposition["base_smoothness"])
    assert all(math.isnan(record["val/base_smoothness"]) for record in run.history)


def test_weights_that_are_not_finite_are_never_written(run_dir: Path) -> None:
    path = run_dir / "last.safetensors"
    before, model = path.read_bytes(), load_checkpoint(path).model
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(TrainingError, match=r"last.safetensors was not written, because .* is not finite"):
        save_checkpoint(path, model, 3, history(run_dir))
    assert path.read_bytes() == before


def test_the_state_is_saved_as_often_as_asked(tiny: MakeConfig) -> None:
    class Seen(Tracker):
        def __init__(self) -> None:
            self.states: list[bool] = []

        def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
            self.state = run_dir / STATE

        def step(self, epoch: int, done: int, steps: int) -> None:
            self.states.append(self.state.exists())

    rarely, always = Seen(), Seen()
    Trainer(tiny({"trainer": {"save_every": 1000}}), trackers=[rarely]).fit()
    assert rarely.states == [False] * 4
    assert rarely.state.exists()
    Trainer(tiny({"trainer": {"save_every": 0}}), overwrite=True, trackers=[always]).fit()
    assert always.states == [False, True, True, True]


def test_a_training_set_without_any_depth_is_an_error(tiny: MakeConfig, rooms: Rooms) -> None:
    sample = rooms("train")[0]
    with pytest.raises(DataError, match="nothing to learn from"):
        fit(tiny(), train=[EchoSample(sample.waveform, torch.zeros(32, 32), "dark")])


def overfit(tiny: MakeConfig, samples: list[EchoSample]) -> DepthNet:
    """A network that was trained on those samples alone."""
    config = tiny(
        {
            "trainer": {"epochs": 6, "learning_rate": 0.005, "average": 0, "picture_every": 1000, "save_every": 1000},
            "data": {"mirror": False, "stretch": 0.0},
            "model": {"base_channels": 8, "base_grid": 8},
            "loss": {"lambda_sparse": 0.0, "lambda_base": 0.2},
        }
    )
    result = fit(config, train=10 * samples, val=samples[:1], test=samples)  # 60 steps
    return load_checkpoint(result.run_dir / "last.safetensors").model


def test_one_batch_can_be_learned_by_heart_and_only_from_its_echoes(tiny: MakeConfig, rooms: Rooms) -> None:
    """From echoes that belong to other rooms' maps, the same network predicts these maps badly."""
    samples = [rooms("train")[index] for index in range(8)]
    shuffled = [EchoSample(samples[index - 1].waveform, samples[index].depth, str(index)) for index in range(8)]
    model = overfit(tiny, samples)
    true, wrong = (evaluate(model, given).metrics["rmse"] for given in (samples, shuffled))
    assert true < 0.3
    assert wrong > 0.5
    assert wrong > 2 * true


def test_every_sample_comes_once_per_epoch_in_an_order_of_its_own() -> None:
    batches = Batches(20, 5, seed=3)
    first = [index for batch in batches for index in batch]
    assert sorted(first) == list(range(20))
    assert [index for batch in batches for index in batch] == first
    batches.epoch = 2
    second = [index for batch in batches for index in batch]
    assert second != first
    batches.first = 2
    assert [index for batch in batches for index in batch] == second[10:]


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [sorted(batch) for batch in Batches(3, 64, seed=0)] == [[0, 1, 2]]


def test_bf16_is_used_when_asked_and_gives_a_similar_run(tiny: MakeConfig, finished: Path) -> None:
    full, half = history(finished), fit(tiny({"trainer": {"precision": "bf16"}})).history
    assert full != half
    assert half[-1]["train/loss_total"] == pytest.approx(full[-1]["train/loss_total"], rel=0.1)


@pytest.mark.parametrize("name", ["plain", "unet"])
def test_the_baselines_train_by_the_same_command(tiny: MakeConfig, name: str) -> None:
    result = fit(tiny({"model": {"name": name}, "trainer": {"epochs": 1}}))
    assert result.run_dir.name.startswith(f"{name}_simulated")
    assert result.history[0]["train/loss_base"] == 0
    assert result.test.decomposition == {}


U_NETS = {"encoder": "unet", "decoder": "unet", "base_decoder": "unet"}


@pytest.mark.parametrize("dataset", ["simulated", "batvisionv2"])
@pytest.mark.parametrize(
    ("audio", "model"),
    [
        ({"front_end": "spectrogram"}, U_NETS),
        ({"front_end": "mel", "n_mels": 16}, U_NETS),
        ({"front_end": "waveform"}, {}),
        ({"front_end": "matched"}, {}),
        ({"front_end": "matched", "template": "direct"}, {}),
    ],
)
def test_every_front_end_trains_on_both_datasets(
    tiny: MakeConfig, tmp_path: Path, dataset: str, audio: dict[str, object], model: dict[str, object]
) -> None:
    data: dict[str, object] = {"name": dataset, "num_workers": 0}
    if dataset == "batvisionv2":
        data["root"] = str(write_batvision(tmp_path / "data", count=4))
    result = fit(tiny({"audio": audio, "model": model, "data": data, "trainer": {"epochs": 1, "batch_size": 4}}))
    assert 0 < result.test.metrics["rmse"] < 8


@pytest.mark.parametrize("optimizer", ["Muon", "AdamW", "Adam"])
def test_the_optimizer_is_the_one_asked_for(tiny: MakeConfig, optimizer: str) -> None:
    config = tiny({"trainer": {"epochs": 1, "optimizer": optimizer}})
    assert f"_{optimizer}_" in fit(config).run_dir.name


def test_readers_in_other_processes_give_the_same_run(tiny: MakeConfig, finished: Path) -> None:
    assert fit(tiny({"data": {"num_workers": 2}})).history == history(finished)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_breaks_meanwhile_is_named_in_one_sentence(
    tiny: MakeConfig, tmp_path: Path, workers: int
) -> None:
    root = write_batvision(tmp_path / "data", count=8)
    settings = {"name": "batvisionv2", "root": str(root), "prepare": False, "num_workers": workers}

    class Breaks(Tracker):
        def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
            (root / "Attic" / "audio" / "audio_5.wav").write_bytes(b"RIFF")

    with pytest.raises(DataError) as caught:
        Trainer(tiny({"data": settings}), trackers=[Breaks()]).fit()
    assert str(caught.value) == f"The recording {root}/Attic/audio/audio_5.wav is not a readable sound file."


def test_the_mean_depth_is_that_of_the_measured_pixels() -> None:
    half = torch.zeros(4, 4)
    half[:2] = 3.0
    samples = [EchoSample(torch.zeros(2, 5), depth, "a") for depth in (half, half + 1)]
    assert mean_depth(samples, 8.0) == pytest.approx((8 * 3 + 8 * 4 + 8 * 1) / 24)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (0.003, r"depth map of 1 in the {} split has a median of 0\.003 m: as if in kilometres, where metres"),
        (3000.0, r"depth map of 1 in the {} split has a median of 3,000 m: as if in millimetres, where metres"),
        (8.0, r"Nearly all depth in the {} split lies at data\.max_depth, 8 m, or beyond it"),
    ],
)
def test_depth_in_another_unit_is_named_with_its_split_before_anything_is_trained(
    tiny: MakeConfig, rooms: Rooms, split: str, depth: float, words: str
) -> None:
    given = {name: rooms(name) for name in ("train", "val", "test")}
    wrong = [EchoSample(rooms("val")[0].waveform, torch.full((32, 32), depth), str(number)) for number in (1, 2)]
    with pytest.raises(DataError, match=words.format(split)):
        fit(tiny(), **(given | {split: wrong}))
    assert not tiny().run_dir.exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_a_measured_pixel_or_a_sound_is_named_before_anything_is_trained(
    tiny: MakeConfig, rooms: Rooms, split: str
) -> None:
    given = {name: rooms(name) for name in ("train", "val", "test")}
    few = [rooms("val")[index] for index in range(4)]
    dark = [sample._replace(depth=torch.zeros(32, 32)) for sample in few]
    with pytest.raises(DataError, match=f"Not one depth map of the {split} split has a measured pixel"):
        fit(tiny(), **(given | {split: dark}))
    mute = [sample._replace(waveform=torch.full_like(sample.waveform, 0.25)) for sample in few]  # an offset is no sound
    with pytest.raises(DataError, match=f"Every recording of the {split} split is silent"):
        fit(tiny(), **(given | {split: mute}))
    assert not tiny().run_dir.exists()


def test_one_measured_pixel_anywhere_in_a_split_is_found(
    tiny: MakeConfig, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_residual.data.splits.LOOKED_AT", 2)
    config, sample = tiny(), rooms("val")[0]
    dark = sample._replace(depth=torch.zeros(32, 32), waveform=torch.zeros_like(sample.waveform))
    assert look_at_split("val", [dark, sample, dark], config.data, config.audio).recordings == 3


def test_depth_beyond_the_largest_is_cut_alike_in_training_scoring_and_guesses(tiny: MakeConfig, rooms: Rooms) -> None:
    def beyond(add: float) -> dict[str, list[EchoSample]]:
        return {
            split: [
                sample._replace(depth=torch.where(sample.depth > 4, 8 + add, sample.depth)) for sample in rooms(split)
            ]
            for split in ("train", "val", "test")
        }

    cut, uncut = fit(tiny(), **beyond(0.0)), fit(tiny(), overwrite=True, **beyond(40.0))
    assert uncut.history == cut.history
    assert uncut.test.metrics == cut.test.metrics
    assert uncut.blind == cut.blind


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_that_cannot_be_used_is_named_before_anything_is_trained(
    tiny: MakeConfig, rooms: Rooms, split: str
) -> None:
    given = {name: rooms(name) for name in ("train", "val", "test")}
    small = [EchoSample(sample.waveform, sample.depth[:16, :16], sample.id) for sample in given[split]]
    with pytest.raises(DataError, match=f"The {split} split is empty"):
        fit(tiny(), **(given | {split: []}))
    said = rf"the {split} split has .* map \(16, 16\); the settings ask for .*\(32, 32\)"
    with pytest.raises(DataError, match=said):
        fit(tiny(), **(given | {split: small}))
    assert not tiny().run_dir.exists()


def test_samples_in_double_precision_are_named(tiny: MakeConfig, rooms: Rooms) -> None:
    double = [EchoSample(sample.waveform.double(), sample.depth, sample.id) for sample in rooms("train")]
    with pytest.raises(DataError, match=r"has a waveform of torch\.float64 .* expected is float32"):
        fit(tiny(), train=double)


def test_a_run_is_replaced_by_one_that_can_begin_and_by_none_without_its_state(tiny: MakeConfig) -> None:
    config = tiny({"trainer": {"epochs": 1}})
    run = fit(config).run_dir
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(DataError, match="The val split is empty"):
        fit(config, overwrite=True, val=[])
    (run / STATE).rename(run.parent / STATE)
    with pytest.raises(RunError, match=r"is finished, and training_state\.safetensors, .* is gone"):
        fit(config, resume=True)
    (run.parent / STATE).rename(run / STATE)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / "best.onnx").touch()
    fit(config, overwrite=True)
    assert {path.name for path in run.iterdir()} == before.keys()


def test_validation_takes_no_more_at_once_than_a_step(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(*given, batch_size: int, **others):  # type: ignore[no-untyped-def]
        seen.append(batch_size)
        return evaluate(*given, batch_size=batch_size, **others)

    monkeypatch.setattr(trainer, "evaluate", watched)
    fit(tiny({"trainer": {"batch_size": 8, "accumulate": 3, "epochs": 1}}))
    assert seen == [3, 3]


def test_the_curriculum_detaches_in_training_and_validation(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    original = BaseResidualNet.forward

    def spy(self: BaseResidualNet, x: torch.Tensor, detach_base: bool = False):  # type: ignore[no-untyped-def]
        seen.append((self.training, detach_base))
        return original(self, x, detach_base)

    monkeypatch.setattr(BaseResidualNet, "forward", spy)
    layer = {
        "loss": {"curriculum": True, "warmup_epochs": 1, "layout": "lowpass"},
        "trainer": {"picture_every": 100},
    }
    fit(tiny(layer))
    training = [detach for train, detach in seen if train]
    assert training == [False, False, True, True]
    assert (False, True) in seen
    assert (False, False) in seen


def test_nothing_but_the_empty_room_moves_the_base_that_learns_it(
    tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    original = BaseResidualNet.forward

    def spy(self: BaseResidualNet, x: torch.Tensor, detach_base: bool = False):  # type: ignore[no-untyped-def]
        if self.training:
            seen.append(detach_base)
        return original(self, x, detach_base)

    monkeypatch.setattr(BaseResidualNet, "forward", spy)
    fit(tiny({"trainer": {"epochs": 1}}))
    assert seen
    assert all(seen)
    seen.clear()
    fit(tiny({"trainer": {"epochs": 1}, "loss": {"lambda_base": 0.0}}), overwrite=True)  # then something has to move it
    assert not any(seen)


class TakeAway(Tracker):
    """Removes the folder of the run when an epoch is over."""

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        self.run_dir = run_dir

    def epoch(self, history: list[Record]) -> None:
        shutil.rmtree(self.run_dir)


def test_a_run_whose_folder_is_taken_away_says_what_is_missing(tiny: MakeConfig) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        Trainer(tiny({"trainer": {"epochs": 1}}), trackers=[TakeAway()]).fit()
