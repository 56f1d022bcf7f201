"""What is handed out: complete pins, and archives that are the same bytes each time and work on their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import base_residual

ROOT = Path(__file__).parents[1]
NAME = "base-residual-depth"
SHIPPED = ("base_residual", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt", "pyproject.toml", "SECURITY.md")

SMOKE = """
import base_residual
import torch
from base_residual import create_base_residual_model, make_config
model = create_base_residual_model(make_config()).eval()
final = model.predict(torch.zeros(1, 2, 4000)).final
assert final.isfinite().all(), final
print(tuple(final.shape))
print(base_residual.__file__)
"""


def required(name: str, extra: str = "") -> Iterator[tuple[str, str]]:
    """The (name, extra) of what a distribution needs here."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in {"", *requirement.extras}:
                yield canonicalize_name(requirement.name), wanted


def test_every_package_that_is_needed_is_pinned_to_what_is_installed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in pairs}
    waiting, seen = [(NAME, "dev")], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) not in seen:
            seen.add((name, extra))
            waiting.extend(required(name, extra))
    needed = {name for name, _ in seen} - {NAME}
    assert len(needed) > 50
    for name in needed:
        # A local part, as in 2.13.0+cpu, says which build of the same version it is.
        assert distribution(name).version.split("+")[0] == pins[name], name


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    """A wheel and a source distribution, built twice from copies in other places and with other times."""
    built = []
    for number, second in enumerate((1_000_000_000, 1_600_000_000)):
        source = tmp_path_factory.mktemp(f"copy{number}") / ("deep" * number + "project")
        ignored = shutil.ignore_patterns("__pycache__", ".*", "results")
        shutil.copytree(ROOT, source, ignore=ignored)
        for path in source.rglob("*"):
            os.utime(path, (second, second))
        out = source / "dist"
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        built.append({path.suffix: path for path in out.iterdir()})
    return built


def test_the_same_files_give_the_same_archives(archives: list[dict[str, Path]]) -> None:
    first, second = archives
    assert first.keys() == second.keys() == {".whl", ".gz"}
    for kind, path in first.items():
        assert path.name == second[kind].name
        assert path.read_bytes() == second[kind].read_bytes()


def test_the_wheel_works_on_its_own(archives: list[dict[str, Path]], tmp_path: Path) -> None:
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--no-compile",
    ]
    subprocess.run([*install, "--target", str(tmp_path), str(archives[0][".whl"])], check=True, capture_output=True)
    assert (tmp_path / "base_residual" / "py.typed").is_file()
    assert not list(tmp_path.rglob("test_*.py"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SMOKE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 1, 64, 64)", str(tmp_path / "base_residual" / "__init__.py")]


def test_the_source_distribution_has_what_it_is_built_from(archives: list[dict[str, Path]], tmp_path: Path) -> None:
    with tarfile.open(archives[0][".gz"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"base_residual_depth-{base_residual.__version__}"
    for name in SHIPPED:
        assert (folder / name).exists(), name
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (wheel,) = (tmp_path / "again").iterdir()  # the very wheel that works on its own
    assert wheel.read_bytes() == archives[0][".whl"].read_bytes()


def test_no_machine_and_no_registry_is_named() -> None:
    for path in (ROOT / "constraints.txt", ROOT / "pyproject.toml"):
        assert not re.search(r"(?:https?|file)://|^/|--(?:extra-)?index", path.read_text(), re.MULTILINE), path
