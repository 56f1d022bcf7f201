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


def test_a_change_that_no_test_notices_needs_a_reason_for_its_line_or_its_kind(
    mutation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mutation.SETTINGS["survivors"], "losses.py", {"a = 1": "nothing reads it"})
    monkeypatch.setitem(mutation.SETTINGS, "kinds", {r"True.* -> .*False": "the same in other memory"})
    line, kind, unknown = ("survived", "a = 1", "a = 2"), ("no tests", "b(True)", "b(False)"), ("survived", "b", "c")
    assert not mutation.unsettled("losses.py", line)
    assert not mutation.unsettled("losses.py", kind)
    assert mutation.unsettled("losses.py", unknown)
    assert mutation.unsettled("losses.py", ("not checked", *line[1:]))
    assert not mutation.unsettled("losses.py", ("killed", *unknown[1:]))


def test_the_tests_of_each_module_notice_at_least_85_percent_and_the_rest_is_explained(mutation: ModuleType) -> None:
    results = json.loads(mutation.RESULTS.read_text(encoding="utf-8"))
    assert list(results) == list(mutation.SETTINGS["modules"])
    for module, found in results.items():
        assert len(found["survivors"]) <= 0.15 * sum(found["outcomes"].values()), module
        assert not [survivor for survivor in found["survivors"] if mutation.unsettled(module, survivor)]
