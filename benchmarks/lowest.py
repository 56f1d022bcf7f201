"""Try the package with the lowest versions that pyproject.toml allows, in a new virtual environment.

The dependencies and the extras that the program itself uses are installed at their lower ends, what they need in turn
as pip chooses it. Then every command shows its help, a tiny training is trained, scored, drawn, predicted with,
exported, timed and reported, and some of the tests run. What fails says that a lower end is not honest: raise it.

    python benchmarks/lowest.py               # a quarter of an hour, and 8 GB where PyTorch comes for graphics cards
    python benchmarks/lowest.py --venv FOLDER # an environment that stays, and is used as it is where it is there
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TOOLS = ("docs", "dev")  # extras of those who change the package; they go with newer versions of what it needs
TESTERS = ("pytest", "pytest-xdist", "hypothesis", "packaging")
TESTS = ("test_config.py", "test_losses.py", "test_metrics.py", "test_model.py", "test_checkpoint.py")
TINY = {
    "data.output_size": 32,
    "data.max_depth": 8,
    "simulation.train_rooms": 8,
    "simulation.val_rooms": 2,
    "simulation.test_rooms": 2,
    "model.base_channels": 4,
    "model.base_grid": 4,
    "trainer.epochs": 1,
    "trainer.batch_size": 8,
}


def lower_ends(project: dict[str, object], python: str = sys.platform) -> dict[str, str]:
    """Return the lowest allowed version of each dependency and of what the extras of a user need, by name.

    Raises:
        ValueError: one has no lower end.
    """
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    lines = [*project["dependencies"], *(line for name in extras if name not in TOOLS for line in extras[name])]  # type: ignore[misc]
    ends = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"sys_platform": python, "extra": ""}):
            continue
        lowest = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
        if not lowest:
            raise ValueError(f"{requirement.name} has no lowest version in pyproject.toml.")
        ends[requirement.name] = lowest[0]
    return ends


def install(python: Path, ends: dict[str, str]) -> list[str]:
    """Install the package with the lower ends; return what had to be installed in a later version."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    pins = {name: f"{name}=={version}" for name, version in ends.items()}
    later = []
    while True:
        done = subprocess.run([*pip, *pins.values()], capture_output=True, text=True, check=False)
        if not done.returncode:
            break
        lost = [name for name, pin in pins.items() if f"No matching distribution found for {pin}" in done.stderr]
        if not lost:
            sys.exit(f"The lower ends do not go together:\n{done.stderr}")
        for name in lost:  # an index need not have every version
            pins[name] = f"{name}>={ends[name]}"
            later.append(name)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    subprocess.run([*pip, *TESTERS, *pins.values()], check=True)
    return later


def commands(python: Path, work: Path) -> Iterator[list[str]]:
    """Yield what is to run without an error, in order."""
    brdepth = [str(python), "-m", "base_residual"]
    yield [*brdepth, "--help"]
    listed = subprocess.run(
        [str(python), "-c", "from base_residual.cli.main import app; from typer.main import get_command as g; "
         "print(*g(app).commands)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split():
        yield [*brdepth, name, "--help"]
    settings = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    yield [*brdepth, "train", *settings, "--tensorboard", "--results-dir", str(work / "results")]
    (run,) = (work / "results").iterdir()
    best = str(run / "best.safetensors")
    sound = str(next((work / "cache").glob("rooms-*/*/audio/*.wav")))
    yield [*brdepth, "eval", best]
    yield [*brdepth, "visualize", best]
    yield [*brdepth, "predict", best, sound, "--out", str(work / "predictions")]
    yield [*brdepth, "export", best]
    yield [*brdepth, "benchmark", best]
    yield [*brdepth, "report", str(run)]
    yield [str(python), "-c", "import wandb, huggingface_hub"]  # sounddevice needs a library of the system
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    # Old versions warn of what newer ones have changed.
    yield [str(python), "-m", "pytest", *tests, "-q", "-W", "default", "-p", "no:cacheprovider"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="folder of the environment; default: one that is removed afterwards")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ends = lower_ends(project)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        work, folder = Path(scratch), options.venv or Path(scratch) / "venv"
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not python.exists():
            venv.create(folder, with_pip=True)
            for name in install(python, ends):
                print(f"{name} {ends[name]} is not to be had here; a later version was tried.")
        os.environ |= {"BRDEPTH_CACHE": str(work / "cache"), "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        for command in commands(python, work):
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            words = " ".join(Path(word).name if os.sep in word else word for word in command[1:])
            print(f"{'fails' if done.returncode else 'works'}: {words[:100]}", flush=True)
            if done.returncode:
                failed.append(words)
                print(done.stdout[-3000:], done.stderr[-3000:])
    if failed:
        sys.exit(f"{len(failed)} of these do not work with the lowest versions that pyproject.toml allows.")
    print("All of it works with " + ", ".join(f"{name} {version}" for name, version in ends.items()) + ".")


if __name__ == "__main__":
    main()
