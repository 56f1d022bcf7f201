from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from base_residual.acoustics.binaural import (
    STEP,
    binaural_cues,
    edges_below_nyquist,
    local_energy,
    moving_mean,
    steps_to_average,
)
from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.acoustics.emission import direct_sound, find_emission, find_onset, loudest_ear
from base_residual.acoustics.framing import cut, echo_frames, resample
from base_residual.acoustics.front_end import EchoFrontEnd, mel_filters
from base_residual.acoustics.hearing import lead_frames
from base_residual.acoustics.matched_filter import (
    analytic_weights,
    band_weights,
    compress,
    compress_in_bands,
    fast_length,
)
from base_residual.acoustics.recordings import read_echo
from base_residual.config.schema import AudioConfig
from base_residual.errors import DataError, ShapeError


def write(path: Path, sound: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, sound, rate, subtype)
    return path


def test_the_echo_is_cut_to_what_can_come_back() -> None:
    assert echo_frames(30.0) == 7782
    assert echo_frames(12.0) == 3112


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 1e-7)]
)
def test_every_sample_format_reads_as_the_same_sound(tmp_path: Path, subtype: str, step: float) -> None:
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (500, 2))
    header, waveform = read_echo(write(tmp_path / "echo.wav", sound, subtype=subtype))
    assert (header.sample_rate, header.subtype) == (SAMPLE_RATE, subtype)
    assert waveform.dtype == torch.float32
    np.testing.assert_allclose(waveform.numpy(), sound.T, atol=2 * step)


def test_an_echo_is_cut_or_padded_with_silence() -> None:
    echo = torch.ones(2, 100)
    assert cut(echo, 60).shape == (2, 60)
    padded = cut(echo, 150)
    assert padded.shape == (2, 150)
    assert padded[:, 100:].abs().max() == 0


def test_another_rate_is_resampled_to_the_same_moment() -> None:
    time = np.arange(4800) / 48_000
    click = np.exp(-(((time - 0.05) / 0.001) ** 2))
    resampled = resample(torch.tensor(np.stack([click, click]), dtype=torch.float32), 48_000, SAMPLE_RATE)
    assert resampled.shape == (2, 4410)
    assert int(resampled[0].argmax()) == pytest.approx(0.05 * SAMPLE_RATE, abs=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p, "does not exist"),
        (lambda p: p.write_bytes(b"no sound at all") and p, "not a readable sound file"),
        (lambda p: write(p, np.zeros((100, 1))), "has 1 channel; expected are 2"),
        (lambda p: write(p, np.zeros((100, 3))), "has 3 channels; expected are 2"),
        (lambda p: write(p, np.zeros((0, 2))), "0 frames"),
        (lambda p: write(p, np.zeros((8000 * 61, 2)), rate=8000), "1 frame to 60 s"),
        (lambda p: write(p, np.full((100, 2), np.nan), subtype="FLOAT"), "holds NaN, infinite samples"),
        (lambda p: write(p, np.full((100, 2), 2.0**23), subtype="FLOAT"), "or some beyond 32768"),
    ],
)
def test_a_recording_that_cannot_be_used_says_why(tmp_path: Path, make: object, words: str) -> None:
    path = make(tmp_path / "echo.wav")  # type: ignore[operator]
    with pytest.raises(DataError, match=words):
        read_echo(path)


def test_a_truncated_recording_is_refused_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "echo.wav", np.zeros((1000, 2)))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError):
        read_echo(path)


def front_end(name: str, size: int = 32, **settings: int | str) -> EchoFrontEnd:
    return EchoFrontEnd(AudioConfig(front_end=name, **settings), size)


FRONT_ENDS = ("spectrogram", "mel", "waveform", "matched")


def in_samples(features: torch.Tensor, channel: int) -> torch.Tensor:
    """Return a channel (B, T) of what a front end over time gives a step at a time."""
    return features[:, STEP * channel : STEP * (channel + 1)].transpose(1, 2).flatten(1)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_batch_gives_what_its_echoes_give_one_by_one(name: str) -> None:
    echoes = torch.randn(3, 2, 2001)
    make = front_end(name)
    together = make(echoes)
    assert together.shape[:2] == (3, make.channels)
    torch.testing.assert_close(together[1:2], make(echoes[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_the_gain_of_the_recorder_does_not_matter(name: str) -> None:
    echoes = torch.randn(2, 2, 2000)
    quiet, loud = front_end(name)(0.02 * echoes), front_end(name)(echoes)
    torch.testing.assert_close(quiet[:, :24], loud[:, :24], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quiet, loud, rtol=1e-3, atol=5e-3)  # rounding has more of the sound of a single band


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_the_level_difference_between_the_ears_survives(name: str) -> None:
    echoes = torch.randn(1, 2, 2000)
    echoes[:, 1] *= 0.1
    features = front_end(name)(echoes)
    over_time = name in ("waveform", "matched")
    left, right = (in_samples(features, ear) if over_time else features[:, ear] for ear in range(2))
    if name == "waveform":
        left, right = left.abs(), right.abs()
    assert left.mean() > right.mean() + 0.1


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_silence_gives_finite_features(name: str) -> None:
    assert torch.isfinite(front_end(name)(torch.zeros(1, 2, 2000))).all()


def test_the_matched_filter_peaks_where_the_echo_begins() -> None:
    echo, delays = torch.zeros(1, 2, 3112), (700, 712)
    chirp = torch.from_numpy(ChirpDesign().waveform()).float()
    for ear, delay in enumerate(delays):
        echo[0, ear, delay : delay + len(chirp)] = chirp
    features = front_end("matched", emission="first", template="chirp")(echo)
    assert [int(in_samples(features, ear).argmax()) for ear in range(2)] == list(delays)


def test_the_matched_level_equals_correlation_and_hilbert_envelope_by_scipy() -> None:
    echo = np.random.default_rng(0).standard_normal((2, 1500))
    template = ChirpDesign().waveform()
    # Negative lags wrap around to the end, as in any product of spectra.
    full = np.stack([scipy.signal.correlate(ear, template, "full") for ear in echo])
    lags = scipy.signal.correlation_lags(1500, len(template), "full")
    compressed = np.zeros((2, fast_length(1500 + len(template), STEP)))
    compressed[:, lags] = full
    envelope = np.abs(scipy.signal.hilbert(compressed))[:, :1500]
    expected = 1 - 2 * np.log(envelope / envelope.max() + 1e-4) / np.log(1e-4)
    features = front_end("matched", emission="first", template="chirp")(torch.from_numpy(echo)[None].float())
    for ear in range(2):
        np.testing.assert_allclose(in_samples(features, ear)[0], expected[ear], atol=1e-3)


@pytest.mark.parametrize("louder", [3.0, 300.0])
@pytest.mark.parametrize("name", ["matched", "spectrogram", "mel"])
def test_levels_are_relative_to_the_direct_sound_however_loud_an_echo_is(name: str, louder: float) -> None:
    chirp, lead = torch.from_numpy(ChirpDesign().waveform()).float(), lead_frames(44_100)
    echo = torch.zeros(1, 2, 2000)
    echo[..., lead : lead + len(chirp)] = chirp
    plain = front_end(name)(echo)[:, : 2 * STEP if name == "matched" else 2]  # the levels of both ears
    echo[..., 1200 : 1200 + len(chirp)] = louder * chirp
    levels = front_end(name)(echo)[:, : plain.shape[1]]
    steps = slice((lead - 8) // STEP, (lead + 8) // STEP) if name == "matched" else slice(0, 12)  # direct sound alone
    torch.testing.assert_close(levels[..., steps], plain[..., steps], rtol=0, atol=0.1)
    assert 0.94 < float(plain.max()) < 1.001
    assert float((levels - plain).max()) > 0.45 * np.log10(louder)
    assert float(levels.max()) == pytest.approx(float(plain.max()) + 0.5 * np.log10(louder), abs=0.1)


@pytest.mark.parametrize(("given", "own"), [({}, True), ({"emission": "first"}, False), ({"template": "chirp"}, False)])
def test_the_template_is_as_long_as_the_emitted_sound_or_its_gate(given: dict[str, str], own: bool) -> None:
    made = front_end("matched", **given)
    assert made.template_frames == len(made.gate if own else made.template)
    assert len(made.gate) == len(made.template) + 9 + 31


def test_a_front_end_stays_in_full_precision() -> None:
    made = front_end("matched").half()
    assert {buffer.dtype for buffer in made.buffers()} == {torch.float32}
    assert torch.equal(made.template, front_end("matched").template)


@pytest.mark.parametrize("delay", [0, 7, 250])
def test_the_direct_sound_is_found_where_it_begins_at_the_louder_ear(delay: int) -> None:
    emitted = torch.from_numpy(ChirpDesign(fade=0.01).waveform()).float()
    echo = torch.zeros(2, 2, 1000)
    echo[0, 0, delay : delay + 132], echo[0, 1, delay : delay + 132] = 0.5 * emitted, 0.9 * emitted
    echo[0, :, 400:532] += 0.2 * emitted
    echo[1] = echo[0].flip(0)
    found = loudest_ear(direct_sound(echo, 132))
    # The sweep starts at a zero crossing: a few samples pass before it is a tenth as loud as it gets.
    late = find_onset(echo) - delay
    assert (late >= 0).all()
    assert (late < 15).all()
    start = int(late[0])
    torch.testing.assert_close(found[:, : 132 - start], 0.9 * emitted[start:].expand(2, -1))


def test_the_first_sample_that_is_a_tenth_as_loud_as_the_loudest_is_the_onset() -> None:
    echo = torch.zeros(1, 2, 10)
    echo[0, 1, 3], echo[0, 1, 4], echo[0, 0, 7] = 0.0999, 0.1, 1.0
    assert find_onset(echo).tolist() == [4]


def test_the_level_of_one_recording_does_not_move_the_onset_of_another() -> None:
    shape = torch.tensor([0.0, 0.05, 0.2, 1.0, 0.3]).expand(2, -1)
    assert find_onset(torch.stack([0.003 * shape, shape, 500 * shape])).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("length", "weights"), [(4, [1, 2, 1]), (5, [1, 2, 2]), (9, [1, 2, 2, 2, 2])])
def test_an_analytic_signal_has_twice_what_lies_between_0_hz_and_the_highest_frequency(
    length: int, weights: list[float]
) -> None:
    assert analytic_weights(length, torch.device("cpu")).tolist() == weights


def test_each_echo_is_compressed_with_its_own_template() -> None:
    echo, templates = torch.randn(3, 2, 500), torch.randn(3, 40)
    together = compress(echo, templates)
    for place in range(3):
        torch.testing.assert_close(together[place], compress(echo[place : place + 1], templates[place])[0])


def test_the_direct_template_knows_an_emitted_sound_that_is_no_chirp() -> None:
    generator = torch.Generator().manual_seed(0)
    emitted = torch.randn(132, generator=generator)
    echo = torch.zeros(1, 2, 2000)
    echo[0, :, 20:152] = emitted
    for ear, delay in enumerate((800, 810)):
        echo[0, ear, delay : delay + 132] += 0.5 * emitted
    late, by_chirp = (
        torch.stack([in_samples(features, ear)[0, 400:] for ear in range(2)])
        for template in ("direct", "chirp")
        for features in [front_end("matched", emission="first", template=template)(echo)]
    )
    assert [int(level.argmax()) + 400 for level in late] == [800, 810]
    # What is compressed stands out of its surroundings more than what is not.
    assert float((late.amax(1) - late.median(1).values).min()) > float(
        (by_chirp.amax(1) - by_chirp.median(1).values).max()
    )


def test_a_moving_mean_at_the_edge_is_over_what_is_there() -> None:
    torch.testing.assert_close(moving_mean(torch.ones(1, 2, 20), 9), torch.ones(1, 2, 20))


def test_coherence_is_one_for_equal_ears_and_small_for_strangers() -> None:
    ear = torch.randn(1, 1, 3000)
    same = front_end("matched")(torch.cat([ear, ear], dim=1))
    other = front_end("matched")(torch.randn(1, 2, 3000))
    torch.testing.assert_close(in_samples(same, 4), torch.ones(1, 3000), rtol=1e-3, atol=1e-3)
    across = torch.stack([in_samples(other, channel) for channel in (4, 5)])
    assert across.square().sum(dim=0).sqrt().mean() < 0.8


@pytest.mark.parametrize("kind", ["waveform", "spectrogram", "mel", "matched"])
def test_a_front_end_knows_what_swapping_the_ears_does_to_its_features(kind: str) -> None:
    echoes = torch.randn(2, 2, 1000)
    ears = front_end(kind)
    here, there = ears(echoes), ears(echoes.flip(1))
    for channel, (place, sign) in enumerate(ears.swapped):
        torch.testing.assert_close(there[:, channel], sign * here[:, place], rtol=1e-3, atol=1e-4)


def test_a_band_hears_what_lies_in_it_and_no_other_sound() -> None:
    time = torch.arange(4000) / SAMPLE_RATE
    edges, chirp = (500.0, 2000.0, 8000.0), torch.from_numpy(ChirpDesign().waveform()).float()
    for tone, heard in ((1000.0, 0), (4000.0, 1)):
        echo = torch.sin(2 * math.pi * tone * time).expand(1, 2, -1)
        whole, bands = compress_in_bands(echo, chirp, edges, SAMPLE_RATE, STEP)
        inside = slice(200, 800)  # steps away from the edges of the recording
        level = bands[0, :, 0, inside].abs().mean(dim=-1)
        assert level[1 - heard] < 0.01 * level[heard]
        torch.testing.assert_close(bands[0, heard, :, inside], whole[0, :, ::STEP][:, inside], rtol=0.01, atol=0.5)


def test_bands_side_by_side_add_up_to_the_whole() -> None:
    weights = band_weights(4096, (500, 2000, 8000), SAMPLE_RATE, torch.device("cpu")).sum(dim=0)
    whole = analytic_weights(4096, torch.device("cpu"))
    frequency = torch.arange(2049) * SAMPLE_RATE / 4096
    inside = (frequency > 600) & (frequency < 6700)  # a quarter of an octave from the outer edges
    torch.testing.assert_close(weights[inside], whole[inside])
    assert weights[(frequency < 400) | (frequency > 9600)].abs().max() == 0


@pytest.mark.parametrize(("rate", "bands"), [(8_000, 2), (16_000, 3), (44_100, 4), (192_000, 4)])
def test_bands_that_no_recording_of_the_rate_holds_are_left_out(rate: int, bands: int) -> None:
    made = front_end("matched", sample_rate=rate)
    assert made.channels == 24 + 4 * bands
    assert made(torch.randn(1, 2, 2001)).shape == (1, made.channels, 501)


def test_bands_end_at_half_the_rate() -> None:
    bands = (300.0, 2000.0, 5000.0, 10_000.0, 20_000.0)
    assert edges_below_nyquist(bands, 10_000) == bands[:3]  # the third begins where the recording ends
    assert edges_below_nyquist(bands, 12_000) == bands[:4]
    assert edges_below_nyquist(bands, 600) == ()
    assert steps_to_average(7000.0, 20_000.0, 16_000) == steps_to_average(7000.0, 8000.0, 16_000) == 13
    assert steps_to_average(0.0, 20_000.0, 44_100) == 3  # one would do


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
def test_a_narrow_band_is_averaged_over_a_longer_time(rate: int) -> None:
    edges = edges_below_nyquist(AudioConfig().bands, rate)
    widths = [min(high, rate / 2) - low for low, high in pairwise(edges)]
    steps = [steps_to_average(*band, rate) for band in pairwise(edges)]
    assert all(count % 2 == 1 and count >= 3 for count in steps)
    assert [count * STEP / rate for count in steps] == pytest.approx(
        [max(3 * STEP / rate, 3 / width) for width in widths], abs=1.1 * STEP / rate
    )


def test_the_cues_of_a_delayed_and_weaker_ear_are_its_level_and_its_phase() -> None:
    time, frequency, delay, weaker = torch.arange(2000) / SAMPLE_RATE, 1000.0, 1e-4, 0.5
    sides = [
        torch.polar(torch.full_like(time, gain), 2 * math.pi * frequency * (time - late))
        for gain, late in ((1.0, 0.0), (weaker, delay))
    ]
    both = torch.stack(sides)[None]
    pulse = both.real, both.imag
    level, difference, real, imag = binaural_cues(pulse, local_energy(pulse, 9), 9, None)[0, :, 500]
    decibels = 20 * math.log10(1 / weaker)
    assert float(level) == pytest.approx(1 - decibels / 2 / 40, abs=1e-3)  # 40 dB for each 1
    assert float(difference) == pytest.approx(4 * decibels / 40, abs=1e-3)
    assert float(torch.hypot(real, imag)) == pytest.approx(1, abs=1e-3)
    assert float(torch.atan2(imag, real)) == pytest.approx(2 * math.pi * frequency * delay, abs=1e-3)


def test_equal_ears_are_coherent_in_every_band() -> None:
    ear = torch.randn(1, 1, 3000)
    features = front_end("matched")(torch.cat([ear, ear], dim=1))
    for first in range(24, features.shape[1], 4):
        assert features[:, first + 1].abs().max() == 0
        torch.testing.assert_close(features[:, first + 2, :700], torch.ones(1, 700), rtol=0, atol=1e-3)


def test_a_band_without_sound_has_no_cues() -> None:
    chirp, lead = torch.from_numpy(ChirpDesign().waveform()).float(), lead_frames(SAMPLE_RATE)
    echo = torch.zeros(1, 2, 3000)
    echo[..., lead : lead + len(chirp)] = chirp
    echo[0, 0, 1500 : 1500 + len(chirp)] = 0.1 * chirp
    frequency = torch.fft.rfftfreq(3000, 1 / SAMPLE_RATE)
    echo = torch.fft.irfft(torch.fft.rfft(echo) * ((8000 - frequency) / 2000).clamp(0, 1))
    features = front_end("matched", template="chirp")(echo)
    assert features[0, -3:, 20:-50].abs().max() < 1e-3  # of 10 to 20 kHz: no difference, no coherence
    assert features[0, -7].max() > 0.5  # of 5 to 10 kHz, where one ear hears more


@pytest.mark.parametrize("edges", [[300], [300, 300], [300, 400], [2000, 300], [-1, 300], [30_000, 50_000]])
def test_bands_that_cannot_be_are_refused(edges: list[float]) -> None:
    with pytest.raises(ValueError, match=r"half an octave|greater than or equal to 20|lack"):
        AudioConfig(bands=edges)


def test_the_spectrogram_equals_the_one_by_scipy() -> None:
    config = AudioConfig(front_end="spectrogram", emission="first", n_fft=64, win_length=64, hop_length=16)
    echo = np.random.default_rng(1).standard_normal((2, 16 * 32))
    window = scipy.signal.get_window("hann", 64)
    stft = scipy.signal.ShortTimeFFT(window, hop=16, fs=SAMPLE_RATE, scale_to=None, phase_shift=None)
    magnitude = np.abs(stft.stft(echo, p0=0, p1=33))[:, ::-1]  # high frequencies on top
    expected = 1 - 2 * np.log(magnitude / magnitude.max() + 1e-4) / np.log(1e-4)
    found = EchoFrontEnd(config, 33)(torch.from_numpy(echo)[None].float())
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_a_tone_lights_up_its_mel_band() -> None:
    filters = mel_filters(32, 512, SAMPLE_RATE)
    assert filters.shape == (32, 257)
    torch.testing.assert_close(filters.sum(dim=1), torch.ones(32))
    peaks = filters.argmax(dim=1)
    assert (peaks.diff() >= 0).all()
    assert peaks[-1] > 200


@pytest.mark.parametrize("shape", [(2, 1000), (1000, 2), (1, 3, 1000)])
def test_echoes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="2 ears"):
        front_end("matched")(torch.zeros(shape))


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_front_end_has_nothing_that_a_checkpoint_would_keep(name: str) -> None:
    assert not front_end(name).state_dict()


def test_a_recording_begins_with_its_chirp_or_with_the_silence_before_it() -> None:
    chirp = torch.from_numpy(ChirpDesign().waveform()).float()
    recordings = torch.zeros(2, 2, 2000)
    recordings[0, :, 13 : 13 + len(chirp)] = chirp  # 0.1 m to the ears
    recordings[1, :, 513 : 513 + len(chirp)] = chirp
    at_once, late = find_emission(recordings, 44_100).tolist()
    assert at_once == 0
    assert 500 - 44 < late < 500  # early, by less than a millisecond


def test_an_echo_shorter_than_the_gate_of_its_direct_sound_is_heard() -> None:
    frames = echo_frames(0.5)
    found = front_end("matched")(torch.randn(2, 2, frames, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, 40, -(-frames // 4))
    assert bool(found.isfinite().all())
