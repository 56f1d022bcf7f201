"""Paths as a user writes them."""

from __future__ import annotations

from pathlib import Path

from base_residual.errors import ConfigError


def expand_home(path: str | Path) -> Path:
    """Return a path in which `~` at the beginning is the user's own folder; outside a shell nobody else expands it.

    Raises:
        ConfigError: it begins with `~NAME`, and nobody has that name here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"The path {path} begins with a home folder that this machine does not know.") from error
