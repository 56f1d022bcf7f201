"""Arrays are read without running code; files are written so that nothing ever leaves half of one behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import DataError, RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and rename it into place once the block has ended without an error.

    Raises:
        RunError: the folder cannot be written to, or the disk is full.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        aside.unlink(missing_ok=True)


def read_array(path: Path, kind: str) -> NDArray[Any]:
    """Map the one array of an `.npy` file; objects in it are refused, for they could run code.

    Args:
        path: file to read.
        kind: what it is to the user ("depth map"), for the error.

    Raises:
        DataError: the file is missing or no `.npy` of numbers or text.
    """
    try:
        stored: Any = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError as error:
        raise DataError(f"The {kind} {path} does not exist.") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"The {kind} {path} is not a readable .npy file.") from error
    if not isinstance(stored, np.ndarray):  # several arrays in an .npz
        stored.close()
        raise DataError(f"The {kind} {path} is not a readable .npy file.")
    return stored
