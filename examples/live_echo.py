"""A robot's loop: chirp, listen with two ears, predict, show, again and again.

    python examples/live_echo.py results/.../best.safetensors                 # a loudspeaker and two microphones
    python examples/live_echo.py results/.../best.safetensors --simulate      # a walk through a simulated room

Without hardware the same loop walks through a room that it draws itself, and knows what the prediction should be. In a
terminal the depth map is drawn in colours, near ones dark; `--out` writes every round as a picture. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

import base_residual as br
from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.recordings import SILENT_PEAK
from base_residual.camera import DepthCamera
from base_residual.errors import BaseResidualError, DataError, MissingExtraError
from base_residual.machine import few_threads
from base_residual.plots.figures import decomposition_figure, panels, save_figure
from base_residual.simulation.depth import FIELD_OF_VIEW, render_depth
from base_residual.simulation.draws import draw_pose
from base_residual.simulation.echo import draw_chance, render_echo
from base_residual.simulation.rays import cast_rays
from base_residual.simulation.rigs import varied
from base_residual.simulation.rooms import Pose
from base_residual.simulation.spaces import draw_space

LATENCY = 0.5  # seconds that a sound card may take from playing to recording
STEP = 0.3  # metres between two chirps of the walk
CLEAR = 0.9  # metres that have to be free ahead, or the robot turns


class Heard(NamedTuple):
    """A recording (2, T) in [-1, 1] in which the chirp begins anywhere, and the depth map where it is known."""

    waveform: np.ndarray
    truth: np.ndarray | None


class Robot(Protocol):
    """Something that chirps and listens."""

    def listen(self) -> Heard: ...


class SoundCard:
    """The machine's own loudspeaker and two microphones, left one first.

    Args:
        seconds: to listen after the chirp.
        volume: of the chirp, at most 1.
    """

    def __init__(self, seconds: float, volume: float) -> None:
        try:
            import sounddevice
        except ModuleNotFoundError as error:
            raise MissingExtraError("live_echo.py without --simulate", "live") from error
        except OSError as error:  # the library that it plays with is not a Python package everywhere
            raise DataError(
                "The PortAudio library is not installed, which plays and records (on Debian: apt install "
                "libportaudio2). Install it, or walk through a room with --simulate."
            ) from error
        self.card = sounddevice
        try:
            sounddevice.check_output_settings(channels=1, samplerate=SAMPLE_RATE)
            sounddevice.check_input_settings(channels=2, samplerate=SAMPLE_RATE)
        except (sounddevice.PortAudioError, ValueError) as error:
            raise DataError(
                f"There is no loudspeaker with two microphones at {SAMPLE_RATE} Hz here ({error}). Connect them and "
                "make them the system's own, or walk through a room with --simulate."
            ) from error
        chirp = volume * br.ChirpDesign().waveform()
        self.played = np.pad(chirp, (0, round((LATENCY + seconds) * SAMPLE_RATE))).astype(np.float32)[:, None]

    def listen(self) -> Heard:
        try:
            recorded = self.card.playrec(self.played, SAMPLE_RATE, channels=2, blocking=True)  # (T, 2)
        except self.card.PortAudioError as error:
            raise DataError(f"The sound card has stopped: {error}.") from error
        return Heard(recorded.T, None)


class Walk:
    """A robot in a simulated room, which goes ahead where it can and turns where it cannot.

    Args:
        seconds: to listen after the chirp.
        model: whose depth maps the true ones are like.
        seed: decides the room, the way and the noise.
    """

    def __init__(self, seconds: float, model: br.BaseResidualNet, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.frames, self.size = round(seconds * SAMPLE_RATE), model.output_size
        self.camera = model.camera or DepthCamera(FIELD_OF_VIEW)
        self.rig = varied(self.rng, 1.0)
        pose = None
        while pose is None:
            self.room, self.air = draw_space(self.rng)
            pose = draw_pose(self.rng, self.room)
        self.pose = pose

    def listen(self) -> Heard:
        echo = render_echo(self.room, self.pose, self.rig, draw_chance(self.rng, self.frames), self.air)
        late = self.rng.integers(round(LATENCY * SAMPLE_RATE))  # as a sound card is, a little later every time
        truth = render_depth(self.room, self.pose, self.size, self.camera.field_of_view)
        truth /= self.camera.rays(self.size)[..., 0].numpy()  # from along the axis to what the model's maps measure
        self.go_on()
        return Heard(np.pad(echo, ((0, 0), (late, 0))), truth)

    def go_on(self) -> None:
        """One step ahead, or a turn by a random angle where something stands in the way."""
        (x, y, z), heading = self.pose.position, self.pose.heading
        turns = self.rng.uniform(-0.3, 0.3) + np.array([0, 0.8, -0.8, 1.6, -1.6, 2.4, -2.4, np.pi])
        for turn in turns:
            pose = Pose((x, y, z), float(heading + turn))
            # As wide as the robot, and half a metre on either side.
            ahead, right, _ = pose.axes()
            rays = np.stack([CLEAR * ahead + side * right for side in (-0.5, 0.0, 0.5)], axis=1)
            if (cast_rays(self.room, np.array(pose.position), rays).distance > 1).all():
                self.pose = Pose((float(x + STEP * ahead[0]), float(y + STEP * ahead[1]), z), pose.heading)
                return
        self.pose = Pose((x, y, z), float(heading + 0.8))


def drawn(depth: np.ndarray, farthest: float, columns: int = 64) -> Text:
    """A depth map (S, S) in metres as coloured half blocks, two pixels in each character."""
    from matplotlib import colormaps

    place = np.arange(columns) * len(depth) // columns
    colours = (255 * colormaps["viridis"](depth[np.ix_(place, place)] / farthest)[..., :3]).astype(int)
    picture = Text()
    for above, below in zip(colours[::2], colours[1::2], strict=True):
        for upper, lower in zip(above, below, strict=True):
            picture.append("▀", f"rgb({','.join(map(str, upper))}) on rgb({','.join(map(str, lower))})")
        picture.append("\n")
    return picture


def loop(model: br.BaseResidualNet, robot: Robot, rounds: int, pause: float, out: Path | None) -> None:
    """Chirp, listen, predict and show, `rounds` times; 0 is until Ctrl-C."""
    console = Console(highlight=False)
    number = 0
    while number != rounds:
        number += 1
        heard = robot.listen()
        if float(np.abs(heard.waveform).max()) < SILENT_PEAK:
            raise DataError(
                "The microphones hear nothing at all. Are they muted, or is another device the system's own?"
            )
        start = time.perf_counter()
        parts = model.predict(heard.waveform, SAMPLE_RATE)  # finds the chirp, and warns where there is none
        took = time.perf_counter() - start
        depth = parts.final[0, 0].numpy()  # (S, S)
        middle = slice(len(depth) // 3, 2 * len(depth) // 3)
        ahead = f"{np.median(depth[middle, middle]):5.2f}"
        if model.calibration is not None:
            ahead += f" +- {parts.remainder[0, 0, middle, middle].median():.2f}"
        line = f"{number:4d}  ahead {ahead} m  nearest {depth.min():5.2f} m"
        if heard.truth is not None:
            truth = np.minimum(heard.truth, model.max_depth)
            line += f"  rmse {np.sqrt(np.mean((depth - truth) ** 2)):5.2f} m"
        if console.is_terminal:
            console.print(drawn(depth, model.max_depth), end="")
        console.print(f"{line}  predicted in {1000 * took:.0f} ms")
        if out is not None:
            gt = None if heard.truth is None else [truth]
            rows = panels(parts, gt, [""], parts.half_width)
            save_figure(decomposition_figure(rows), out / f"round_{number:04d}.png")
        if number != rounds:
            time.sleep(pause)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="trained model, .safetensors")
    parser.add_argument("--simulate", action="store_true", help="walk through a simulated room, without hardware")
    parser.add_argument("--rounds", type=int, default=0, help="chirps until it ends; 0 is until Ctrl-C (0)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two rounds (0.5)")
    parser.add_argument("--volume", type=float, default=0.5, help="of the chirp, at most 1 (0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated room (0)")
    parser.add_argument("--out", type=Path, help="folder for a picture of every round")
    options = parser.parse_args(argv)
    if min(options.rounds, options.seed) < 0 or not (0 <= options.pause < 1e6 and 0 < options.volume <= 1):
        parser.error("expected are rounds, pause and seed of at least 0, and a volume above 0 that is at most 1")
    torch.set_num_threads(few_threads())
    try:
        model = br.load_model(options.checkpoint)
        seconds = echo_frames(model.max_depth) / SAMPLE_RATE
        robot = Walk(seconds, model, options.seed) if options.simulate else SoundCard(seconds, options.volume)
        loop(model, robot, options.rounds, options.pause, options.out)
    except BaseResidualError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.")


if __name__ == "__main__":
    main()
