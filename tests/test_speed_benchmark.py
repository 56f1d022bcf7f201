"""The speed benchmark runs end to end in its quick form, and its reference is this field's way."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_batvision
from nursery import SCRIPT, Nursery, together
from torch.utils.flop_counter import FlopCounterMode

from base_residual.config.resolve import make_config
from base_residual.data import open_dataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("speed")


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("reference")


def numbers(values: Any) -> Iterator[float]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from numbers(value)
    elif not isinstance(values, str):
        yield values


def test_the_speed_benchmark_runs_in_its_quick_form(
    tmp_path: Path, speed: ModuleType, monkeypatch: pytest.MonkeyPatch, nursery: Nursery
) -> None:
    growth, child = importlib.import_module("growth"), importlib.import_module("child")
    in_processes = growth.child

    def measured_here(task: str, *words: object, processes: int = 1, **environment: str) -> float:
        """Measures alone in this process, which spares the start of five others."""
        if processes > 1:
            return in_processes(task, *words, processes=processes, **environment)
        return getattr(child, task)(*map(str, words))

    def forked(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        """Does what torchrun does, with processes out of the nursery."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        assert command[: len(torchrun)] == torchrun
        workers = together(nursery, tmp_path, 2, SCRIPT, *command[len(torchrun) :], environment=env)
        said = [worker.communicate()[0] for worker in workers]
        return SimpleNamespace(
            returncode=max(worker.returncode for worker in workers), stdout="".join(said), stderr="".join(said)
        )

    def started_here(words: list[str], **_: object) -> None:
        """Runs the program of a start in this process, which spares three imports of torch."""
        assert words[1] in ("-c", "-m")
        if words[1] == "-c":
            exec(words[2], {})

    out = tmp_path / "out.json"
    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(run=started_here, DEVNULL=None))
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path))  # the benchmark sets it, too
    monkeypatch.setattr(growth, "child", measured_here)
    monkeypatch.setattr(growth, "subprocess", SimpleNamespace(run=forked))
    # An export takes as long as all the rest, and test_export.py has it.
    monkeypatch.setattr(speed, "export_onnx", lambda *_: None)
    monkeypatch.setattr(speed, "measure_onnx", lambda *_: SimpleNamespace(latency_median_ms=1.0, scan_median_ms=1.0))
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--out", str(out)])
    speed.main()
    result, committed = (json.loads(path.read_text()) for path in (out, BENCHMARKS / "results" / "speed.json"))
    assert result["machine"]
    assert result["commit"]
    assert result["ratios"].keys() == committed["ratios"].keys()
    assert {"batch_size", "image_side", "processes"} <= set(result["growth"])
    assert ("memory" in result["growth"]) == (sys.platform == "linux")
    assert list(result["sizes"]) == ["tiny", "small", "base", "original"]
    for panel in result["growth"].values():
        assert panel["series"]
        assert all(len(values) == len(panel["at"]) for values in panel["series"].values())
    series = [panel["series"] for panel in result["growth"].values()]
    costs = [[size["echo_ms"], size["gflops"]] for size in result["sizes"].values()]
    measured = list(
        numbers([result["ratios"], result["per_second"], result["card"] or {}, result["robot"], series, costs])
    )
    assert measured
    assert all(math.isfinite(value) and value > 0 for value in measured)


def test_the_profile_says_where_all_the_time_of_a_step_goes(
    tmp_path: Path, speed: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "profile.json"
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--profile", "--out", str(out)])
    speed.main()
    found = json.loads(out.read_text())["shares"]
    assert list(found) == ["reference", "default"]
    for operations in found.values():
        assert sum(operations.values()) == pytest.approx(1)
        assert list(operations.values()) == sorted(operations.values(), reverse=True)
        assert "aten::convolution_backward" in operations


def test_the_reference_network_has_the_size_of_the_fields(reference: ModuleType) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = reference.network()
        network(torch.empty(1, 2, 256, 256))
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(25.1e6, rel=2e-3)
    assert counter.get_total_flops() == pytest.approx(130.6e9, rel=1e-3)


def test_the_reference_reads_what_the_package_reads(tmp_path: Path, reference: ModuleType) -> None:
    root = write_batvision(tmp_path, size=(64, 96))
    config = make_config({"data": {"name": "batvisionv2", "output_size": 32, "prepare": False}})
    spectrogram, depth = reference.ReferenceData(root, "train", 32)[0]
    ours = open_dataset("batvisionv2", root, "train", config)[0]
    assert spectrogram.shape == (2, 32, 32)
    assert depth.shape == (1, *ours.depth.shape)
    away = np.s_[12:, 12:]  # from the hole, which the reference's resize lets bleed into its neighbours
    torch.testing.assert_close(depth[0][away], ours.depth[away], rtol=0.02, atol=0)
