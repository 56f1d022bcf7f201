"""What a file asks for is bounded, or somebody here is asked first: rooms, features, maps, processes."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import TINY
from pydantic import ValidationError
from test_cli import TINY_OPTIONS, brdepth, sentence

import base_residual.evaluation
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.data import open_dataset, simulated
from base_residual.errors import DataError
from base_residual.machine import own_cores
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model

Layers = dict[str, dict[str, Any]]

TOO_MUCH: dict[str, Layers] = {
    "rooms": {"simulation": {"train_rooms": 1_000_000, "val_rooms": 1_000_000, "test_rooms": 1_000_000, "poses": 1000}},
    "spectrogram": {
        "audio": {"front_end": "spectrogram", "n_fft": 8192, "hop_length": 1, "sample_rate": 192_000},
        "data": {"max_depth": 1000.0, "stretch": 0.0},
        "model": {"encoder": "unet", "decoder": "unet", "base_decoder": "unet"},
    },
    "maps": {"data": {"output_size": 1024}, "model": {"base_channels": 512}},
}


def forged(path: Path, *layers: Layers) -> Path:
    """A checkpoint of a small network whose settings are changed, whatever their bounds."""
    config = make_config(TINY)
    said: Layers = merge(config.model_dump(), *layers)
    sections = {name: getattr(config, name).model_copy(update=section) for name, section in said.items()}
    save_checkpoint(path, create_model(config), 1, [], config.model_copy(update=sections))
    return path


def commands(checkpoint: Path, folder: Path) -> list[list[object]]:
    """Every command that takes a checkpoint."""
    rate, echo = 44_100, folder / "echo.wav"
    soundfile.write(echo, 0.1 * np.random.default_rng(0).standard_normal((rate // 10, 2)), rate)
    return [
        ["eval", checkpoint],
        ["visualize", checkpoint],
        ["visualize", checkpoint, "--audio", echo],
        ["predict", checkpoint, echo, "--out", folder / "out"],
        ["export", checkpoint],
        ["benchmark", checkpoint],
    ]


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_checkpoint_that_asks_for_too_much_is_one_sentence_in_every_command(tmp_path: Path, name: str) -> None:
    checkpoint = forged(tmp_path / "best.safetensors", TOO_MUCH[name])
    for command in commands(checkpoint, tmp_path):
        said = sentence(brdepth(*command, code=2))
        assert f"The header of {checkpoint} is damaged: Wrong configuration" in said
        assert "at most" in said


@pytest.mark.parametrize("name", TOO_MUCH)
def test_settings_that_ask_for_too_much_are_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps(TOO_MUCH[name]))
    for command in (["train"], ["train", "--resume"], ["train", "--dry-run"], ["prepare"]):
        assert "at most" in sentence(brdepth(*command, "--config", tmp_path / "c.yaml", code=2))


def test_sizes_that_are_in_use_are_allowed() -> None:
    wide = {"audio": {"front_end": "spectrogram", "n_fft": 2048, "win_length": 1024, "sample_rate": 192_000}}
    make_config(wide, preset="original")
    make_config({"data": {"output_size": 1024}}, size="original")
    make_config({"simulation": {"train_rooms": 1_000_000, "poses": 5}})
    with pytest.raises(ValidationError):
        Config.model_validate(TOO_MUCH["rooms"])


MANY: Layers = {"simulation": {"train_rooms": 50_000}}


def test_many_rooms_are_not_rendered_because_a_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "simulate", None)  # whoever called it would fail
    checkpoint = forged(tmp_path / "best.safetensors", MANY)
    for command in commands(checkpoint, tmp_path)[:2]:
        said = sentence(brdepth(*command, code=2))
        assert "asks for 50,008 simulated recordings, which are not here" in said
        sets = "--set simulation.train_rooms=50000 --set simulation.val_rooms=4 --set simulation.test_rooms=4"
        assert f"Render them with brdepth prepare {sets}" in said
        assert "--set data.max_depth=8.0, and try again." in said
    brdepth(*commands(checkpoint, tmp_path)[3])


def test_rooms_that_are_here_or_asked_for_here_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Config]
) -> None:
    open_dataset("simulated", split="val", config=tiny())
    monkeypatch.setattr(simulated, "FEW", 1)
    brdepth("eval", forged(tmp_path / "best.safetensors"))
    other = {"simulation": {"train_rooms": 2, "val_rooms": 1, "test_rooms": 1, "seed": 77}}
    checkpoint = forged(tmp_path / "best.safetensors", other)
    said = sentence(brdepth("eval", checkpoint, code=2))
    asked = re.search(r"brdepth (prepare .*), and try again", said)
    assert asked
    brdepth(*shlex.split(asked[1]))
    brdepth("eval", checkpoint)


def test_a_report_renders_no_rooms_in_numbers_that_nobody_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brdepth("train", *TINY_OPTIONS, "--epochs", 1, "--results-dir", tmp_path)
    (run,) = tmp_path.iterdir()
    forged(run / "best.safetensors", MANY)
    monkeypatch.setattr(simulated, "simulate", None)
    assert "asks for 50,008 simulated recordings" in brdepth("report", run).replace("\n", " ")


def test_rooms_that_do_not_fit_onto_the_disk_are_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    config = make_config(TINY)
    with pytest.raises(DataError, match=r"The simulated rooms take 297\.\d kB, and there are 100\.0 kB free"):
        simulated.simulate(tmp_path / "set", config.data, config.simulation)


def test_a_checkpoint_starts_no_more_processes_than_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    evaluate = base_residual.evaluation.evaluate

    def watched(*given: Any, num_workers: int, **others: Any) -> Any:
        seen.append(num_workers)
        return evaluate(*given, **others)

    monkeypatch.setattr(base_residual.evaluation, "evaluate", watched)
    brdepth("eval", forged(tmp_path / "best.safetensors", {"data": {"num_workers": 256}}))
    assert seen == [own_cores()]
    assert own_cores() <= (os.cpu_count() or 1)
