"""What is changed about the recordings of a training batch, so that the network learns what carries over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from base_residual.acoustics.emission import find_emission
from base_residual.acoustics.front_end import at_moments
from base_residual.config.schema import DataConfig

QUIETEST = 1 / 30  # of the largest noise: levels between the two are equally likely in dB
CUT = 0.999  # of the largest depth: a resize may leave what was cut to it a little nearer


class Augmented(NamedTuple):
    """A training batch as it could have been recorded.

    Attributes:
        waveform: (B, 2, T).
        depth: (B, 1, S, S) in metres, of rooms that are resized already.
        size: (B,) how many times as large each room has become; what is heard of it has yet to be stretched as much.
        emitted: (B,) when the sound was emitted, as a share of the recording's time.
    """

    waveform: Tensor
    depth: Tensor
    size: Tensor
    emitted: Tensor


def augment(
    waveform: Tensor, depth: Tensor, sample_rate: int, config: DataConfig, chances: Sequence[torch.Generator]
) -> Augmented:
    """Change a training batch: mirror it, in rooms of other sizes that swallow more, through noisier ears.

    Args:
        waveform: (B, 2, T).
        depth: (B, 1, S, S) in metres.
        sample_rate: of the waveforms, in Hz.
        config: says which changes are made, and how large they may be.
        chances: a generator on the CPU for each sample, B of them, that decides what is made of it.

    Returns:
        The changed batch, on the device that it was on.
    """
    device, ears_and_time = waveform.device, waveform.shape[1:]
    recorded = waveform
    draws = _sent(torch.stack([torch.rand(3, generator=chance) for chance in chances]), device)  # (B, 3)
    if config.mirror:
        waveform, depth = mirror(waveform, depth, draws[:, 0] < 0.5)
    if config.damping:
        waveform = damp(waveform, config.damping * draws[:, 1])
    if config.noise:
        noise = _sent(torch.stack([torch.randn(ears_and_time, generator=chance) for chance in chances]), device)
        waveform = hiss(waveform, config.noise * QUIETEST ** draws[:, 2], noise)
    size, emitted = depth.new_ones(len(depth)), depth.new_zeros(len(depth))
    if config.stretch:
        emitted = find_emission(recorded, sample_rate) / recorded.shape[-1]  # noise might be taken for the chirp
        sides = _sent(torch.cat([torch.rand(1, generator=chance) for chance in chances]), device)
        size = (1 + config.stretch) ** (2 * sides - 1)
        depth = enlarge(depth, size, config.max_depth)
    return Augmented(waveform, depth, size, emitted)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; nobody waits until it is there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def mirror(waveform: Tensor, depth: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror some samples of a batch: swap their ears and flip their depth maps left to right.

    For a head that is symmetric this is exact: it is what the same robot hears and sees in the mirrored room.

    Args:
        waveform: (B, 2, T).
        depth: (B, 1, S, S) in metres.
        which: bool (B,), the samples to mirror.

    Returns:
        The batch with those samples mirrored.
    """
    return (
        torch.where(which[:, None, None], waveform.flip(1), waveform),
        torch.where(which[:, None, None, None], depth.flip(-1), depth),
    )


def damp(waveform: Tensor, decibels: Tensor) -> Tensor:
    """Let echoes decay faster, as duller walls would: by nothing at the start, by `decibels` (B,) at the end."""
    time = torch.linspace(0, 1, waveform.shape[-1], device=waveform.device)
    return waveform * torch.exp(-math.log(10) / 20 * decibels[:, None, None] * time)


def hiss(waveform: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Add `noise` (B, 2, T) of unit variance, at `level` (B,) times the loudest sample of each recording."""
    loudest = waveform.abs().amax(dim=(1, 2))
    return waveform + (level * loudest)[:, None, None] * noise


def enlarge(depth: Tensor, size: Tensor, max_depth: float) -> Tensor:
    """Depth maps (B, 1, S, S) of rooms `size` (B,) times as large, cut to `max_depth` as they were.

    What was cut is a hole in a smaller room: nobody knows how far it is.
    """
    size = size[:, None, None, None]
    return torch.where((depth >= CUT * max_depth) & (size < 1), 0, (size * depth).clamp(max=max_depth))


def stretch(features: Tensor, size: Tensor, emitted: Tensor) -> Tensor:
    """What is heard of rooms `size` (B,) times as large: every echo takes as many times as long to come back.

    In a room that is similar to another, echoes come from the same directions. So features are stretched rather than
    waveforms, in which the delay between the ears, that says from where, would grow with the others.

    Args:
        features: (B, ..., T) over time.
        size: (B,).
        emitted: (B,) the moment at which each sound is emitted, as a share of the time.

    Returns:
        Features of the same shape. Those of a smaller room end as its echo does.
    """
    steps = features.shape[-1]
    moments = (torch.arange(steps, device=features.device) + 0.5) / steps  # (T,), from 0 to 1
    begin = emitted[:, None]
    before = begin + (moments - begin) / size[:, None]  # (B, T): when it was heard in the room as it was
    return at_moments(features.flatten(1, -2), before[:, None]).reshape(features.shape)
