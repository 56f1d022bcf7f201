from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base_residual.config.schema import Config
from base_residual.errors import MissingExtraError, RunError
from base_residual.training.trackers import JsonLines, WeightsAndBiases, make_trackers
from base_residual.training.trainer import Trainer


def test_metrics_jsonl_is_always_whole(tiny: Callable[..., Config], tmp_path: Path) -> None:
    tracker = JsonLines()
    tracker.start(tiny(), tmp_path, [{"epoch": 1.0}])
    tracker.epoch([{"epoch": 1.0}, {"epoch": 2.0}])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_tensorboard_gets_every_key_and_the_picture(tiny: Callable[..., Config]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = Trainer(tiny({"tracking": {"tensorboard": True}}), trackers=[]).fit()
    events = EventAccumulator(str(result.run_dir / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == result.history[0].keys() - {"epoch"}
    assert events.Tags()["images"] == ["decomposition"]
    values = [event.value for event in events.Scalars("val/rmse")]
    assert values == pytest.approx([record["val/rmse"] for record in result.history])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_and_biases_takes_the_run_offline(tiny: Callable[..., Config]) -> None:
    result = Trainer(tiny({"tracking": {"wandb": True}, "trainer": {"epochs": 1}}), trackers=[]).fit()
    runs = list((result.run_dir / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    log = next(runs[0].glob("*.wandb"))
    keys = [b"train/loss_recon", b"train/lambda_base", b"val/rmse", b"decomposition"]
    # A process of the library's own writes the file, and on a busy machine is still at it when the run is over.
    give_up = time.monotonic() + 60
    while not all(key in log.read_bytes() for key in keys) and time.monotonic() < give_up:
        time.sleep(0.2)
    assert all(key in log.read_bytes() for key in keys)
    assert list(runs[0].rglob("*.png"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_key_it_says_that_it_logs_offline(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = WeightsAndBiases()
    tracker.start(tiny(), tmp_path, [])
    tracker.close()
    assert "has no key here: logging offline" in caplog.text


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_extra_says_what_to_install(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "base-residual-depth\[{name}\]"'):
        make_trackers(tiny({"tracking": {name: True}}))


def test_a_run_that_weights_and_biases_does_not_take_ends_in_one_sentence(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    def init(**settings: object) -> None:
        raise wandb.Error("the key is not valid")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(RunError, match="Weights & Biases does not take the run: the key is not valid"):
        WeightsAndBiases().start(tiny(), tmp_path, [])


def test_weights_and_biases_goes_on_with_a_run_and_begins_anew_where_it_is_replaced(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    names: list[str] = []

    class Run:
        url = None

        def log(self, *_: object, **__: object) -> None: ...

        def finish(self) -> None: ...

    def init(**settings: Any) -> Run:
        names.append(settings["id"])
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    config = tiny({"tracking": {"wandb": True}, "trainer": {"epochs": 1}})
    for going in ({}, {"resume": True}, {"overwrite": True}):
        Trainer(config, trackers=[], **going).fit()
    first, resumed, replaced = names
    assert first == resumed != replaced
