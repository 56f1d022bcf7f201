from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings
from matplotlib.figure import Figure
from nursery import Nursery

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.config.presets import SPLITS, Layer
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.data import open_dataset, simulated
from base_residual.data.batvision import V1, V2
from base_residual.data.sample import EchoDataset
from base_residual.evaluation import elsewhere
from base_residual.plots.figures import decomposition_figure
from base_residual.simulation.echo import Chance, draw_late, draw_still
from base_residual.training import run_folder
from base_residual.training.curves import history_figure

# Test machines are slow now and then, and a failure has to come back.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("steady")
# For `--hypothesis-profile campaign`: other inputs at each call, and two hundred times as many of them.
settings.register_profile("campaign", deadline=None, max_examples=10_000, print_blob=True)

SHARED = Path(__file__).parents[2] / "shared" / "batvision_v2_sample" / "BatvisionV2"

# Rooms small enough that the whole suite renders them once in seconds.
TINY: Layer = {
    "data": {"output_size": 32, "max_depth": 8.0},
    "simulation": {"train_rooms": 16, "val_rooms": 4, "test_rooms": 4, "poses": 1},
    "model": {"base_channels": 4, "base_grid": 4},
    "trainer": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
}


# With tests of many seconds: one that begins last would leave the other cores with nothing to do.
LONG = {
    "test_benchmarks.py",
    "test_examples.py",
    "test_export.py",
    "test_kill.py",
    "test_processes.py",
    "test_speed_benchmark.py",
    "test_style.py",
}


def reverberant(rng: np.random.Generator, frames: int) -> Chance:
    """Draw a recording's chance as the formulas have it: late and scattered sound neither stronger nor weaker."""
    still = draw_still(rng, frames)
    field, rank = draw_late(rng, frames, burst_level=0.0)
    return replace(still, field=field, rank=rank)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own, in which all their processes share the tiny rooms."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRDEPTH_CACHE", str(cache))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("COLUMNS", "80")
        patch.setenv("OMP_NUM_THREADS", "1")  # of what tests start; of themselves see below
        patch.delenv("BRDEPTH_DATA", raising=False)
        torch.set_num_threads(1)  # before any fixture trains: threads of several processes wait for each other
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # whatever the test before has set


# A tiny run takes half of the time if its pictures are empty sheets, and if it is tried in one other room alone; its
# rooms are rendered in no time, and not by new processes, each of which imports for seconds.
DRAW = Figure.draw
DRAWN = "test_visualize.py"  # where pictures are looked at
EMPTY_SHEETS = """
from matplotlib.figure import Figure
from base_residual.data import simulated
from base_residual.evaluation import elsewhere
from base_residual.training import run_folder

Figure.draw, elsewhere.MOST, simulated.own_cores = lambda *_: None, 1, lambda: 1
run_folder.decomposition_figure = run_folder.history_figure = lambda *_, **__: Figure()
"""  # for a program of its own, which it stands before


@pytest.fixture(scope="session", autouse=True)
def _empty_sheets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda *_: None)
        for name in ("decomposition_figure", "history_figure"):
            patch.setattr(run_folder, name, lambda *_, **__: Figure())
        patch.setattr(elsewhere, "MOST", 1)
        patch.setattr(simulated, "own_cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    one = Nursery(EMPTY_SHEETS)
    yield one
    one.process.communicate(timeout=60)  # it ends when there is nothing more to read


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Gives a benchmark as a module."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that looks at pictures: they are drawn, as in a user's run."""
    monkeypatch.setattr(Figure, "draw", DRAW)
    monkeypatch.setattr(run_folder, "decomposition_figure", decomposition_figure)
    monkeypatch.setattr(run_folder, "history_figure", history_figure)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """PyTorch's own generator begins alike in every test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _drawn_where_looked_at(request: pytest.FixtureRequest) -> None:
    if request.path.name == DRAWN:
        request.getfixturevalue("drawn")


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """A configuration on the tiny rooms, with layers on top, that writes into the test's own folder."""

    def make(*layers: Layer, preset: str = "default") -> Config:
        results = {"tracking": {"results_dir": str(tmp_path / "results")}}
        return make_config(TINY, results, *layers, preset=preset)

    return make


@pytest.fixture
def rooms(tiny: Callable[..., Config]) -> Callable[[str], EchoDataset]:
    return lambda split: open_dataset("simulated", split=split, config=tiny())


@pytest.fixture
def real_root() -> Path:
    """The one real recording, in the dataset's layout."""
    if not SHARED.is_dir():
        pytest.skip(f"the real recording is not at {SHARED}")
    return SHARED


def write_batvision(
    root: Path,
    *,
    count: int = 2,
    rate: int = 44_100,
    channels: int = 2,
    subtype: str = "PCM_32",
    size: tuple[int, int] = (24, 40),
    splits: tuple[str, ...] = ("train", "val", "test"),
    seed: int = 0,
) -> Path:
    """A small dataset in the layout of BatVision V2, of chirps in noise and slanted walls with holes."""
    rng = np.random.default_rng(seed)
    location = root / "Attic"
    (location / "audio").mkdir(parents=True)
    (location / "depth").mkdir()
    rows = []
    for number in range(count):
        sound = 0.05 * rng.standard_normal((rate // 10, channels))
        chirp = ChirpDesign().waveform(rate)
        sound[100 : 100 + len(chirp)] += 0.5 * chirp[:, None]
        soundfile.write(location / "audio" / f"audio_{number}.wav", sound, rate, subtype)
        depth = np.tile(np.linspace(1000, 3000, size[1]), (size[0], 1)).astype(np.uint16)
        depth[: size[0] // 4, : size[1] // 4] = 0
        np.save(location / "depth" / f"depth_{number}.npy", depth)
        rows.append(["Attic/audio", f"audio_{number}.wav", "Attic/depth", f"depth_{number}.npy"])
    for split in splits:
        with (location / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([V2.columns, *rows])
    return root


def write_batvision_v1(root: Path, *, count: int = 3, kind: str = "f8", late: int = 980) -> Path:
    """A small dataset in the layout of BatVision V1, whose echoes begin after `late` nearly silent frames."""
    rng = np.random.default_rng(0)
    for folder in ("audio", "depth"):
        (root / folder).mkdir(parents=True)
    rows = []
    for number in range(count):
        ears = 1e-4 * rng.standard_normal((2, 5000))
        ears[:, late : late + 132] += 0.5 * ChirpDesign(fade=0.01).waveform()
        ears[0, late + 400 : late + 532] += 0.02 * ChirpDesign(fade=0.01).waveform()  # a wall on the left
        scale = 1 if kind.startswith("f") else np.iinfo(kind).max
        paths = [f"audio/left_{number}.npy", f"audio/right_{number}.npy"]
        for path, ear in zip(paths, ears, strict=True):
            np.save(root / path, (scale * ear).astype(kind))
        depth = np.tile(np.linspace(1000.0, 13_000.0, 40), (24, 1))
        depth[:6, :10], depth[:6, 10:20], depth[6:12, :10] = np.nan, np.inf, -np.inf
        np.save(root / "depth" / f"depth_{number}.npy", depth)
        rows.append([*paths, f"depth/depth_{number}.npy"])
    for split in SPLITS:
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([V1.columns, *rows])
    return root


def tiny_layer(**sections: Layer) -> Layer:
    return merge(TINY, sections)
