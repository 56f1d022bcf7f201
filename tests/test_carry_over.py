"""The exam's worlds are rooms as they say: their depth, the time of their echoes, and the side that these come from."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
from base_residual.errors import DataError
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model

pytest.importorskip("pyroomacoustics", reason="the exam's rooms are those of pyroomacoustics")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    exam_rooms, exam_echoes, exam_heads, exam_worlds, exam_changes, exam_envelopes, carry_over = map(
        importlib.import_module,
        ("exam_rooms", "exam_echoes", "exam_heads", "exam_worlds", "exam_changes", "exam_envelopes", "carry_over"),
    )
Box, Pose, Room, Surface, BANDS = (getattr(exam_rooms, n) for n in ("Box", "Pose", "Room", "Surface", "BANDS"))

SPEED = 343.42  # m/s, of the exam's air
SHARED = next((p / "shared" for p in Path(__file__).parents if (p / "shared" / exam_worlds.HEAD).is_file()), Path())
HARD, DEAD = (Surface(np.full(len(BANDS), share), np.full(len(BANDS), 0.02)) for share in (0.05, 0.999))


@pytest.fixture(params=["head", "drawn head", "spaced"])
def rig(request: pytest.FixtureRequest) -> exam_echoes.Rig:
    """Gives a rig without latency and noise, with a loudspeaker in the middle."""
    rng = np.random.default_rng(0)
    if request.param == "head":
        pytest.importorskip("h5py", reason="a measured head lies in an HDF5 file")
        if not (SHARED / exam_worlds.HEAD).is_file():
            pytest.skip("the measured head is not there")
        drawn = exam_echoes.draw_head_rig(rng, exam_echoes.kemar(SHARED / exam_worlds.HEAD))
    elif request.param == "drawn head":
        drawn = exam_echoes.draw_head_rig(rng, exam_heads.drawn_head(rng))
    else:
        drawn = exam_echoes.draw_spaced_rig(rng)
    flat = np.zeros(8)
    return exam_echoes.Rig(drawn.ears, np.array([0.2, 0, 0]), 0.7 + flat, np.ones(1), 0.1, 0, -200, 0.9)


def lone_wall(heading: float, wall: int) -> tuple[Room, Pose]:
    """Return a room of 12 x 12 m of which one wall reflects, and a place 2 m from that wall, the first being ahead."""
    corners = np.array([[0.0, 0], [12, 0], [12, 12], [0, 12]])
    walls = tuple(HARD if number == wall else DEAD for number in range(4))
    place = {0: [6, 2], 1: [10, 6], 2: [6, 10], 3: [2, 6]}[wall]
    return Room(corners, 8.0, walls, DEAD, DEAD), Pose(np.array([*place, 4.0]), heading)


def test_depth_is_that_of_a_wall_straight_ahead_and_of_the_floor_and_a_box() -> None:
    room, pose = lone_wall(0.0, 1)
    depth = exam_rooms.render_depth(room, pose)
    np.testing.assert_allclose(depth, 2.0)
    low = Pose(np.array([10, 6, 1.0]), 0.0)
    rows = np.tan(np.pi / 4) * (2 * (np.arange(64) + 0.5) / 64 - 1)
    below = np.where(rows > 0.5, 1 / rows, 2.0)  # the floor, from where it is nearer than the wall
    np.testing.assert_allclose(exam_rooms.render_depth(room, low), np.broadcast_to(below[:, None], (64, 64)))
    box = Box(np.array([11.0, 6.7]), (1.0, 1.0, 8.0), 0.0, HARD)  # its face is 0.5 m ahead, 0.2 to 1.2 m to the left
    seen = exam_rooms.render_depth(Room(room.corners, 8.0, room.walls, DEAD, DEAD, (box,)), pose)
    np.testing.assert_allclose(seen[:, 32:], 2.0)
    np.testing.assert_allclose(seen[:, :19], 0.5)  # as far as 0.4 to the left of the axis


@pytest.mark.parametrize("wall", range(4))
def test_a_lone_wall_is_heard_when_its_echo_must_arrive(rig: exam_echoes.Rig, wall: int) -> None:
    heading = [-np.pi / 2, 0, np.pi / 2, np.pi][wall]
    room, pose = lone_wall(heading, wall)
    np.testing.assert_allclose(exam_rooms.render_depth(room, pose), 2.0)
    heard = exam_echoes.impulse_responses(np.random.default_rng(0), room, pose, rig, 1, rays=0)
    direct, first = np.hypot(0.2, rig.ears.places[0, 1]), np.hypot(4 - 0.2, rig.ears.places[0, 1])
    late = round((first - direct) / SPEED * exam_echoes.RATE)
    for ear in heard:
        start, echo = np.abs(ear[:300]).argmax(), 300 + np.abs(ear[300:900]).argmax()
        assert abs(echo - start - late) <= 2


@pytest.mark.parametrize(("side", "wall"), [(0, 2), (1, 0)])
def test_a_wall_beside_an_ear_is_earlier_and_louder_in_it(rig: exam_echoes.Rig, side: int, wall: int) -> None:
    room, pose = lone_wall(0.0, wall)
    dead = dataclasses.replace(room, walls=(DEAD,) * 4)
    rng = np.random.default_rng(0)
    whole, rest = (exam_echoes.impulse_responses(rng, each, pose, rig, 1, rays=0) for each in (room, dead))
    near, far = (whole - rest)[[side, 1 - side]]
    assert (near**2).sum() > 1.2 * (far**2).sum()
    onset = [int((np.abs(ear) > 0.3 * np.abs(ear).max()).argmax()) for ear in (near, far)]
    assert onset[0] < onset[1] - 10


def test_late_sound_comes_from_the_side_that_scatters(rig: exam_echoes.Rig) -> None:
    energy = np.zeros((exam_echoes.DIRECTIONS, len(BANDS), 20))
    left = exam_echoes.sphere(exam_echoes.DIRECTIONS)[:, 1] > 0.7
    energy[left] = 1.0
    heard = exam_echoes.late_sound(np.random.default_rng(0), energy, rig.ears, SPEED)
    assert (heard[0] ** 2).sum() > 1.2 * (heard[1] ** 2).sum()


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_late_sound_has_the_energy_of_a_diffuse_field_and_decays_as_eyring_says(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exam_echoes, "AIR", np.zeros(8))
    wall = Surface(np.full(8, share), np.full(8, 0.1))
    room = Room(np.array([[0.0, 0], [6, 0], [6, 5], [0, 5]]), 3.0, (wall,) * 4, wall, wall)
    rng = np.random.default_rng(0)
    drawn = exam_echoes.draw_spaced_rig(rng)
    ears = dataclasses.replace(drawn.ears, pattern=1.0)
    rig = dataclasses.replace(drawn, ears=ears, omni=np.ones(8))
    heard = exam_echoes.impulse_responses(rng, room, Pose(np.array([2.3, 1.9, 1.4]), 0.7), rig, 2, 1000)
    volume, surface = 90.0, 126.0  # m^3, m^2
    rate = -SPEED * surface * np.log(1 - share) / 4 / volume  # Eyring's, of the energy in 1/s
    time = np.arange(heard.shape[1]) / exam_echoes.RATE
    expected = 4 * np.pi * SPEED / volume * np.exp(-rate * time) / exam_echoes.RATE  # for 1 m from the loudspeaker: 1
    for start in (0.03, 0.07, 0.11):
        now = (time >= start) & (time < start + 0.04)
        level = 10 * np.log10((heard[:, now] ** 2).sum(axis=1).mean() / expected[now].sum())
        assert abs(level) < 2.5


TINY = {"train": 3, "val": 1, "test": 2}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives a folder with two rooms of the world to choose on, under the names of all."""
    root = tmp_path_factory.mktemp("worlds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exam_worlds, "RAYS", 100)
        exam_worlds.write_world(exam_worlds.CHOOSE, root / "choose", TINY, Path())
        for name in ("exam", "heads", carry_over.SAMPLE):
            shutil.copytree(root / "choose", root / name)
        yield root


def test_a_world_is_read_back_as_it_was_drawn(worlds: Path) -> None:
    config = make_config({"data": {"name": "batvisionv2", "output_size": 64, "max_depth": 12.0, "prepare": False}})
    data = open_dataset("batvisionv2", worlds / "choose", "train", config)
    assert [sample.id for sample in data] == ["Choose/train_00000_0", "Choose/train_00000_1", "Choose/train_00001_0"]
    _, room, pose = exam_worlds.view(exam_worlds.CHOOSE, 0, "train", 1, 0)
    np.testing.assert_allclose(data[2].depth, exam_rooms.render_depth(room, pose), atol=0.001)
    assert data[2].waveform.abs().max() == 1
    other = exam_worlds.view(exam_worlds.CHOOSE, 0, "test", 1, 0)[1]
    assert not np.array_equal(other.corners, room.corners)


def test_a_world_is_the_same_wherever_its_rendering_was_stopped(worlds: Path, tmp_path: Path) -> None:
    exam_worlds.write_world(exam_worlds.CHOOSE, tmp_path, {"test": 1}, Path())
    first = tmp_path / "Choose" / "audio" / "test_00000_0.wav"
    when = first.stat().st_mtime_ns
    exam_worlds.write_world(exam_worlds.CHOOSE, tmp_path, {"test": 2}, Path())
    assert first.stat().st_mtime_ns == when
    for path in (tmp_path / "Choose" / "audio").iterdir():
        assert path.read_bytes() == (worlds / "choose" / "Choose" / "audio" / path.name).read_bytes()


def test_a_head_that_is_not_there_is_missed_before_anything_is_rendered(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no measured head"):
        exam_worlds.write_world(exam_worlds.EXAM, tmp_path / "exam", TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_exam_knows_nothing_of_the_simulator_that_models_are_trained_on() -> None:
    sources = [Path(carry_over.__file__), *Path(carry_over.__file__).parent.glob("exam_*.py")]
    assert len(sources) >= 6
    for source in sources:
        assert "base_residual.simulation" not in source.read_text()
        assert "data.simulated" not in source.read_text()


def test_the_command_reports_every_world_in_80_columns(
    worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    small = {"data": {"output_size": 16, "max_depth": 8.0}, "model": {"base_channels": 4}}
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for path in paths:
        save_checkpoint(path, create_model(make_config({"data": {"name": "simulated"}}, small)), 1, [])
    tried = [change for change in exam_changes.changes() if change.subtype == "PCM_16" or change.flips]
    monkeypatch.setattr(exam_changes, "changes", lambda: tried)
    monkeypatch.setattr(carry_over, "TRIED", 1)
    for name in ("exam", "heads"):
        monkeypatch.setitem(carry_over.WORLDS, name, exam_worlds.CHOOSE)
    monkeypatch.setattr(carry_over, "STANDARD", carry_over.STANDARD | {"train_rooms": 2, "test_rooms": 2})
    counts = [f"--{split}={count}" for split, count in TINY.items()]
    words = [f"--data={worlds}", f"--shared={worlds}", f"--simulated={worlds / 'exam'}", f"--out={tmp_path / 'o.json'}"]
    words += ["--at-home", str(paths[0])]
    monkeypatch.setattr(sys, "argv", ["carry_over.py", *map(str, paths), *counts, *words])
    carry_over.main()
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("Wrote")) <= 80
    found = json.loads((tmp_path / "o.json").read_text())["worlds"]
    shown = [
        "exam",
        "choose",
        "heads",
        "real, as it is",
        "real, camera's view",
        "standard",
        "changes",
        "standard, trained there",
    ]
    assert list(found) == shown
    assert found["standard, trained there"]["rmse"]["values"] == found["standard"]["rmse"]["values"][:1]
    for name in ("exam", "choose", "heads"):
        assert len(found[name]["rmse"]["values"]) == 2
        assert found[name]["share"]["values"][0] == found[name]["rmse"]["values"][0] / found[name]["blind"]["values"][0]
    assert len(found["changes"]) == 2
    assert max(moved["mean"] for moved in found["changes"].values()) < 1e-4
    assert (tmp_path / "envelopes.png").is_file()


def test_an_envelope_has_the_direct_sound_at_0_m_and_0_db_and_a_wall_where_it_stands(tmp_path: Path) -> None:
    sound = np.zeros((10_000, 2))
    emitted = ChirpDesign().waveform()
    distance = 3.0
    for start, level in ((500, 0.5), (500 + round(2 * distance / 343 * 44_100), 0.05)):
        sound[start : start + len(emitted)] += level * emitted[:, None]
    soundfile.write(tmp_path / "echo.wav", sound, 44_100)
    curve = exam_envelopes.envelope(tmp_path / "echo.wav")
    zero = round(exam_envelopes.BEFORE / exam_envelopes.METRES)
    assert curve[zero] == pytest.approx(0, abs=0.01)
    echo = zero + 200 + int(curve[zero + 200 :].argmax())
    assert (echo - zero) * exam_envelopes.METRES == pytest.approx(distance, abs=0.01)
    assert curve[echo] == pytest.approx(-20, abs=0.1)
