"""The emitted sound, as the simulator, the matched filter and a robot's loudspeaker share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import ConfigError

SAMPLE_RATE = 44_100
"""Rate of every waveform inside the package, in Hz."""


@dataclass(frozen=True)
class ChirpDesign:
    """A linear frequency sweep with short fades, the sound that BatVision's robot emits.

    Attributes:
        duration: length in seconds.
        start_hz: frequency at the beginning, in Hz.
        end_hz: frequency at the end, in Hz.
        fade: share of the duration that each of the two raised-cosine fades takes.
    """

    duration: float = 0.003
    start_hz: float = 20.0
    end_hz: float = 20_000.0
    fade: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.duration <= 1 and 0 <= self.fade <= 0.5 and min(self.start_hz, self.end_hz) > 0):
            raise ConfigError(
                f"There is no such chirp: {self}. Its duration is above 0 and at most 1 s, its fade from 0 to 0.5, "
                "and its frequencies are above 0."
            )

    def waveform(self, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float64]:
        """Return the samples of the chirp, peak 1.

        Args:
            sample_rate: rate in Hz.

        Returns:
            float64 (duration * sample_rate,). At a rate below twice the highest frequency, the chirp is low-passed to
            half of that rate, as a recording is.
        """
        oversampling = math.ceil(2 * max(self.start_hz, self.end_hz) / sample_rate)
        if oversampling > 1:
            from scipy.signal import resample_poly  # slow to import

            decimated: NDArray[np.float64] = resample_poly(self.waveform(oversampling * sample_rate), 1, oversampling)
            return decimated
        count = round(self.duration * sample_rate)
        t = np.arange(count) / sample_rate
        sweep = (self.end_hz - self.start_hz) / self.duration
        phase = 2 * np.pi * (self.start_hz * t + 0.5 * sweep * t**2)
        edge = max(1, round(self.fade * count))
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
        envelope = np.ones(count)
        envelope[:edge] = ramp
        envelope[-edge:] = ramp[::-1]
        return np.sin(phase) * envelope
