"""Settings that go by a name (dataset, model, preset, size) and what each implies."""

from __future__ import annotations

from typing import Any, Literal

DatasetName = Literal["simulated", "batvisionv2", "batvisionv1", "replica", "own"]
ModelName = Literal["base_residual", "plain", "unet"]
Layer = dict[str, Any]

SPLITS = ("train", "val", "test")

# What pictures and reports call them.
MODEL_WORDS = {"base_residual": "base + residual", "plain": "plain network", "unet": "U-Net"}
DATASET_WORDS = {
    "simulated": "simulated rooms",
    "batvisionv2": "BatVision V2",
    "batvisionv1": "BatVision V1",
    "replica": "Replica",
    "own": "own recordings",
}

MIN_RATE, MAX_RATE = 8_000, 192_000  # Hz; beyond them, the filter that resamples would be huge

# Angles of view of each rig's camera, across and upward, in degrees; rigs are named as the datasets that they are like.
VIEWS: dict[str, tuple[float, float]] = {
    "varied": (90.0, 90.0),
    "ideal": (90.0, 90.0),
    "batvisionv2": (86.0, 57.0),
    "batvisionv1": (70.0, 70.0),
    "replica": (90.0, 90.0),
}

# Settings that are gone. Files from before may hold the value that is left, which implies the layer beside it; the text
# says what to do about another value.
RETIRED: dict[str, tuple[Any, Layer, str]] = {
    "model.activations": ("smooth", {}, "leave it out, for what was called 'smooth'"),
    "loss.schedule": ("step", {}, "leave it out, for what was called 'step'"),
    "data.align_onset": (False, {"audio": {"emission": "first"}}, "leave it out: all echoes are aligned by now"),
}

# What each dataset implies, beneath what the user says.
DATASET_DEFAULTS: dict[str, Layer] = {
    "simulated": {
        "data": {"output_size": 64, "max_depth": 12.0, "noise": 0.02, "damping": 12.0},
        "loss": {"warmup_epochs": 2},
        "trainer": {"epochs": 4, "batch_size": 32, "learning_rate": 0.002, "optimizer": "Muon"},
    },
    "batvisionv2": {},
    "batvisionv1": {"data": {"max_depth": 12.0}},
    "replica": {"data": {"output_size": 128, "max_depth": 14.104}},
    "own": {},
}

# What each model implies: the decomposition, and the two baselines that every claim is measured against. Rooms of other
# sizes cost the U-Net accuracy (docs/accuracy.md), so that it is trained without them.
MODEL_DEFAULTS: dict[str, Layer] = {
    "base_residual": {"model": {"decoder": "lookup"}},
    "plain": {},
    "unet": {
        "audio": {"front_end": "spectrogram"},
        "model": {"encoder": "unet", "decoder": "unet"},
        "data": {"stretch": 0.0},
    },
}

# What each front end implies: stretched samples would have another pitch, and another delay between the ears.
FRONT_END_DEFAULTS: dict[str, Layer] = {
    "waveform": {"data": {"stretch": 0.0}, "audio": {"bands": ()}},
    "spectrogram": {"audio": {"bands": ()}},
    "mel": {"audio": {"bands": ()}},
}
EARLIER: Layer = {"audio": {"bands": ()}}  # settings that runs have had before they named them

# Settings by name. A kernel is given as a share of the map's side, 16 of 256 pixels being the default. `original` is
# the design's first recipe: 2-D throughout, with the weights that are the defaults of `BaseResidualLoss`, no mean of
# the network's own, and no rooms of other sizes.
PRESETS: dict[str, Layer] = {
    "default": {},
    "original": {
        "audio": {"front_end": "spectrogram"},
        "model": {"encoder": "unet", "decoder": "unet", "base_decoder": "unet"},
        "loss": {"lambda_base": 0.8, "lambda_sparse": 0.2},
        "data": {"stretch": 0.0},
        "trainer": {"average": 0.0},
    },
    "aggressive": {"loss": {"lambda_base": 1.0, "lambda_sparse": 0.3, "lowpass_share": 24 / 256}},
    "conservative": {"loss": {"lambda_base": 0.5, "lambda_sparse": 0.1, "lowpass_share": 12 / 256}},
}


# Networks by size. `original` has the widths, and the parts, of the network that this field uses.
SIZES: dict[str, Layer] = {
    "tiny": {"model": {"base_channels": 8}},
    "small": {"model": {"base_channels": 16}},
    "base": {"model": {"base_channels": 32}},
    "original": {
        "audio": PRESETS["original"]["audio"],
        "model": PRESETS["original"]["model"] | {"base_channels": 64},
        "data": PRESETS["original"]["data"],
    },
}
