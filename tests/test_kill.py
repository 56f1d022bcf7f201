"""A run that is killed and resumed becomes the run that nobody killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from nursery import SCRIPT, Forked, Nursery

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are needed to kill and to start again")
def test_a_killed_run_that_is_resumed_is_the_run_that_nobody_killed(tmp_path: Path, nursery: Nursery) -> None:
    out = tmp_path / "kill.json"
    words = [BENCHMARKS / "kill.py", "--quick", "--seed", "1", "--out", out]
    done = Forked(nursery, tmp_path / "said", SCRIPT, *words)
    said, _ = done.communicate(timeout=240)
    assert done.returncode == 0, said
    found = json.loads(out.read_text())
    assert found["kills"] == sum(found["struck"].values()) == 3
    assert found["files_compared"] > 20
    assert found["differing"] == found["leftovers"] == []
