"""What the commands that use a trained model share: loading it, and saying what is thought of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from base_residual.models.checkpoint import Checkpoint
    from base_residual.models.network import DepthNet


def opinion(emission: float | None, doubts: list[str]) -> dict[str, Any]:
    """Return whether a recording's prediction is to be trusted, why not, and its moment of emission, for JSON."""
    return {"trusted": not doubts, "doubts": doubts, "emission": emission}


def load_for_command(path: Path, device: str) -> Checkpoint[DepthNet]:
    """Load a checkpoint, or a released model by its name, onto the device that an option names."""
    from base_residual.machine import resolve_device
    from base_residual.models.factory import load_checkpoint

    return load_checkpoint(path, resolve_device(device))


def is_given(ctx: typer.Context, name: str) -> bool:
    """Return whether an option was typed, rather than left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
