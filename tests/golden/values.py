"""How a golden value is written down and compared: chosen numbers of an array, and what sums up all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
WHOLE = 64  # numbers of an array that is written down as it is
SHOWN = 16  # numbers of a longer one that are written down, spread over all of it
DIGITS = 7
SMALLEST = 0.05  # single numbers and short arrays may differ as if they were at least this large


def summary(value: Any) -> Any:
    """Return what is written down of a value: texts and short arrays as they are, a long array as figures."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
        return value
    array = np.asarray(value, np.float64)
    if array.size <= WHOLE:
        return [_rounded(number) for number in array.ravel()] if array.ndim else _rounded(float(array))
    places = ((np.arange(SHOWN) + 0.5) * 0.6180339887498949 % 1 * array.size).astype(int)
    return {
        "shape": list(array.shape),
        "mean": _rounded(float(array.mean())),
        "abs": _rounded(float(np.abs(array).mean())),
        "rms": _rounded(float(np.sqrt(np.square(array).mean()))),
        "at": [_rounded(number) for number in array.ravel()[places]],
    }


def differences(found: dict[str, Any], pinned: dict[str, Any], tolerance: float) -> list[str]:
    """Return a sentence for each value that is not what was pinned.

    Args:
        found, pinned: summaries by name.
        tolerance: share of what an array spreads over, or of a number's magnitude, by which it may differ.
    """
    if found.keys() != pinned.keys():
        return [f"The values are {', '.join(found)}; pinned are {', '.join(pinned)}."]
    pairs = ((name, found[name], pinned[name]) for name in pinned)
    return [f"{name} is {new}; pinned is {old}." for name, new, old in pairs if not _alike(new, old, tolerance)]


def _alike(new: Any, old: Any, tolerance: float) -> bool:
    if isinstance(old, str) or (isinstance(old, list) and old and isinstance(old[0], str)):
        return bool(new == old)
    if isinstance(old, dict):
        if new["shape"] != old["shape"]:
            return False
        scale = np.sqrt(max(old["rms"] ** 2 - old["mean"] ** 2, 0)) + 0.01 * old["rms"]  # how far it spreads
        new, old = ([figures["mean"], figures["abs"], figures["rms"], *figures["at"]] for figures in (new, old))
    else:
        scale = max(SMALLEST, np.sqrt(np.square(old).mean()))
    came, wanted = np.asarray(new), np.asarray(old)
    # What is written down is rounded itself.
    return came.shape == wanted.shape and bool(
        (np.abs(came - wanted) <= tolerance * scale + 10.0**-DIGITS * np.abs(wanted)).all()
    )


def read(name: str) -> dict[str, Any]:
    """Return the pinned values of a case."""
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return values


def write(name: str, values: dict[str, Any]) -> None:
    """Pin the values of a case, one a line."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    (FOLDER / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
