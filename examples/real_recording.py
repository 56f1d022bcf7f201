"""Where a recording's echoes come from: the matched envelope of both ears over range, with either template.

    python examples/real_recording.py audio_47.wav --depth depth_47.npy --out envelope.png

The range axis counts from the direct sound, half the way there and back. With a depth map (millimetres, as BatVision V2
stores it) the range of its measured pixels is marked: that is where the first echoes should stand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.doubts import examine
from base_residual.acoustics.emission import loudest_ear
from base_residual.acoustics.framing import NOMINAL_SOUND, echo_frames
from base_residual.acoustics.hearing import lead_frames
from base_residual.acoustics.matched_filter import compress
from base_residual.acoustics.recordings import read_echo
from base_residual.config.schema import AudioConfig
from base_residual.data.depth_maps import read_depth
from base_residual.errors import BaseResidualError, DataError
from base_residual.plots.figures import save_figure

FARTHEST = 12.0  # metres of range that are shown
SMOOTHED = 21  # samples over which energy is averaged: 8 cm of range
EARS = (("left ear", "#1f77b4"), ("right ear", "#d95f02"))


def envelope_figure(recording: Path, depth: Path | None) -> Figure:
    """Two panels: compressed with the chirp as designed, and with the recording's own direct sound."""
    header, waveform = read_echo(recording)
    rate = header.sample_rate
    chirp = torch.from_numpy(ChirpDesign().waveform(rate)).float()
    lead = lead_frames(rate)
    frames = lead + echo_frames(FARTHEST, rate)
    heard = examine(waveform[None], rate, frames, AudioConfig(sample_rate=rate))
    if heard.emission[0] is None:
        raise DataError(f"No chirp is found in the recording {recording}.")
    direct = loudest_ear(heard.waveform[..., lead : lead + len(chirp)])
    metres = (np.arange(frames) - lead) / rate * NOMINAL_SOUND / 2
    figure = Figure(figsize=(8, 5), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    templates = {"chirp as designed": chirp, "the recording's direct sound": direct}
    for panel, (name, template) in zip(panels, templates.items(), strict=True):
        energy = compress(heard.waveform, template)[0].abs().square()
        energy = F.avg_pool1d(energy, SMOOTHED, stride=1, padding=SMOOTHED // 2)
        level = 10 * torch.log10(energy / energy.max() + 1e-9)
        # Loud echoes stand out by the level between peak and median.
        contrast = -float(level.median())
        for (ear, color), values in zip(EARS, level, strict=True):
            panel.plot(metres, values, color=color, linewidth=0.8, label=ear)
        if depth is not None:
            metres_away = read_depth(depth, float("inf"))
            if not metres_away.any():
                raise DataError(f"Nothing was measured in the depth map {depth}.")
            near, far = np.percentile(metres_away[metres_away > 0], [5, 95])
            panel.axvspan(near, far, color="0.9", zorder=0, label="5 to 95 % of the depth map")
        panel.set_title(f"Template: {name} (median {contrast:.0f} dB below the peak)", fontsize=10, loc="left")
        panel.set_ylabel("level (dB)")
        panel.set_ylim(-60, 3)
    panels[0].legend(loc="upper right", fontsize=8)
    panels[1].set_xlabel("range (m)")
    panels[1].set_xlim(-1, FARTHEST)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="two-channel sound file")
    parser.add_argument("--depth", type=Path, help="depth map of the same moment, .npy in millimetres")
    parser.add_argument("--out", type=Path, default=Path("envelope.png"), help="picture to write (envelope.png)")
    options = parser.parse_args()
    try:
        save_figure(envelope_figure(options.recording, options.depth), options.out)
    except BaseResidualError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"Written: {options.out}")


if __name__ == "__main__":
    main()
