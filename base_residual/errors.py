"""Everything that a user can get wrong, as one family of exceptions.

Each message is one sentence or two: what came, what was expected, what to do. The library raises; only the command
line prints them and exits. Anything that is not a `BaseResidualError` is a bug of this package.

A message can hold names that come from a server, an archive or a dataset. `printable` is what keeps them from steering
the terminal: errors, warnings, tables and progress all go through it.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence

STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's control, format and surrogate characters, and its line breaks


def printable(text: str) -> str:
    """Return a text in which characters that steer a terminal or end a line stand as escapes, such as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in STEERING else letter
        for letter in text
    )


def counted(number: int, thing: str) -> str:
    """Return a number and what it counts, as in "1 recording" and "2,000 recordings"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class OneLine(logging.Filter):
    """Make every message of a logger printable, whatever names it holds."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a message pass, as one line."""
        record.msg, record.args = printable(record.getMessage()), None
        return True


class BaseResidualError(Exception):
    """The parent of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """Return the message, printable."""
        return printable(super().__str__())


class ConfigError(BaseResidualError):
    """A setting is unknown, out of its bounds or at odds with another one."""


class DataError(BaseResidualError):
    """A dataset, a recording or a depth map is missing, broken or not laid out as expected."""


class ShapeError(BaseResidualError):
    """A tensor has a shape that the network, a loss or a metric cannot take."""


class PredictionError(BaseResidualError):
    """A network's prediction is not finite.

    Args:
        of: what the predictions are for, such as the names of recordings.
        rows: their places in the batch.
    """

    def __init__(self, of: str, rows: Sequence[int] = ()) -> None:
        super().__init__(
            f"The prediction for {of} is not finite: the echo holds NaN or infinity, or the network's weights are too "
            "large. Check the recording; if it is sound, use another checkpoint or train again."
        )
        self.rows = rows


class CheckpointError(BaseResidualError):
    """A checkpoint is missing, broken or does not belong to this model."""


class RunError(BaseResidualError):
    """A run's folder cannot be used: taken by another run, not writable, or without the state that is asked for."""


class TrainingError(BaseResidualError):
    """Training cannot go on: the loss is not finite, or the data holds nothing to learn from."""


class TrainingInterrupted(BaseResidualError):  # noqa: N818 - not a mistake
    """Training was stopped from outside, and its state was saved."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short; PyTorch words it differently for a card and a CPU."""
    said = f"{type(error).__name__}: {error}"
    return any(words in said for words in ("MemoryError", "out of memory", "can't allocate memory"))


class MissingExtraError(BaseResidualError):
    """An optional dependency is asked for and not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional dependency that is not installed. "
            f'Install it with: pip install "base-residual-depth[{extra}]", or ".[{extra}]" in a checkout.'
        )
