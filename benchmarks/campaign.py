"""Runs of a campaign: each is trained once, in processes of their own, and kept; figures are means over the seeds."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from reporting import provenance

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.deploy.benchmark import gflops, parameter_count
from base_residual.evaluation import evaluate
from base_residual.evaluation.comparison import FinishedRun, first_epoch, read_run
from base_residual.machine import own_cores
from base_residual.models.factory import create_model, load_checkpoint
from base_residual.training.trainer import Trainer

QUICK: Layer = {
    "data": {"output_size": 32, "max_depth": 8.0},
    "simulation": {
        "train_rooms": 8,
        "val_rooms": 2,
        "test_rooms": 2,
        "poses": 1,
    },  # so few that one process renders them
    "model": {"base_channels": 4},
    "trainer": {"epochs": 2, "batch_size": 8},
}
WARMUP = 3  # of a budget, adaptive weights warm up for one part in so many
# What the results that lie here were made with: recordings begin with the chirp, the ears are compared over all
# frequencies at once, the base is held to a low-pass.
SHOEBOXES: Layer = {
    "simulation": {"style": "standard", "train_rooms": 1500},
    "audio": {"emission": "first", "bands": []},
    "data": {"noise": 0.01},
    "loss": {"layout": "lowpass"},
    "trainer": {"optimizer": "AdamW"},
}
TEST_SEEDS = {"standard": 0, "hard": 1}  # of the rooms to test in, by their style
NOTE = "provenance.json"  # in a run's folder: the machine and the commit that it was trained with


def campaign_config(
    name: str,
    layer: Layer,
    epochs: int,
    rate: float,
    seed: int,
    out: Path,
    quick: bool = False,
    rooms: int | None = None,
    size: int | None = None,
) -> Config:
    """Return the settings of a run; the rooms and the size of maps are the package's, if none are given.

    Adaptive weights warm up for a share of its epochs, if the layer does not say for how many.
    """
    if "adaptive" in layer.get("loss", {}):
        layer = merge({"loss": {"warmup_epochs": max(1, epochs // WARMUP)}}, layer)
    if size:
        name, layer = f"{name}-p{size}", merge(layer, {"data": {"output_size": size}})
    if rooms:
        name, layer = f"{name}-r{rooms}", merge(layer, {"simulation": {"train_rooms": rooms}})
    trainer = {"seed": seed, "epochs": epochs, "learning_rate": rate, "picture_every": 1000, "save_every": 1000}
    tracking = {"results_dir": str(out), "experiment_name": f"{name}-e{epochs}-s{seed}"}
    return make_config(SHOEBOXES, QUICK if quick else {}, layer, {"trainer": trainer, "tracking": tracking})


def train(config: Config, threads: int, where: dict[str, str]) -> None:
    """Train the run of a configuration, unless an earlier call has, and note where that was."""
    torch.set_num_threads(threads)
    done, note, settings = (config.run_dir / name for name in ("evaluation.json", NOTE, "config.yaml"))
    complete = done.exists() and note.exists()
    if not (complete and without_place(settings.read_text(encoding="utf-8")) == without_place(config.to_yaml())):
        Trainer(config, trackers=[], overwrite=True).fit()
        note.write_text(json.dumps(where))


def without_place(settings: str) -> list[str]:
    """Return the lines of a run's settings, without the folder that it lies in, which may have been moved.

    As written: a setting that a run did not have yet would be read as today's default.
    """
    return [line for line in settings.splitlines() if not line.startswith("  results_dir:")]


def noted(run: FinishedRun) -> dict[str, str]:
    """Return where a run was trained, and the commit of the code."""
    note: dict[str, str] = json.loads((run.folder / NOTE).read_text())
    return note


def hours_of(run: FinishedRun) -> float:
    """Return how long a run took on its cores, from its settings, the first that it writes, to the note."""
    began, ended = ((run.folder / name).stat().st_mtime for name in ("config.yaml", NOTE))
    return (ended - began) / 3600


def workers(jobs: int) -> ProcessPoolExecutor:
    """Return processes that train, and that end when this one does, even if it is killed."""
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=end_with_parent)


def end_with_parent() -> None:
    """Let this process end when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def finished_runs(configs: Sequence[Config], jobs: int) -> list[FinishedRun]:
    """Train the runs of configurations, as many at once as there are jobs; all jobs share the cores."""
    threads = max(1, own_cores() // jobs)
    longest_first = sorted(configs, key=lambda config: cost(config)["gflops"], reverse=True)  # no core waits at the end
    with workers(jobs) as pool:
        waiting = [pool.submit(train, config, threads, provenance(jobs)) for config in longest_first]
        runs: dict[Path, FinishedRun] = {}
        for done, config in zip(waiting, longest_first, strict=True):
            done.result()
            runs[config.run_dir] = run = read_run(config.run_dir)
            print(f"{config.run_name}: rmse {run.rmse:.4f} m", flush=True)
    return [runs[config.run_dir] for config in configs]


def report(run: FinishedRun, split: str, style: str = "standard", seed: int = 0) -> dict[str, float]:
    """Return the metrics of the best weights, in rooms of a style that a seed decides."""
    few = {"train_rooms": 1, "test_rooms" if split == "val" else "val_rooms": 1, "style": style, "seed": seed}
    rooms = make_config(run.config.model_dump(mode="json"), {"simulation": few})
    model = load_checkpoint(run.folder / "best.safetensors").model
    found = evaluate(model, open_dataset("simulated", split=split, config=rooms))
    return found.metrics | found.decomposition


def cost(config: Config) -> dict[str, float]:
    """Return the parameters, and the operations (two per multiply-add), of the network for one echo."""
    model = create_model(config)
    return {"parameters": parameter_count(model), "gflops": gflops(model)}


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def summarise(runs: list[FinishedRun], seeds: Mapping[str, int]) -> dict[str, Any]:
    """Return mean and spread over the runs of every figure, in the test rooms and in the hard ones."""
    standard, hard = (over_seeds([report(run, "test", style, seeds[style]) for run in runs]) for style in TEST_SEEDS)
    return standard | {"hard": hard, "val_rmse": [run.val_rmse for run in runs]}


def over_seeds(figures: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([figure[name] for figure in figures]) for name in figures[0] if name != "images"}


def epochs_to(target: float, curves: list[list[float]]) -> float | None:
    """Return the mean number of epochs until the validation rmse reaches a target; None where a run never does."""
    found = [epoch for curve in curves if (epoch := first_epoch(curve, target)) is not None]
    return statistics.fmean(found) if len(found) == len(curves) else None
