"""Memory that tensors leave behind on the CPU is there for the next ones: how many of their pages the system gives."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

MIB, PIECES = 16, 4
WARM_UP = 8  # until there is a place for it that nothing small has come to lie in
ROUNDS = 4
PAGES = ROUNDS * PIECES * MIB * 2**20 // os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0

ASK = f"""
import ctypes, resource, sys, torch
from base_residual.acoustics.framing import echo_frames
from base_residual.models.factory import create_model
from base_residual.config.resolve import make_config
from base_residual.machine import M_TRIM_THRESHOLD, keep_freed_memory

ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**17)  # the least is kept, whatever else lies in the heap

config = make_config({{"data": {{"output_size": 32, "max_depth": 3.0}}, "model": {{"base_channels": 4}}}})
model = create_model(config)
match sys.argv[1]:
    case "predict":
        model.predict(torch.randn(2, 800))
    case "train":
        from base_residual.training.optimisation import make_optimizer
        from base_residual.training.step import Updater

        Updater(model, make_optimizer(model, config.trainer), config, 1, 1)
    case "evaluate":
        from base_residual.data.sample import EchoSample
        from base_residual.evaluation import evaluate

        evaluate(model, [EchoSample(torch.zeros(2, echo_frames(3.0)), torch.ones(32, 32), "1")])
    case device:
        keep_freed_memory(torch.device(device))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    [torch.ones({MIB} * 2**18) for _ in range({PIECES})]

for _ in range({WARM_UP}):
    work()
before = faults()
for _ in range({ROUNDS}):
    work()
print(faults() - before)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no C library that can be asked")


def pages_given(to: str, **environment: str) -> int:
    """How many pages the system gives for the same tensors, four times in a row."""
    tuned = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK, to], env=tuned | environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("work", ["predict", "train", "evaluate"])
def test_what_repeats_itself_asks_the_system_for_its_memory_once(work: str) -> None:
    assert pages_given(work) < PAGES / 10


@pytest.mark.parametrize(("device", "environment"), [("cuda", {}), ("cpu", {"MALLOC_TRIM_THRESHOLD_": "131072"})])
def test_nothing_is_asked_for_a_card_or_where_the_environment_decides(device: str, environment: dict[str, str]) -> None:
    assert pages_given(device, **environment) >= PAGES / 2
