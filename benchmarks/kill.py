"""Kill `brdepth train` at random moments, resume it, and require the very bytes of a run that nobody killed.

Every attempt is a process of its own that gets SIGKILL: at a random time, or at the moment at which it begins to write
one of its files. It begins with nothing, so that rendering rooms, preparing them and training are all struck. Each
round ends when the run is complete; weights, metrics, figures and data are then compared with the undisturbed ones.

    python benchmarks/kill.py          # the committed result, results/kill.json: 50 kills
    python benchmarks/kill.py --quick  # 3 kills with a few rooms: shows that it runs
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reporting import RESULTS, parser, positive, provenance, refuse, run_script, whole, write
from safetensors import safe_open

from base_residual.cli.main import app

SETTINGS = [
    *("--set", "simulation.val_rooms=2", "--set", "simulation.test_rooms=2"),
    *("--set", "data.output_size=32", "--set", "data.max_depth=8", "--set", "model.base_channels=4"),
    *("--batch-size", "8", "--adaptive", "--warmup-epochs", "1", "--save-every", "0"),
    *("--set", "trainer.picture_every=1", "--set", "trainer.precision=fp32", "--device", "cpu", "--resume"),
]
COMPARED = (".jsonl", ".json", ".npy", ".wav", ".csv")
IMPORTED = ("matplotlib.figure", "scipy.fft", "scipy.sparse", "torch._dynamo")  # by a run, when it needs them
POLL = 0.0005  # seconds between looks for a file that is being written


class Scale(NamedTuple):
    """How much a run trains: rooms, and epochs in them."""

    rooms: int = 48
    epochs: int = 3


QUICK = Scale(8, 2)  # so few rooms that one process renders them


class Kill(NamedTuple):
    """When an attempt is killed: after so many seconds, or when it begins its n-th file or prepared set after them."""

    after: float
    files: int


def attempt(folder: Path, scale: Scale, kill: Kill | None = None) -> tuple[bool, str]:
    """Run the command until it ends or is killed; return whether it ended, and what it was doing."""
    child = os.fork()  # what takes seconds to import is there already
    if not child:
        os.setsid()
        os.environ["BRDEPTH_CACHE"] = str(folder / "cache")
        with (folder / "said.txt").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        try:
            where = ["--results-dir", str(folder / "results"), "--epochs", str(scale.epochs)]
            app(["train", *where, "--set", f"simulation.train_rooms={scale.rooms}", *SETTINGS])
        except SystemExit as end:
            os._exit(int(end.code or 0))
    status = waited(child, folder, kill) if kill else os.waitpid(child, 0)[1]
    if status is None:
        struck = doing(folder)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False, struck
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"The run failed: {(folder / 'said.txt').read_text()}")
    return True, ""


def waited(child: int, folder: Path, kill: Kill) -> int | None:
    """Return the exit status of an attempt that ended first; None when its moment has come."""
    start, seen = time.monotonic(), set[Path]()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() - start >= kill.after:
            seen |= set(being_written(folder))
            if len(seen) >= kill.files:
                return None
        time.sleep(POLL)


def being_written(folder: Path) -> Iterator[Path]:
    """Yield files of the run, and prepared sets, that are not yet in their place."""
    yield from (folder / "results").glob("*/.*.partial*")
    yield from (folder / "cache").glob("prepared-*.partial")


def doing(folder: Path) -> str:
    """Return what a run is at, told from outside."""
    cache = folder / "cache"
    if not any(cache.glob("rooms-*[0-9a-f]")):
        return "rendering"
    if any(cache.glob("prepared-*.partial")) or not any(cache.glob("prepared-*[0-9a-f]")):
        return "preparing"
    if any(being_written(folder)):
        return "writing"
    return "finishing" if any((folder / "results").glob("*/curves.png")) else "training"


def contents(folder: Path) -> dict[str, object]:
    """Return all that a finished run and its data hold, by path."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":  # whose header has its entries in any order
            with safe_open(path, framework="np") as file:
                found[name] = file.metadata(), {key: file.get_tensor(key).tobytes() for key in sorted(file.keys())}
        elif path.suffix in COMPARED and path.name != "index.json":  # which holds the times of files
            found[name] = path.read_bytes()
    return found


def leftovers(folder: Path) -> list[str]:
    """Return the half-written files that a run has left behind."""
    return [str(path) for path in folder.rglob("*") if ".partial" in path.name]


def campaign(work: Path, kills: int, seed: int, scale: Scale) -> dict[str, Any]:
    """Kill that many attempts, round by round, and compare each round's end."""
    rng = random.Random(seed)
    folder = work / "run"  # always the same, for the files name it
    folder.mkdir(parents=True)
    start = time.monotonic()
    attempt(folder, scale)
    duration = time.monotonic() - start
    expected = contents(folder)
    struck: Counter[str] = Counter()
    differing: list[str] = []
    left: list[str] = []
    rounds = 0
    while sum(struck.values()) < kills:
        rounds += 1
        shutil.rmtree(folder)
        folder.mkdir()
        ended = False
        while not ended:
            kill = Kill(rng.uniform(0, duration / 2), rng.choice([0, 0, 1, 2]))
            ended, what = attempt(folder, scale, kill if sum(struck.values()) < kills else None)
            struck.update([what] if what else [])
        found = contents(folder)
        names = sorted(expected.keys() | found.keys())
        differing += [f"round {rounds}: {name}" for name in names if expected.get(name) != found.get(name)]
        left += leftovers(folder)
        print(f"round {rounds}: {sum(struck.values())} kills so far, {len(differing)} files differ", flush=True)
    return {
        "kills": sum(struck.values()),
        "struck": dict(struck),
        "rounds": rounds,
        "files_compared": len(expected),
        "differing": differing,
        "leftovers": left,
        "seconds_undisturbed": round(duration, 1),
        "seed": seed,
    }


def main() -> None:
    offered = parser(__doc__)
    offered.add_argument("--kills", type=positive, default=50, help="how many attempts are killed (50)")
    offered.add_argument("--quick", action="store_true", help="3 kills with a few rooms: shows that it runs")
    offered.add_argument("--seed", type=whole, default=0, help="of the moments (0)")
    offered.add_argument("--out", type=Path, default=RESULTS / "kill.json", help="JSON to write (results/kill.json)")
    options = offered.parse_args()
    if not hasattr(os, "fork"):
        refuse("This system cannot fork a process, which the campaign needs. Run it on Linux or macOS.")
    torch.set_num_threads(1)  # a process with more cannot fork
    for module in IMPORTED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as work:
        kills, scale = (3, QUICK) if options.quick else (options.kills, Scale())
        found = campaign(Path(work), kills, options.seed, scale)
    for path in [*found["differing"], *found["leftovers"]]:
        print(path)
    write(options.out, provenance() | found)
    raise SystemExit(1 if found["differing"] or found["leftovers"] else 0)


if __name__ == "__main__":
    run_script(main)
