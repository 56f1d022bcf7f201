"""`.npy` files: safe reading of other people's, and writing row by row."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import DataError
from base_residual.files.atomic import no_links
from base_residual.files.paths import no_file

MAX_HEADER = 10_000  # bytes of the header of an `.npy` file, numpy's own limit
FARTHEST = 65.534  # metres, the largest depth that 16 bits hold; their largest number stands for no measurement


def in_millimetres(depth: NDArray[Any]) -> NDArray[np.uint16]:
    """Return depth in metres as maps are stored: in whole millimetres, from 0 to `FARTHEST`."""
    return np.round(depth.clip(0, FARTHEST) * 1000).astype(np.uint16)


def map_array(path: Path) -> NDArray[Any]:
    """Map an `.npy` file into memory, so that only what is used is read from the disk.

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
        with np.errstate(over="raise"):  # the number of bytes of a shape can overflow
            return np.lib.format.open_memmap(path, mode="r")
    except (ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError) as error:
        raise ValueError(f"{path} has a damaged header") from error  # numpy parses the header as Python


def read_array(path: Path, kind: str) -> NDArray[Any]:
    """Map a user's `.npy` file (`map_array`), with errors for the user.

    Args:
        path: file to read.
        kind: the word for it in an error, such as "depth map".

    Raises:
        DataError: the file is missing or no `.npy` of numbers or text.
    """
    try:
        return map_array(path)
    except FileNotFoundError as error:
        raise DataError(f"The {kind} {path} {no_file(path)}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"The {kind} {path} is not a readable .npy file.") from error


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as the content of an `.npy` file; a disk that is full is then an OSError that says so."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


class RowLayout(NamedTuple):
    """An `.npy` file that is written one row after the other.

    Attributes:
        kind: type of the numbers.
        shape: of the complete array, rows first.
    """

    kind: type
    shape: tuple[int, ...]

    def header(self) -> bytes:
        """Return the header of the complete file."""
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(self.kind))
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return header.getvalue()

    def size(self, rows: int) -> int:
        """Return the size of a file that holds the header and that many rows, in bytes."""
        return len(self.header()) + rows * math.prod(self.shape[1:]) * np.dtype(self.kind).itemsize

    def open(self, path: Path, rows: int) -> BinaryIO:
        """Open a file to append rows after the first `rows`, which are kept; anything after them is cut off."""
        file: BinaryIO = open(path, "r+b" if rows else "w+b", opener=no_links)  # noqa: SIM115 - the caller closes it
        file.write(self.header())
        file.truncate(self.size(rows))
        file.seek(0, os.SEEK_END)
        return file
