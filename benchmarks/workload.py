"""What the measurements of speed work on: how much of it, generated recordings, and the package's own way with them."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from reference import MAX_DEPTH, RATE
from torch import Tensor
from torch.utils.data import DataLoader

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.batvision import V2
from base_residual.data.sample import EchoBatch
from base_residual.deploy.benchmark import clear_echoes
from base_residual.models.factory import create_model
from base_residual.training.batches import Batches, make_loader
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step

SPLITS = {"test": 1, "val": 2, "train": 4}  # how many times as large as the smallest
CPU = torch.device("cpu")


class Sizes(NamedTuple):
    """How much is measured."""

    recordings: int = 128  # of the smallest split
    camera: tuple[int, int] = (720, 1280)  # pixels of a depth map as stored
    side: int = 256  # pixels of a depth map as predicted
    channels: int = 64  # of the reference's network
    default_channels: int = 16  # of the default network
    batch: int = 64
    batches: tuple[int, ...] = (1, 4, 16, 64)
    sides: tuple[int, ...] = (64, 128, 256)
    rooms: int = 600  # to render
    room_side: int = 64  # pixels of their maps, those of the default training
    repeats: int = 5  # in one turn, of what takes milliseconds
    process_steps: int = 6  # training steps in one turn of several processes
    card_steps: int = 20  # training steps in one turn on a graphics card
    turns: int = 6  # of each way; of several, the first does not count
    long_turns: int = 4  # the same, where a turn takes seconds
    growth_turns: int = 3
    robot_sides: tuple[int, ...] = (64, 128, 256)
    seconds: float = 3.0  # that a figure of one thread takes
    splits: tuple[str, ...] = tuple(SPLITS)  # whose memory is compared
    symmetric: bool = True  # the default network; one that does not know the mirror exports in a third of the time


QUICK = Sizes(
    8, (72, 128), 32, 4, 4, 8, (1, 8), (16, 32), 2, 32, 1, 1, 1, 1, 1, 1, (32,), 0.1, ("test",), symmetric=False
)


def write_recordings(root: Path, sizes: Sizes) -> None:
    """Write recordings of half a second in the layout of BatVision V2; the splits are beginnings of one list."""
    rng = np.random.default_rng(0)
    for name in ("audio", "depth"):
        (root / "Attic" / name).mkdir(parents=True)
    decay = np.exp(-np.linspace(0, 8, RATE // 2))[:, None]
    rows, columns = (np.linspace(0, 1, length)[:, None] for length in sizes.camera)
    listed = []
    for number in range(sizes.recordings * max(SPLITS.values())):
        sound = 0.2 * decay * rng.standard_normal((RATE // 2, 2))
        soundfile.write(root / "Attic" / "audio" / f"{number}.wav", sound, RATE, "PCM_16")
        near, down, right = rng.uniform(500, 5000, 3)  # mm
        depth = near + down * rows + right * columns.T + rng.uniform(0, 50, sizes.camera)
        depth[rng.random(sizes.camera) < 0.1] = 0
        depth[: sizes.camera[0] // 4, : sizes.camera[1] // 2] = 0
        np.save(root / "Attic" / "depth" / f"{number}.npy", depth.astype(np.uint16))
        listed.append(["Attic/audio", f"{number}.wav", "Attic/depth", f"{number}.npy"])
    for split, times in SPLITS.items():
        with (root / "Attic" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([V2.columns, *listed[: times * sizes.recordings]])


def empty_cache(folder: Path) -> None:
    os.environ["BRDEPTH_CACHE"] = tempfile.mkdtemp(dir=folder)


def package_config(sizes: Sizes, layer: Layer | None = None, side: int | None = None) -> Config:
    data = {"name": "batvisionv2", "output_size": side or sizes.side, "max_depth": MAX_DEPTH}
    model = {"base_channels": sizes.default_channels, "symmetric": sizes.symmetric}
    return make_config({"data": data, "model": model}, layer or {})


def package_loader(config: Config, root: Path, split: str, batch: int, device: torch.device = CPU) -> DataLoader[Any]:
    dataset = open_dataset("batvisionv2", root, split, config)
    return make_loader(dataset, Batches(len(dataset), batch, 0), 0, device)


def package_training(config: Config, device: torch.device) -> Callable[[EchoBatch], Tensor]:
    """Return the very update that `Trainer` makes of each batch.

    Its time holds the augmentation and the front end; the reference's step begins after its spectrograms.
    """
    model = create_model(config).to(device).train()
    updater = make_step(model, make_optimizer(model, config.trainer), config, steps=1, least=1)
    return lambda batch: updater.update(batch, epoch=1, step=0)


def depth_maps(count: int, side: int) -> Tensor:
    return MAX_DEPTH * torch.rand(count, 1, side, side)


def echoes(count: int) -> Tensor:
    return clear_echoes(count, MAX_DEPTH, RATE)
