"""Measured heads: what the ears of a SOFA file hear, and files that hold none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from base_residual.config.resolve import make_config, merge
from base_residual.data import simulated
from base_residual.data.simulated import simulate, simulated_root
from base_residual.errors import DataError, MissingExtraError
from base_residual.simulation.directivity import ALL_AROUND
from base_residual.simulation.draws import STYLES, draw_pose, draw_room
from base_residual.simulation.echo import draw_chance, render_echo
from base_residual.simulation.heads import MeasuredHead, read_head
from base_residual.simulation.materials import BANDS
from base_residual.simulation.rigs import Rig, draw_rig

h5py = pytest.importorskip("h5py")

KEMAR = Path(__file__).parents[2] / "shared" / "heads" / "mit_kemar_normal_pinna.sofa"
AHEAD, BEHIND, OUTWARD, INWARD = np.array([[1, 0, 0]]), np.array([[-1, 0, 0]]), np.array([[0, 1, 0]]), [[0, -1, 0]]
RATE = 48_000


def sphere(radius: float = 0.09, seed: int = 0) -> dict[str, Any]:
    """What a SOFA file says of a made-up head: delays of a sphere, another level per ear and direction."""
    rng = np.random.default_rng(seed)
    ahead, left, up = ALL_AROUND.T
    azimuth, elevation = np.rad2deg(np.arctan2(left, ahead)), np.rad2deg(np.arcsin(up))
    responses = np.zeros((len(azimuth), 2, 128))
    for ear, cosine in enumerate((left, -left)):
        way = np.where(cosine > 0, -cosine, np.arccos(cosine) - np.pi / 2)
        time = np.arange(128) - 40 - radius * way[:, None] / 343 * RATE
        loud = 10 ** (rng.uniform(0, 0.3, len(azimuth)) + 0.5 * cosine)
        responses[:, ear] = np.sinc(time) * np.hanning(128) * loud[:, None]
    return {
        "SOFAConventions": "SimpleFreeFieldHRIR",
        "Data.IR": responses,
        "Data.SamplingRate": [float(RATE)],
        "Data.Delay": np.zeros((1, 2)),
        "SourcePosition": np.stack([azimuth, elevation, np.full(len(azimuth), 1.2)], axis=1),
        "SourcePosition.Type": "spherical",
        "ReceiverPosition": [[0, 0.09, 0], [0, -0.09, 0]],
        "ReceiverPosition.Type": "cartesian",
    }


def write(path: Path, said: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["SOFAConventions"] = np.bytes_(said["SOFAConventions"])
        for name, values in said.items():
            if name.endswith(".Type"):
                file[name.removesuffix(".Type")].attrs["Type"] = np.bytes_(values)
            elif name != "SOFAConventions":
                file[name] = values
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("head") / "sphere.sofa", sphere())


@pytest.fixture(scope="module")
def kemar() -> MeasuredHead:
    if not KEMAR.exists():
        pytest.skip("the shared head is not here")
    return read_head(KEMAR)


def arrival(head: MeasuredHead, direction: np.ndarray) -> float:
    """When sound from afar arrives, in seconds after it would pass the head's centre."""
    direction = np.asarray(direction, dtype=float)
    return float(head.delay(direction)[0] - head.ear_distance / 2 * direction[0, 1] / 343)


def test_a_measured_ear_hears_its_own_side_earlier_and_louder(kemar: MeasuredHead) -> None:
    assert 0.00055 < arrival(kemar, INWARD) - arrival(kemar, OUTWARD) < 0.00075
    near, far = (20 * np.log10(kemar.gain(np.asarray(side, dtype=float)))[0] for side in (OUTWARD, INWARD))
    assert near[BANDS == 9500] - far[BANDS == 9500] > 10
    assert arrival(kemar, AHEAD) == pytest.approx(arrival(kemar, BEHIND), abs=3e-5)
    np.testing.assert_allclose(20 * np.log10(kemar.gain(AHEAD.astype(float))), 0, atol=4)  # the reference is in front
    assert 0.16 < kemar.ear_distance < 0.19


def test_the_head_of_delays_is_found_again(made: Path) -> None:
    head = read_head(made)
    assert head.ear_distance == pytest.approx(0.18, abs=0.002)
    assert np.abs(head.delay(OUTWARD.astype(float))) < 5e-6
    assert head.delay(np.array(INWARD, dtype=float)) == pytest.approx(0.09 * (np.pi / 2 - 1) / 343, abs=1e-5)


def test_ears_that_change_sides_make_the_same_head(tmp_path: Path, made: Path) -> None:
    said = sphere()
    said["Data.IR"] = said["Data.IR"][:, ::-1]
    said["SourcePosition"] = said["SourcePosition"] * [-1, 1, 1]
    here, there = read_head(made), read_head(write(tmp_path / "mirror.sofa", said))
    np.testing.assert_allclose(here.level, there.level, rtol=0, atol=1e-9)
    np.testing.assert_allclose(here.lag, there.lag, rtol=0, atol=1e-12)


def test_axes_units_and_order_of_a_file_are_read(tmp_path: Path, made: Path) -> None:
    said = sphere()
    azimuth, elevation, radius = said["SourcePosition"].T
    azimuth, elevation = np.deg2rad(azimuth), np.deg2rad(elevation)
    level = radius * np.cos(elevation)
    ahead, left, up = level * np.cos(azimuth), level * np.sin(azimuth), radius * np.sin(elevation)
    said |= {
        "SourcePosition": np.stack([-left, ahead, up], axis=1),  # the listener looks along y
        "SourcePosition.Type": "cartesian",
        "ListenerView": [[0.0, 1.0, 0.0]],
        "ListenerUp": [[0.0, 0.0, 1.0]],
        "Data.IR": said["Data.IR"][:, ::-1],
        "ReceiverPosition": [[0, -0.09, 0], [0, 0.09, 0]],
    }
    here, there = read_head(made), read_head(write(tmp_path / "turned.sofa", said))
    np.testing.assert_allclose(here.level, there.level, atol=1e-6)
    np.testing.assert_allclose(here.lag, there.lag, atol=1e-9)


def test_echoes_at_a_measured_head_are_the_same_again_and_swap_in_the_mirror(made: Path) -> None:
    rng = np.random.default_rng(5)
    room = draw_room(rng, STYLES["standard"])
    pose = draw_pose(rng, room)
    assert pose is not None
    chance = draw_chance(rng, 1500)
    rig = draw_rig(rng, "varied", 1.0, "rich", read_head(made))
    assert isinstance(rig.ears, MeasuredHead)
    echo = render_echo(room, pose, rig, chance)
    np.testing.assert_array_equal(echo, render_echo(room, pose, rig, chance))
    mirrored = render_echo(room.mirrored(), pose.mirrored(room), rig.mirrored(), chance.mirrored())
    offset = rig.recorder.offset
    np.testing.assert_allclose(mirrored[::-1] - offset, echo - offset, atol=1e-6 * np.abs(echo).max())


def test_heads_like_one_are_larger_coloured_otherwise_and_partly_a_sphere(made: Path) -> None:
    head = read_head(made)
    larger = head.scaled(1.1)
    assert larger.ear_distance == pytest.approx(1.1 * head.ear_distance)
    np.testing.assert_allclose(larger.lag, 1.1 * head.lag)
    np.testing.assert_allclose(head.equalised(1.0).diffuse, 1.0, rtol=1e-6)
    ball = head.mixed(1.0)
    np.testing.assert_allclose(ball.gain(AHEAD.astype(float)), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(head.varied(np.random.default_rng(0), 0.0).lag, head.lag)
    drawn = [draw_rig(np.random.default_rng(seed), "ideal", 1.0, "standard", head) for seed in range(2)]
    assert drawn[0].ear_distance != drawn[1].ear_distance != Rig().ear_distance


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SOFAConventions": "GeneralTF"}, "holds 'GeneralTF'. Expected is a SOFA file of SimpleFreeFieldHRIR"),
        ({"Data.IR": np.zeros((256, 2, 128))}, "holds silent responses"),
        ({"Data.IR": np.full((256, 2, 128), np.nan)}, "NaN"),
        ({"Data.IR": np.ones((256, 1, 128))}, r"shape \(256, 1, 128\) for 256 positions"),
        ({"Data.IR": np.ones((3, 2, 128))}, "for 256 positions"),
        ({"Data.SamplingRate": [1.0]}, "sampling rate of 1 Hz"),
        ({"SourcePosition": np.zeros((256, 2))}, "table of 3 columns"),
        ({"SourcePosition.Type": "polar"}, "is 'polar'"),
        ({"Data.IR": sphere()["Data.IR"][:, ::-1]}, "positive azimuths to the left"),
        ({"Data.Delay": np.zeros((7, 5))}, "not a readable SOFA file"),
        ({"ListenerView": [[0.0, 0.0, 1.0]], "ListenerUp": [[0.0, 0.0, 1.0]]}, "looks straight up"),
    ],
)
def test_a_file_that_holds_no_head_is_refused_in_a_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_head(write(tmp_path / "other.sofa", sphere() | change))


@pytest.mark.parametrize("kept", [0, 600, 100_000])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, made: Path, kept: int) -> None:
    path = tmp_path / "damaged.sofa"
    path.write_bytes(made.read_bytes()[:kept])
    with pytest.raises(DataError, match="not a readable SOFA file"):
        read_head(path)


def test_a_missing_file_or_package_is_named(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"There is no file .*none\.sofa"):
        read_head(tmp_path / "none.sofa")
    with pytest.raises(DataError, match="There is no file /dev/zero"):
        read_head(Path("/dev/zero"))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"base-residual-depth\[heads\]"):
        read_head(made)


def test_the_content_of_the_file_decides_the_cached_rooms(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = tmp_path / "head.sofa"
    monkeypatch.setattr(simulated, "simulate", lambda *_: True)
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path))
    config = make_config(merge(TINY, {"simulation": {"head": str(head)}}))
    with pytest.raises(DataError, match=r"There is no file .*head\.sofa, from which"):
        simulated_root(config.data, config.simulation)
    roots = set()
    for content in (made.read_bytes(), b"another", made.read_bytes()):
        head.write_bytes(content)
        roots.add(simulated_root(config.data, config.simulation))
    assert len(roots) == 2


def test_rooms_are_heard_through_the_head(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1, "poses": 1}
    monkeypatch.setattr(simulated, "own_cores", lambda: 1)
    for name, given in (("own", {}), ("measured", {"head": made})):
        config = make_config(merge(TINY, {"simulation": few | given}))
        assert simulate(tmp_path / name, config.data, config.simulation)
    file = "Simulated_Rooms/audio/train_000000_0.wav"
    assert (tmp_path / "own" / file).read_bytes() != (tmp_path / "measured" / file).read_bytes()
    broken = config.simulation.model_copy(update={"head": tmp_path / "own" / file})
    with pytest.raises(DataError, match="not a readable SOFA file"):
        simulate(tmp_path / "broken", config.data, broken)
    assert not list(tmp_path.glob("broken*"))
