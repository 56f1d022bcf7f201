"""Rigs: what chirps, listens, records and sees; named ones, and the spread of what nobody knows about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.config.presets import VIEWS
from base_residual.simulation.depth import FIELD_OF_VIEW
from base_residual.simulation.directivity import Directivity, Pattern
from base_residual.simulation.draws import STYLES
from base_residual.simulation.heads import MeasuredHead
from base_residual.simulation.materials import BANDS
from base_residual.simulation.rooms import Array

EAR_DISTANCE = 0.2  # m between the two ears of the ideal rig
EAR_ANGLE = np.deg2rad(50.0)  # each of them points this far to its own side
LOUDNESS = 0.4  # full scale of an ideal recording per unit of sound pressure at 1 m


CARDIOID = Pattern((float(np.cos(EAR_ANGLE)), float(np.sin(EAR_ANGLE)), 0.0), 0.5)
SUBCARDIOID = Pattern((1.0, 0.0, 0.0), 0.35)


@dataclass(frozen=True)
class Camera:
    """A depth camera that looks level, along the robot's heading.

    Attributes:
        field_of_view: across and upward, in degrees.
        forward: metres ahead of the head.
        up: metres above it.
        nearest: metres below which it measures nothing.
        baseline: metres between the two eyes of a stereo camera, which shadows the edges of what is near; 0 for none.
        patches: mean number of patches, dark or of glass, in which it measures nothing.
        error: standard deviation of the depth, in metres at 1 m; it grows with the square of the depth.
    """

    field_of_view: tuple[float, float] = FIELD_OF_VIEW
    forward: float = 0.0
    up: float = 0.0
    nearest: float = 0.0
    baseline: float = 0.0
    patches: float = 0.0
    error: float = 0.0

    @property
    def place(self) -> tuple[float, float]:
        """Return metres ahead of the head, and above it."""
        return self.forward, self.up

    def measure(self, rng: np.random.Generator, depth: Array) -> Array:
        """Return what the camera reports of a depth map (S, S) in metres, 0 where it measures nothing."""
        size = len(depth)
        measured = depth * (1 + self.error * depth * rng.standard_normal(depth.shape)) if self.error else depth.copy()
        measured[depth < self.nearest] = 0
        if self.baseline:
            across = self.baseline * size / (2 * np.tan(np.deg2rad(self.field_of_view[0]) / 2))
            moved = np.arange(size) - across / depth  # the column at which the other eye sees a pixel
            beside = np.minimum.accumulate(moved[:, ::-1], axis=1)[:, ::-1]  # the leftmost of it and those to its right
            measured[moved > beside + 0.5] = 0
        for _ in range(rng.poisson(self.patches) if self.patches else 0):
            (x, y), (wide, high) = rng.uniform(0, size, 2), rng.uniform(0.02, 0.2, 2) * size
            rows, columns = np.ogrid[:size, :size]
            measured[((columns - x) / wide) ** 2 + ((rows - y) / high) ** 2 < 1] = 0
        return measured


@dataclass(frozen=True)
class Recorder:
    """What turns sound at the ears into a recording.

    Attributes:
        latency: seconds from the first sample to the emission.
        noise: standard deviation of the noise, relative to the chirp's amplitude at 1 m.
        noise_slope: of the noise's amplitude over frequency, in dB per octave.
        peak: loudest sample of the recording, of full scale; 0 leaves the level at `LOUDNESS`.
        offset: in full scale.
        balance: how much louder the left ear is recorded than the right, in dB.
    """

    latency: float = 0.0
    noise: float = 0.001
    noise_slope: float = 0.0
    peak: float = 0.0
    offset: float = 0.0
    balance: float = 0.0


@dataclass(frozen=True)
class Rig:
    """A robot's head: a loudspeaker, two ears that are alike, a recorder and a camera.

    Attributes:
        ears: directivity of both.
        speaker: directivity of the loudspeaker.
        ear_distance: metres between the ears.
        speaker_forward: metres from the middle between the ears to the loudspeaker.
        speaker_right, speaker_up: the same to the right, and upward.
        chirp: the emitted sound.
        response: (bands,) of loudspeaker and ears together, in dB.
        low_cut: Hz below which the response falls by 12 dB per octave.
        ringing: (N, 2) what the loudspeaker emits after the chirp itself: seconds later, share of the amplitude.
        direct: level of the direct sound beside what the distance gives, in dB: the robot's own body hides it.
        body: (N, 2) echoes of the robot's own body, as seconds after the direct sound and shares of it.
        recorder: of the ears' signals.
        camera: sees the depth.
    """

    ears: Directivity = CARDIOID
    speaker: Directivity = SUBCARDIOID
    ear_distance: float = EAR_DISTANCE
    speaker_forward: float = 0.0
    speaker_right: float = 0.0
    speaker_up: float = 0.0
    chirp: ChirpDesign = field(default_factory=ChirpDesign)
    response: tuple[float, ...] = ()
    low_cut: float = 0.0
    ringing: tuple[tuple[float, float], ...] = ()
    direct: float = 0.0
    body: tuple[tuple[float, float], ...] = ()
    recorder: Recorder = Recorder()
    camera: Camera = Camera()

    def mirrored(self) -> Rig:
        """Return the rig in a mirror: alike, but for the ears' balance and the loudspeaker's side."""
        balanced = replace(self.recorder, balance=-self.recorder.balance)
        return replace(self, recorder=balanced, speaker_right=-self.speaker_right)


def ideal(rng: np.random.Generator, spread: float) -> Rig:
    """Return two cardioid microphones with a loudspeaker between them, and a recorder whose noise `rng` decides."""
    return Rig(recorder=Recorder(noise=float(rng.uniform(0.0005, 0.002))))


def varied(rng: np.random.Generator, spread: float) -> Rig:
    """Draw a rig that any robot could have: microphones on a rod or on a head, any loudspeaker, any recorder."""

    def around(middle: float, extent: float) -> float:
        return _around(rng, middle, spread * extent)

    distance, angle = around(0.2, 0.07), np.deg2rad(around(52.0, 33.0))
    on_head = rng.random() < 0.4
    pinnae = spread * (rng.uniform(1.0, 6.0) if on_head else rng.uniform(0.3, 1.5)) * np.minimum(BANDS / 6000, 1.2)
    tilt = np.deg2rad(around(0.0, 15.0))
    axis = (np.cos(angle) * np.cos(tilt), np.sin(angle) * np.cos(tilt), np.sin(tilt))
    ears = Pattern(
        axis=(float(axis[0]), float(axis[1]), float(axis[2])),
        p=float(rng.uniform(0.0, 0.25)) if on_head else around(0.25, 0.25),
        head=max(0.06, distance / 2 * around(0.95, 0.1)) if on_head else 0.0,
        deviation=_deviation(rng, pinnae, symmetric=False),
    )
    ahead = 0.0 if rng.random() < 0.4 else around(0.12, 0.12)
    speaker = Pattern(
        axis=(1.0, 0.0, 0.0),
        p=0.5,
        order=tuple((around(0.8, 0.7) * (BANDS / 4000) ** around(0.35, 0.35)).tolist()),
        deviation=_deviation(rng, np.full(len(BANDS), spread * rng.uniform(0.0, 1.5)), symmetric=True),
    )
    return Rig(
        ears=ears,
        speaker=speaker,
        ear_distance=distance,
        speaker_forward=ahead,
        speaker_right=around(0.0, 0.02),
        speaker_up=around(0.0, 0.08) - (0.06 * spread if rng.random() < 0.3 else 0.0),
        chirp=ChirpDesign(fade=float(np.clip(around(0.25, 0.25), 0.02, 0.5))),
        response=tuple((spread * 4.0 * _smooth(rng, 1)[0]).tolist()),
        low_cut=float(np.exp(rng.uniform(np.log(60), np.log(900)))),
        ringing=_taps(rng, spread * rng.uniform(0.0, 0.3), 0.0012),
        direct=around(0.0, 6.0),
        body=_taps(rng, spread * rng.uniform(0.0, 0.15), 0.0025),
        recorder=Recorder(
            latency=float(rng.uniform(0.0, 0.007)),
            noise=float(10 ** rng.uniform(-4.0, -2.3)),
            noise_slope=around(-1.5, 3.0),
            peak=float(10 ** rng.uniform(-1.2, -0.05)),
            offset=around(0.0, 0.01),
            balance=around(0.0, 0.8),
        ),
        camera=Camera(forward=around(0.0, 0.05), up=around(0.0, 0.05)),
    )


def batvision_v2(rng: np.random.Generator, spread: float) -> Rig:
    """Draw a rig as BatVision V2's: two ears some 23 cm apart, and a wide stereo camera whose map is made square."""
    across, upward = VIEWS["batvisionv2"]
    camera = Camera(
        field_of_view=(_around(rng, across, 4.0 * spread), _around(rng, upward, 3.0 * spread)),
        forward=_around(rng, 0.02, 0.08 * spread),
        up=_around(rng, 0.0, 0.1 * spread),
        nearest=0.3,
        baseline=0.12,
        patches=1.5,
        error=0.004,
    )
    return replace(varied(rng, spread), ear_distance=_around(rng, 0.23, 0.03 * spread), camera=camera)


def batvision_v1(rng: np.random.Generator, spread: float) -> Rig:
    """Draw a rig as BatVision V1's: as V2's, with a camera whose map is square from the beginning."""
    rig, angle = batvision_v2(rng, spread), _around(rng, VIEWS["batvisionv1"][0], 10.0 * spread)
    return replace(rig, camera=replace(rig.camera, field_of_view=(angle, angle)))


def replica(rng: np.random.Generator, spread: float) -> Rig:
    """Draw a rig as VisualEchoes' in Replica: a listener's head with the loudspeaker at its place, an ideal camera."""
    pinnae = _deviation(rng, np.full(len(BANDS), 4.0 * spread), symmetric=False)
    ears = Pattern((0.0, 1.0, 0.0), 0.1, head=0.0875, deviation=pinnae)
    return replace(
        varied(rng, spread), ears=ears, ear_distance=0.175, speaker_forward=0.0, speaker_right=0.0, camera=Camera()
    )


RIGS: dict[str, Callable[[np.random.Generator, float], Rig]] = {
    "varied": varied,
    "ideal": ideal,
    "batvisionv2": batvision_v2,
    "batvisionv1": batvision_v1,
    "replica": replica,
}


def draw_rig(rng: np.random.Generator, name: str, spread: float, style: str, head: MeasuredHead | None = None) -> Rig:
    """Draw a rig by its name in `RIGS`, with the ears of a head like `head` if one is given.

    In rooms of the styles "standard" and "hard", an ideal rig has that style's noise.
    """
    if name == "ideal" and style in STYLES:
        rig = Rig(recorder=Recorder(noise=float(rng.uniform(*STYLES[style].noise))))
    else:
        rig = RIGS[name](rng, spread)
    if head is None:
        return rig
    ears = head.varied(rng, spread)
    return replace(rig, ears=ears, ear_distance=ears.ear_distance)


def _around(rng: np.random.Generator, middle: float, extent: float) -> float:
    return middle + extent * float(rng.uniform(-1, 1))


def _deviation(rng: np.random.Generator, decibels: Array, symmetric: bool) -> tuple[tuple[float, ...], ...]:
    """Draw factors of the spherical harmonics, (15, bands) in dB, half of them alike in neighbouring bands.

    Args:
        rng: decides.
        decibels: (bands,) standard deviation of the level over all directions.
        symmetric: from left to right.
    """
    factors = (_smooth(rng, 15) + rng.standard_normal((15, len(BANDS)))) * decibels / np.sqrt(2 * 15)
    if symmetric:  # those that change sign from left to right
        factors[[1, 3, 5, 8, 10, 13]] = 0
    return tuple(map(tuple, factors.tolist()))


def _smooth(rng: np.random.Generator, count: int) -> Array:
    """Draw curves over the bands, (count, bands), of about unit size: random walks without their mean."""
    walks = np.cumsum(rng.standard_normal((count, len(BANDS))) * 0.6, axis=1)
    curves: Array = walks - walks.mean(axis=1, keepdims=True) + 0.3 * rng.standard_normal((count, 1))
    return curves


def _taps(rng: np.random.Generator, share: float, longest: float) -> tuple[tuple[float, float], ...]:
    """Draw one to four later copies of a sound: seconds after it, and shares of its amplitude."""
    return tuple(
        (float(rng.uniform(0.05, 1.0) * longest), float(share * rng.uniform(-1, 1))) for _ in range(rng.integers(1, 5))
    )
