"""The end of every command: exit codes, and one sentence in answer to a user's mistake."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from base_residual.errors import BaseResidualError, TrainingInterrupted, out_of_memory, printable
from base_residual.training.interruption import TERMINATION

# The line with a backspace keeps the others from being filled like a paragraph.
EXIT_CODES = """\b
Exit codes:
0    done;
1    check-data found problems, a question was answered with no, or there is
     a bug, which shows as a traceback;
2    a mistake in what was asked for, said in one sentence;
130  stopped by Ctrl-C or a termination signal; what was finished is
     kept, but for convert-replica, which begins anew."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """End every user's mistake in one sentence on standard error and exit code 2, and an interruption in 130."""
    try:
        yield
        sys.stdout.flush()  # what cannot be written is known here, and not when Python ends
    except TrainingInterrupted as stop:
        say(stop)
        raise typer.Exit(130) from stop
    except KeyboardInterrupt as stop:
        say("Stopped. What was finished is kept.")
        raise typer.Exit(130) from stop
    except BrokenPipeError:  # whoever read the output has seen enough
        raise
    except (BaseResidualError, MemoryError, OSError, RuntimeError, UnicodeEncodeError) as error:
        say(f"Error: {printable(sentence(error))}")
        give_up_output()
        raise typer.Exit(2) from error


def say(line: object) -> None:
    """Print a line on standard error, if that can be written."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def open_streams() -> None:
    """Put the null device in the place of standard streams that are closed, as batch systems do.

    Otherwise the next file that is opened would get the number of such a stream, and what is printed would go into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open


@contextmanager
def terminable() -> Iterator[None]:
    """Treat a termination signal like Ctrl-C; a training has its own answer to both."""
    free = threading.current_thread() is threading.main_thread()
    unheeded = [number for number in TERMINATION if free and signal.getsignal(number) is signal.SIG_DFL]
    for number in unheeded:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in unheeded:
            signal.signal(number, signal.SIG_DFL)


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
        told = error.strerror or str(error)
        return f"{error.filename}: {told}." if error.filename else f"{told}."
    if isinstance(error, UnicodeEncodeError):
        return (
            f"'{error.object}' has characters that this system's encoding, {error.encoding}, lacks. Set LC_ALL=C.UTF-8 "
            "or PYTHONUTF8=1 in the environment."
        )
    raise error
