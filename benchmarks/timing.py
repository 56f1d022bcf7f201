"""Ways to do the same that take turns in one process, so that whatever else the machine does slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

Way = Callable[[], int]
"""One of several ways to do the same; returns how many samples it has dealt with."""


def take_turns(turns: int, ways: Mapping[Any, Way]) -> dict[Any, list[float]]:
    """Return the samples per second of each way in each of its turns; of several, the first is left out."""
    speeds: dict[Any, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            start = time.perf_counter()
            count = way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            speeds[name].append(count / (time.perf_counter() - start))
    return {name: found[turns > 1 :] for name, found in speeds.items()}


def over(speeds: Mapping[str, Sequence[float]], way: str, other: str = "reference") -> float:
    """Return how many times as fast as the other a way is: the median of the turns' ratios."""
    return statistics.median(a / b for a, b in zip(speeds[way], speeds[other], strict=True))


def medians(speeds: Mapping[Any, Sequence[float]]) -> dict[Any, float]:
    return {name: statistics.median(found) for name, found in speeds.items()}


def repeated(times: int, act: Callable[[], object], count: int = 1) -> Way:
    """Return a way that acts on `count` samples, several times."""

    def way() -> int:
        for _ in range(times):
            act()
        return times * count

    return way


def reading(loader: DataLoader[Any], then: Callable[[Any], object] = len) -> Way:
    """Return a way that reads all batches, and does something with each."""

    def way() -> int:
        count = 0
        for batch in loader:
            count += len(batch[0])
            then(batch)
        return count

    return way
