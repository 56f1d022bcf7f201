"""Recordings brought to their direct sound, wherever it is in them and whatever lies over it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from base_residual.acoustics import hearing
from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import as_echo_batch
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.hearing import hear, remove_rumble, shift
from base_residual.config.schema import AudioConfig
from base_residual.errors import DataError

RATE = 44_100
AT = 20_000.3  # where the chirp arrives, in samples


def arriving(at: float, *, frames: int = 30_000, rate: int = RATE, chirp: ChirpDesign | None = None) -> Tensor:
    """A recording (1, 2, frames) in which a chirp arrives at both ears at once, between two samples if need be."""
    emitted = (chirp or ChirpDesign()).waveform(rate)
    length = 2 ** int(np.ceil(np.log2(frames + len(emitted))))
    late = np.exp(-2j * np.pi * np.fft.rfftfreq(length) * at)
    sound = np.fft.irfft(np.fft.rfft(emitted, length) * late, length)[:frames]
    return torch.tensor(np.stack([sound, sound]), dtype=torch.float32)[None]


def noise(level: float, frames: int = 30_000) -> Tensor:
    return level * torch.randn(1, 2, frames, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.8])
def test_the_arrival_is_found_within_a_tenth_of_a_sample(rate: int, fraction: float) -> None:
    recording = arriving(1000 + fraction, frames=5000, rate=rate) + noise(0.003, 5000)
    assert float(hear(recording, rate, 2000).arrival) == pytest.approx(1000 + fraction, abs=0.1)


def hum(level: float) -> Tensor:
    return level * torch.sin(2 * torch.pi * 50 * torch.arange(30_000) / RATE)


TROUBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "noise at -40 dB": lambda chirp: chirp + noise(0.01),
    "noise at -20 dB": lambda chirp: chirp + noise(0.1),
    "an echo 10 dB louder": lambda chirp: chirp + 3.16 * arriving(AT + 60),
    "an echo 10 dB louder and soon": lambda chirp: chirp + 3.16 * arriving(AT + 25),
    "a dead ear": lambda chirp: chirp * torch.tensor([[0.0], [1.0]]),
    "a dead ear with an offset": lambda chirp: chirp * torch.tensor([[0.0], [1.0]]) + 0.3,
    "an offset": lambda chirp: chirp + 0.1,
    "hum at -20 dB": lambda chirp: chirp + hum(0.1),
    "hum as loud as the chirp": lambda chirp: chirp + hum(1.0),
    "a second chirp, louder": lambda chirp: chirp + 2 * arriving(AT + 8000),
    "a click before it, louder": lambda chirp: chirp + 3 * torch.nn.functional.one_hot(torch.tensor(900), 30_000),
    "16 bit at -60 dB": lambda chirp: (0.001 * 2**15 * chirp).round() / 2**15,
    "a long fade": lambda chirp: arriving(AT, chirp=ChirpDesign(fade=0.5)),
    "a short fade": lambda chirp: arriving(AT, chirp=ChirpDesign(fade=0.02)),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_first_chirp_is_found_through(trouble: str) -> None:
    heard = hear(TROUBLES[trouble](arriving(AT)), RATE, 3000)
    assert float(heard.arrival) == pytest.approx(AT, abs=0.15)
    assert float(heard.waveform.abs().max()) == pytest.approx(1)


def test_an_offset_of_a_tenth_and_seconds_of_silence_change_nothing_that_is_heard() -> None:
    recording = arriving(300.3, frames=6000) + 0.4 * arriving(1500.7, frames=6000)
    plain = hear(recording, RATE, 3000).waveform
    for same in (recording + 0.1, torch.nn.functional.pad(recording, (20 * 44_100, 0)), 0.01 * recording):
        torch.testing.assert_close(hear(same, RATE, 3000).waveform, plain, rtol=0, atol=2e-3)


@pytest.mark.parametrize("level", [1e-30, 1e-20, 1e-10, 1e-3, 1e4])
@pytest.mark.parametrize("name", ["spectrogram", "mel", "waveform", "matched"])
@pytest.mark.parametrize("emission", ["found", "first"])
def test_no_level_overflows_or_changes_what_a_network_is_given(name: str, level: float, emission: str) -> None:
    recording = arriving(44.0, frames=3000) + 0.3 * arriving(700.0, frames=3000) + noise(1e-3, 3000)
    front_end = EchoFrontEnd(AudioConfig(front_end=name, emission=emission), 32)
    heard = (recording, level * recording)
    if emission == "found":
        heard = tuple(hear(echo, RATE, 2000).waveform for echo in heard)
    expected, found = (front_end(echo) for echo in heard)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_long_recording_is_searched_in_parts_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = torch.cat([arriving(at) for at in (990.4, 4090.4, 4095.9, 4100.0, 29_000.0)]) + 1e-4
    whole = hear(recordings, RATE, 1000).arrival
    monkeypatch.setattr(hearing, "AT_ONCE", 4096)
    torch.testing.assert_close(hear(recordings, RATE, 1000).arrival, whole, rtol=0, atol=0.01)


def test_a_recording_is_heard_among_others_as_it_is_alone() -> None:
    click = torch.nn.functional.one_hot(torch.tensor(29_900), 30_000)
    loud, faint = arriving(500.5), click + 0.005 * arriving(AT)  # behind the filter, one is 80 times as loud
    both = hear(torch.cat([loud, faint]), RATE, 3000)
    for number, recording in enumerate((loud, faint)):
        for found, expected in zip(both, hear(recording, RATE, 3000), strict=True):
            torch.testing.assert_close(found[number], expected[0], rtol=0, atol=1e-5)
    assert float(both.arrival[1]) == pytest.approx(AT, abs=0.15)


@pytest.mark.parametrize("frames", [1, 300, 2000])
def test_what_is_slow_is_the_mean_over_a_hundredth_of_a_second_as_far_as_there_is_sound(frames: int) -> None:
    sound = noise(1.0, frames) + 0.5
    clean = remove_rumble(sound, RATE)
    for place in {0, frames // 2, frames - 1}:
        around = sound[..., max(0, place - 220) : place + 221]
        torch.testing.assert_close(clean[..., place], sound[..., place] - around.mean(dim=-1), rtol=0, atol=1e-5)


def test_a_cut_at_whole_samples_copies_them_and_is_silent_outside_of_the_recording() -> None:
    sound = noise(1.0, 40).expand(2, -1, -1)
    found = shift(sound, torch.tensor([-20.0, 5.0]), 90)
    padded = torch.nn.functional.pad(sound, (20, 60))
    expected = torch.stack([padded[0, :, :90], padded[1, :, 25:115]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_cut_between_samples_keeps_the_level() -> None:
    found = shift(torch.ones(3, 2, 100), torch.tensor([20.1, 20.5, 20.7]), 50)
    torch.testing.assert_close(found, torch.ones(3, 2, 50), rtol=0, atol=1e-6)


def test_what_is_exported_brings_its_own_filters() -> None:
    called: list[str] = []

    def mean_around(signal: Tensor, reach: int) -> Tensor:
        called.append("mean_around")
        return torch.zeros_like(signal)

    def pulse(waveform: Tensor, template: Tensor) -> tuple[Tensor, ...]:
        called.append("pulse")
        return waveform, torch.zeros_like(waveform)

    heard = hear(arriving(500.0, frames=2000), RATE, 300, pulse=pulse, mean_around=mean_around)
    assert called == ["mean_around", "pulse"]
    assert float(heard.arrival) > 500  # of the loudest sample, which no filter has brought to the beginning


def test_silence_stays_silent() -> None:
    heard = hear(torch.zeros(2, 2, 500), RATE, 300)
    assert not heard.waveform.any()


SOUND = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 400))


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", ">i2", "f2", "f4", "f8", "longdouble"])
@pytest.mark.parametrize("tensor", [False, True])
def test_integers_of_any_width_mean_full_scale(kind: str, tensor: bool) -> None:
    if kind[-2] in "iu":
        bounds = np.iinfo(kind)
        full = (bounds.max - bounds.min) // 2
        given = (np.round(SOUND * full) + (full + 1 if kind[0] == "u" else 0)).astype(kind)
    else:
        given = SOUND.astype(kind)
    if tensor:
        if kind in (">i2", "longdouble"):
            pytest.skip("no type of PyTorch")
        given = torch.from_numpy(given)
    step = 2.0 ** -(8 * int(kind[-1]) - 1) if kind[-2] in "iu" else 2.0**-11
    np.testing.assert_allclose(as_echo_batch(given)[0], SOUND, rtol=0, atol=max(2 * step, 1e-6))


def test_samples_of_sixteen_bits_stay_exact_in_a_wider_type() -> None:
    few = torch.tensor([[1, 100, 500, 1000], [5000, 32767, -300, 0]])
    torch.testing.assert_close(as_echo_batch(few)[0], (few.double() / 2**63).float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, 9), bool), "holds bool; expected are real numbers"),
        (np.zeros((2, 9), complex), "holds complex128; expected are real numbers"),
        (np.full((2, 9), "a"), "is no array of real numbers"),
        (np.full((2, 9), {}), "is no array of real numbers"),
        (np.full((2, 9), 1e6), "some beyond 32768; full scale is 1"),
        (np.full((2, 9), 1e300), "some beyond 32768; full scale is 1"),
        (np.full((2, 9), np.nan), "holds NaN, infinite samples"),
    ],
)
def test_what_is_no_sound_is_refused_in_a_sentence(given: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_echo_batch(given)
