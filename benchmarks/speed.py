"""Measure what people wait for, beside the way in which this field's code does it (`reference.py`).

Both ways take turns in one process (A B A B ...), and a ratio is the median of the turns' ratios, so that whatever else
the machine does slows both; that of several processes is of the medians of each. The recordings are generated: noise
that decays, and slanted walls with holes, in the layout of BatVision V2, read from a warm page cache. A graphics card
is measured where there is one.

    python benchmarks/speed.py            # the committed result, results/speed.json, in a quarter of an hour
    python benchmarks/speed.py --quick    # a few tiny recordings and networks: shows that it runs
    python benchmarks/speed.py --profile  # where a training step's time goes, results/profile.json, in a minute or two
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import reference
import torch
from growth import growth
from reporting import RESULTS, parser, provenance, run_script, write
from timing import medians, over, reading, repeated, take_turns
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from workload import (
    CPU,
    QUICK,
    Sizes,
    depth_maps,
    echoes,
    empty_cache,
    package_config,
    package_loader,
    package_training,
    write_recordings,
)

from base_residual.config.presets import SIZES
from base_residual.config.resolve import make_config, merge
from base_residual.data.sample import EchoBatch
from base_residual.data.simulated import simulate
from base_residual.deploy.benchmark import gflops, measure, measure_onnx, parameter_count
from base_residual.deploy.onnx import export_onnx
from base_residual.machine import cpu_threads
from base_residual.models.factory import create_model
from base_residual.models.remainder import FACTORS, Calibration

EPOCH = 1_911  # recordings of BatVision V2 to train on
ROBOT_DEPTH = 12.0  # metres that a robot looks ahead
PRODUCT = 2048  # rows and columns of the matrices whose product says how fast a processor is


def loading(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure reading a prepared set, and the preparing."""
    config = package_config(sizes)
    theirs = partial(reference.loader, root, "train", sizes.side, sizes.batch)
    ours = package_loader(config, root, "train", sizes.batch)

    def prepare_and_read() -> int:
        empty_cache(root.parent)
        return reading(package_loader(config, root, "train", sizes.batch))()

    ways = {"reference": reading(theirs()), "package": repeated(sizes.repeats, reading(ours), len(ours.dataset))}
    first = {"reference": lambda: reading(theirs())(), "package": prepare_and_read}
    return {"loader": take_turns(sizes.turns, ways), "first_epoch": take_turns(sizes.long_turns, first)}


def training(root: Path, sizes: Sizes, device: torch.device = CPU) -> dict[str, Any]:
    """Measure training steps; on a graphics card, epochs with all their reading, too."""
    card, config = device.type == "cuda", package_config(sizes)
    loaders = {"reference": reference.loader(root, "train", sizes.side, reference.BATCH, 2 if card else 0)}
    loaders["default"] = package_loader(config, root, "train", sizes.batch, device)
    steps: dict[str, Callable[[Any], object]] = {
        "reference": reference.training(sizes.channels, sizes.side, device),
        "default": package_training(config, device),
    }
    ways = {}
    for name, step in steps.items():
        batch = next(iter(loaders[name]))
        ways[name] = repeated(sizes.card_steps if card else 1, partial(step, batch), len(batch[0]))
    found = {"step": take_turns(sizes.long_turns, ways)}
    if card:
        found["epoch"] = take_turns(sizes.long_turns, {n: reading(loaders[n], step) for n, step in steps.items()})
    return found


def hearing(sizes: Sizes) -> dict[str, Any]:
    """Measure the way from one echo to a depth map."""
    network, model = reference.network(sizes.channels, sizes.side).eval(), create_model(package_config(sizes)).eval()
    (waveform,) = echoes(1)
    theirs = torch.no_grad()(lambda: network(reference.spectrogram(waveform, sizes.side)[None]))
    ways = {"reference": repeated(1, theirs), "package": repeated(sizes.repeats, lambda: model.predict(waveform))}
    return {"echo": take_turns(sizes.turns, ways)}


def on_a_robot(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure one thread: from an echo's samples to a map with its remainder, and on to a scan, in milliseconds."""
    found: dict[str, Any] = {}
    for side in sizes.robot_sides:
        config = package_config(sizes, {"data": {"max_depth": ROBOT_DEPTH}}, side)
        model = create_model(config).eval()
        model.expect_remainder(Calibration(0.9, FACTORS[0], 9, "room", "nothing"))
        export_onnx(model, work / "model.onnx")
        costs = {"PyTorch": measure(model, sizes.batch, sizes.seconds)}
        costs |= {"ONNX Runtime": measure_onnx(work / "model.onnx", sizes.seconds)}
        found[str(side)] = {
            name: {"map": cost.latency_median_ms, "scan": cost.scan_median_ms} for name, cost in costs.items()
        }
    with cpu_threads(1):
        product = repeated(sizes.repeats, partial(torch.mm, *torch.randn(2, PRODUCT, PRODUCT)))
        rates = take_turns(sizes.turns, {"product": product})
    return {"ms": found, "product_ms": 1000 / medians(rates)["product"]}


def starting(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure rendering rooms on all cores, and what a user waits for at each start, in fresh processes."""
    rooms = {"train_rooms": sizes.rooms, "val_rooms": 1, "test_rooms": 1}
    config = make_config({"data": {"output_size": sizes.room_side}, "simulation": rooms})

    def render() -> int:
        simulate(Path(tempfile.mkdtemp(dir=work)), config.data, config.simulation)
        return config.simulation.poses * sum(rooms.values())

    commands = {
        "torch": ["-c", "import torch"],
        "package": ["-c", "from base_residual import Trainer, create_base_residual_model"],
        "help": ["-m", "base_residual", "--help"],
    }
    start = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    ways = {name: repeated(1, partial(start, [sys.executable, *words])) for name, words in commands.items()}
    return {"start": take_turns(sizes.turns, ways), "simulate": take_turns(sizes.long_turns, {"package": render})}


def named(sizes: Sizes) -> dict[str, dict[str, float | None]]:
    """Return what the networks of each size cost, and the rmse that `accuracy.py --ablations` has found for them."""
    found = RESULTS / "ablations.json"
    variants = json.loads(found.read_text())["variants"] if found.exists() else {}
    narrow = {"model": {"base_channels": sizes.default_channels}} if sizes is QUICK else {}
    models = {name: create_model(package_config(sizes, merge(layer, narrow))).eval() for name, layer in SIZES.items()}
    ways = {name: repeated(sizes.repeats, partial(model.predict, echoes(1)[0])) for name, model in models.items()}
    speeds = medians(take_turns(sizes.turns, ways))
    scores = {name: variants.get("default" if name == "small" else f"size-{name}") for name in models}
    return {
        name: {
            "parameters": parameter_count(model),
            "gflops": gflops(model),
            "echo_ms": 1000 / speeds[name],
            "rmse": score["rmse"]["mean"] if (score := scores[name]) else None,
        }
        for name, model in models.items()
    }


def headline(speeds: Mapping[str, Any], processes: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the figures that have a target, and those beside them."""
    echo, start = medians(speeds["echo"]), medians(speeds["start"])
    one, two = processes["package"]
    return {
        "loader_ratio": over(speeds["loader"], "package"),
        "first_epoch_ratio": over(speeds["first_epoch"], "package"),
        "train_ratio_default": over(speeds["step"], "default"),
        "echo_ratio": over(speeds["echo"], "package"),
        "echo_ms": 1000 / echo["package"],
        "simulate_per_s": medians(speeds["simulate"])["package"],
        "import_ratio": over(speeds["start"], "torch", "package"),
        "help_s": 1 / start["help"],
        "processes_ratio": two / one,
        "processes_share": two / processes["runs that share nothing"][1],
    }


def measured(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Return all figures; each part says when it is done."""
    root, start = work / "recordings", time.perf_counter()
    parts: dict[str, Callable[[], Any]] = {
        "recordings": lambda: write_recordings(root, sizes),
        "loading": lambda: loading(root, sizes),
        "training": lambda: training(root, sizes),
        "hearing": lambda: hearing(sizes),
        "robot": lambda: on_a_robot(work, sizes),
        "starting": lambda: starting(work, sizes),
        "sizes": lambda: named(sizes),
        "growth": lambda: growth(root, sizes),
        "card": lambda: training(root, sizes, torch.device("cuda")) if torch.cuda.is_available() else None,
    }
    empty_cache(work)
    found = {}
    for name, part in parts.items():
        found[name] = part()
        print(f"{time.perf_counter() - start:4.0f} s: {name}", flush=True)
    speeds = {key: v for name in ("loading", "training", "hearing", "starting") for key, v in found[name].items()}
    card = found["card"]
    if card:
        epochs = {name: EPOCH / speed for name, speed in medians(card["epoch"]).items()}
        card = {"device": torch.cuda.get_device_name(), "step": medians(card["step"]), "epoch_s": epochs}
    return {
        "ratios": headline(speeds, found["growth"]["processes"]["series"]),
        "per_second": {name: medians(ways) for name, ways in speeds.items()},
        "robot": found["robot"],
        "card": card,
        "sizes": found["sizes"],
        "growth": found["growth"],
    }


# Where a training step's time goes.


def profile(sizes: Sizes, device: torch.device) -> dict[str, dict[str, float]]:
    """Return the share of a training step's time that each operation takes by itself, the largest first."""
    card, side, count = device.type == "cuda", sizes.side, reference.BATCH
    theirs = reference.training(sizes.channels, side, device)
    ours = package_training(package_config(sizes), device)
    batch = EchoBatch(echoes(sizes.batch), depth_maps(sizes.batch, side), [])
    steps: dict[str, Callable[[], object]] = {
        "reference": partial(theirs, (torch.rand(count, 2, side, side), depth_maps(count, side))),
        "default": partial(ours, batch),
    }
    found = {}
    for name, step in steps.items():
        step()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card else [])]
        with torch.profiler.profile(activities=kinds) as profiler:
            step()
            if card:
                torch.cuda.synchronize()
        # Kernels stand beside the operations that start them, and would count twice.
        events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
        times = {event.key: event.self_device_time_total if card else event.self_cpu_time_total for event in events}
        total = sum(times.values())
        largest = sorted(times, key=lambda key: times[key], reverse=True)
        found[name] = {key: times[key] / total for key in largest if times[key] > 0}
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="tiny recordings and networks: shows that it runs")
    options.add_argument("--profile", action="store_true", help="only where a training step's time goes")
    options.add_argument("--out", type=Path, help="JSON to write (results/speed.json or results/profile.json)")
    chosen = options.parse_args()
    sizes = QUICK if chosen.quick else Sizes()
    out = chosen.out or RESULTS / ("profile.json" if chosen.profile else "speed.json")
    torch.manual_seed(0)
    if chosen.profile:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = profile(sizes, device)
        where = provenance() | ({"machine": torch.cuda.get_device_name()} if device.type == "cuda" else {})
        write(out, where | {"shares": found})
        return
    with tempfile.TemporaryDirectory() as work:
        result = measured(Path(work), sizes)
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.3g}")
    write(out, provenance() | {"measured": sizes._asdict()} | result)


if __name__ == "__main__":
    run_script(main)
