"""What the benchmarks share: where figures come from, JSON, options and mistakes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from base_residual.errors import BaseResidualError
from base_residual.files.atomic import write_whole
from base_residual.machine import device_name

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def machine() -> str:
    return f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def provenance(jobs: int = 0) -> dict[str, str]:
    """Return where figures come from: the machine, with as many runs at once as there are jobs, and the commit."""
    return {"machine": machine() + (f", {jobs} runs at once" if jobs else ""), "commit": commit()}


def write(out: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, of which `docs/tables.py` makes the tables of the documentation."""
    write_whole(out, json.dumps(result, indent=2) + "\n")
    print(f"Wrote {out}.")


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of options that shows a script's docstring as it is written."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def whole(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not whole(text):
        raise argparse.ArgumentTypeError("expected is at least 1")
    return int(text)


def refuse(why: str) -> NoReturn:
    """End with one sentence, as the package's commands do."""
    print(f"Error: {why}", file=sys.stderr)
    sys.exit(2)


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an error of the package ends it with one sentence."""
    try:
        main()
    except BaseResidualError as error:
        refuse(str(error))
