"""How loud echoes come back over range, in several sets of recordings: a look at what a simulator lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.acoustics.matched_filter import compress
from base_residual.acoustics.recordings import read_echo
from base_residual.data.batvision import list_recordings
from base_residual.data.sample import spread_indices
from base_residual.errors import DataError

MOST = 100  # recordings of a set
RANGE, BEFORE = 12.0, 0.5  # metres after and before the direct sound
SMOOTH = 44  # samples, 1 ms
METRES = 343.0 / 2 / SAMPLE_RATE  # of range, a sample


def envelope(path: Path) -> NDArray[np.float64] | None:
    """Return the power of a recording after pulse compression, over range, in dB relative to the direct sound's peak.

    Both ears are taken together, and 1 ms is averaged. None for a recording that is too short.
    """
    header, waveform = read_echo(path)
    if header.sample_rate != SAMPLE_RATE:
        raise DataError(f"The recording {path} has {header.sample_rate} Hz; expected are {SAMPLE_RATE} Hz.")
    template = torch.from_numpy(ChirpDesign().waveform()).float()
    power = compress(waveform[None], template)[0].abs().square().mean(dim=0).double().numpy()
    power = np.convolve(power, np.ones(SMOOTH) / SMOOTH, mode="same")
    direct, before, after = int(power.argmax()), round(BEFORE / METRES), round(RANGE / METRES)
    padded = np.concatenate([np.full(before, np.nan), power])  # from `direct - before` on
    if len(padded) < direct + before + after:
        return None
    return np.asarray(10 * np.log10(padded[direct : direct + before + after] / power[direct] + 1e-12))


def envelopes_figure(sets: Mapping[str, Path]) -> Figure:
    """Draw the median of each set's envelopes, and the range in which eight in ten of them lie.

    Args:
        sets: folders in the layout of BatVision V2, by name; their test splits are drawn.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, root in sets.items():
        recordings = list_recordings(root, "test")
        found = [envelope(recordings[index].audio[0]) for index in spread_indices(len(recordings), MOST)]
        curves = np.array([curve for curve in found if curve is not None])
        if not len(curves):
            continue
        known = ~np.isnan(curves).all(axis=0)  # there is nothing before recordings that begin with the direct sound
        place = np.flatnonzero(known) * METRES - BEFORE
        low, middle, high = np.nanpercentile(curves[:, known], (10, 50, 90), axis=0)
        (line,) = axes.plot(place, middle, label=f"{name} ({len(curves)})", linewidth=1.2)
        if len(curves) > 1:
            axes.fill_between(place, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel="range after the direct sound (m)", ylabel="level (dB relative to the direct sound)")
    axes.set(xlim=(-BEFORE, RANGE), ylim=(-60, 3))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
