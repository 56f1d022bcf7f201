"""What is said about recordings whose predictions are not to be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, write_batvision
from test_cli import brdepth
from torch import Tensor

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.doubts import CHIRP_LIKE, LISTENED, ear_delay, examine, likeness
from base_residual.acoustics.framing import resample
from base_residual.acoustics.hearing import fit_echo, hear
from base_residual.acoustics.recordings import read_echo
from base_residual.config.resolve import make_config
from base_residual.config.schema import AudioConfig
from base_residual.data.batvision import list_recordings
from base_residual.data.check import check_data
from base_residual.data.sample import EchoSample
from base_residual.data.splits import look_at_split
from base_residual.deploy.benchmark import measure
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model

RATE, FRAMES = 44_100, 2075  # 8 m
FIRST = AudioConfig(emission="first", template="chirp")


def recording(late: int = 1000, frames: int = 6000) -> Tensor:
    """A chirp and an echo in noise at -60 dB, (2, T)."""
    sound = 1e-3 * torch.randn(2, frames, generator=torch.Generator().manual_seed(0))
    chirp = torch.from_numpy(0.5 * ChirpDesign().waveform()).float()
    sound[:, late : late + 132] += chirp
    sound[1, late + 400 : late + 532] += 0.5 * chirp
    return sound


def one_ear(sound: Tensor) -> Tensor:
    return torch.stack([1e-4 * sound[0] + 0.05, sound[1]])


def muffled(sound: Tensor) -> Tensor:
    """The sound below 6 kHz, which is the first third of a chirp."""
    return resample(resample(sound, RATE, 12_000), 12_000, RATE)[..., : sound.shape[-1]]


def flat_top(sound: Tensor, samples: int) -> Tensor:
    """The sound, and some samples of one ear at full scale."""
    return torch.stack([sound[0], sound[1].index_fill(0, 4001 + torch.arange(samples), 1.0)])


DOUBTFUL: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "nothing": (lambda sound: sound, []),
    "faint": (lambda sound: 1e-20 * sound, []),
    "an offset": (lambda sound: sound + 0.1, []),
    "a muffled chirp that no echo follows": (lambda sound: muffled(sound[0] * torch.tensor([[1.0], [0.8]])), []),
    "an offset that is far louder": (lambda sound: 0.02 * torch.stack([0.2 * sound[0], sound[1]]) + 0.5, []),
    "silence": (lambda sound: 0 * sound, ["is silent"]),
    "an offset alone": (lambda sound: 0 * sound + 0.3, ["is silent"]),
    "faint noise": (lambda sound: 1e-7 * torch.randn(2, 6000), ["is silent"]),
    "a dead ear": (one_ear, ["is silent in its left ear"]),
    "the other dead ear": (lambda sound: one_ear(sound).flip(0), ["is silent in its right ear"]),
    "one ear twice": (lambda sound: sound[:1].expand(2, -1), ["has the same in both ears, which"]),
    "noise": (lambda sound: 0.1 * torch.randn(2, 6000), ["holds no chirp that could be found"]),
    "its end": (
        lambda sound: sound[:, :2000],
        ["ends 0.024 s after its chirp, and an echo from 8 m is back after 0.04"],
    ),
    "clipped": (lambda sound: (8 * sound).clamp(-1, 1), ["is clipped"]),
    "clipped below full scale": (lambda sound: (8 * sound).clamp(-0.995, 0.995), ["is clipped"]),
    "eight samples at full scale": (lambda sound: flat_top(sound, 8), ["is clipped"]),
    "seven samples at full scale": (lambda sound: flat_top(sound, 7), []),
    "flat tops far below full scale": (lambda sound: (8 * sound).clamp(-1, 1) / 2, []),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_recording_is_doubted_for(kind: str) -> None:
    torch.manual_seed(0)
    change, expected = DOUBTFUL[kind]
    (doubts,) = examine(change(recording())[None], RATE, FRAMES, AudioConfig()).doubts
    assert len(doubts) == len(expected)
    assert all(doubt.startswith(start) for doubt, start in zip(doubts, expected, strict=True))


@pytest.mark.parametrize("colour", [-1.0, -0.5, 0.0, 0.5, 1.0], ids=["violet", "blue", "white", "pink", "brown"])
@pytest.mark.parametrize("frames", [2205, 44_100])
def test_noise_of_no_colour_is_a_chirp(colour: float, frames: int) -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((8, 2, frames)))
    sound = np.fft.irfft(spectrum / np.arange(1.0, spectrum.shape[-1] + 1) ** colour, frames)
    assert examine(torch.tensor(sound, dtype=torch.float32), RATE, None, AudioConfig()).emission == [None] * 8


@pytest.mark.parametrize("sound", ["click", "tone", "speech", "hum"])
def test_other_sounds_are_no_chirp(sound: str) -> None:
    time = torch.arange(20_000) / RATE
    sounds = {
        "click": (time == time[9000]).float(),
        "tone": torch.sin(2 * torch.pi * 3000 * time),
        "hum": torch.sin(2 * torch.pi * 50 * time),
        "speech": sum(torch.sin(2 * torch.pi * 120 * k * time) / k for k in range(1, 40)) * torch.sin(9 * time).abs(),
    }
    both = torch.stack([sounds[sound], 0.9 * sounds[sound]]) + 1e-3 * torch.randn(2, 20_000)
    assert examine(both[None], RATE, FRAMES, AudioConfig()).emission == [None]


def test_a_chirp_is_known_through_a_loudspeaker_that_emits_little_of_it_and_in_reverberation() -> None:
    generator = torch.Generator().manual_seed(0)
    decay = torch.exp(-torch.arange(6000) / 1200) * torch.randn(2, 6000, generator=generator)
    dull = torch.tensor([1.0, 0.7, 0.3])
    sounds = torch.nn.functional.conv1d(recording()[:, None], dull[None, None], padding="same")[:, 0]
    tail = torch.fft.irfft(torch.fft.rfft(sounds, 12_000) * torch.fft.rfft(0.05 * decay, 12_000))[:, :6000]
    heard = hear((sounds + tail)[None], RATE, round(LISTENED * RATE))
    assert float(likeness(heard.waveform, RATE)) > CHIRP_LIKE


def test_the_real_recording_is_trusted_at_every_rate_that_holds_its_chirp(real_root: Path) -> None:
    _, sound = read_echo(list_recordings(real_root, "test")[0].audio[0])
    for rate in (44_100, 48_000, 96_000, 32_000):
        found = examine(resample(sound[None], RATE, rate), rate, 7782, AudioConfig())
        assert (found.doubts, found.remarks) == ([[]], [""])
        assert found.emission[0] == pytest.approx(0.0065, abs=1e-4)
    for rate in (8_000, 16_000, 22_050):
        (doubts,) = examine(resample(sound[None], RATE, rate), rate, 7782, AudioConfig()).doubts
        assert doubts == [f"has {rate} Hz, too few for a chirp that goes up to 20 kHz"]
        own = AudioConfig(sample_rate=rate)  # what the network was trained with is the normal case
        assert "Hz" not in " ".join(examine(resample(sound[None], RATE, rate), rate, 1000, own).doubts[0])


@pytest.mark.parametrize("audio", [AudioConfig(), FIRST], ids=["found", "first"])
def test_what_is_doubted_or_not_is_what_a_network_takes(audio: AudioConfig) -> None:
    sounds = torch.stack([recording(), recording(late=300), 0 * recording()])
    for frames in (FRAMES, None):  # without a network, a twentieth of a second
        taken = fit_echo(sounds, 48_000, frames or 2205, audio)
        assert torch.equal(examine(sounds, 48_000, frames, audio).waveform, taken)


@pytest.mark.parametrize(("rate", "own_rate"), [(30_000, RATE), (29_400, RATE), (48_000, 22_050), (22_050, 22_050)])
def test_a_recording_is_doubted_whose_rate_does_not_hold_the_chirp_that_the_network_knows(
    rate: int, own_rate: int
) -> None:
    sound = resample(recording(frames=12_000)[None], RATE, rate)
    (doubts,) = examine(sound, rate, 1000, AudioConfig(sample_rate=own_rate)).doubts
    few = rate == 29_400
    assert doubts == ([f"has {rate} Hz, too few for a chirp that goes up to 20 kHz"] if few else [])


def test_a_recording_is_as_long_as_what_is_used_of_it() -> None:
    noise = 0.1 * torch.randn(2, FRAMES, generator=torch.Generator().manual_seed(0))
    assert examine(noise[None], RATE, FRAMES, AudioConfig()).doubts == [["holds no chirp that could be found"]]
    assert examine(recording(late=600, frames=FRAMES)[None], RATE, FRAMES, FIRST).doubts == [[]]
    ((short,),) = examine(recording(late=600, frames=1500)[None], RATE, FRAMES, FIRST).doubts
    assert short == "ends 0.034 s, and an echo from 8 m is back after 0.047 s"


def test_the_direct_sound_comes_to_the_right_ear_later_or_earlier() -> None:
    chirp = torch.from_numpy(ChirpDesign().waveform()).float()
    delays = (-44, -20, 0, 13, 44, 45)  # samples; the last is more than there is between two ears
    echoes = torch.zeros(len(delays), 2, 1000)
    for echo, delay in zip(echoes, delays, strict=True):
        for ear, start, level in ((0, 44, 1), (1, 44 + delay, 1), (0, 225, 10), (1, 230, 10)):  # a louder echo follows
            echo[ear, start : start + 132] += level * chirp
    found = (ear_delay(echoes, RATE) * RATE).tolist()
    assert found[:5] == pytest.approx(delays[:5])
    assert abs(found[5]) <= 44


def test_what_is_used_is_said_where_it_is_late_or_little() -> None:
    sounds = [recording(late=44_100, frames=50_000), recording(frames=60_000), recording()]
    remarks = [examine(sound[None], RATE, FRAMES, AudioConfig()).remarks[0] for sound in sounds]
    assert examine(sounds[2][None], RATE, FRAMES, AudioConfig()).emission == [0.022676]  # to a microsecond
    assert remarks == [
        "chirp found at 1.000 s; 0.047 s of 1.13 s are used",
        "chirp found at 0.023 s; 0.047 s of 1.36 s are used",
        "",
    ]


def test_a_network_of_recordings_that_begin_with_the_emission_doubts_those_that_begin_late() -> None:
    assert examine(recording()[None], RATE, FRAMES, FIRST).doubts == [[]]
    assert examine(0.1 * torch.randn(1, 2, 6000), RATE, FRAMES, FIRST).doubts == [[]]  # its direct sound may be cut off
    ((doubt,),) = examine(recording(late=9000, frames=20_000)[None], RATE, FRAMES, FIRST).doubts
    assert doubt == "has its chirp at 0.204 s, where the network takes recordings that begin with it"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, create_model(make_config(TINY)), 1, [])
    return path


def write(path: Path, sound: Tensor) -> Path:
    soundfile.write(path, sound.T.numpy(), RATE, "PCM_16")
    return path


def test_predict_warns_of_each_doubtful_file_and_says_so_in_its_json(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        "good": recording(),
        "late": recording(late=44_100, frames=50_000),
        "noise": 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(0)),
        "dead": one_ear(recording()),
    }
    paths = [write(tmp_path / f"{name}.wav", sound) for name, sound in files.items()]
    given = json.loads(brdepth("predict", checkpoint, *paths, "--out", tmp_path / "out", "--json", code=0))
    rows = {Path(row["recording"]).stem: row for row in given["predictions"]}
    assert [row["trusted"] for row in rows.values()] == [True, True, False, False]
    assert rows["good"]["emission"] == pytest.approx(1000 / RATE, abs=1e-4)
    assert rows["late"]["emission"] == pytest.approx(1.0, abs=1e-4)
    assert (rows["noise"]["emission"], rows["noise"]["doubts"]) == (None, ["holds no chirp that could be found"])
    assert rows["dead"]["doubts"] == ["is silent in its left ear"]
    drawn = json.loads(brdepth("visualize", checkpoint, "--audio", paths[2], "--json", code=0))
    assert drawn["recordings"][0]["trusted"] is False
    assert caplog.messages[:3] == [
        f"The recording {tmp_path / 'late.wav'}: chirp found at 1.000 s; 0.047 s of 1.13 s are used.",
        f"The recording {tmp_path / 'noise.wav'} holds no chirp that could be found: what is predicted is not to be "
        "trusted.",
        f"The recording {tmp_path / 'dead.wav'} is silent in its left ear: what is predicted is not to be trusted.",
    ]


def test_predicting_arrays_warns_once_and_names_their_numbers(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model(make_config(TINY))
    model.predict(recording())
    assert not caplog.messages
    model.predict(torch.stack([recording(), 0 * recording(), one_ear(recording()), 0 * recording()]))
    assert caplog.messages == [
        "What is predicted for 3 of 4 echoes is not to be trusted: number 2, 4 is silent; "
        "number 3 is silent in its left ear."
    ]


def test_timing_a_model_says_nothing_of_its_made_up_echoes(caplog: pytest.LogCaptureFixture) -> None:
    measure(create_model(make_config(TINY)), batch_size=2, seconds=0.01)
    assert not caplog.messages


def test_integers_are_predicted_as_the_same_sound_in_floating_point() -> None:
    torch.manual_seed(0)  # an untrained network may feel the rounding to 16 bits by a centimetre
    model, sound = create_model(make_config(TINY)), recording().numpy()
    expected = model.predict(sound).final
    for kind in (np.int16, np.int32, np.int64):
        given = (sound * np.iinfo(kind).max).round().astype(kind)
        torch.testing.assert_close(model.predict(given).final, expected, rtol=0, atol=3e-2)


def test_check_data_says_where_the_direct_sound_is_and_which_recordings_are_doubtful(tmp_path: Path) -> None:
    root = write_batvision(tmp_path / "data", count=4, subtype="PCM_16", splits=("train",))
    findings = check_data(root)
    assert not [problem for problem in findings.problems if "The recording" in problem]
    assert findings.as_dict()["emission"] == pytest.approx(
        dict.fromkeys(("earliest", "median", "latest"), 100 / RATE), abs=1e-4
    )
    assert findings.ear_delay_spread == 0
    write(root / "Attic" / "audio" / "audio_1.wav", 0.1 * torch.randn(2, 4410))
    write(root / "Attic" / "audio" / "audio_2.wav", one_ear(recording(late=3000)))
    problems = check_data(root).problems
    assert f"The recording {root / 'Attic' / 'audio' / 'audio_1.wav'} holds no chirp that could be found." in problems
    assert f"The recording {root / 'Attic' / 'audio' / 'audio_2.wav'} is silent in its left ear." in problems


def test_recordings_whose_direct_sound_is_cut_off_are_told_by_the_delay_between_their_ears(tmp_path: Path) -> None:
    root = write_batvision(tmp_path / "data", count=6, subtype="PCM_16", splits=("train",))
    for number, delay in enumerate((-30, 20, 5, -12, 28, -25)):  # what they begin with comes from anywhere
        sound = recording()
        sound[1] = sound[1].roll(delay)
        write(root / "Attic" / "audio" / f"audio_{number}.wav", sound)
    assert check_data(root).ear_delay_spread == pytest.approx(36 / RATE, abs=12 / RATE)
    assert "use audio.emission=first" in " ".join(brdepth("check-data", root, code=1).split())


def test_a_training_is_told_once_of_recordings_without_a_chirp(caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(TINY, {"data": {"name": "own"}})
    sounds = [
        hear(recording()[None], RATE, FRAMES).waveform[0],
        torch.randn(2, FRAMES),
        one_ear(recording())[:, 950:3025],
    ]
    samples = [EchoSample(sound, torch.ones(32, 32), str(number)) for number, sound in enumerate(sounds)]
    look_at_split("train", samples, config.data, config.audio)
    (told,) = caplog.messages
    assert told.startswith("Doubtful recordings in the train split: 2 of the 3 that were looked at (holds")
    assert told.endswith("is silent in its left ear): 1, 2.")
    caplog.clear()
    look_at_split("train", samples, config.data, FIRST)
    look_at_split("train", samples[:1], config.data, config.audio)
    assert not caplog.messages
