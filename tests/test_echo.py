"""Pulses between the samples of a recording."""

from __future__ import annotations

import numpy as np

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.simulation.echo import Arrivals, _spectrum, band_weights, draw_chance, draw_still
from base_residual.simulation.materials import BANDS

LENGTH, LATENCY = 4320, 0.001
FREQUENCIES = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)


def exact(arrivals: Arrivals) -> np.ndarray:
    """The sum of one rotating phasor for each pulse."""
    weights = band_weights(LENGTH) if arrivals.gain.shape[1] > 1 else np.ones((1, len(FREQUENCIES)))
    phasors = np.exp(-2j * np.pi * FREQUENCIES * (arrivals.delay[:, None] + LATENCY))
    return np.einsum("nf,nk,kf->f", phasors, arrivals.gain, weights)


def test_pulses_between_samples_have_the_spectrum_of_their_delays() -> None:
    rng = np.random.default_rng(3)
    for bands in (1, len(BANDS)):
        heard = Arrivals(rng.uniform(0, 0.06, 40), rng.standard_normal((40, bands)))
        parts = Arrivals(heard.delay[:9], heard.gain[:9]), Arrivals(heard.delay[9:], heard.gain[9:])
        error = np.abs(_spectrum(parts, LATENCY, 3000, LENGTH) - exact(heard))
        loud = np.sqrt((np.abs(exact(heard)) ** 2).mean())
        assert error[FREQUENCIES < 10_000].max() < 0.002 * loud
        assert error[FREQUENCIES < 20_000].max() < 0.03 * loud


def test_a_pulse_after_the_last_sample_is_left_out_and_one_at_the_first_is_whole() -> None:
    late = Arrivals(np.array([0.0, 3000.5 / SAMPLE_RATE]), np.ones((2, 1)))
    first = Arrivals(late.delay[:1], late.gain[:1])
    np.testing.assert_array_equal(_spectrum((late,), 0.0, 3000, LENGTH), _spectrum((first,), 0.0, 3000, LENGTH))
    pulse = np.fft.irfft(_spectrum((first,), 0.0, 3000, LENGTH), LENGTH)
    assert pulse.argmax() == 0
    assert np.isclose(pulse[0], 1, atol=0.05)


def test_some_recordings_have_no_late_and_some_no_scattered_sound() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_chance(rng, 64) for _ in range(1500)]
    assert abs(np.mean([not chance.field.any() for chance in drawn]) - 0.25) < 0.05
    assert abs(np.mean([not chance.roughness.any() for chance in drawn]) - 0.125) < 0.04


def test_chance_without_ranks_has_an_image_in_the_mirror_too() -> None:
    still = draw_still(np.random.default_rng(0), 8)
    image = still.mirrored()
    assert image.rank is None
    assert np.array_equal(image.noise, still.noise[::-1])
    assert np.array_equal(image.mirrored().roughness, still.roughness)
