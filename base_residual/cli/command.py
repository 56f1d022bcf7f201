"""How every command of `brdepth` ends, and how it shows its options."""

from __future__ import annotations

import logging
import os
import sys
from itertools import groupby
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from base_residual.cli.options import describe, key_of
from base_residual.errors import BaseResidualError, TrainingInterrupted, out_of_memory

# The line with a backspace keeps the others from being filled like a paragraph.
EXIT_CODES = """\b
Exit codes:
0    done;
1    check-data found problems, a question was answered with no, or there is
     a bug, which shows as a traceback;
2    a mistake in what was asked for, said in one sentence;
130  stopped by Ctrl-C, or a training by a termination signal; what was
     finished is kept, but for convert-replica, which begins anew."""


class Command(TyperCommand):
    """A command whose help names its options by what they are about, switches not as if they took a value.

    Attributes:
        settings: which of its options stands for which setting.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.settings = {param.name: key for param in self.params if (key := key_of(param))}

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for param in params:
            if key := key_of(param):
                describe(param, key)
        return plain_switches(params)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_parameters(self.get_params(ctx), ctx, formatter)


class Commands(TyperGroup):
    """Ends every user's mistake in one sentence on standard error and exit code 2."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain_switches(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_parameters(self.get_params(ctx), ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.commands.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # what cannot be written is known here, and not when Python ends
            return result
        except TrainingInterrupted as stop:
            print(stop, file=sys.stderr)
            raise typer.Exit(130) from stop
        except KeyboardInterrupt as stop:
            print("Stopped. Start again to go on, training with --resume.", file=sys.stderr)
            raise typer.Exit(130) from stop
        except BrokenPipeError:  # whoever read the output has seen enough
            raise
        except (BaseResidualError, MemoryError, OSError, RuntimeError) as error:
            print(f"Error: {sentence(error)}", file=sys.stderr)
            give_up_output()
            raise typer.Exit(2) from error


def give_up_output() -> None:
    """Forget what standard output still holds, if that cannot be written: Python would try once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sentence(error: Exception) -> str:
    """What a user is told of an error; one that is no user's mistake nor the machine's is raised again."""
    if isinstance(error, BaseResidualError):
        return str(error)
    if out_of_memory(error):
        return "The memory does not suffice. Give fewer echoes at once, or another --device."
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}." if error.filename and error.strerror else f"{error}."
    raise error


def plain_switches(params: list[Any]) -> list[Any]:
    """Parameters, those without a value without a word for its type."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def write_parameters(params: list[Any], ctx: Any, formatter: Any) -> None:
    """A help's sections: arguments, options, then those that belong to a panel, in the order in which they come."""

    def section(param: Any) -> str:
        return param.rich_help_panel or f"{param.param_type_name.capitalize()}s"

    names = list(dict.fromkeys(["Arguments", "Options", *map(section, params)]))
    shown = sorted(params, key=lambda param: names.index(section(param)))
    for name, group in groupby(shown, section):
        with formatter.section(name):
            formatter.write_dl([record for param in group if (record := param.get_help_record(ctx))])


class Notes(logging.Handler):
    """Prints each message as a line on standard error, wherever that leads by then: a live view takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)
