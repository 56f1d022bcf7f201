"""Heads that are drawn: a rigid sphere, and pinnae that fold sound onto itself. They are not the measured head's kind.

The model is that of Brown and Duda, "A structural model for binaural sound synthesis", IEEE Trans. Speech and Audio
Processing 6(5), 1998: the way round a sphere, its shadow with one pole and one zero, and five echoes of the pinna,
whose delays depend on the direction. Its numbers are drawn around theirs, and sound from behind loses its highs, too.
"""

from __future__ import annotations

import numpy as np
from exam_echoes import LENGTH, RATE, Ears, sphere

SPEED = 343.0  # m/s
DIRECTIONS = 800
SHADOW, DEEPEST = 0.1, np.deg2rad(150.0)  # the amplitude left in the shadow, and where it is deepest
SHARES = np.array([0.5, -1.0, 0.5, -0.25, 0.25])  # of a pinna's echoes
SWING = np.array([1.0, 5.0, 5.0, 5.0, 5.0]) / 44_100  # seconds by which their delays depend on the direction
BEGIN = np.array([2.0, 4.0, 7.0, 11.0, 13.0]) / 44_100  # seconds
TURN = np.array([1.0, 0.5, 0.5, 0.5, 0.5])


def drawn_head(rng: np.random.Generator) -> Ears:
    """Draw a head: its size, the place of its ears, its pinnae, and what it takes from sound that comes from behind."""
    radius, back, below = rng.uniform(0.07, 0.105), np.deg2rad(rng.uniform(0, 15)), np.deg2rad(rng.uniform(-5, 15))
    shares, swing, begin, turn = (
        each * rng.uniform(0.7, 1.3, len(each)) for each in (rng.uniform(0.4, 1) * SHARES, SWING, BEGIN, TURN)
    )
    behind, colour = rng.uniform(3, 10), np.cumsum(rng.normal(0, 2, 8))
    known = sphere(DIRECTIONS)
    frequency = np.fft.rfftfreq(LENGTH, 1 / RATE)
    elevation, ahead = np.arcsin(known[:, 2]), known[:, 0]
    spectra = np.zeros((DIRECTIONS, 2, len(frequency)), complex)
    for ear, side in enumerate((1, -1)):
        axis = np.array([-np.sin(back), side * np.cos(back), -np.sin(below)])
        angle = np.arccos(np.clip(known @ axis / np.linalg.norm(axis), -1, 1))
        late = radius / SPEED * np.where(angle < np.pi / 2, -np.cos(angle), angle - np.pi / 2)
        alpha = 1 + SHADOW / 2 + (1 - SHADOW / 2) * np.cos(np.minimum(angle / DEEPEST, 1.2) * np.pi)
        reduced = 2j * np.pi * frequency * radius / (2 * SPEED)
        shadow = (1 + alpha[:, None] * reduced) / (1 + reduced)
        azimuth = np.arctan2(side * known[:, 1], ahead)
        moved = np.cos(azimuth / 2)[:, None] * np.sin(turn * (np.pi / 2 - elevation)[:, None])
        echoes = np.exp(-2j * np.pi * frequency * (swing * moved + begin)[..., None])  # (D, 5, F)
        pinna = 1 + np.einsum("k,dkf->df", shares, echoes)
        level = np.interp(np.log2(np.maximum(frequency, 1) / 125), np.arange(8), colour)
        level = level - behind * np.clip(-ahead, 0, 1)[:, None] * np.clip(frequency / 6000, 0, 1)
        spectra[:, ear] = shadow * pinna * 10 ** (level / 20) * np.exp(-2j * np.pi * frequency * late[:, None])
    return Ears(np.zeros((2, 3)), measured=(known, spectra))
