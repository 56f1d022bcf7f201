"""How a golden value is written down and compared: chosen numbers of an array, and what sums up all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
SHOWN = 16  # numbers of an array that are written down, spread over all of it
DIGITS = 7


def summary(value: Any) -> Any:
    """Return what is written down of a value: texts and short arrays as they are, a long array as figures."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
        return value
    array = np.asarray(value, np.float64)
    if array.size <= SHOWN:
        return [_rounded(number) for number in array.ravel()] if array.ndim else _rounded(float(array))
    places = ((np.arange(SHOWN) + 0.5) * 0.6180339887498949 % 1 * array.size).astype(int)
    return {
        "shape": list(array.shape),
        "mean": _rounded(array.mean()),
        "abs": _rounded(np.abs(array).mean()),
        "rms": _rounded(_rms(array)),
        "at": [_rounded(number) for number in array.ravel()[places]],
    }


def differences(found: dict[str, Any], pinned: dict[str, Any], tolerance: float) -> list[str]:
    """Return a sentence for each value that is not what was pinned.

    Args:
        found, pinned: summaries by name.
        tolerance: share of an array's rms, or of a number, by which it may differ.
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
        parts = [[figures["mean"], figures["abs"], figures["rms"], *figures["at"]] for figures in (new, old)]
        scale = old["rms"]
    else:
        parts, scale = [new, old], _rms(np.asarray(old))
    came, wanted = (np.asarray(part, np.float64) for part in parts)
    # Rounding to the digits that are written down takes its part, too.
    limit = tolerance * scale + 10**-DIGITS * np.maximum(np.abs(wanted), 1e-6)
    return came.shape == wanted.shape and bool((np.abs(came - wanted) <= limit).all())


def read(name: str) -> dict[str, Any]:
    """Return the pinned values of a case."""
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return values


def write(name: str, values: dict[str, Any]) -> None:
    """Pin the values of a case, one a line."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    (FOLDER / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


def _rms(array: Any) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
