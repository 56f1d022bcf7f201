from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_batvision
from torch.utils.flop_counter import FlopCounterMode

from base_residual.metrics import DepthMetrics

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMMITTED = BENCHMARKS / "results" / "speed.json"
OPTIONAL = {"onnx_ms"}  # where ONNX Runtime is not installed


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("speed")


def numbers(values: Any) -> Iterator[float]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from numbers(value)
    elif not isinstance(values, str):
        yield values


def test_the_speed_benchmark_runs_in_its_quick_form(tmp_path: Path, speed: ModuleType) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["machine"]
    assert result["commit"]
    assert set(speed.GOALS) - OPTIONAL <= set(result["ratios"]) <= set(speed.GOALS)
    assert {"batch_size", "image_side", "recordings", "workers"} <= set(result["growth"])
    assert ("memory" in result["growth"]) == speed.LINUX
    assert list(result["sizes"]) == ["tiny", "small", "base", "original"]
    assert all(size["echo_ms"] > 0 and size["gflops"] > 0 for size in result["sizes"].values())
    for panel in result["growth"].values():
        assert panel["series"]
        assert all(len(values) == len(panel["at"]) for values in panel["series"].values())
        assert all(math.isfinite(value) and value > 0 for value in numbers(panel["series"]))
    measured = list(numbers([result["ratios"], result["per_second"], result["card"] or {}]))
    assert measured
    assert all(math.isfinite(value) and value > 0 for value in measured)
    assert set(result["share_of_peak"]) == set(speed.WAYS)
    assert all(share > 0 for share in result["share_of_peak"].values())
    assert out.with_suffix(".png").exists()
    assert out.with_suffix(".md").read_text(encoding="utf-8") == speed.markdown(result)


def test_the_reference_network_has_the_size_of_the_fields(speed: ModuleType) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = speed.reference_network()
        network(torch.empty(1, 2, 256, 256))
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(25.1e6, rel=2e-3)
    assert counter.get_total_flops() == pytest.approx(130.6e9, rel=1e-3)


def test_the_reference_metrics_equal_the_packages(speed: ModuleType) -> None:
    chance = torch.Generator().manual_seed(0)
    gt = speed.MAX_DEPTH * torch.rand(6, 1, 24, 24, generator=chance)
    pred = gt + 3 * torch.randn(gt.shape, generator=chance)
    gt = gt * (torch.rand(gt.shape, generator=chance) > 0.3)
    metrics = DepthMetrics(speed.MAX_DEPTH)
    metrics.update(pred, gt)
    ours = metrics.compute()
    for name, value in speed.reference_metrics(pred.numpy(), gt.numpy()).items():
        assert value == pytest.approx(ours[name], rel=1e-5)


def test_the_reference_reads_what_the_package_reads(tmp_path: Path, speed: ModuleType) -> None:
    root = write_batvision(tmp_path, size=(64, 96))
    config = speed.make_config({"data": {"name": "batvisionv2", "output_size": 32, "prepare": False}})
    (spectrogram, depth), ours = (
        speed.ReferenceData(root, "train", 32)[0],
        speed.open_dataset("batvisionv2", root, "train", config)[0],
    )
    assert spectrogram.shape == (2, 32, 32)
    assert depth.shape == (1, *ours.depth.shape)
    away = np.s_[12:, 12:]  # from the hole, which the reference's resize lets bleed into its neighbours
    torch.testing.assert_close(depth[0][away], ours.depth[away], rtol=0.02, atol=0)


def test_a_figure_is_judged_by_its_own_direction(speed: ModuleType) -> None:
    at_bounds = {name: goal.least or goal.most or 1.0 for name, goal in speed.GOALS.items()}
    bound = {name for name, goal in speed.GOALS.items() if goal.least or goal.most}
    verdicts = {name: target.met for name, target in zip(speed.GOALS, speed.targets(at_bounds), strict=True)}
    assert verdicts == {name: True if name in bound else None for name in speed.GOALS}
    worse = {name: value * (0.9 if speed.GOALS[name].least else 1.1) for name, value in at_bounds.items()}
    assert [target.met for target in speed.targets(worse)].count(False) == len(bound)
    assert {target.measured for target in speed.targets({})} == {"not run"}
    assert {target.met for target in speed.targets({})} == {None}


def test_the_share_of_peak_holds_operations_against_a_product_in_the_same_precision(
    speed: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = speed.QUICK
    kinds = {"reference": torch.float32, "original": torch.bfloat16, "default": torch.bfloat16}
    monkeypatch.setattr(speed, "precisions", lambda *_: kinds)
    assert set(speed.products(sizes, speed.CPU)) == {"product in float32", "product in bfloat16"}
    costs = {name: 3 * speed.gflops(speed.create_model(config)) for name, config in speed.trained(sizes).items()}
    one = 2 * sizes.product**3 / 1e9
    step = {"reference": [one / costs["original"]] * 2, "original": [one / costs["original"]] * 2}
    step |= {"default": [one / costs["default"]] * 2, "product in float32": [2.0] * 2, "product in bfloat16": [4.0] * 2}
    assert speed.shares(step, sizes) == pytest.approx({"reference": 1 / 2, "original": 1 / 4, "default": 1 / 4})


def test_a_product_leaves_the_precision_of_others_as_it_was(speed: ModuleType) -> None:
    before = torch.get_float32_matmul_precision()
    for way in speed.products(speed.QUICK, speed.CPU).values():
        assert way() == speed.QUICK.repeats
    assert torch.get_float32_matmul_precision() == before


def test_the_tables_show_a_card_where_there_was_one(speed: ModuleType) -> None:
    result = json.loads(COMMITTED.read_text())
    figures = {name: place + 1.0 for place, name in enumerate(speed.WAYS)}
    share = {name: value / 10 for name, value in figures.items()}
    card = {"device": "Card 1", "step": figures, "epoch_s": figures, "share_of_peak": share}
    text = speed.markdown(result | {"card": card, "share_of_peak": share})
    assert "| steps on Card 1 | samples/s | share of peak | seconds for 1,911 recordings |" in text
    assert "| default | 3 | 30.0% | 3 |" in text
    assert re.search(r"steps on the processor.*\n.*\n\| reference \| [\d.]+ \| 10.0% \|", text)


def test_the_profile_says_where_all_the_time_of_a_step_goes(speed: ModuleType) -> None:
    found = speed.profile(speed.QUICK, speed.CPU)
    assert tuple(found) == speed.WAYS
    for operations in found.values():
        assert sum(operations.values()) == pytest.approx(1)
        assert list(operations.values()) == sorted(operations.values(), reverse=True)
        assert "aten::convolution_backward" in operations
    *_, last = speed.profile_table({"a": {"x": 0.9, "y": 0.1 - 0.015, "z": 0.015}}).splitlines()
    assert last == "| all others | 1.5% |"
