"""Paths as a user writes them."""

from __future__ import annotations

import os
from pathlib import Path

from base_residual.errors import ConfigError


def no_file(path: Path) -> str:
    """Return what a path is instead of a plain file, as the end of a sentence about it."""
    if path.is_dir():
        return "is a folder"
    return "is no plain file" if os.path.lexists(path) else "does not exist"


def no_folder(path: Path) -> str:
    """Return what a path is instead of a folder, as the end of a sentence about it."""
    return "is no folder" if os.path.lexists(path) else "does not exist"


def expand_home(path: str | Path) -> Path:
    """Return a path in which `~` at the beginning is the user's own folder; outside a shell nobody else expands it.

    Raises:
        ConfigError: it begins with `~NAME`, and nobody has that name here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"The path {path} begins with a home folder that this machine does not know.") from error
