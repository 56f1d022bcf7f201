"""Train the package's default, its own network without the decomposition, and the field's recipes on the same rooms.

One command searches each model's learning rate, trains it with every seed for the same number of epochs, tests the
weights of the best validation epoch on two splits that nothing was tuned on, and writes a table, a figure and JSON.
Runs that are complete are kept, so that a campaign that was stopped goes on where it ended.

    python benchmarks/accuracy.py --models unet plain default  # the committed result, results/accuracy.json
    python benchmarks/accuracy.py --quick                      # all models on a few tiny rooms, in about a minute
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from base_residual.audio import echo_frames
from base_residual.baseline import create_model
from base_residual.checkpoint import load_checkpoint
from base_residual.compare import FinishedRun, read_run
from base_residual.config import PRESETS, Config, Layer, make_config, merge
from base_residual.data import open_dataset
from base_residual.evaluation import evaluate
from base_residual.files import replacing
from base_residual.trainer import Trainer
from base_residual.visualize import comparison_figure, save_figure

# `unet` is the field's recipe, `plain` ours with one decoder and L1, `original` the design's first recipe, --adaptive.
MODELS: dict[str, Layer] = {
    "unet": {"model": {"name": "unet"}},
    "plain": {"model": {"name": "plain"}},
    "default": {},
    "original": merge(PRESETS["original"], {"loss": {"adaptive": True}}),
}
QUICK: Layer = {
    "data": {"output_size": 32, "max_depth": 8.0},
    "simulation": {"train_rooms": 16, "val_rooms": 4, "test_rooms": 4, "poses": 1},
    "model": {"base_channels": 4},
    "trainer": {"epochs": 2, "batch_size": 8},
}
RATES = (0.001, 0.002, 0.004)
SEARCH_EPOCHS = 6
HARD: Layer = {"simulation": {"style": "hard", "seed": 1}}
HERE = Path(__file__).parent


def campaign_config(model: str, epochs: int, rate: float, seed: int, out: Path, quick: bool) -> Config:
    layer = merge(
        MODELS[model], QUICK if quick else {}, {"trainer": {"seed": seed, "picture_every": 1000, "save_every": 1000}}
    )
    layer = merge(layer, {"tracking": {"results_dir": str(out), "experiment_name": f"{model}-e{epochs}-s{seed}"}})
    return make_config(layer, {"trainer": {"epochs": epochs, "learning_rate": rate}})


def finished_run(config: Config) -> FinishedRun:
    """The run of a configuration, trained now unless an earlier call has."""
    if not (config.run_dir / "evaluation.json").exists():
        Trainer(config, trackers=[], overwrite=True).fit()
    return read_run(config.run_dir)


def search_rate(model: str, out: Path, quick: bool) -> tuple[float, dict[str, float]]:
    """The learning rate with the best validation rmse in a short run, the same search for every model."""
    epochs = 1 if quick else SEARCH_EPOCHS
    tried = {rate: min(finished_run(campaign_config(model, epochs, rate, 0, out, quick)).val_rmse) for rate in RATES}
    return min(tried, key=lambda rate: tried[rate]), {str(rate): rmse for rate, rmse in tried.items()}


def hard_report(config: Config) -> dict[str, float]:
    """Metrics of the best weights on rooms from another distribution: other sizes, more furniture, more noise."""
    few = {"train_rooms": 1, "val_rooms": 1}
    hard = make_config(config.model_dump(mode="json"), HARD, {"simulation": few})
    model = load_checkpoint(config.run_dir / "best.safetensors").model
    found = evaluate(model, open_dataset("simulated", split="test", config=hard))
    return found.metrics | found.decomposition


def cost(config: Config) -> dict[str, float]:
    """Parameters, and floating-point operations (two per multiply-add) of the network for one echo."""
    model = create_model(config).eval()
    assert model.front_end is not None
    features = model.front_end(torch.randn(1, 2, echo_frames(config.data.max_depth, config.audio.sample_rate)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(features)
    return {"parameters": sum(p.numel() for p in model.parameters()), "gflops": counter.get_total_flops() / 1e9}


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def summarise(runs: list[FinishedRun], hard: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and spread over the seeds of every figure, on the test rooms and on the hard ones."""
    figures = [run.test.metrics | run.test.decomposition for run in runs]
    summary: dict[str, Any] = over_seeds(figures)
    return summary | {"hard": over_seeds(hard), "val_rmse": [run.val_rmse for run in runs]}


def over_seeds(figures: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([figure[name] for figure in figures]) for name in figures[0] if name != "images"}


def epochs_to(target: float, runs: list[FinishedRun]) -> float | None:
    """Mean number of epochs until the validation rmse reaches a target; None where a run never does."""
    reached = [run.reached(target) for run in runs]
    return None if None in reached else statistics.fmean(epoch for epoch in reached if epoch is not None)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table(models: Mapping[str, Any]) -> Table:
    shown = Table(
        "model", "rmse (m)", "hard rmse", "delta1", "gain", "corr", "GFLOPs", "epochs to U-Net", box=box.SIMPLE_HEAD
    )
    for name, summary in models.items():
        both = [f"{part['rmse']['mean']:.3f} ± {part['rmse']['std']:.3f}" for part in (summary, summary["hard"])]
        gain, corr = (summary.get(key, {}).get("mean") for key in ("residual_gain", "residual_detail_corr"))
        epochs = summary["epochs_to_baseline"]
        shown.add_row(
            name,
            *both,
            f"{summary['delta1']['mean']:.3f}",
            "" if gain is None else f"{gain:.1%}",
            "" if corr is None else f"{corr:.2f}",
            f"{summary['gflops']:.2f}",
            "never" if epochs is None else f"{epochs:.1f}",
        )
    return shown


def markdown(models: Mapping[str, Any]) -> str:
    """The same figures as a table for the documentation."""

    def both(part: Mapping[str, Any], name: str, digits: int = 3) -> str:
        if name not in part:
            return ""
        return f"{part[name]['mean']:.{digits}f} ± {part[name]['std']:.{digits}f}"

    columns = {
        "rmse (m)": lambda s: both(s, "rmse"),
        "hard rooms rmse (m)": lambda s: both(s["hard"], "rmse"),
        "abs_rel": lambda s: both(s, "abs_rel"),
        "delta1": lambda s: both(s, "delta1"),
        "base_rmse (m)": lambda s: both(s, "base_rmse"),
        "residual_gain": lambda s: both(s, "residual_gain"),
        "residual_detail_corr": lambda s: both(s, "residual_detail_corr"),
        "mean abs(residual) (m)": lambda s: both(s, "residual_abs_mean", 4),
        "base_smoothness": lambda s: both(s, "base_smoothness", 4),
        "epochs to the U-Net's best": lambda s: (
            "never" if s["epochs_to_baseline"] is None else f"{s['epochs_to_baseline']:.1f}"
        ),
        "GFLOPs": lambda s: f"{s['gflops']:.2f}",
        "parameters": lambda s: f"{s['parameters'] / 1e6:.2f} M",
        "learning rate": lambda s: f"{s['learning_rate']:g}",
    }
    rows = [["", *models], ["---"] * (len(models) + 1)]
    rows += [[name, *(cell(summary) for summary in models.values())] for name, cell in columns.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny rooms, two epochs: shows that the campaign runs")
    parser.add_argument("--epochs", type=int, default=12, help="of every run (12)")
    parser.add_argument("--seeds", type=int, default=3, help="per model (3)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--runs", type=Path, default=Path("results/accuracy"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "accuracy.json", help="JSON to write")
    options = parser.parse_args()
    epochs = 2 if options.quick else options.epochs
    rates, found = {}, {}
    for model in options.models:
        rates[model], found[model] = search_rate(model, options.runs / "search", options.quick)
        print(f"{model}: learning rate {rates[model]:g} of {found[model]}", flush=True)
    runs: dict[str, list[FinishedRun]] = {model: [] for model in options.models}
    hard: dict[str, list[dict[str, float]]] = {model: [] for model in options.models}
    models: dict[str, Any] = {}
    for seed in range(options.seeds):
        for model in options.models:
            config = campaign_config(model, epochs, rates[model], seed, options.runs, options.quick)
            runs[model].append(finished_run(config))
            hard[model].append(hard_report(config))
            print(f"{model}, seed {seed}: rmse {runs[model][-1].rmse:.4f} m", flush=True)
    baseline = runs.get("unet", runs[options.models[0]])
    target = statistics.fmean(min(run.val_rmse) for run in baseline)
    for model in options.models:
        settings = campaign_config(model, epochs, rates[model], 0, options.runs, options.quick)
        models[model] = summarise(runs[model], hard[model]) | cost(settings)
        models[model] |= {"learning_rate": rates[model], "rates_tried": found[model]}
        models[model]["epochs_to_baseline"] = epochs_to(target, runs[model])
    budget = {"epochs": epochs, "seeds": options.seeds, "quick": options.quick, "search_epochs": SEARCH_EPOCHS}
    result = {"machine": machine(), "commit": commit(), "budget": budget, "models": models}
    with replacing(options.out) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")
    with replacing(options.out.with_suffix(".md")) as aside:
        aside.write_text(markdown(models), encoding="utf-8")
    curves = {name: summary["val_rmse"] for name, summary in models.items()}
    save_figure(comparison_figure(curves), options.out.with_suffix(".png"))
    Console(highlight=False).print(table(models))


if __name__ == "__main__":
    main()
