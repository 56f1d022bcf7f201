"""The end of every command: exit codes, and one sentence in answer to a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from base_residual.errors import BaseResidualError, TrainingInterrupted, out_of_memory, printable

# The line with a backspace keeps the others from being filled like a paragraph.
EXIT_CODES = """\b
Exit codes:
0    done;
1    check-data found problems, a question was answered with no, or there is
     a bug, which shows as a traceback;
2    a mistake in what was asked for, said in one sentence;
130  stopped by Ctrl-C, or a training by a termination signal; what was
     finished is kept, but for convert-replica, which begins anew."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """End every user's mistake in one sentence on standard error and exit code 2, and an interruption in 130."""
    try:
        yield
        sys.stdout.flush()  # what cannot be written is known here, and not when Python ends
    except TrainingInterrupted as stop:
        print(stop, file=sys.stderr)
        raise typer.Exit(130) from stop
    except KeyboardInterrupt as stop:
        print("Stopped. Start again to go on, training with --resume.", file=sys.stderr)
        raise typer.Exit(130) from stop
    except BrokenPipeError:  # whoever read the output has seen enough
        raise
    except (BaseResidualError, MemoryError, OSError, RuntimeError) as error:
        print(f"Error: {printable(sentence(error))}", file=sys.stderr)
        give_up_output()
        raise typer.Exit(2) from error


def give_up_output() -> None:
    """Drop what standard output still holds, if that cannot be written: Python would try once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sentence(error: Exception) -> str:
    """Return what a user is told of an error; raise it again where neither the user nor the machine is to blame."""
    if isinstance(error, BaseResidualError):
        return str(error)
    if out_of_memory(error):
        return "The memory does not suffice. Give fewer echoes at once, or another --device."
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}." if error.filename and error.strerror else f"{error}."
    raise error
