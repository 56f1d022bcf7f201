"""Time README's first commands, each from a new environment, on a machine left alone.

The first installs the package and predicts by the model in it; of the second, which trains, each stage is timed.

    python benchmarks/first_command.py                  # this commit, into results/first_command.json
    python benchmarks/first_command.py --commit REF     # an earlier one, beside those that are there

It clones the commit into a temporary folder, and takes as long as the commands: five to fifteen minutes on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from reporting import HERE, RESULTS, machine, parser, refuse, run_script, write

STAGES = {  # what the command prints when a stage begins or is over
    "installed": "Rendering rooms, once.",
    "rendered": "Preparing recordings, once.",
    "prepared": "Training in ",
    "first picture": "First picture: ",
    "first epoch": "Epoch 1: ",
    "tested": "Test split",
}
PREDICTED = "a picture by the model in the box"
CLEAN = ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "BRDEPTH_DATA")  # not a user's


def timeline(lines: Iterable[str], clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds at which each stage was first reached, and the end, of a command that prints these lines."""
    start, reached = clock(), {}
    for line in lines:
        for stage, sign in STAGES.items():
            if stage not in reached and line.startswith(sign):
                reached[stage] = round(clock() - start, 1)
    return reached | {"all of it": round(clock() - start, 1)}


def first_command(readme: str, does: str) -> str:
    """Return README's line that installs the package and does something."""
    return next(line for line in readme.splitlines() if f"&& brdepth {does}" in line)


def measure(commit: str) -> dict[str, float]:
    """Run the first commands of a commit, and return when a picture is there, and the timeline of the training."""
    picture = run_new(commit, "predict")["all of it"]
    return {PREDICTED: picture} | run_new(commit, "train")


def run_new(commit: str, does: str) -> dict[str, float]:
    """Run a first command of a commit in a new environment, and return its timeline."""
    with tempfile.TemporaryDirectory() as folder:
        root, here = Path(folder) / "project", Path(folder) / "environment"
        subprocess.run(["git", "clone", "--quiet", HERE.parent, root], check=True)
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=root, check=True)
        subprocess.run([sys.executable, "-m", "venv", here], check=True)
        environment = {name: value for name, value in os.environ.items() if name not in CLEAN}
        environment |= {"PATH": f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}", "BRDEPTH_CACHE": f"{folder}/cache"}
        command = first_command((root / "README.md").read_text(), does)
        with subprocess.Popen(
            ["bash", "-c", command],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            assert running.stdout is not None
            found = timeline(map(echoed, running.stdout), time.monotonic)
        if running.returncode:
            refuse(f"The command ended with exit code {running.returncode}.")
        return found


def echoed(line: str) -> str:
    """Show a line as it comes, and return it."""
    print(line, end="", flush=True)
    return line


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--commit", default="HEAD", help="to measure (HEAD)")
    options.add_argument("--out", type=Path, default=RESULTS / "first_command.json", help="JSON to write")
    asked = options.parse_args()
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{asked.commit}^{{commit}}"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        refuse(f"There is no commit {asked.commit}.")
    known = json.loads(asked.out.read_text())["commits"] if asked.out.exists() else {}
    found = measure(done.stdout.strip())
    write(asked.out, {"machine": machine(), "commits": known | {done.stdout.strip(): found}})


if __name__ == "__main__":
    run_script(main)
