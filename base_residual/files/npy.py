"""Reading `.npy` files that somebody else may have written: no objects, no archives, no sizes that are not there."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import DataError

MAX_HEADER = 10_000  # bytes of the header of an `.npy` file, as numpy has it


def map_array(path: Path) -> NDArray[Any]:
    """An `.npy` file as an array that is read from the disk where it is looked at.

    Unlike `numpy.load` it opens neither zip archives nor pickled objects, and a header that states more than the file
    holds is refused before anything is allocated.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no `.npy` file, its header is damaged, or it is shorter than its header says.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        major, _ = np.lib.format.read_magic(file)
        if int.from_bytes(file.read(2 if major == 1 else 4), "little") > MAX_HEADER:
            raise ValueError(f"{path} has a header of more than {MAX_HEADER} bytes")
    try:
        with np.errstate(over="raise"):  # a shape of more bytes than can be counted
            return np.lib.format.open_memmap(path, mode="r")
    except (ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError) as error:
        raise ValueError(f"{path} has a damaged header") from error  # numpy has it parsed as Python


def read_array(path: Path, kind: str) -> NDArray[Any]:
    """`map_array` for a user's file.

    Args:
        path: file to read.
        kind: what it is to the user ("depth map"), for the error.

    Raises:
        DataError: the file is missing or no `.npy` of numbers or text.
    """
    try:
        return map_array(path)
    except FileNotFoundError as error:
        raise DataError(f"The {kind} {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"The {kind} {path} is not a readable .npy file.") from error
