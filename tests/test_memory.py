"""Training keeps the memory of freed tensors on the CPU: the system gives their pages once."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from nursery import Forked, Nursery

MIB, PIECES, ROUNDS = 16, 4, 4
WARM_UP = 8  # rounds until the heap has a place for the pieces
PAGES = ROUNDS * PIECES * MIB * 2**20 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
PROGRAM = f"""
import ctypes, resource, sys, torch
from base_residual.config.resolve import make_config
from base_residual.machine import M_TRIM_THRESHOLD
from base_residual.models.factory import create_model
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step

ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**17)  # the least is kept, whatever else lies in the heap
config = make_config({{"data": {{"output_size": 32, "max_depth": 3.0}}, "model": {{"base_channels": 4}}}})
model = create_model(config)
make_step(model, make_optimizer(model, config.trainer), config, 1, 1)

def work():
    [torch.ones({MIB} * 2**18) for _ in range({PIECES})]

for _ in range({WARM_UP}):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no C library that can be asked")


Pages = Callable[..., int]


@pytest.fixture
def pages_given(nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """Tells how many pages the system gives for the same tensors, four times in a row."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)

    def count(**environment: str) -> int:
        done = Forked(nursery, tmp_path / "said", PROGRAM, environment=environment)
        said, _ = done.communicate()
        assert done.returncode == 0, said
        return int(said)

    return count


def test_training_asks_the_system_for_its_memory_once(pages_given: Pages) -> None:
    assert pages_given() < PAGES / 10


def test_the_environment_decides_where_it_tunes_the_c_library(pages_given: Pages) -> None:
    assert pages_given(MALLOC_TRIM_THRESHOLD_="131072") >= PAGES / 2
