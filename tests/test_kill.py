"""A run that is killed and resumed becomes the run that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Runs a script whose pictures are empty sheets, as those of the other tests are.
DRAWING_NOTHING = """
import runpy, sys
from matplotlib.figure import Figure

Figure.draw = lambda *_: None
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are needed to kill and to start again")
def test_a_killed_run_that_is_resumed_is_the_run_that_nobody_killed(tmp_path: Path) -> None:
    out = tmp_path / "kill.json"
    command = [sys.executable, "-c", DRAWING_NOTHING, BENCHMARKS / "kill.py", "--quick", "--seed", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["kills"] == sum(found["struck"].values()) == 3
    assert found["files_compared"] > 20
    assert found["differing"] == found["leftovers"] == []
