"""A model of simulated rooms is tried on rooms and recordings that its simulator did not make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_batvision

from base_residual.camera import DepthCamera
from base_residual.config.resolve import make_config
from base_residual.config.run_layout import EVALUATION
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.views import seen_from
from base_residual.evaluation import elsewhere, evaluate
from base_residual.evaluation.elsewhere import OTHER_ROOMS, Tried, try_elsewhere, try_on
from base_residual.models.factory import create_model
from base_residual.models.network import DepthNet
from base_residual.training.trainer import Trainer

MakeConfig = Callable[..., Config]


@pytest.fixture
def model(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> DepthNet:
    monkeypatch.setattr(elsewhere, "MOST", 200)
    torch.manual_seed(0)
    return create_model(tiny())


def test_the_package_holds_rooms_of_another_program(model: DepthNet) -> None:
    (rooms,) = try_elsewhere(model)
    assert (rooms.place, rooms.recordings) == ("Rooms of another program", 20)
    assert 0.5 < rooms.constant < rooms.rmse  # the constant knows these rooms; the network has learned nothing
    assert "NOT lower" in str(rooms)


def test_a_model_of_constant_depth_scores_as_the_best_constant(
    model: DepthNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rooms,) = try_elsewhere(model)
    depths = [np.minimum(np.load(path) / 1000, 8.0) for path in sorted(OTHER_ROOMS.glob("*/depth/*.npy"))]
    candidates = np.arange(0.5, 3, 0.01)
    scores = [np.mean([np.sqrt(np.mean((depth - candidate) ** 2)) for depth in depths]) for candidate in candidates]
    # Maps of 64 pixels are averaged to 32, which takes some detail from them.
    assert rooms.constant == pytest.approx(min(scores), rel=0.03)


def test_of_many_recordings_some_are_tried(model: DepthNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "MOST", 3)
    (rooms,) = try_elsewhere(model)
    assert rooms.recordings == 3
    model.train()
    assert try_elsewhere(model) == [rooms]  # networks are tried as they predict


def test_how_a_model_does_elsewhere_is_said_in_a_sentence() -> None:
    against = "There: rmse 0.600 m. Against the best constant for 3 of them"
    assert str(Tried("There", 3, 0.6, 0.75)) == f"{against} (rmse 0.750 m): 20.0% lower."
    assert str(Tried("There", 3, 0.6, 0.6)) == f"{against} (rmse 0.600 m): NOT lower."


def test_a_model_of_another_view_or_of_other_data_is_not_tried(tiny: MakeConfig) -> None:
    assert try_elsewhere(create_model(tiny({"simulation": {"rig": "batvisionv2"}}))) == []
    for name in ("batvisionv2", "replica"):
        assert try_elsewhere(create_model(tiny({"data": {"name": name}}))) == []


def test_recordings_at_hand_are_tried_as_their_camera_sees(
    model: DepthNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_batvision(tmp_path / "data", count=3)
    monkeypatch.setenv("BRDEPTH_DATA", str(root))
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "cache"))
    _, found = try_elsewhere(model)
    assert not (tmp_path / "cache").exists()  # few recordings are not worth a prepared set
    assert found.place == "Recordings of BatVision V2"
    assert found.recordings == 3
    assert model.config is not None
    assert found == try_on(model, model.config, root, found.place, (86.0, 57.0))
    given = {"data": {"name": "batvisionv2", "root": str(root), "prepare": False}}
    config = make_config(model.config.model_dump(mode="json"), given)
    seen = seen_from(
        open_dataset("batvisionv2", root, "test", config), DepthCamera((86.0, 57.0)), DepthCamera((90.0, 90.0))
    )
    assert found.rmse == pytest.approx(evaluate(model, seen).metrics["rmse"], rel=1e-5)
    uncut = try_on(model, model.config, root, "whole")
    assert found.rmse != uncut.rmse


def test_recordings_that_cannot_be_read_are_a_warning(
    model: DepthNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BRDEPTH_DATA", str(tmp_path / "none"))
    assert len(try_elsewhere(model)) == 1
    assert caplog.messages[0].startswith(f"The model was not tried on {tmp_path / 'none'}: The dataset folder")
    monkeypatch.delenv("BRDEPTH_DATA")
    monkeypatch.setattr(elsewhere, "OTHER_ROOMS", tmp_path)
    assert try_elsewhere(model) == []
    assert caplog.messages[1].startswith(f"The model was not tried on {tmp_path}: No recordings")


def test_a_run_says_how_it_does_elsewhere(tiny: MakeConfig) -> None:
    result = Trainer(tiny({"trainer": {"epochs": 1}}), trackers=[]).fit()
    (tried,) = result.elsewhere
    assert isinstance(tried, Tried)
    written = json.loads((result.run_dir / EVALUATION).read_text())
    assert written["elsewhere"] == [tried._asdict()]
    assert str(tried) in result.sentences()
