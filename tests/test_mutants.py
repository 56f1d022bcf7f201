from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("mutants")


SOURCE = '''
"""What it is for."""
LIMIT = 3

def kept(values: list[int], strict: bool = True) -> str:
    """Those within the limit."""
    if not values or strict and min(values) < LIMIT:
        raise ValueError(f"{values} are too many")
    return "x" if values.sort(key=abs) else -LIMIT
'''


def test_a_module_is_broken_in_every_usual_way_and_nowhere_else(driver: ModuleType) -> None:
    found = {(mutant.before, mutant.after) for mutant in driver.mutants(SOURCE, "kept.py")}
    head, test = (
        "def kept(values: list[int], strict: bool=True) -> str:",
        "if not values or (strict and min(values) < LIMIT):",
    )
    words, end = "raise ValueError(f'{values} are too many')", "return 'x' if values.sort(key=abs) else -LIMIT"
    assert found == {
        ("LIMIT = 3", "LIMIT = 4"),
        (head, head.replace("True", "False")),
        (test, "if not (not values or (strict and min(values) < LIMIT)):"),
        (test, "if not values and (strict and min(values) < LIMIT):"),
        (test, "if values or (strict and min(values) < LIMIT):"),
        (test, "if not values or (strict or min(values) < LIMIT):"),
        (test, "if not values or (strict and min(values) <= LIMIT):"),
        (test, "if not values or (strict and min(values) >= LIMIT):"),
        (words, "pass"),
        (words, "raise ValueError('')"),
        (end, "return None"),
        (end, "return -LIMIT if values.sort(key=abs) else 'x'"),
        (end, "return 'XXxXX' if values.sort(key=abs) else -LIMIT"),
        (end, "return 'x' if values.sort() else -LIMIT"),
        (end, "return 'x' if values.sort(key=abs) else LIMIT"),
    }


def test_the_campaign_runs_in_its_quick_form(driver: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "mutants.json"
    command = [sys.executable, ROOT / "benchmarks" / "mutants.py", "--quick", "--modules", "losses", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(out.read_text())["modules"].values()
    assert found["mutants"] == driver.QUICK
    assert found["killed"] + len(found["survivors"]) == driver.QUICK
    assert found["killed"] > 0
    assert out.with_suffix(".md").read_text(encoding="utf-8") == driver.markdown({"losses": found})
