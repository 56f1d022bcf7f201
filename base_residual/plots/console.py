"""A console for tables and sentences, whatever characters they hold."""

from __future__ import annotations

from rich.console import Console


def plain_console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console that prints names as they are, brackets included, and colours no numbers."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False)
