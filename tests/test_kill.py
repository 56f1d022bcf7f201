"""A run that is killed and resumed becomes the run that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EMPTY_SHEETS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
import runpy, sys
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are needed to kill and to start again")
def test_a_killed_run_that_is_resumed_is_the_run_that_nobody_killed(tmp_path: Path) -> None:
    out = tmp_path / "kill.json"
    words = [BENCHMARKS / "kill.py", "--quick", "--seed", "1", "--out", out]
    command = [sys.executable, "-c", EMPTY_SHEETS + SCRIPT, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["kills"] == sum(found["struck"].values()) == 3
    assert found["files_compared"] > 20
    assert found["differing"] == found["leftovers"] == []
