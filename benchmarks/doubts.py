"""Count which recordings are said to be doubtful: sounds that are no echo of the chirp, and echoes that are.

    python benchmarks/doubts.py            # results/doubts.json, in a minute once the worlds are rendered
    python benchmarks/doubts.py --quick    # few of each, and no worlds

The sounds are drawn anew for this; no threshold was chosen by them. The echoes are those of the package's own rooms and
of the worlds of `carry_over.py`: what is doubted there is a false alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from carry_over import rendered
from numpy.typing import NDArray
from reporting import RESULTS, parser, positive, provenance, run_script, write

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.acoustics.doubts import examine
from base_residual.acoustics.framing import echo_frames
from base_residual.config.resolve import make_config
from base_residual.data.batvision import list_recordings
from base_residual.simulation.echo import draw_chance, render_echo
from base_residual.simulation.materials import Air
from base_residual.simulation.rendering import draw_place
from base_residual.simulation.rigs import Rig, draw_rig
from base_residual.simulation.rooms import Material, Pose, Room

Sound = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Sound]
SECONDS = 0.2
FRAMES = round(SECONDS * SAMPLE_RATE)
CONFIG = make_config()
WHOLE = echo_frames(CONFIG.data.max_depth) + round(0.01 * SAMPLE_RATE)  # samples of an echo, begun late by a recorder


def white(rng: np.random.Generator) -> Sound:
    return 0.1 * rng.standard_normal((2, FRAMES))


def pink(rng: np.random.Generator) -> Sound:
    """Noise whose power falls by 3 dB an octave, partly alike at both ears."""
    spectrum = np.fft.rfft(rng.standard_normal((3, FRAMES)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.shape[1]), 1)), FRAMES)
    return noise[:2] + noise[2]


def silence(rng: np.random.Generator) -> Sound:
    return np.zeros((2, FRAMES))


def voice(rng: np.random.Generator) -> Sound:
    """A vowel: pulses of a voice through three resonances, the second ear a little later."""
    pitch, time = rng.uniform(90, 250), np.arange(FRAMES) / SAMPLE_RATE
    sound = (np.diff(np.floor(pitch * time + rng.uniform()), prepend=0.0) > 0).astype(float)
    for centre, width in zip(rng.uniform([300, 900, 2200], [800, 2200, 3200]), (80, 110, 160), strict=True):
        decay = np.exp(-np.pi * width * time[:2000]) * np.sin(2 * np.pi * centre * time[:2000])
        sound = np.convolve(sound, decay)[:FRAMES]
    return np.stack([sound, np.roll(sound, int(rng.integers(-20, 21)))]) + 1e-3 * rng.standard_normal((2, FRAMES))


def music(rng: np.random.Generator) -> Sound:
    """A chord of struck strings: decaying harmonics."""
    time, sound = np.arange(FRAMES) / SAMPLE_RATE, np.zeros(FRAMES)
    for note in 220 * 2 ** (rng.integers(0, 36, 4) / 12):
        for harmonic in range(1, 9):
            sound += (
                np.sin(2 * np.pi * harmonic * note * time + rng.uniform(0, 6.3))
                * np.exp(-6 * harmonic * time)
                / harmonic
            )
    return np.stack([sound, rng.uniform(0.5, 1.5) * np.roll(sound, int(rng.integers(-20, 21)))])


def in_a_room(rng: np.random.Generator, change: Callable[[Rig], Rig] = lambda rig: rig) -> Sound:
    """An echo of the package's own rooms, after the rig has been changed."""
    room, air, poses = draw_place(rng, CONFIG.simulation)
    rig = change(draw_rig(rng, "varied", 1.0, "rich"))
    return render_echo(room, poses[0], rig, draw_chance(rng, WHOLE), air)


def one_ear(rng: np.random.Generator) -> Sound:
    """An echo of which one ear hears nothing but the recorder's noise, 60 dB below the other."""
    echo, ear = in_a_room(rng), rng.integers(2)
    echo[ear] = 1e-3 * np.abs(echo).max() * rng.standard_normal(echo.shape[1])
    return echo


def other_chirp(rng: np.random.Generator) -> Sound:
    """The echo of a sweep that goes down, or is three to ten times as long."""
    other = ChirpDesign(start_hz=20_000, end_hz=20) if rng.random() < 0.5 else ChirpDesign(rng.uniform(0.009, 0.03))
    return in_a_room(rng, lambda rig: replace(rig, chirp=other))


def clap(rng: np.random.Generator) -> Sound:
    """A clap in a room: a millisecond of noise instead of the chirp."""
    burst = rng.standard_normal(132) * np.hanning(132)

    class Burst(ChirpDesign):
        def waveform(self, sample_rate: int = SAMPLE_RATE) -> Sound:
            return burst

    return in_a_room(rng, lambda rig: replace(rig, chirp=Burst()))


def in_the_open(rng: np.random.Generator) -> Sound:
    """A chirp of which nothing comes back but from the ground."""
    nothing, ground = Material((0.999,), (0.0,)), Material((float(rng.uniform(0.02, 0.5)),), (0.2,))
    field = Room((300.0, 300.0, 150.0), (nothing, nothing, nothing, nothing, ground, nothing))
    pose = Pose((150.0, 150.0, float(rng.uniform(0.25, 1.8))), float(rng.uniform(0, 6.3)))
    chance = draw_chance(rng, WHOLE)
    return render_echo(field, pose, draw_rig(rng, "varied", 1.0, "rich"), chance, Air(), 1)


KINDS: dict[str, Draw] = {
    "silence": silence,
    "white noise": white,
    "pink noise": pink,
    "a voice": voice,
    "music": music,
    "a clap in a room": clap,
    "another chirp in a room": other_chirp,
    "an echo with one silent ear": one_ear,
    "a chirp in the open, with the ground alone": in_the_open,
    "echoes of the package's own rooms": in_a_room,
}


def doubts_of(sound: Sound) -> list[str]:
    """Return what is said about one recording (2, T)."""
    frames = echo_frames(CONFIG.data.max_depth)
    padded = torch.from_numpy(np.pad(sound, ((0, 0), (0, max(0, frames - sound.shape[1]))))).float()
    return examine(padded[None], SAMPLE_RATE, frames, CONFIG.audio).doubts[0]


def counted(found: list[list[str]]) -> dict[str, Any]:
    """Return how many recordings there are, how many of them are doubted, and why."""
    why = Counter(doubt for doubts in found for doubt in doubts)
    return {"recordings": len(found), "doubted": sum(map(bool, found)), "because": dict(why.most_common())}


def world_doubts(root: Path) -> list[list[str]]:
    """Return what is said about the test recordings of a world."""
    frames, found = echo_frames(CONFIG.data.max_depth), []
    for recording in list_recordings(root, "test"):
        header, waveform = recording.read_audio()
        found += examine(waveform[None], header.sample_rate, frames, CONFIG.audio).doubts
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=positive, default=200, help="recordings of each kind (200)")
    options.add_argument("--quick", action="store_true", help="few of each, and no worlds")
    options.add_argument("--out", type=Path, default=RESULTS / "doubts.json", help="JSON to write")
    asked = options.parse_args()
    count = 3 if asked.quick else asked.count
    found = {
        name: counted([doubts_of(draw(np.random.default_rng([place, number]))) for number in range(count)])
        for place, (name, draw) in enumerate(KINDS.items())
    }
    if not asked.quick:
        found |= {world: counted(world_doubts(root)) for world, root in rendered().items()}
    write(asked.out, {**provenance(), "kinds": found})


if __name__ == "__main__":
    run_script(main)
