from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    """The verdict of import-linter on the package in a folder, by the contracts in its pyproject.toml."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be changed."""
    shutil.copytree(ROOT / "base_residual", tmp_path / "base_residual", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_each_room_imports_only_from_those_below_it_and_nothing_in_a_circle() -> None:
    found = contracts(ROOT)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "edge",
    [
        "from base_residual.training.trainer import Trainer\n",
        "def late() -> None:\n    import base_residual.training.trainer\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import base_residual.training.trainer\n",
    ],
    ids=["module", "function", "type-checking"],
)
def test_one_import_that_climbs_breaks_the_contract(copy: Path, edge: str) -> None:
    module = copy / "base_residual" / "metrics.py"
    module.write_text(f"{module.read_text()}\n\n{edge}")
    found = contracts(copy)
    assert found.returncode == 1
    assert "base_residual.metrics is not allowed to import base_residual.training" in found.stdout


def test_one_circle_among_siblings_breaks_the_contract(copy: Path) -> None:
    module = copy / "base_residual" / "models" / "mirror.py"
    module.write_text(f"{module.read_text()}\n\nfrom base_residual.models.lookup import LookupDecoder\n")
    found = contracts(copy)
    assert found.returncode == 1
    assert "No cycles are allowed in base_residual.models" in found.stdout
