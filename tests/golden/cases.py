"""The golden cases: what the package computes from fixed inputs, pinned in the JSON file of the case's name.

Each function here returns named values; `tests/test_golden.py` compares them with what is pinned. A change that is
meant to change numbers pins them anew, and says why in the change log:

    cd tests && python -m golden.regenerate [CASE ...]

A long array is pinned by a few of its numbers, its mean, its mean magnitude and its rms. Values may differ by the
case's share of an array's spread, or of a number: processors round differently. Nothing is pinned that rounding alone
decides, such as weights after AdamW's step, which goes as far for a gradient of 1e-7 as for one of 1.

`checkpoint.safetensors` is never made anew: what was saved once has to load for ever, and to draw the same maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from golden import inputs
from golden.inputs import LEARNING, filled, small, stream
from golden.learning import Values, gradients, running_means, schedules, steps, updates
from golden.places import rigs, spaces, surfaces_and_air
from golden.values import FOLDER
from torch import Tensor

from base_residual.acoustics.doubts import likeness
from base_residual.acoustics.framing import echo_frames, resample
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.hearing import fit_echo, hear, shift
from base_residual.config.presets import Layer
from base_residual.config.schema import AudioConfig
from base_residual.data.augment import add_noise, augment, colour, damp, draw_copies, enlarge, mirror, stretch
from base_residual.data.depth_maps import clean_depth, resize_depth
from base_residual.evaluation import evaluate, success_criteria
from base_residual.evaluation.blind import BlindGuess
from base_residual.losses import BaseResidualLoss, low_pass, make_loss
from base_residual.metrics import Evaluation, Protocol
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_base_residual_model, create_model, load_model
from base_residual.models.network import DepthNet
from base_residual.simulation.depth import render_depth
from base_residual.simulation.draws import STYLES, draw_pose, draw_room
from base_residual.simulation.echo import draw_chance, draw_still, render_echo
from base_residual.simulation.rays import look_around
from base_residual.simulation.rigs import RIGS, draw_rig
from base_residual.simulation.spaces import draw_space
from base_residual.training.optimisation import generator

CHECKPOINT = FOLDER / "checkpoint.safetensors"


def front_ends() -> Values:
    """Features of one echo, and the echo aligned and resampled."""
    kinds: dict[str, Layer] = {
        "spectrogram": {"front_end": "spectrogram"},
        "mel": {"front_end": "mel"},
        "waveform": {"front_end": "waveform"},
        "matched, chirp": {"front_end": "matched", "template": "chirp"},
        "matched, direct": {"front_end": "matched", "template": "direct"},
    }
    heard = inputs.echoes(small(), 2)
    values = {}
    for name, audio in kinds.items():
        for emission, prefix in (("first", ""), ("found", "aligned ")):
            front_end = EchoFrontEnd(AudioConfig(**audio, emission=emission), image_size=32)
            for channel, features in enumerate(front_end(heard).unbind(1)):
                values[f"{prefix}{name}, channel {channel}"] = features
    noise = torch.from_numpy(stream("noise").standard_normal((2, 2, 20))).float()
    near = hear(heard, 44_100, 2205).waveform
    half = resample(near, 44_100, 22_050)
    dull = 0.1 * resample(resample(near, 44_100, 12_000), 12_000, 44_100)
    return values | {
        "cut between samples": shift(noise, torch.tensor([-3.4, 5.7]), 16),
        "likeness of a chirp": likeness(torch.cat([near, dull, near.flip(-1)]), 44_100),
        "likeness of a chirp at half the rate": likeness(half[..., :1102], 22_050),
        "aligned": fit_echo(heard, 44_100, 1500, AudioConfig()),
        "resampled": fit_echo(heard, 48_000, 1500, AudioConfig(emission="first")),
    }


def networks() -> Values:
    """Base, residual and final of each network with fixed weights."""
    configs = {
        "default": small(),
        "default, 16 pixels": small({"data": {"output_size": 16}}),
        "default, 48 pixels": small({"data": {"output_size": 48}}),
        "default, 128 pixels": small({"data": {"output_size": 128, "max_depth": 3.0}}),
        "map decoder": small({"model": {"decoder": "map"}}),
        "two map decoders, 64 pixels": small(
            {"data": {"output_size": 64}, "model": {"decoder": "map", "base_decoder": "map"}}
        ),
        "ears that differ": small({"model": {"symmetric": False}}),
        "finer grid, wider bound": small({"model": {"base_grid": 5, "residual_bound": 0.4}}),
        "original": small(preset="original"),
        "original, transposed convolutions": small({"model": {"bilinear": False}}, preset="original"),
        "plain": small({"model": {"name": "plain"}}),
        "unet": small({"model": {"name": "unet"}}),
        "unet, 64 pixels": small({"model": {"name": "unet"}, "data": {"output_size": 64}}),
    }
    values = {}
    for name, config in configs.items():
        model, heard = filled(create_model(config)).eval(), inputs.echoes(config, 2)
        values |= _parts(name, model, _features(model, heard))
        if name == "default":
            values |= _parts("one echo to learn from", model.train(), _features(model, heard[:1]))
            model.eval().initialise_depth(3.0)
            values |= _parts("at the start", model, _features(model, heard))
    for name, options in {"plain keywords": {}, "plain keywords, transposed": {"bilinear": False}}.items():
        images = torch.from_numpy(stream("images").standard_normal((2, 3, 32, 48))).float()
        model = create_base_residual_model(input_channels=3, base_channels=4, output_size=64, max_depth=9.0, **options)
        values |= _parts(name, filled(model).eval(), images)
    return values


@torch.no_grad()
def _parts(name: str, model: DepthNet, features: Tensor) -> Values:
    parts = model(features)
    return {
        f"{name}, {part}": getattr(parts, part) for part in ("base", "residual", "final") if getattr(parts, part).any()
    }


def _features(model: DepthNet, waveform: Tensor) -> Tensor:
    assert model.front_end is not None
    features: Tensor = model.front_end(waveform)
    return features


def rooms() -> Values:
    """A room of each style, the robot's place in it, what it sees and what it hears."""
    values: Values = {}
    look_around.cache_clear()  # a room that an earlier test has looked at tells nothing of the code as it is now
    for number, (name, style) in enumerate(STYLES.items()):
        rng = np.random.default_rng([7, number])
        room = draw_room(rng, style)
        pose = draw_pose(rng, room)
        assert pose is not None
        rig = draw_rig(rng, "ideal", 1.0, name)
        chance = draw_still(rng, frames=2400)
        values |= {
            f"{name}, room": [*room.size, *room.surfaces[0].absorption, *room.surfaces[0].scattering],
            f"{name}, furniture": [
                [*box.center, *box.size, box.yaw, *box.material.absorption, *box.material.scattering]
                for box in room.boxes
            ],
            f"{name}, pose": [*pose.position, pose.heading],
            f"{name}, roughness": chance.roughness,
            f"{name}, noise": rig.recorder.noise * chance.noise,
            f"{name}, depth": render_depth(room, pose, 48),
        }
        quiet = replace(chance, noise=np.zeros_like(chance.noise))
        for kind, recording in {
            "echo": render_echo(room, pose, rig, chance),
            "echo without noise": render_echo(room, pose, rig, quiet),
            "direct sound and scattering": render_echo(room, pose, rig, quiet, max_order=0),
        }.items():
            values[f"{name}, {kind}"] = recording
            parts = recording.reshape(2, 12, -1)
            values[f"{name}, {kind}, level in dB"] = 10 * np.log10(np.square(parts).mean(axis=2) + 1e-12)
    return values


def rich_rooms() -> Values:
    """Two rich rooms, what a drawn rig sees and hears in them, and its recording by each named rig."""
    values: Values = {}
    for number in range(2):
        rng = np.random.default_rng([11, number])
        room, air = draw_space(rng)
        pose = draw_pose(rng, room)
        assert pose is not None
        rig, chance = draw_rig(rng, "varied", 1.0, "rich"), draw_chance(rng, frames=2400)
        values |= {
            f"rich {number}, depth": render_depth(room, pose, 32),
            f"rich {number}, empty": render_depth(room.emptied(), pose, 32),
            f"rich {number}, echo": render_echo(room, pose, rig, chance, air),
        }
        for name in RIGS:
            drawn = draw_rig(np.random.default_rng(number), name, 0.5, "rich")
            values[f"rich {number}, {name}"] = render_echo(room, pose, drawn, chance, air)
            measured = drawn.camera.measure(np.random.default_rng(1), render_depth(room, pose, 32))
            values[f"rich {number}, {name}, camera"] = measured
    return values


def augmentations() -> Values:
    """What each augmentation makes of a batch, and all of them with given generators."""
    config = small()
    waveform, depth = inputs.echoes(config, 4), inputs.depth_maps(config, 4)
    noise = torch.from_numpy(stream("noise").standard_normal(tuple(waveform.shape))).float()
    sizes, emitted = torch.tensor([0.8, 1.0, 1.1, 1.25]), torch.tensor([0.0, 0.01, 0.02, 0.1])
    mirrored = mirror(waveform, depth, torch.tensor([True, False, True, False]))
    features = EchoFrontEnd(config.audio, config.data.output_size)(waveform)
    changed, drawn = (
        augment(waveform, depth, config.audio, config.data, [generator(seed, place) for place in range(4)], 1.5 * depth)
        for seed in (5, 6)
    )
    draws = [draw_copies(generator(7, place), waveform.shape[-1]) for place in range(4)]
    shares, lags = map(torch.stack, zip(*draws, strict=True))
    values = {
        "mirror, waveform": mirrored[0],
        "mirror, depth": mirrored[1],
        "colour": colour(waveform, shares, lags),
        "damp": damp(waveform, torch.tensor([0.0, 3.0, 12.0, 30.0])),
        "hiss": add_noise(waveform, torch.tensor([0.0, 0.001, 0.01, 0.1]), noise),
        "enlarge": enlarge(depth, sizes, config.data.max_depth),
        "stretch": stretch(features, sizes, emitted),
    }
    for name, whole in {"augment": changed, "augment with other chances": drawn}.items():
        values |= {f"{name}, {field}": value for field, value in whole._asdict().items()}
    # The noise that is added, by itself: of a recording that nothing else has changed.
    alone = config.data.model_copy(update={"mirror": False, "damping": 0.0, "coloration": 0.0, "stretch": 0.0})
    hissed = augment(waveform, depth, config.audio, alone, [generator(5, place) for place in range(4)]).waveform
    added = (hissed - waveform).square().mean(dim=(1, 2)).sqrt() / waveform.abs().amax(dim=(1, 2))
    return values | {"augment, level of the noise in dB": 20 * added.log10()}


def losses() -> Values:
    """The loss and its terms, the adaptive weights of each epoch, and the low-pass of a map with holes."""
    config, values = small(), {}
    gt = inputs.depth_maps(config, 3)
    rng = stream("losses")
    base, residual = (torch.from_numpy(rng.normal(*how, tuple(gt.shape))).float() for how in ((4.0, 1.0), (0.0, 0.5)))
    for name, loss in {
        "as designed": BaseResidualLoss(),
        "default": make_loss(config.loss),
        "rmse": make_loss(small({"loss": {"recon": "rmse"}}).loss),
        "odd kernel": BaseResidualLoss(1.0, 0.8, 0.2, lowpass_kernel=7),
    }.items():
        total, terms = loss(base, residual, (base + residual).clamp(0, 8), gt)
        values[name] = [float(total), *map(float, terms)]
    for preset in ("default", "original"):
        adaptive = make_loss(small({"loss": {"adaptive": True, "warmup_epochs": 3}}, preset=preset).loss)
        for epoch in (1, 3, 4, 9):
            adaptive.set_epoch(epoch)
            values[f"{preset}, adaptive weights of epoch {epoch}"] = list(adaptive.weights)
    for kernel in (1, 2, 5, 8, 21):
        values[f"low-pass, {kernel} pixels"] = low_pass(gt, kernel, gt > 0)
        values[f"low-pass, {kernel} pixels, no mask"] = low_pass(gt, kernel)
    holed = np.ascontiguousarray(inputs.depth_map(48, 9.0, 1)[:30])
    for size in (16, 32, 64):
        values[f"map of 30 x 48 at {size} pixels"] = resize_depth(holed, size)
    broken = np.array([[1.0, np.nan, -2.0], [np.inf, 12.0, 0.0]], np.float32)
    return values | {"cleaned depth": clean_depth(broken, max_depth=10.0)}


def evaluations() -> Values:
    """Figures of networks with fixed weights, guesses that hear nothing, and what the criteria say."""
    values: Values = {}
    layers: dict[str, Layer] = {"default": {}, "rough base": {"base_decoder": "map"}, "unet": {"name": "unet"}}
    for name, layer in layers.items():
        config = small({"model": layer})
        model, samples = filled(create_model(config)).eval(), inputs.dataset(config)
        for min_depth in (0.0, 2.0):
            found = evaluate(model, samples, batch_size=2, min_depth=min_depth)
            figures = found.metrics | found.decomposition
            values |= {f"{name}, from {min_depth:g} m, {key}": value for key, value in figures.items()}
    guess = BlindGuess.from_dataset(inputs.dataset(small()))
    others = [sample._replace(depth=0.9 * sample.depth) for sample in inputs.dataset(small(), 3)]
    values |= {"mean map": guess.mean_map, "constant": guess.constant} | {
        f"rmse of the {name}": value for name, value in guess.rmse_on(others, 8.0).items()
    }
    protocol = Protocol(max_depth=8.0, min_depth=0.5, output_size=32)
    values["protocol"] = protocol.sentence()
    cases = [(0.1, 0.2, 0.4, 0.02, 0.3), (0.24, 0.0, 1.2, 0.004, -0.1), (0.26, -0.1, 0.9, -0.004, 0.0)]
    cases += [(0.1, 0.2, 0.4, gain, 0.3) for gain in (0.006, 0.04, 0.06, -0.006, -0.06)]
    names = ("base_smoothness", "base_positive", "residual_abs_mean", "residual_gain", "residual_detail_corr")
    slow, fast = [2.0 - 0.04 * epoch for epoch in range(30)], [1.0, *[0.985] * 24]
    for number, figures in enumerate(cases):
        evaluation = Evaluation({"rmse": 1.0}, dict(zip(names, figures, strict=True)), protocol)
        baseline, curve = (None, 1.04, 1.06)[number % 3], ((), slow, fast)[number % 3]
        for criterion in success_criteria(evaluation, curve, baseline):
            values[f"run {number}, {criterion.name}"] = f"{criterion.verdict}: {criterion.figure}"
    return values


def checkpoint_maps() -> Values:
    """The maps in metres that the committed checkpoint draws of two echoes, one of them of another rate."""
    model = load_model(CHECKPOINT)
    frames = echo_frames(model.max_depth)
    recorded = [(inputs.echo(frames, 1), 44_100), (inputs.echo(frames + 200, 2), 48_000)]
    values = {}
    for number, (waveform, rate) in enumerate(recorded):
        for part, depth in zip(("base", "residual", "final"), model.predict(waveform, rate), strict=True):
            values[f"echo {number}, {part}"] = [[round(float(metres), 4) for metres in row] for row in depth[0, 0]]
    return values


def save_golden_checkpoint() -> None:
    """Write a network with fixed weights as a checkpoint, in numbers that a repository can compress."""
    model = filled(create_model(small({"data": {"output_size": 16, "max_depth": 4.0}})), LEARNING)
    model.load_state_dict(
        {k: v.bfloat16().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    )
    save_checkpoint(CHECKPOINT, model, epoch=2, history=[{"epoch": 1, "val/rmse": 1.5}, {"epoch": 2, "val/rmse": 1.25}])


class Case(NamedTuple):
    """A function that returns named values, and the share by which they may differ."""

    compute: Callable[[], Values]
    tolerance: float


CASES = {
    "front_ends": Case(front_ends, 5e-4),
    "networks": Case(networks, 1e-3),
    "updates": Case(updates, 5e-3),
    "gradients": Case(gradients, 0.1),
    "schedules": Case(schedules, 1e-6),
    "steps": Case(steps, 2e-2),
    "running_means": Case(running_means, 1e-5),
    "rooms": Case(rooms, 1e-6),
    "rich_rooms": Case(rich_rooms, 1e-4),
    "spaces": Case(spaces, 1e-6),
    "surfaces_and_air": Case(surfaces_and_air, 1e-5),
    "rigs": Case(rigs, 1e-5),
    "augmentations": Case(augmentations, 2e-4),
    "losses": Case(losses, 1e-5),
    "evaluations": Case(evaluations, 2e-3),
}
