"""What a depth map must not depend on: when the recorder began, how loud it was, and how the file is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from base_residual.deploy.predict import predict_files
from base_residual.models.network import DepthNet

Sound = NDArray[np.float64]  # (T, 2)
NOISE = -40.0  # dB below the loudest sample, of the noise before an echo


@dataclass(frozen=True)
class Change:
    """A change of a recording.

    Attributes:
        name: in words.
        sound: makes the changed sound.
        rate: of the changed file, in Hz.
        subtype: its sample format.
        flips: whether the map must be flipped by it, rather than stay.
    """

    name: str
    sound: Callable[[Sound, int], Sound] = lambda sound, rate: sound
    rate: int = 44_100
    subtype: str = "PCM_24"
    flips: bool = False


def later(seconds: float, noisy: bool) -> Callable[[Sound, int], Sound]:
    """Return what puts silence or noise before a sound."""

    def change(sound: Sound, rate: int) -> Sound:
        before = np.zeros((round(seconds * rate), 2))
        if noisy:
            level = 10 ** (NOISE / 20) * np.abs(sound).max()
            before = level * np.random.default_rng(0).standard_normal(before.shape)
        return np.concatenate([before, sound])

    return change


def changes() -> Iterator[Change]:
    """Yield all changes that are tried."""
    for seconds in (0.001, 0.01, 0.1, 1.0, 2.0):
        yield Change(f"{seconds:g} s of silence before it", later(seconds, noisy=False))
    for seconds in (0.01, 0.1, 1.0, 2.0):
        yield Change(f"{seconds:g} s of noise at {NOISE:g} dB before it", later(seconds, noisy=True))
    for gain in (-6, -20, -40):
        yield Change(f"{gain} dB", lambda sound, rate, gain=gain: sound * 10 ** (gain / 20))
    yield Change("an offset of 10 % of full scale", lambda sound, rate: (sound + 0.1).clip(-1, 1 - 2**-23))
    for rate in (48_000, 96_000):
        yield Change(f"{rate} Hz", resampled, rate)
    for subtype, name in (("PCM_16", "16 bit"), ("PCM_32", "32 bit"), ("FLOAT", "32 bit, floating point")):
        yield Change(name, subtype=subtype)
    yield Change("left and right swapped, map flipped", lambda sound, rate: sound[:, ::-1], flips=True)


def resampled(sound: Sound, rate: int) -> Sound:
    """Return a sound of 44,100 Hz at another rate."""
    common = gcd(44_100, rate)
    return np.asarray(resample_poly(sound, rate // common, 44_100 // common)).clip(-1, 1 - 2**-23)


def measure_changes(model: DepthNet, paths: Sequence[Path]) -> dict[str, float]:
    """Return the mean distance in metres by which each change of recordings moves their depth maps.

    Args:
        model: the network.
        paths: recordings of 44,100 Hz.
    """
    sounds = [soundfile.read(path, always_2d=True)[0] for path in paths]
    moved = {}
    with tempfile.TemporaryDirectory() as folder:

        def maps(change: Change) -> NDArray[np.float32]:
            files = [Path(folder) / f"{number}.wav" for number in range(len(sounds))]
            for file, sound in zip(files, sounds, strict=True):
                soundfile.write(file, change.sound(sound, change.rate), change.rate, change.subtype)
            final: NDArray[np.float32] = predict_files(model, files).final.cpu().numpy()
            return final

        same = maps(Change("as it is"))
        for change in changes():
            changed = maps(change)
            moved[change.name] = float(np.abs((changed[..., ::-1] if change.flips else changed) - same).mean())
    return moved
