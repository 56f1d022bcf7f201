"""Late reverberation: what is left of a sound after more reflections than are followed one by one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from base_residual.simulation.materials import BANDS, Air
from base_residual.simulation.rooms import Array, Room


class DiffuseField(NamedTuple):
    """What decides the sound that has been everywhere in a place.

    Attributes:
        volume: in m3.
        surface: in m2; four times the volume over the surface is the mean free path.
        absorption: (bands,) mean over the surface.
        scattering: (bands,) mean over the surface.
    """

    volume: float
    surface: float
    absorption: Array
    scattering: Array


def late_energy(diffuse: DiffuseField, air: Air, order: int, time: Array, rate: int) -> Array:
    """Return the energy of late reverberation in each sample, for a source whose direct sound has energy 1 at 1 m.

    In a diffuse field, a sound of that energy leaves `4 pi c / V` a second behind, which decays at Eyring's rate and
    by the air. Reflections are followed one by one up to `order`: after a time t, a Poisson number of mean c t / (4 V /
    S) of them has happened, and only the share of energy that has seen more, or was scattered after the first, counts
    as late. So early and late sound join without a step. (Kuttruff, Room Acoustics, 6th edition, 2016, sections 5.1
    and 5.4; Eyring, JASA 1(2), 1930.)

    Args:
        diffuse: of the place.
        air: gives the speed of sound and its attenuation.
        order: highest number of mirror reflections that are followed; of scattered ones, the first is.
        time: (T,) seconds since the emission.
        rate: of the samples, in Hz.

    Returns:
        (T, bands).
    """
    volume, surface, absorption, scattering = diffuse
    way = 4 * volume / surface  # mean free path
    number = air.speed * time[:, None] / way  # mean number of reflections
    followed, term = np.exp(-number) * (1 + number), np.exp(-number) * number
    for reflections in range(2, order + 1):
        term = term * number / reflections
        followed = followed + term * (1 - scattering) ** reflections
    decay = np.log1p(-np.minimum(absorption, 0.999)) * number - air.attenuation(BANDS) * air.speed * time[:, None]
    energy: Array = 4 * np.pi * air.speed / (volume * rate) * np.exp(decay) * np.clip(1 - followed, 0, 1)
    return energy


def reflections_per_second(volume: float, air: Air, time: Array) -> Array:
    """Return how many reflections arrive a second in a rectangular room of a volume in m3, at times (T,) in seconds.

    It is `4 pi c^3 t^2 / V` (Kuttruff, Room Acoustics, 6th edition, 2016, chapter 4): few at first, so that late sound
    begins as single clicks and turns into noise.
    """
    density: Array = 4 * np.pi * air.speed**3 * time**2 / volume
    return density


def measures(room: Room) -> DiffuseField:
    """Return a room's volume in m3, its surface in m2, and the mean absorption and scattering of it, (bands,).

    Boxes count as standing on the floor and apart from each other.
    """
    length, width, height = room.size
    areas = [width * height] * 2 + [length * height] * 2 + [length * width] * 2
    volume = length * width * height
    solids = []
    for box in room.boxes:
        x, y, z = box.size
        volume -= x * y * z
        solids.append(2 * z * (x + y) - (0 if z < 0.95 * height else 2 * x * y))  # a top for the floor that it covers
    for round_ in room.cylinders:
        volume -= np.pi * round_.radius**2 * round_.height
        solids.append(2 * np.pi * round_.radius * round_.height)
    materials = [*room.surfaces, *(solid.material for solid in room.solids)]
    weights = np.maximum([*areas, *solids], 0.0)
    absorption, scattering = (
        np.average(np.array([getattr(material, name) for material in materials]), axis=0, weights=weights)
        for name in ("absorption", "scattering")
    )
    return DiffuseField(max(volume, 0.1 * length * width * height), float(weights.sum()), absorption, scattering)
