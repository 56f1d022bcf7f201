"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from base_residual.errors import printable


def working(console: Console, in_bytes: bool = False) -> Progress:
    """Return a progress bar that goes away when it is done, and shows nothing where there is no terminal."""
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), amount, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal or console.quiet)


@contextmanager
def counting(console: Console, in_bytes: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Draw a progress bar; gives a function to call with what is being done, how many are done, and of how many."""
    with working(console, in_bytes) as progress:
        task = progress.add_task("Starting", total=None)
        yield lambda what, done, total: progress.update(task, description=printable(what), completed=done, total=total)
