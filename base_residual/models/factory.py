"""Make networks: from a configuration, from plain keywords, from a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from base_residual.config.resolve import explain, make_config
from base_residual.config.schema import MAX_SIDE, Config
from base_residual.config.section import Section
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
    plain = set(_Keywords.model_fields)
    if config is None and overrides and overrides.keys() <= plain:
        return _plain_keywords(**overrides)
    if overrides.keys() & plain or overrides.keys() - set(Config.model_fields):
        raise ConfigError(
            f"Cannot use {', '.join(sorted(overrides))}. Give sections of the configuration "
            f"({', '.join(Config.model_fields)}), or plain keywords alone ({', '.join(sorted(plain))})."
        )
    given = config.model_dump(mode="json") if config else {}
    return BaseResidualNet.from_config(make_config(given, overrides)).float()


class _Keywords(Section):
    input_channels: int = Field(2, ge=1)
    base_channels: int = Field(64, ge=1, le=1024)
    bilinear: bool = True
    output_size: int = Field(256, ge=1, le=MAX_SIDE)
    max_depth: float = Field(30.0, gt=0)


def _plain_keywords(**given: Any) -> BaseResidualNet:
    try:
        keywords = _Keywords(**given)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error
    channels, bilinear, side = keywords.base_channels, keywords.bilinear, keywords.output_size
    return BaseResidualNet(
        UNetEncoder(keywords.input_channels, channels, bilinear),
        UNetDecoder(channels, bilinear, side),
        UNetDecoder(channels, bilinear, side),
        keywords.max_depth,
        side,
    )
