"""Every setting once, names that stand for settings, and one function that resolves them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from base_residual.config.resolve import make_config
    from base_residual.config.schema import Config

__all__ = ["Config", "make_config"]

# Loaded when first asked for, so that `brdepth --help` does not wait for pydantic.
_HOMES = {"Config": "schema", "make_config": "resolve"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'base_residual.config' has no attribute '{name}'")
    return getattr(import_module(f"base_residual.config.{_HOMES[name]}"), name)
