"""`brdepth`: parses, calls, prints. What it calls lives elsewhere; heavy imports stay inside the commands."""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated

import typer

from base_residual.cli import checkpoints, datasets, robots, runs, train
from base_residual.cli.exits import EXIT_CODES, say
from base_residual.cli.help_pages import Commands
from base_residual.version import __version__

OLDER_NAMES = {"use-adaptive-loss": "adaptive", "use-wandb": "wandb", "use-tensorboard": "tensorboard"}


def current_name(name: str) -> str:
    """Return the name of an option or a command in today's spelling: dashes, and no `use`."""
    dashed = name.replace("_", "-")
    return OLDER_NAMES.get(dashed, dashed)


app = typer.Typer(
    cls=Commands,
    name="brdepth",
    help="Depth from sound: from a stereo echo to a depth map in metres, split as final = base + residual.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,  # Rich takes longer to import than the help to be asked for
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": current_name, "help_option_names": ["-h", "--help"]},
)
for commands in (train, checkpoints, robots, runs, datasets):
    app.add_typer(commands.app)


class Notes(logging.Handler):
    """Prints each message as a line on standard error, wherever that leads by then: progress bars take its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        say(self.format(record))


def version_wanted(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"brdepth {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=version_wanted, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Show what the package has to say, one line each."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[Notes()])
