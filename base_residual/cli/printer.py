"""Printing of a command's results: tables and sentences, or one JSON object where `--json` asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from base_residual.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from base_residual.plots.tables import Table


class Printer(NamedTuple):
    """Prints what a command has found, as `--json` and `--quiet` ask for.

    Attributes:
        as_json: standard output holds one JSON object and nothing else; progress goes to standard error.
        quiet: nothing is printed but that object, warnings and errors.
    """

    as_json: bool
    quiet: bool

    @property
    def progress(self) -> Console:
        """Return the console on which a command draws how far it is."""
        from base_residual.plots.console import plain_console

        return plain_console(stderr=self.as_json, quiet=self.quiet)

    def show(self, *things: Table | RenderableType) -> None:
        """Print tables and sentences, fitted to the terminal; plain text unwrapped, so that paths can be copied."""
        if self.as_json or self.quiet:
            return
        from base_residual.plots.console import plain_console
        from base_residual.plots.tables import Table

        for thing in things:
            if isinstance(thing, str):
                print(printable(thing))
            else:
                plain_console().print(thing.to_rich() if isinstance(thing, Table) else thing)

    def json(self, found: Mapping[str, Any]) -> None:
        """Print one JSON object, where it is asked for."""
        if self.as_json:
            from base_residual.files.json import as_json

            print(as_json(found, indent=2))
