"""The linter, the formatter and the type checker find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


PYREFLY = f"pyrefly check --python-interpreter-path {sys.executable}"


@pytest.mark.parametrize("command", [PYREFLY, "ruff check .", "ruff format --check ."], ids=["types", "lint", "format"])
def test_nothing_is_found(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
