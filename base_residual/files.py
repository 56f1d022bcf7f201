"""Writing files so that nothing leaves half of one behind; reading them so that none takes all memory."""

from __future__ import annotations

import errno
import json
import math
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from base_residual.errors import RunError

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number out of a file that `as_json` has written: null is one that is not defined."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and rename it into place once the block has ended without an error.

    Raises:
        RunError: the path names no file, the folder cannot be written to, or the disk is full.
    """
    if not path.name:
        raise RunError(f"Cannot write {path}: it is a folder.")
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        discard(aside)


def discard(path: Path) -> None:
    """Remove a file, if it is there and its disk lets it go."""
    with suppress(OSError):
        path.unlink()


def read_at_most(path: Path, most: int) -> bytes:
    """All of a file that has no reason to be larger than `most` bytes; no more than that is ever read.

    Raises:
        OSError: it is larger, or cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def as_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON that every reader takes: null for numbers that are none, as JSON has no others; paths as text."""
    loose = json.dumps(value, default=str)
    return json.dumps(json.loads(loose, parse_constant=lambda name: None), indent=indent)


def from_json(kind: Any, content: str | bytes) -> Any:
    """JSON as the type that it is meant to be of.

    Raises:
        ValueError: it is no JSON, or of another type; in one sentence.
    """
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{where}: {problem['msg']}" if where else problem["msg"]) from error


def writable(text: str) -> bool:
    """Whether a text can go into a file and on a terminal: it holds no control character and no half of a character."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
