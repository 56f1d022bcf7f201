"""How loudspeakers and ears weigh directions, by frequency band.

Directions are unit vectors (N, 3) in the axes of the loudspeaker or ear: forward, outward and up. Outward is to the
ear's own side of the robot, so that two ears that are alike share one directivity; for a loudspeaker, to the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log, pi, radians, sqrt
from typing import Protocol

import numpy as np

from base_residual.simulation.materials import BANDS
from base_residual.simulation.rooms import Array

SPEED = 343.0  # m/s, in the models of heads
SHADOW_ANGLE = radians(150.0)  # where a sphere's shadow is deepest, from the ear's axis
SILENT = 1e-30  # a pattern at its zero, so that it has a logarithm
SHADOW_LEVEL = 0.1  # of the amplitude that is left there at high frequencies


class Directivity(Protocol):
    """What a loudspeaker or an ear does to sound from, or to, a direction."""

    def gain(self, directions: Array) -> Array:
        """Return the amplitude for directions (N, 3), as (N, bands)."""
        ...

    def delay(self, directions: Array) -> Array:
        """Return the seconds (N,) that sound takes longer than the straight way to the ear."""
        ...

    @property
    def diffuse(self) -> Array:
        """Return the mean of the squared amplitude over all directions, (bands,)."""
        ...


@dataclass(frozen=True)
class Pattern:
    """A family of patterns: `(1 - p + p cos)^order` about an axis, a rigid head's shadow, and smooth deviations.

    `p` is 0 for an omnidirectional ear and 0.5 for a cardioid.

    Attributes:
        axis: (3,) the direction of highest sensitivity.
        p: share of the cosine.
        order: exponent in each band.
        head: radius in metres of the rigid sphere that carries the ear at its side; 0 for none.
        deviation: (15, bands) in dB: factors of the spherical harmonics of first to third order. They stand for what
            pinnae, cases and the robot's own body do.
    """

    axis: tuple[float, float, float]
    p: float
    order: tuple[float, ...] = (1.0,)
    head: float = 0.0
    deviation: tuple[tuple[float, ...], ...] = ()

    def gain(self, directions: Array) -> Array:
        """Return the amplitude for directions (N, 3), as (N, bands)."""
        facing = np.maximum(1 - self.p + self.p * (directions @ np.array(self.axis)), SILENT)
        level = np.outer(np.log(facing).astype(np.float32), np.array(self.order, np.float32))
        if self.deviation:
            level = level + harmonics(directions).T @ (np.array(self.deviation, np.float32) * (log(10) / 20))
        gain: Array = np.exp(level)
        return gain * sphere_shadow(directions[:, 1], self.head) if self.head else gain

    def delay(self, directions: Array) -> Array:
        """Return the way round the head to the ear that it hides, in seconds (N,), by Woodworth's formula."""
        if not self.head:
            return np.zeros(len(directions))
        cosine = np.clip(directions[:, 1], -1, 1)
        behind = np.maximum(np.arccos(cosine) - np.pi / 2, 0)
        delay: Array = self.head * (behind - np.sin(behind)) / SPEED
        return delay

    @cached_property
    def diffuse(self) -> Array:
        """Return the mean of the squared amplitude over all directions, (bands,)."""
        mean: Array = (self.gain(ALL_AROUND) ** 2).mean(axis=0)
        return mean


def sphere_shadow(cosine: Array, radius: float) -> Array:
    """Return what a rigid sphere does to the sound at an ear on it, by direction and band, (N, bands).

    Args:
        cosine: (N,) of the angle between the direction and the ear's axis.
        radius: in metres.

    The model has one pole and one zero: Brown and Duda, "A structural model for binaural sound synthesis", IEEE
    Trans. Speech and Audio Processing 6(5), 1998.
    """
    angle = np.arccos(np.clip(cosine, -1, 1)).astype(np.float32)
    alpha = 1 + SHADOW_LEVEL / 2 + (1 - SHADOW_LEVEL / 2) * np.cos(np.minimum(angle / SHADOW_ANGLE, 1.2) * pi)
    reduced = pi * BANDS * radius / SPEED  # frequency over twice c / radius
    share = (reduced**2 / (1 + reduced**2)).astype(np.float32)
    shadow: Array = np.sqrt(1 - share + np.outer(alpha * alpha, share))
    return shadow


def harmonics(directions: Array) -> Array:
    """Return the real spherical harmonics of orders 1 to 3 of directions (N, 3), with a mean square of 1, (15, N)."""
    x, y, z = np.ascontiguousarray(directions.T, np.float32)  # the table is large
    xx, yy, zz = x * x, y * y, z * z
    first = [x, y, z]
    second = [x * y, x * z, y * z, (xx - yy) / 2, (zz - 1 / 3) * sqrt(3) / 2]
    third = [x * y * z, x * (5 * zz - 1) / sqrt(40), y * (5 * zz - 1) / sqrt(40), z * (5 * zz - 3) / sqrt(60)]
    third += [x * (xx - 3 * yy) / sqrt(24), y * (3 * xx - yy) / sqrt(24), z * (xx - yy) / 2]
    scaled = zip((first, second, third), (3, 15, 105), strict=True)
    return np.stack([sqrt(square) * harmonic for order, square in scaled for harmonic in order])


def _spiral(count: int) -> Array:
    """Return directions (count, 3) that cover the sphere evenly, by the golden angle."""
    height = (np.arange(count) + 0.5) / count * 2 - 1
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    level = np.sqrt(1 - height**2)
    return np.stack([level * np.cos(angle), level * np.sin(angle), height], axis=1)


ALL_AROUND = _spiral(256)
