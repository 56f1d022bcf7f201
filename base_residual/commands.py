"""How every command of `brdepth` ends, and how it shows its options."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from base_residual.errors import BaseResidualError, TrainingInterrupted

EXIT_CODES = """Exit codes:
0    done;
1    check-data found problems, a question was answered with no, or there is
     a bug, which shows as a traceback;
2    a mistake in what was asked for, said in one sentence;
130  stopped by Ctrl-C or a termination signal; what was finished is kept."""


class Command(TyperCommand):
    """A command whose switches are not shown as if they took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_switches(super().get_params(ctx))


class Commands(TyperGroup):
    """Ends every user's mistake in one sentence on standard error and exit code 2."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_switches(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TrainingInterrupted as stop:
            print(stop, file=sys.stderr)
            raise typer.Exit(130) from stop
        except KeyboardInterrupt as stop:
            print("Stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
            raise typer.Exit(130) from stop
        except BaseResidualError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error


def plain_switches(params: list[Any]) -> list[Any]:
    """Parameters, those without a value without a word for its type."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


class Notes(logging.Handler):
    """Prints each message as a line on standard error, wherever that leads by then: a live view takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)
