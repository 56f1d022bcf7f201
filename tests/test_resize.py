"""The comparison of resizes of a depth map with holes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def resize(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("resize")


def test_a_resize_that_averages_holes_in_is_what_ruins_abs_rel(
    tmp_path: Path, resize: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = np.tile(np.linspace(2000, 4000, 300), (200, 1))
    depth[50:110, 70:161] = 0
    map_file, out = tmp_path / "map.npy", tmp_path / "out.json"
    np.save(map_file, depth.astype(np.uint16))
    monkeypatch.setattr(sys, "argv", ["resize.py", "--depth", str(map_file), "--size", "64", "--out", str(out)])
    resize.main()
    blind, aware = (json.loads(out.read_text())["ways"][name] for name in ("antialiased", "mask-aware"))
    assert blind["nearest_m"] < 0.5 < 2.0 <= aware["nearest_m"]
    assert blind["metrics"]["abs_rel"] > 1.5 * aware["metrics"]["abs_rel"]


def test_the_committed_figures_of_the_resize_come_back(real_root: Path, resize: ModuleType) -> None:
    depth = resize.read_depth(real_root / "Sample_Location" / "depth" / "depth_47.npy", resize.MAX_DEPTH)
    committed = json.loads((BENCHMARKS / "results" / "resize.json").read_text())
    found = resize.measure(depth, committed["size"])
    for name, way in committed["ways"].items():
        assert found["ways"][name]["metrics"] == pytest.approx(way["metrics"], rel=1e-3)
