"""Make networks: from a configuration, from plain keywords, from a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.errors import ConfigError
from base_residual.files.paths import expand_home
from base_residual.machine import prefers_channels_last
from base_residual.models import checkpoint
from base_residual.models.checkpoint import Checkpoint, Start
from base_residual.models.network import BaseResidualNet, DepthNet, PlainNet
from base_residual.models.released import find_weights
from base_residual.models.unet import UNetDecoder, UNetEncoder


def create_model(config: Config) -> DepthNet:
    """Make the network that a configuration names: base_residual, plain or unet."""
    kind = PlainNet if config.model.name in PlainNet.names else BaseResidualNet
    model = kind.from_config(config)
    if prefers_channels_last(config.model.encoder == "unet", config.model.base_channels):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.float()  # whatever the program's default type is


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint[DepthNet]:
    """Read a checkpoint; the file alone is enough.

    Args:
        path: a `.safetensors` file that a run has written, or the name of a released model.
        device: where the model goes.

    Raises:
        CheckpointError: the file is missing, broken, or no checkpoint of this package.
    """
    return checkpoint.load(find_weights(path), create_model, device)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> DepthNet:
    """Load a trained network, ready for `predict` from a waveform.

    Args:
        path: a checkpoint, or the name of a released model, such as "small".
        device: where the model goes.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return load_checkpoint(path, device).model


def load_start(init: str | Path) -> tuple[DepthNet, Start]:
    """Load the network that a training begins with.

    Args:
        init: a checkpoint, or the name of a released model.

    Returns:
        The network, on the CPU, and what a run notes of it.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    path = find_weights(init)
    model = load_model(path)
    name = str(init) if path != expand_home(init) else f"{path.resolve().parent.name}/{path.name}"
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return model, Start(printable, hashlib.sha256(path.read_bytes()).hexdigest())


def create_base_residual_model(config: Config | None = None, **overrides: Any) -> BaseResidualNet:
    """Make a `BaseResidualNet`.

    With a configuration, or with settings of its sections as nested mappings, the network has the front end that goes
    with it and predicts from waveforms. With the plain keywords it is the 2-D network, images in: a U-Net encoder and
    two U-Net decoders.

    Args:
        config: settings; default: the package's.
        overrides: sections of the configuration (`model={"base_channels": 16}`), or any of the plain keywords
            `input_channels` (2), `base_channels` (64), `bilinear` (True), `output_size` (256), `max_depth` (30.0).

    Returns:
        The network, untrained, on the CPU.

    Raises:
        ConfigError: a keyword is unknown or its value out of bounds.
    """
    plain = {"input_channels", "base_channels", "bilinear", "output_size", "max_depth"}
    if config is None and overrides and overrides.keys() <= plain:
        return _plain_keywords(**overrides)
    if overrides.keys() & plain or overrides.keys() - set(Config.model_fields):
        raise ConfigError(
            f"Cannot use {', '.join(sorted(overrides))}. Give sections of the configuration "
            f"({', '.join(Config.model_fields)}), or plain keywords alone ({', '.join(sorted(plain))})."
        )
    given = config.model_dump(mode="json") if config else {}
    return BaseResidualNet.from_config(make_config(given, overrides)).float()


def _plain_keywords(
    input_channels: int = 2,
    base_channels: int = 64,
    bilinear: bool = True,
    output_size: int = 256,
    max_depth: float = 30.0,
) -> BaseResidualNet:
    for name, value in {
        "input_channels": input_channels,
        "base_channels": base_channels,
        "output_size": output_size,
        "max_depth": max_depth,
    }.items():
        if value <= 0:
            raise ConfigError(f"{name} is {value}; expected is more than 0.")
    return BaseResidualNet(
        UNetEncoder(input_channels, base_channels, bilinear),
        UNetDecoder(base_channels, bilinear, output_size),
        UNetDecoder(base_channels, bilinear, output_size),
        max_depth,
        output_size,
    )
