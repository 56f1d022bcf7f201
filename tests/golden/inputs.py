"""What the golden cases are computed from: echoes, depth maps and weights that are the same on every processor.

Random numbers come from numpy's generators, whose streams do not depend on the processor. A weight is decided by its
name and its place in the tensor, and so neither by the order of the modules nor by the way a layer is initialised.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import echo_frames
from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.data.sample import EchoBatch, EchoSample

SMALL: Layer = {
    "data": {"output_size": 32, "max_depth": 8.0, "noise": 0.01},
    "model": {"base_channels": 4},
    "audio": {"emission": "first"},
    "trainer": {"batch_size": 6, "epochs": 3, "learning_rate": 0.01, "precision": "fp32", "device": "cpu"},
}
Network = TypeVar("Network", bound=nn.Module)
PREDICTING, LEARNING = 0.01, 1.0  # running variances: so small that the eps of a norm counts, or those of a training


def small(*layers: Layer, preset: str = "default") -> Config:
    """The settings of the golden cases, with layers on top."""
    return make_config(merge(SMALL, *layers), preset=preset)


def stream(name: str) -> np.random.Generator:
    """The random numbers that belong to a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def echo(frames: int, number: int = 0) -> NDArray[np.float64]:
    """A recording (2, frames): the chirp's way to both ears, seven reflections, and noise."""
    rng, chirp = stream(f"echo {number}"), ChirpDesign().waveform()
    heard = np.zeros((2, frames + len(chirp) + 64))
    arrivals = [(30 + 17 * number, 0, 0.5, 0.45)]  # sample, later at the right ear by, gain left and right
    for _ in range(7):
        start, later = int(rng.integers(200, frames - 40)), int(rng.integers(-20, 21))
        left, right = rng.uniform(0.04, 0.3, 2)
        arrivals.append((start, later, left, right))
    for start, later, left, right in arrivals:
        heard[0, start : start + len(chirp)] += left * chirp
        heard[1, start + later : start + later + len(chirp)] += right * chirp
    return heard[:, :frames] + 0.002 * rng.standard_normal((2, frames))


def echoes(config: Config, count: int) -> Tensor:
    """Recordings (count, 2, T) of the length that the settings ask for."""
    frames = echo_frames(config.data.max_depth, config.audio.sample_rate)
    return torch.from_numpy(np.stack([echo(frames, number) for number in range(count)])).float()


def depth_map(size: int, max_depth: float, number: int = 0) -> NDArray[np.float32]:
    """A map (size, size) in metres: a slanted wall, a box, a part that is cut, and a hole."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    depth = max_depth * (0.3 + 0.1 * number * (1 - columns) + 0.35 * columns + 0.1 * rows)
    depth[size // 2 :, size // 4 : size // 2] = max_depth * (0.15 + 0.02 * number)
    depth[: size // 5, -size // 3 :] = max_depth
    depth[size // 3 : size // 2, : 2 + number] = 0
    return depth.astype(np.float32)


def depth_maps(config: Config, count: int) -> Tensor:
    """Maps (count, 1, S, S) in metres."""
    maps = [depth_map(config.data.output_size, config.data.max_depth, number) for number in range(count)]
    return torch.from_numpy(np.stack(maps))[:, None]


def batch(config: Config, count: int = 6) -> EchoBatch:
    """A training batch."""
    return EchoBatch(echoes(config, count), depth_maps(config, count), [f"golden_{n}" for n in range(count)])


def dataset(config: Config, count: int = 5) -> list[EchoSample]:
    """A dataset in memory; the list has all that a dataset needs."""
    return [EchoSample(*pair, f"golden_{n}") for n, pair in enumerate(zip(*pairs(config, count), strict=True))]


def pairs(config: Config, count: int) -> tuple[Tensor, Tensor]:
    """Waveforms (count, 2, T) and depth maps (count, S, S)."""
    return echoes(config, count), depth_maps(config, count)[:, 0]


@torch.no_grad()
def filled(model: Network, variance: float = PREDICTING) -> Network:
    """The network with the weights that belong to the names of its parameters.

    Args:
        model: the network.
        variance: of the batch norms' running statistics; their weights keep the signal at the same level.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(10)
            continue
        draw, kind = stream(name).standard_normal(tuple(tensor.shape)), name.rpartition(".")[2]
        if kind == "running_var":
            draw = variance * (1 + 0.4 * np.tanh(draw))
        elif kind in ("running_mean", "bias"):
            draw = 0.1 * draw
        elif kind == "weight" and tensor.ndim == 1:
            draw = np.sqrt(variance) * (1 + 0.2 * draw)
        elif kind == "weight":  # as large as keeps the signal: a layer of both sides has four times as much to add
            gain = 0.65 if {"common", "apart"} & set(name.split(".")) else 1.0 if "head" in name else 1.4
            draw = draw * gain / np.sqrt(np.prod(tensor.shape[1:]))
        tensor.copy_(torch.from_numpy(draw))
    return model
