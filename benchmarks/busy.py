"""Measure what other work on the machine does to training, with one thread and with a thread for each core.

Each figure comes from a fresh process, and the ways take turns (A B A B ...). The machine is busy where as many other
processes compute as it has cores.

    python benchmarks/busy.py            # the committed result, results/busy.json, in some minutes
    python benchmarks/busy.py --quick    # a small network: shows that it runs
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from growth import child
from reporting import RESULTS, parser, positive, provenance, run_script, write

from base_residual.config.resolve import make_config
from base_residual.machine import own_cores

SETTINGS = {"data": {"name": "simulated"}}  # what README's first command trains
SMALL = {"model": {"base_channels": 4}, "data": {"name": "simulated", "output_size": 16}}
BUSY = "while True: pass"


@contextmanager
def others(count: int) -> Iterator[None]:
    """Let other processes compute within the context."""
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def training(threads: int, settings: str, steps: int) -> float:
    """Return the samples per second of training steps of 32 recordings with so many threads."""
    return child("steps", settings, 32, steps, OMP_NUM_THREADS=str(threads))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="a small network: shows that it runs")
    options.add_argument("--turns", type=positive, default=3, help="of each way")
    options.add_argument("--out", type=Path, default=RESULTS / "busy.json", help="JSON to write")
    asked = options.parse_args()
    layer, steps = (SMALL, 1) if asked.quick else (SETTINGS, 12)
    settings, cores = make_config(layer).model_dump_json(include={"data", "model"}), own_cores()
    found: dict[str, list[float]] = {}
    for _ in range(asked.turns):
        for state, count in (("idle", 0), ("busy", cores)):
            with others(count):
                for name, threads in (("one thread", 1), ("a thread per core", cores)):
                    found.setdefault(f"{state}, {name}", []).append(training(threads, settings, steps))
    speeds = {name: statistics.median(values) for name, values in found.items()}
    ratios = {
        state: speeds[f"{state}, one thread"] / speeds[f"{state}, a thread per core"] for state in ("idle", "busy")
    }
    for state, ratio in ratios.items():
        print(f"{state}: with a thread for each core, a step takes {ratio:.2f} times as long as with one")
    write(asked.out, {**provenance(), "cores": cores, "samples_per_s": found, "time_over_one_thread": ratios})


if __name__ == "__main__":
    run_script(main)
