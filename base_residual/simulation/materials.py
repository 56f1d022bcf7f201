"""What surfaces and air do to sound, by frequency band."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from base_residual.simulation.rooms import Array, Material

BANDS = np.array([300.0, 900.0, 2000.0, 4000.0, 6500.0, 9500.0, 13500.0, 18000.0])
"""Centres of the frequency bands, in Hz. A linear sweep has most of its energy above 4 kHz, and so has most bands."""

OCTAVES = np.array([125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0])
SPREAD = 0.3  # of an absorption coefficient, as a standard deviation of its logarithm: laboratories and samples differ

# Random-incidence absorption coefficients in the octave bands, as handbooks list them (Everest and Pohlmann, Master
# Handbook of Acoustics, 5th edition, 2009, appendix). Above 4 kHz the last value is taken to hold on.
ABSORPTION: dict[str, tuple[float, ...]] = {
    "brick": (0.01, 0.01, 0.02, 0.02, 0.02, 0.03),
    "concrete block": (0.10, 0.05, 0.06, 0.07, 0.09, 0.08),
    "plaster": (0.013, 0.015, 0.02, 0.03, 0.04, 0.05),
    "gypsum board": (0.29, 0.10, 0.05, 0.04, 0.07, 0.09),
    "wood panel": (0.28, 0.22, 0.17, 0.09, 0.10, 0.11),
    "window": (0.35, 0.25, 0.18, 0.12, 0.07, 0.04),
    "heavy glass": (0.18, 0.06, 0.04, 0.03, 0.02, 0.02),
    "light curtain": (0.03, 0.04, 0.11, 0.17, 0.24, 0.35),
    "heavy curtain": (0.14, 0.35, 0.55, 0.72, 0.70, 0.65),
    "tiles": (0.01, 0.01, 0.01, 0.01, 0.02, 0.02),
    "linoleum": (0.02, 0.03, 0.03, 0.03, 0.03, 0.02),
    "parquet": (0.04, 0.04, 0.07, 0.06, 0.06, 0.07),
    "wood floor": (0.15, 0.11, 0.10, 0.07, 0.06, 0.07),
    "thin carpet": (0.02, 0.06, 0.14, 0.37, 0.60, 0.65),
    "thick carpet": (0.08, 0.24, 0.57, 0.69, 0.71, 0.73),
    "acoustic ceiling": (0.76, 0.93, 0.83, 0.99, 0.99, 0.94),
    "upholstery": (0.19, 0.37, 0.56, 0.67, 0.61, 0.59),
    "people": (0.25, 0.35, 0.42, 0.46, 0.50, 0.50),
    "sky": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
}
WALLS = ("brick", "concrete block", "plaster", "plaster", "gypsum board", "gypsum board", "wood panel", "window")
SOFT_WALLS = ("light curtain", "heavy curtain", "acoustic ceiling")
FLOORS = ("tiles", "linoleum", "parquet", "wood floor", "thin carpet", "thick carpet")
CEILINGS = ("plaster", "gypsum board", "brick", "acoustic ceiling", "wood panel")
FURNITURE = ("wood panel", "wood panel", "heavy glass", "gypsum board", "tiles", "upholstery")


def draw_material(rng: np.random.Generator, name: str, scattering: tuple[float, float]) -> Material:
    """Draw a surface of a kind: its absorption by the table, with a spread, its scattering rising with frequency.

    Args:
        rng: decides.
        name: in `ABSORPTION`.
        scattering: lowest and highest share of the reflected energy that is scattered, at high frequencies.
    """
    listed = np.interp(np.log(BANDS), np.log(OCTAVES), ABSORPTION[name])
    absorption = 1 - (1 - listed) ** np.exp(SPREAD * rng.standard_normal())
    rise = (BANDS / 4000.0) ** rng.uniform(0.1, 0.7)
    scattered = np.clip(rng.uniform(*scattering) * np.minimum(rise, 1.5), 0.0, 0.95)
    return Material(tuple(absorption.tolist()), tuple(scattered.tolist()))


class Air(NamedTuple):
    """The air of a place: temperature in degrees Celsius and relative humidity in percent."""

    temperature: float = 20.0
    humidity: float = 50.0

    @property
    def speed(self) -> float:
        """Return the speed of sound in m/s, that of an ideal gas."""
        return 331.3 * float(np.sqrt(1 + self.temperature / 273.15))

    def attenuation(self, frequency: Array) -> Array:
        """Return what a metre of air takes from sound, as a factor's exponent: energy falls by exp(-m) a metre.

        By ISO 9613-1:1993, equations 3 to 5, and annex B for the water in the air, at one atmosphere.

        Args:
            frequency: (K,) in Hz.

        Returns:
            (K,) m in 1/m.
        """
        kelvin = self.temperature + 273.15
        warm = kelvin / 293.15
        saturation = 10 ** (-6.8346 * (273.16 / kelvin) ** 1.261 + 4.6151)
        water = self.humidity * saturation  # molar concentration in percent
        oxygen = 24 + 4.04e4 * water * (0.02 + water) / (0.391 + water)
        nitrogen = warm**-0.5 * (9 + 280 * water * np.exp(-4.170 * (warm ** (-1 / 3) - 1)))
        relaxing = 0.01275 * np.exp(-2239.1 / kelvin) / (oxygen + frequency**2 / oxygen)
        relaxing = relaxing + 0.1068 * np.exp(-3352.0 / kelvin) / (nitrogen + frequency**2 / nitrogen)
        decibels = 8.686 * frequency**2 * (1.84e-11 * warm**0.5 + warm**-2.5 * relaxing)  # per metre
        exponent: Array = decibels * np.log(10) / 10
        return exponent
