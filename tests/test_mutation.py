from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

SOURCE = """\
LIMIT = 3

class Kept:
    share: float = 0.5

    @staticmethod
    def all() -> int:
        return 1

    @property
    def some(self) -> int:
        return 2


def none(values: list[int]) -> int:
    return LIMIT * len(values)
"""


@pytest.fixture
def mutation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("mutation")


def test_cosmic_ray_gets_the_lines_that_mutmut_leaves_alone(mutation: ModuleType) -> None:
    lines = SOURCE.splitlines()
    left = {lines[int(number) - 1].strip() for number in mutation.outside_functions(SOURCE)}
    assert {"LIMIT = 3", "share: float = 0.5", "return 2"} <= left
    assert not {"return 1", "return LIMIT * len(values)"} & left


def test_every_module_and_test_of_the_campaign_is_there(mutation: ModuleType) -> None:
    for module, arguments in mutation.SETTINGS["modules"].items():
        assert (ROOT / "base_residual" / module).is_file()
        for argument in arguments:
            assert (ROOT / argument.removeprefix("--deselect=").split("::")[0]).is_file(), argument


def test_a_survivor_without_a_reason_is_counted_as_such(mutation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = ("survived", "a = 1", "a = 2"), ("no tests", "b = 1", "b = 2")
    found = {"outcomes": {"killed": 17, "timeout": 1, "survived": 1, "no tests": 1}, "survivors": [known, unknown]}
    monkeypatch.setitem(mutation.SETTINGS["survivors"], "losses.py", {"a = 1": "nothing reads it"})
    assert mutation.unexplained("losses.py", found) == [unknown]
    assert "| `losses.py` | 20 | 18 | 1 | 90.0% | 1 | 1 |" in mutation.markdown({"losses.py": found})


def test_the_committed_table_is_that_of_the_committed_results(mutation: ModuleType) -> None:
    results = json.loads(mutation.RESULTS.read_text(encoding="utf-8"))
    assert mutation.RESULTS.with_suffix(".md").read_text(encoding="utf-8") == mutation.markdown(results)
