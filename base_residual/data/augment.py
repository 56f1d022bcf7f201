"""Augmentation of a training batch: mirrored, by other ears, in rooms of other sizes and walls, with more noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.acoustics.emission import find_emission
from base_residual.acoustics.front_end import interpolate_at
from base_residual.acoustics.hearing import lead_frames
from base_residual.config.schema import AudioConfig, DataConfig

MIN_NOISE = 1 / 30  # of the largest noise; levels are drawn uniformly in dB between the two
COPIES, LATEST = 3, 16  # of a sound that an ear adds to it, and samples until the last: 0.4 ms, as from a pinna
STEADY = 96  # samples, 2 ms, after which other reflections arrive, and are coloured otherwise
CLIPPED = 0.999  # of the largest depth; resizing may bring a pixel that was clipped to it a little nearer


class Augmented(NamedTuple):
    """A training batch as it could have been recorded.

    Attributes:
        waveform: (B, 2, T).
        depth: (B, 1, S, S) in metres, of rooms that are resized already.
        size: (B,) factor by which each room has grown; the features of its echo have yet to be stretched by it.
        emitted: (B,) the moment of emission, as a share of the recording's time.
        empty_room: (B, 1, S, S) in metres, as `depth`; None where it is not known.
    """

    waveform: Tensor
    depth: Tensor
    size: Tensor
    emitted: Tensor
    empty_room: Tensor | None


def augment(
    waveform: Tensor,
    depth: Tensor,
    audio: AudioConfig,
    config: DataConfig,
    chances: Sequence[torch.Generator],
    empty_room: Tensor | None = None,
) -> Augmented:
    """Mirror, colour, damp, resize and add noise to the recordings of a training batch.

    Args:
        waveform: (B, 2, T).
        depth: (B, 1, S, S) in metres.
        audio: gives the rate of the waveforms, and where in them the emission lies.
        config: gives the kinds and the largest extent of the changes.
        chances: B generators on the CPU, one for each sample, which decide its changes.
        empty_room: (B, 1, S, S) in metres, 0 where it is not known; it changes as the depth does.

    Returns:
        The changed batch, on the device that it was on.
    """
    device, ears_and_time = waveform.device, waveform.shape[1:]
    recorded, maps = waveform, depth if empty_room is None else torch.cat([depth, empty_room], dim=1)
    draws = _to_device(torch.stack([torch.rand(3, generator=chance) for chance in chances]), device)  # (B, 3)
    if config.mirror:
        waveform, maps = mirror(waveform, maps, draws[:, 0] < 0.5)
    if config.coloration:
        copies = [draw_copies(chance, waveform.shape[-1]) for chance in chances]
        shares, lags = (_to_device(torch.stack(drawn), device) for drawn in zip(*copies, strict=True))
        waveform = colour(waveform, config.coloration * shares, lags)
    if config.damping:
        waveform = damp(waveform, config.damping * draws[:, 1])
    if config.noise:
        noise = _to_device(torch.stack([torch.randn(ears_and_time, generator=chance) for chance in chances]), device)
        waveform = add_noise(waveform, config.noise * MIN_NOISE ** draws[:, 2], noise)
    size, emitted = depth.new_ones(len(depth)), depth.new_zeros(len(depth))
    if config.stretch:
        emitted = _emission(recorded, audio) / recorded.shape[-1]  # added noise could be taken for the chirp
        sides = _to_device(torch.cat([torch.rand(1, generator=chance) for chance in chances]), device)
        size = (1 + config.stretch) ** (2 * sides - 1)
        maps = enlarge(maps, size, config.max_depth)
    return Augmented(waveform, maps[:, :1], size, emitted, None if empty_room is None else maps[:, 1:])


def _emission(waveform: Tensor, audio: AudioConfig) -> Tensor:
    """Return the sample at which each of the echoes (B, 2, T) was emitted, as (B,)."""
    if audio.emission == "first":
        return find_emission(waveform, audio.sample_rate)
    return torch.full((len(waveform),), lead_frames(audio.sample_rate), device=waveform.device)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; on CUDA, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def mirror(waveform: Tensor, depth: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror some samples of a batch: swap their ears and flip their depth maps left to right.

    For a symmetric head this is exact: the same robot would hear and see this in the mirrored room.

    Args:
        waveform: (B, 2, T).
        depth: (B, C, S, S) in metres.
        which: bool (B,), the samples to mirror.

    Returns:
        The batch with those samples mirrored.
    """
    return (
        torch.where(which[:, None, None], waveform.flip(1), waveform),
        torch.where(which[:, None, None, None], depth.flip(-1), depth),
    )


def draw_copies(chance: torch.Generator, frames: int) -> tuple[Tensor, Tensor]:
    """Draw the shares (2, `COPIES`, knots), a knot every `STEADY` samples, and lags (`COPIES`,) for `colour`.

    The shares of one recording are normal, with a standard deviation from 0 to 1.
    """
    strength = torch.rand(1, generator=chance)
    shares = strength * torch.randn(2, COPIES, frames // STEADY + 2, generator=chance)
    return shares, torch.randint(1, LATEST, (COPIES,), generator=chance)


def colour(waveform: Tensor, shares: Tensor, lags: Tensor) -> Tensor:
    """Add copies to echoes that come a little later, as from the folds of a pinna, a case or the robot itself.

    A copy's share of the sound changes over time, because each reflection comes from another direction. It differs
    between the ears. The direct sound is coloured, too.

    Args:
        waveform: (B, 2, T).
        shares: (B, 2, copies, knots) of the amplitude, linear between the knots.
        lags: (B, copies) in samples.

    Returns:
        (B, 2, T).
    """
    frames = waveform.shape[-1]
    over_time = F.interpolate(shares.flatten(1, 2), size=shares.shape[-1] * STEADY, mode="linear")[..., :frames]
    place = torch.arange(frames, device=waveform.device) - lags[..., None]  # (B, copies, T)
    coloured = waveform
    for copy, share in enumerate(over_time.unflatten(1, shares.shape[1:3]).unbind(2)):
        earlier = waveform.gather(2, place[:, None, copy].clamp(min=0).expand_as(waveform))
        coloured = coloured + share * torch.where(place[:, None, copy] >= 0, earlier, 0)
    return coloured


def damp(waveform: Tensor, decibels: Tensor) -> Tensor:
    """Let echoes (B, 2, T) decay faster, as more absorbing walls would.

    The attenuation grows from 0 dB at the start to `decibels` (B,) at the end.
    """
    time = torch.linspace(0, 1, waveform.shape[-1], device=waveform.device)
    return waveform * torch.exp(-math.log(10) / 20 * decibels[:, None, None] * time)


def add_noise(waveform: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Add `noise` (B, 2, T) of unit variance, scaled to `level` (B,) times the loudest sample of each recording."""
    loudest = waveform.abs().amax(dim=(1, 2))
    return waveform + (level * loudest)[:, None, None] * noise


def enlarge(depth: Tensor, size: Tensor, max_depth: float) -> Tensor:
    """Scale depth maps (B, C, S, S) to rooms `size` (B,) times as large, and clip them to `max_depth`, in metres.

    In a smaller room, a pixel that was clipped becomes a hole, because its true depth is unknown.
    """
    size = size[:, None, None, None]
    return torch.where((depth >= CLIPPED * max_depth) & (size < 1), 0, (size * depth).clamp(max=max_depth))


def stretch(features: Tensor, size: Tensor, emitted: Tensor) -> Tensor:
    """Stretch features over time, as in rooms `size` times as large, where every echo takes that much longer.

    In a scaled room, echoes come from the same directions as before. So features are stretched instead of waveforms:
    stretching a waveform would also stretch the delay between the ears, which tells the direction. Samples within
    a step keep their places in it.

    Args:
        features: (B, ..., T) over time.
        size: (B,) factor by which each room has grown.
        emitted: (B,) the moment of emission, as a share of the time; it stays where it is.

    Returns:
        Features of the same shape; those of a smaller room repeat their last value at the end.
    """
    steps = features.shape[-1]
    moments = (torch.arange(steps, device=features.device) + 0.5) / steps  # (T,), from 0 to 1
    start = emitted[:, None]
    original = start + (moments - start) / size[:, None]  # (B, T): the same moments in the room before scaling
    return interpolate_at(features.flatten(1, -2), original[:, None]).reshape(features.shape)
