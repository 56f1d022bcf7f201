"""Measured heads: the ears of a SOFA file, made alike, as levels by direction and band and as delays.

SOFA (AES69) is HDF5. Its convention SimpleFreeFieldHRIR holds what each ear of a head hears of an impulse from each of
many directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import DataError, MissingExtraError, first_line
from base_residual.simulation.directivity import ALL_AROUND, SPEED, Pattern
from base_residual.simulation.materials import BANDS
from base_residual.simulation.rooms import Array

STEP = np.deg2rad(5.0)  # of the tables, in elevation and azimuth
ELEVATIONS, AZIMUTHS = 37, 72
BLUR = np.deg2rad(5.0)  # standard deviation of the weights with which neighbouring measurements are averaged
NEIGHBOURS = 8
FRONT = np.cos(np.deg2rad(30.0))  # directions this near to straight ahead give the level that counts as 0 dB
SOFTEST, LOUDEST = -40.0, 25.0  # dB relative to the front: what lies beyond is noise of the measurement
RADII = (0.04, 0.15)  # metres from a head's centre to its ears that are believed
FINER = 8  # steps per sample, for arrival times
ONSET = 0.1  # of a response's largest value: sound has arrived
MAX_VALUES = 2**28  # numbers in a file's impulse responses
SIZES, MIXED = 0.15, 0.6  # what the spread of a head varies: its size either way, and the largest share of a sphere


@dataclass(frozen=True, eq=False)
class MeasuredHead:
    """A head whose two ears are alike, in the axes forward, outward and up of one ear.

    Attributes:
        level: (elevations, azimuths, bands) in dB relative to the mean in front. Elevations go from -90 to 90 degrees,
            azimuths from straight ahead outwards, all around.
        lag: (elevations, azimuths) seconds that sound takes longer than the straight way to the ear.
        ear_distance: metres between the ears.
    """

    level: Array
    lag: Array
    ear_distance: float

    def gain(self, directions: Array) -> Array:
        """Return the amplitude for directions (N, 3), as (N, bands)."""
        gain: Array = 10 ** (_look_up(self.level, directions) / 20)
        return gain

    def delay(self, directions: Array) -> Array:
        """Return the seconds (N,) that sound takes longer than the straight way to the ear."""
        return _look_up(self.lag[..., None], directions)[:, 0]

    @cached_property
    def diffuse(self) -> Array:
        """Return the mean of the squared amplitude over all directions, (bands,)."""
        mean: Array = (self.gain(ALL_AROUND) ** 2).mean(axis=0)
        return mean

    def scaled(self, size: float) -> MeasuredHead:
        """Return a head `size` times as large: what it does, it does at lower frequencies and later."""
        wanted = np.log(BANDS * size)
        taken = np.stack([np.interp(wanted, np.log(BANDS), unit) for unit in np.eye(len(BANDS))])  # (old, new)
        return MeasuredHead(self.level @ taken, self.lag * size, self.ear_distance * size)

    def equalised(self, share: float) -> MeasuredHead:
        """Return the head for a recorder that takes a share of the diffuse field's colour out: 1 takes out all."""
        return MeasuredHead(self.level - share * 10 * np.log10(self.diffuse), self.lag, self.ear_distance)

    def mixed(self, share: float) -> MeasuredHead:
        """Return a head of which a share, in dB and in seconds, is a rigid sphere of the same size."""
        sphere = Pattern((0.0, 1.0, 0.0), 0.0, head=self.ear_distance / 2)
        ahead = sphere.gain(np.array([[1.0, 0.0, 0.0]]))
        level = 20 * np.log10(sphere.gain(TABLE) / ahead).reshape(self.level.shape)
        lag = sphere.delay(TABLE).reshape(self.lag.shape)
        return MeasuredHead(
            (1 - share) * self.level + share * level, (1 - share) * self.lag + share * lag, self.ear_distance
        )

    def varied(self, rng: np.random.Generator, spread: float) -> MeasuredHead:
        """Draw a head like this one: of another size, otherwise equalised, and in part a sphere."""
        size, taken_out, share = rng.uniform(-SIZES, SIZES), rng.uniform(), rng.uniform(0, MIXED)
        return self.mixed(spread * share).scaled(1 + spread * size).equalised(spread * taken_out)


class _Measured(NamedTuple):
    """What a file holds: unit directions (M, 3) ahead, to the left and up, responses (M, 2, N), left ear first."""

    directions: Array
    responses: Array
    delays: Array  # (M, 2) samples by which the responses are late
    rate: float


def read_head(path: Path) -> MeasuredHead:
    """Read the head of a SOFA file (SimpleFreeFieldHRIR).

    Both ears' measurements are averaged, the right one's in the mirror: the network takes ears to be alike. Of the
    arrival times, the difference between the ears is taken: what is late at both is a fault of the measurement's
    distance or clock. The rigid sphere that fits the differences, by Woodworth's formula, gives the distance between
    the ears, and what both hear late.

    Raises:
        DataError: the file is missing, broken or not of that kind, or its arrival times are no head's.
        MissingExtraError: the package that reads it is not installed.
    """
    measured = _read(path)
    late = [_arrivals(measured.responses[:, ear]) + measured.delays[:, ear] for ear in (0, 1)]
    apart = (late[0] - late[1]) / measured.rate / 2  # seconds by which the left ear hears later than both on average
    to_left = measured.directions[:, 1]
    sphere = (_way_round(to_left) - _way_round(-to_left)) / 2 / SPEED  # the same of a sphere of 1 m radius
    radius = float((sphere * apart).sum() / max((sphere**2).sum(), 1e-30))
    if not RADII[0] <= radius <= RADII[1]:
        raise DataError(
            f"The arrival times in {path} are those of ears {200 * radius:.0f} cm apart; "
            f"expected are {200 * RADII[0]:.0f} to {200 * RADII[1]:.0f} cm, and positive azimuths to the left."
        )
    level, lag = np.zeros((len(TABLE), len(BANDS))), np.zeros(len(TABLE))
    for ear, side in enumerate((1, -1)):
        nearest, weights = _neighbours(measured.directions * [1, side, 1])
        level += (_levels(measured.responses[:, ear], measured.rate)[nearest] * weights[..., None]).sum(axis=1) / 2
        lag += side * ((apart - radius * sphere)[nearest] * weights).sum(axis=1) / 2
    front = TABLE[:, 0] > FRONT
    level -= 10 * np.log10((10 ** (level[front] / 10)).mean(axis=0))
    lag += radius * (_way_round(TABLE[:, 1]) + TABLE[:, 1]) / SPEED
    level = np.clip(level, SOFTEST, LOUDEST)
    return MeasuredHead(
        level.reshape(ELEVATIONS, AZIMUTHS, -1), lag.reshape(ELEVATIONS, AZIMUTHS), ear_distance=2 * radius
    )


def _way_round(outward: Array) -> Array:
    """Return the way to an ear on a sphere of radius 1 beyond that to its centre, by the cosine to the ear's axis."""
    return np.where(outward > 0, -outward, np.arcsin(np.clip(-outward, 0, 1)))


def _read(path: Path) -> _Measured:
    """Read what a SOFA file holds; raise a DataError if it cannot be read."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("A measured head", "heads") from None
    if not path.is_file():  # a device has no end
        raise DataError(f"There is no file {path}. Give a SOFA file with a measured head.")
    try:
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("SOFAConventions", b"")
            kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
            if kind != "SimpleFreeFieldHRIR":
                raise DataError(f"{path} holds '{kind[:40]}'. Expected is a SOFA file of SimpleFreeFieldHRIR.")
            responses = _values(file, "Data.IR", path)
            positions = _vectors(file, "SourcePosition", path)
            axes = _listener(file, path)
            ears = _vectors(file, "ReceiverPosition", path) if "ReceiverPosition" in file else np.zeros((2, 3))
            delays = _values(file, "Data.Delay", path) if "Data.Delay" in file else np.zeros((1, 2))
            rate = float(_values(file, "Data.SamplingRate", path).ravel()[0])
        count = len(positions)
        if responses.ndim != 3 or responses.shape[:2] != (count, 2) or count < NEIGHBOURS or responses.shape[2] < 16:
            raise DataError(
                f"The responses in {path} have shape {responses.shape} for {count} positions. Expected are "
                f"(directions, 2 ears, samples), at least {NEIGHBOURS} directions and 16 samples."
            )
        delays = np.broadcast_to(delays, (count, 2))
    except DataError:
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, MemoryError) as error:
        raise DataError(f"{path} is not a readable SOFA file: {first_line(error)[:120]}.") from error
    length = np.linalg.norm(positions, axis=1, keepdims=True)
    peak = np.abs(responses).max(axis=2)
    if not (length > 1e-6).all() or not (peak > 0).all() or not 8000 <= rate <= 400_000:
        raise DataError(f"{path} holds silent responses, positions within the head or a sampling rate of {rate:g} Hz.")
    if ears[0, 1] < ears[-1, 1]:  # the first receiver is the right ear
        responses, delays = responses[:, ::-1], delays[:, ::-1]
    return _Measured(positions / length @ axes.T, responses, delays, rate)


def _values(file: Any, name: str, path: Path) -> Array:
    """Return a dataset as finite numbers."""
    data = file[name]
    if data.size > MAX_VALUES or data.dtype.kind not in "fiu":
        raise DataError(f"{name} in {path} holds {data.size:,} values of type {data.dtype}. Expected are numbers.")
    values = np.asarray(data[()], dtype=np.float64)
    if not np.isfinite(values).all() or not values.size:
        raise DataError(f"{name} in {path} is empty or holds NaN or infinite values.")
    return values


def _vectors(file: Any, name: str, path: Path) -> Array:
    """Return positions (M, 3), ahead, to the left and up, from Cartesian or spherical coordinates in degrees."""
    values = _values(file, name, path)
    values = values[:, :, 0] if values.ndim == 3 else values
    kind = file[name].attrs.get("Type", b"cartesian")
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if values.ndim != 2 or values.shape[1] != 3 or kind not in ("cartesian", "spherical"):
        raise DataError(f"{name} in {path} is '{kind}' of shape {values.shape}. Expected is a table of 3 columns.")
    if kind == "cartesian":
        return values
    azimuth, elevation = np.deg2rad(values[:, 0]), np.deg2rad(values[:, 1])
    level = np.cos(elevation)
    unit = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=1)
    return unit * np.maximum(values[:, 2:], 1e-3)


def _listener(file: Any, path: Path) -> Array:
    """Return the rotation (3, 3) from the file's axes to the listener's: ahead, to the left and up."""
    if "ListenerView" not in file or "ListenerUp" not in file:
        return np.eye(3)
    ahead = _vectors(file, "ListenerView", path)[0]
    ahead = ahead / np.linalg.norm(ahead)
    left = np.cross(_vectors(file, "ListenerUp", path)[0], ahead)
    if not np.linalg.norm(left) > 1e-3:
        raise DataError(f"The listener in {path} looks straight up. Expected are a view and another direction up.")
    left = left / np.linalg.norm(left)
    return np.stack([ahead, left, np.cross(ahead, left)])


def _levels(responses: Array, rate: float) -> Array:
    """Return the levels (M, bands) of responses (M, N) in dB: mean powers under triangles around the bands' centres."""
    length = 2 ** int(np.ceil(np.log2(max(responses.shape[1], 512))))
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    heard = (frequencies > 100) & (frequencies < min(20_000, 0.45 * rate))
    weights = np.stack([np.interp(frequencies, BANDS, unit) for unit in np.eye(len(BANDS))]) * heard
    total = weights.sum(axis=1)
    held = np.minimum(np.arange(len(BANDS)), np.flatnonzero(total > 0)[-1])  # above the rate, the last band holds on
    power = np.concatenate(
        [np.abs(np.fft.rfft(part, length)) ** 2 @ (weights[held] / total[held, None]).T for part in _parts(responses)]
    )
    level: Array = 10 * np.log10(np.maximum(power, power.max() * 1e-8))
    return level


def _arrivals(responses: Array) -> Array:
    """Return when the sound arrives in responses (M, N), in samples: when a tenth of the largest value is reached."""
    from scipy.signal import resample  # slow to import

    found = []
    for part in _parts(responses):
        fine = np.abs(resample(part, FINER * part.shape[1], axis=1))
        found.append((fine > ONSET * fine.max(axis=1, keepdims=True)).argmax(axis=1) / FINER)
    return np.concatenate(found)


def _parts(responses: Array) -> list[Array]:
    """Return responses in parts that a little memory holds."""
    return np.array_split(responses, int(np.ceil(responses.size / 2**16)))


def _neighbours(directions: Array) -> tuple[NDArray[np.intp], Array]:
    """Return for each direction of the table the measured ones near it, (directions, k), and their weights."""
    from scipy.spatial import KDTree  # slow to import

    chord, nearest = KDTree(directions).query(TABLE, NEIGHBOURS)
    square = (chord**2 - chord[:, :1] ** 2) / BLUR**2
    weights = np.exp(-square / 2)
    return nearest, weights / weights.sum(axis=1, keepdims=True)


def _look_up(table: Array, directions: Array) -> Array:
    """Return the values (N, K) of a table (elevations, azimuths, K) in directions (N, 3), linear between its steps."""
    row = (np.arcsin(np.clip(directions[:, 2], -1, 1)) + np.pi / 2) / STEP
    column = np.arctan2(directions[:, 1], directions[:, 0]) % (2 * np.pi) / STEP
    low, left = np.minimum(row.astype(np.intp), ELEVATIONS - 2), column.astype(np.intp)
    up, right = (row - low)[:, None], (column - left)[:, None]
    left, next_ = left % AZIMUTHS, (left + 1) % AZIMUTHS
    below = (1 - right) * table[low, left] + right * table[low, next_]
    above = (1 - right) * table[low + 1, left] + right * table[low + 1, next_]
    values: Array = (1 - up) * below + up * above
    return values


def _table_directions() -> Array:
    """Return the unit directions (elevations * azimuths, 3) of a table, forward, outward and up."""
    elevation, azimuth = np.arange(ELEVATIONS)[:, None] * STEP - np.pi / 2, np.arange(AZIMUTHS) * STEP
    level, up = np.cos(elevation), np.sin(elevation)
    parts = np.broadcast_arrays(level * np.cos(azimuth), level * np.sin(azimuth), up)
    return np.stack(parts, axis=-1).reshape(-1, 3)


TABLE = _table_directions()
