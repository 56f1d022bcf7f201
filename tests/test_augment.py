from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from base_residual.acoustics.emission import find_emission
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.hearing import fit_echo, lead_frames
from base_residual.config.schema import AudioConfig, DataConfig
from base_residual.data.augment import (
    COPIES,
    LATEST,
    STEADY,
    Augmented,
    add_noise,
    augment,
    colour,
    damp,
    draw_copies,
    enlarge,
    mirror,
    stretch,
)
from base_residual.simulation.depth import render_depth
from base_residual.simulation.draws import STYLES, draw_pose, draw_room
from base_residual.simulation.echo import draw_still, render_echo
from base_residual.simulation.rigs import draw_rig
from base_residual.simulation.rooms import Pose, Room


def test_augmentation_is_decided_by_the_generator_and_off_when_asked() -> None:
    waveform, depth = torch.rand(6, 2, 50), torch.rand(6, 1, 4, 4)

    def changed(**settings: float) -> Augmented:
        chances = [torch.Generator().manual_seed(seed) for seed in range(6)]
        return augment(waveform, depth, AudioConfig(), DataConfig(**{"stretch": 0.0} | settings), chances)

    everything = {"noise": 0.1, "damping": 6.0, "stretch": 0.2, "coloration": 0.5}
    for one, other in zip(changed(**everything)[:4], changed(**everything)[:4], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(changed(noise=0.1).waveform, changed().waveform)
    assert not torch.equal(changed(damping=6.0).waveform, changed().waveform)
    plain, coloured, twice = (changed(coloration=share).waveform for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(twice - plain, 2 * (coloured - plain))
    assert (coloured - plain).abs().max() > 0.01
    resized = changed(stretch=0.2)
    assert len(resized.size.unique()) == 6
    torch.testing.assert_close(resized.depth, changed().depth * resized.size[:, None, None, None])
    assert torch.equal(resized.waveform, changed().waveform)
    off = changed(mirror=False)
    assert torch.equal(off.waveform, waveform)
    assert torch.equal(off.depth, depth)
    assert torch.equal(off.size, torch.ones(6))


def test_damping_takes_as_many_decibels_off_the_end_as_it_says() -> None:
    damped = damp(torch.ones(2, 2, 101), torch.tensor([0.0, 20.0]))
    torch.testing.assert_close(damped[0], torch.ones(2, 101))
    torch.testing.assert_close(damped[1, 0, [0, 50, 100]], torch.tensor([1.0, 10**-0.5, 0.1]))


def test_an_ear_adds_copies_that_change_from_one_reflection_to_the_next() -> None:
    waveform = torch.zeros(1, 2, 4 * STEADY)
    sounds = STEADY * torch.tensor([0, 2, 3])
    waveform[..., sounds] = torch.tensor([1.0, -2.0, 1.0])
    shares = torch.zeros(1, 2, 2, 5)
    shares[0, 0, 0], shares[0, 1, 1] = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), 0.25
    coloured = colour(waveform, shares, torch.tensor([[5, 9]]))
    left, right = (coloured - waveform)[0]
    assert torch.nonzero(right)[:, 0].tolist() == (sounds + 9).tolist()
    torch.testing.assert_close(right[sounds + 9], torch.tensor([0.25, -0.5, 0.25]))
    assert torch.nonzero(left)[:, 0].tolist() == (sounds[1:] + 5).tolist()  # nothing is added to the first
    assert -1.3 < float(left[sounds[1] + 5]) < -1.0  # halfway from one share to the next
    torch.testing.assert_close(left[sounds[2] + 5], torch.tensor(1.0))


def test_copies_are_drawn_with_any_strength_and_come_before_the_next_reflection() -> None:
    drawn = [draw_copies(torch.Generator().manual_seed(seed), 1000) for seed in range(300)]
    strength = torch.stack([shares.std() for shares, _ in drawn])
    assert strength.min() < 0.1
    assert 0.9 < strength.max() < 1.2
    assert 0.45 < strength.mean() < 0.55
    lags = torch.stack([lags for _, lags in drawn])
    assert lags.shape == (300, COPIES)
    assert lags.unique().tolist() == list(range(1, LATEST))
    assert drawn[0][0].shape == (2, COPIES, 1000 // STEADY + 2)
    assert (drawn[0][0][0] - drawn[0][0][1]).abs().max() > 0  # the ears differ


def test_noise_is_relative_to_the_loudest_sample() -> None:
    waveform = torch.zeros(2, 2, 20_000)
    waveform[0, 1, 0], waveform[1, 0, 0] = 1.0, -0.1
    noisy = add_noise(waveform, torch.tensor([0.01, 0.01]), torch.randn(2, 2, 20_000))
    spread = (noisy - waveform).std(dim=(1, 2))
    torch.testing.assert_close(spread, torch.tensor([0.01, 0.001]), rtol=0.05, atol=0)


def test_rooms_become_larger_as_often_as_smaller_and_by_no_more_than_asked() -> None:
    chances = [torch.Generator().manual_seed(seed) for seed in range(500)]
    size = augment(
        torch.zeros(500, 2, 4), torch.ones(500, 1, 1, 1), AudioConfig(), DataConfig(stretch=0.25), chances
    ).size
    assert 0.8 < float(size.min()) < 0.81
    assert 1.24 < float(size.max()) < 1.25
    assert abs(float(size.log().mean())) < 0.02


def test_noise_before_the_chirp_is_not_taken_for_it() -> None:
    waveform = torch.zeros(4, 2, 1000)
    waveform[..., 500:510] = 1.0
    chances = [torch.Generator().manual_seed(seed) for seed in range(4)]
    changed = augment(waveform, torch.ones(4, 1, 1, 1), AudioConfig(emission="first"), DataConfig(noise=1.0), chances)
    assert (changed.waveform[..., :400].abs().amax() > 0.5).item()
    torch.testing.assert_close(changed.emitted, find_emission(waveform, 44_100) / 1000)
    assert (changed.emitted > 0.4).all()
    assert changed.empty_room is None  # as none was given


@pytest.mark.parametrize("shape", [(3, 300), (3, 5, 300)], ids=["over time", "over frequency and time"])
@pytest.mark.parametrize("size", [0.8, 1.0, 1.25])
def test_an_echo_from_a_larger_room_comes_as_many_times_as_late(size: float, shape: tuple[int, ...]) -> None:
    time = torch.arange(300.0) + 0.5
    features = torch.exp(-((time - 100) ** 2) / 200).expand(2, *shape)
    found = stretch(features, torch.tensor([size, 1.0]), torch.zeros(2))
    expected = torch.exp(-((time / size - 100) ** 2) / 200).expand(shape)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=0.01)
    torch.testing.assert_close(found[1], features[1], rtol=0, atol=1e-4)


def built_larger(room: Room, pose: Pose, size: float) -> tuple[Room, Pose]:
    """Everything but the robot's head, `size` times as large."""

    def scaled(lengths: tuple[float, float, float]) -> tuple[float, float, float]:
        return (size * lengths[0], size * lengths[1], size * lengths[2])

    boxes = tuple(replace(box, center=scaled(box.center), size=scaled(box.size)) for box in room.boxes)
    return replace(room, size=scaled(room.size), boxes=boxes), replace(pose, position=scaled(pose.position))


@pytest.mark.parametrize("emission", ["found", "first"])
@pytest.mark.parametrize("size", [0.87, 1.15])
@pytest.mark.parametrize("front_end", ["matched", "spectrogram"])
def test_a_room_that_is_built_larger_sounds_like_that(front_end: str, size: float, emission: str) -> None:
    audio = AudioConfig(front_end=front_end, emission=emission, template="direct" if emission == "found" else "chirp")
    rng, features = np.random.default_rng(0), EchoFrontEnd(audio, 64)
    ratios = []
    while len(ratios) < 4:
        room = draw_room(rng, STYLES["standard"])
        pose, rig, chance = draw_pose(rng, room), draw_rig(rng, "ideal", 1.0, "standard"), draw_still(rng, 3087)
        if pose is None:
            continue
        larger, there = built_larger(room, pose, size)
        depth, expected = (
            torch.from_numpy(render_depth(*at, 16))[None, None] for at in ((room, pose), (larger, there))
        )
        torch.testing.assert_close(enlarge(depth, torch.tensor([size]), 100.0), expected)
        recordings = (render_echo(*at, rig, chance) for at in ((room, pose), (larger, there)))
        echoes = [torch.from_numpy(recording).float()[None] for recording in recordings]
        one, other = (fit_echo(F.pad(echo, (500, 0)), 44_100, 3087, audio) for echo in echoes)
        small, large = features(one), features(other)
        emitted = find_emission(one, 44_100) if emission == "first" else torch.tensor([lead_frames(44_100)])
        found = stretch(small, torch.tensor([size]), emitted / one.shape[-1])
        there_is = int(min(1, size) * small.shape[-1])
        error = [(heard - large)[..., :there_is].abs().mean() for heard in (found, small)]
        ratios.append(float(error[0] / error[1]))
    # Not 0: where reflections overlap, they add up with other phases, and the onset is early.
    assert np.mean(ratios) < 0.8


def test_the_echo_of_a_smaller_room_goes_on_as_it_ends() -> None:
    features = torch.arange(10.0).expand(1, 2, 10)
    assert torch.equal(stretch(features, torch.tensor([0.5]), torch.zeros(1))[0, 0, 5:], torch.full((5,), 9.0))


def test_depth_is_cut_in_larger_rooms_and_unknown_in_smaller_ones_where_it_was_cut() -> None:
    resized = 10 - 1e-5  # what was cut, as a mean of several may come out
    depth = torch.tensor([0.0, 4.0, 9.0, 10.0, resized]).reshape(1, 1, 1, 5).expand(2, -1, -1, -1)
    larger, smaller = enlarge(depth, torch.tensor([1.25, 0.5]), 10.0)
    assert larger.flatten().tolist() == [0.0, 5.0, 10.0, 10.0, 10.0]
    assert smaller.flatten().tolist() == [0.0, 2.0, 4.5, 0.0, 0.0]


def test_mirroring_a_batch_twice_changes_nothing_and_spares_the_others() -> None:
    waveform, depth = torch.randn(4, 2, 50), torch.rand(4, 1, 8, 8)
    which = torch.tensor([True, False, True, False])
    once = mirror(waveform, depth, which)
    assert torch.equal(once[0][0], waveform[0].flip(0))
    assert torch.equal(once[1][0], depth[0].flip(-1))
    assert torch.equal(once[0][1], waveform[1])
    twice = mirror(*once, which)
    assert torch.equal(twice[0], waveform)
    assert torch.equal(twice[1], depth)
