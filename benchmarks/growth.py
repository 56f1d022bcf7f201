"""What it costs as the work grows: predictions, maps, processes, recordings."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import reference
import torch
from reporting import HERE, refuse
from timing import Way, medians, repeated, take_turns
from workload import CPU, SPLITS, Sizes, depth_maps, echoes, empty_cache, package_config, package_training

from base_residual.config.schema import Config
from base_residual.data.sample import EchoBatch
from base_residual.models.factory import create_model

LINUX = sys.platform == "linux"


def child(*words: object, processes: int = 1, **environment: str) -> float:
    """Return what `child.py` measures, in a fresh process or in several by torchrun."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    done = subprocess.run(
        [*command, str(HERE / "child.py"), *map(str, words)],
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        refuse(f"What was measured in a process of its own has failed: {done.stderr.strip()}")
    return float(done.stdout)


def training_in(processes: int, sizes: Sizes) -> float:
    """Return the samples per second of the default network in that many processes with one thread each."""
    settings = package_config(sizes).model_dump_json(include={"data", "model"})
    return child("steps", settings, sizes.batch, sizes.process_steps, processes=processes, OMP_NUM_THREADS="1")


def apart(runs: int, sizes: Sizes) -> float:
    """Return the samples per second of that many runs side by side: what the machine has to give."""
    with ThreadPoolExecutor(runs) as pool:
        return sum(pool.map(lambda _: training_in(1, sizes), range(runs)))


def memory(root: Path, config: Config, batch: int, splits: Sequence[str]) -> dict[str, list[float]]:
    """Return the most memory that preparing, and an epoch's training, hold for each split, in MB."""
    found: dict[str, list[float]] = {"preparing": [], "training, mapped files apart": []}
    settings = config.model_dump_json(include={"data", "model"})
    for split in splits:
        empty_cache(root.parent)
        found["preparing"].append(child("prepare", root, split, settings) / 1024)
        found["training, mapped files apart"].append(child("epoch", root, split, settings, batch) / 1024)
    return found


def swept(x: str, y: str, turns: int, ways: Mapping[tuple[str, int], Way]) -> dict[str, Any]:
    """Return speeds, or milliseconds where the name of the y axis begins with it, of each series over what grows."""
    found = medians(take_turns(turns, ways))
    at = sorted({value for _, value in ways})
    values = {key: 1000 / speed if y.startswith("ms") else speed for key, speed in found.items()}
    return {"x": x, "y": y, "at": at, "series": {name: [values[name, place] for place in at] for name, _ in ways}}


def growth(root: Path, sizes: Sizes) -> dict[str, Any]:
    config, turns = package_config(sizes), sizes.growth_turns
    model, sounds = create_model(config).eval(), echoes(max(sizes.batches))
    predict = {("package", n): repeated(sizes.repeats, partial(model.predict, sounds[:n]), n) for n in sizes.batches}
    step: dict[tuple[str, int], Way] = {}
    for pixels in sizes.sides:
        theirs = reference.training(sizes.channels, pixels, CPU)
        images = torch.rand(reference.BATCH, 2, pixels, pixels), depth_maps(reference.BATCH, pixels)
        step["reference", pixels] = repeated(1, partial(theirs, images), reference.BATCH)
        ours = package_training(package_config(sizes, side=pixels), CPU)
        share = EchoBatch(sounds, depth_maps(len(sounds), pixels), [])
        step["package", pixels] = repeated(1, partial(ours, share), len(sounds))
    panels = {
        "batch_size": swept("echoes per prediction", "samples/s", turns, predict),
        "image_side": swept("side of a map (pixels)", "ms of training per sample", turns, step),
    }
    turns_of = [(training_in(1, sizes), training_in(2, sizes), apart(2, sizes)) for _ in range(turns)]
    one, together, alone = (statistics.median(found) for found in zip(*turns_of, strict=True))
    panels["processes"] = {"x": "processes, with one thread each", "y": "samples/s of training", "at": [1, 2]}
    panels["processes"]["series"] = {"package": [one, together], "runs that share nothing": [one, alone]}
    if LINUX:
        counts = [SPLITS[split] * sizes.recordings for split in sizes.splits]
        panels["memory"] = {"x": "recordings", "y": "peak memory (MB)", "at": counts}
        batch = max(1, sizes.batch // 8)  # so that the heap settles
        panels["memory"]["series"] = memory(root, config, batch, sizes.splits)
    return panels
