"""Train the package's default, its own network without the decomposition, and the field's recipes on the same rooms.

One command searches each model's learning rate, trains it with every seed for the same number of epochs, tests the
weights of the best validation epoch on two splits that nothing is chosen by, and writes JSON and a figure.
With --ablations it trains variants of the default instead, for fewer epochs, and judges them on validation rooms.
Runs that are complete, with the same settings, are kept, so that a campaign that was stopped goes on where it ended.
Models and variants that are not asked for keep the figures that an earlier call with the same budget has written, and
the commit that they were trained at.

    python benchmarks/accuracy.py                          # results/accuracy.json
    python benchmarks/accuracy.py --epochs 8 --out FILE    # all of it in some two hours on two cores: brief.json
    python benchmarks/accuracy.py --models default --rates 0.002  # with its own rate, without a search
    python benchmarks/accuracy.py --models plain default --test-seed 3 --out FILE  # other rooms to test in: fresh.json
    python benchmarks/accuracy.py --rooms 4500 --epochs 8 --test-seed 3 --out FILE  # more rooms, others to test in
    python benchmarks/accuracy.py --size 256 --out FILE    # maps of full size, for a graphics card
    python benchmarks/accuracy.py --ablations              # results/ablations.json
    python benchmarks/accuracy.py --ablations kernel-2 kernel-6  # these variants alone
    python benchmarks/accuracy.py --quick                  # all models on a few tiny rooms, in some minutes
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from campaign import (
    QUICK,
    SHOEBOXES,
    TEST_SEEDS,
    campaign_config,
    cost,
    epochs_to,
    finished_runs,
    hours_of,
    noted,
    over_seeds,
    report,
    summarise,
)
from reporting import RESULTS, parser, positive, provenance, refuse, run_script, whole, write

from base_residual.config.presets import FRONT_END_DEFAULTS, PRESETS, SIZES, Layer
from base_residual.config.resolve import make_config, merge
from base_residual.evaluation.comparison import FinishedRun
from base_residual.machine import own_cores
from base_residual.plots.figures import comparison_figure, save_figure

# `unet` is the field's recipe, `plain` ours with one decoder and L1, `original` the design's first recipe, --adaptive.
MODELS: dict[str, Layer] = {
    "unet": {"model": {"name": "unet"}},
    "plain": {"model": {"name": "plain"}},
    "default": {},
    "original": merge(PRESETS["original"], {"loss": {"adaptive": True}}),
}
SPECTROGRAM: Layer = {key: PRESETS["original"][key] for key in ("audio", "model")}
EPOCHS = 24
ABLATION_EPOCHS = 4
# Variants of the default, each with one thing changed, and baselines. The default's kernel is 4/64 of the side.
ABLATIONS: dict[str, Layer] = {
    "default": {},
    "waveform": merge({"audio": {"front_end": "waveform"}}, FRONT_END_DEFAULTS["waveform"]),
    "spectrogram": SPECTROGRAM,
    "mel": merge(SPECTROGRAM, {"audio": {"front_end": "mel"}}),
    "template-direct": {"audio": {"template": "direct"}},
    "base-grid-8": {"model": {"base_grid": 8}},
    "base-map": {"model": {"base_decoder": "map"}},
    "map-decoder": {"model": {"decoder": "map"}},
    "plain": MODELS["plain"],
    "unet": MODELS["unet"],
    "unet-stretch": merge(MODELS["unet"], {"data": {"stretch": 0.25}}),
    "bound-0.1": {"model": {"residual_bound": 0.1}},
    "bound-0.4": {"model": {"residual_bound": 0.4}},
    "no-sparse": {"loss": {"lambda_sparse": 0.0}},
    "no-base-term": {"loss": {"lambda_base": 0.0}},
    "curriculum": {"loss": {"curriculum": True, "warmup_epochs": ABLATION_EPOCHS // 2}},
    "adaptive-step": {"loss": {"adaptive": True, "warmup_epochs": ABLATION_EPOCHS // 2}},
    "kernel-2": {"loss": {"lowpass_kernel": 2}},
    "kernel-6": {"loss": {"lowpass_kernel": 6}},
    "aggressive": PRESETS["aggressive"],
    "conservative": PRESETS["conservative"],
    "recon-rmse": {"loss": {"recon": "rmse"}},
    "asymmetric": {"model": {"symmetric": False}},
    "asymmetric-mirror": {"model": {"symmetric": False}, "data": {"mirror": True}},
    "no-stretch": {"data": {"stretch": 0.0}},
    "no-noise-damping": {"data": {"noise": 0.0, "damping": 0.0}},
    "no-average": {"trainer": {"average": 0.0}},
    "original": merge(MODELS["original"], {"loss": {"warmup_epochs": ABLATION_EPOCHS // 2}}),
    "half-the-rooms": {"simulation": {"train_rooms": 750}},
    "twice-the-rooms": {"simulation": {"train_rooms": 3000}},
    "size-tiny": SIZES["tiny"],
    "size-base": SIZES["base"],
}
RATES = (0.001, 0.002, 0.004)
SEARCH_EPOCHS = 4


def compare_models(options: argparse.Namespace) -> None:
    """Write the figures of every model with its best rate and all seeds."""
    quick, names, seeds = options.quick, once(options.models or MODELS), range(options.seeds)
    epochs, search_epochs = (2, 1) if quick else (options.epochs or EPOCHS, SEARCH_EPOCHS)
    package = make_config(SHOEBOXES, QUICK if quick else {})
    rooms = options.rooms or package.simulation.train_rooms
    test_seeds = TEST_SEEDS if options.test_seed is None else dict.fromkeys(TEST_SEEDS, options.test_seed)
    budget = {"epochs": epochs, "seeds": options.seeds, "quick": quick, "search_epochs": search_epochs}
    budget |= {"train_rooms": rooms, "test_seeds": test_seeds, "output_size": options.size or package.data.output_size}
    models = earlier(options.out, budget, "models")
    search = options.runs / "search"
    offered = options.rates or RATES[: 2 if quick else None]
    tried = [(name, rate) for name in names for rate in offered] if len(offered) > 1 else []
    short = finished_runs(
        [
            campaign_config(name, MODELS[name], search_epochs, rate, 0, search, quick, size=options.size)
            for name, rate in tried
        ],
        options.jobs,
    )
    found = {
        name: {rate: min(run.val_rmse) for (n, rate), run in zip(tried, short, strict=True) if n == name}
        for name in names
    }
    rates = {name: min(found[name], key=found[name].__getitem__, default=offered[0]) for name in names}
    configs = [
        campaign_config(name, MODELS[name], epochs, rates[name], seed, options.runs, quick, options.rooms, options.size)
        for name in names
        for seed in seeds
    ]
    finished = finished_runs(configs, options.jobs)
    for place, name in enumerate(names):
        runs = finished[place * len(seeds) : (place + 1) * len(seeds)]
        models[name] = summarise(runs, test_seeds) | cost(runs[0].config)
        models[name] |= {"learning_rate": rates[name], "rates_tried": {str(rate): v for rate, v in found[name].items()}}
        models[name] |= noted(runs[0])
    models = {name: models[name] for name in MODELS if name in models}
    best = [min(curve) for curve in models["unet"]["val_rmse"]] if "unet" in models else []
    for summary in models.values():
        summary["epochs_to_baseline"] = epochs_to(statistics.fmean(best), summary["val_rmse"]) if best else None
    hours = sum(map(hours_of, [*short, *finished])) / options.jobs
    write(options.out, provenance(options.jobs) | {"hours": hours, "budget": budget, "models": models})
    curves = {name: summary["val_rmse"] for name, summary in models.items()}
    save_figure(comparison_figure(curves), options.out.with_suffix(".png"))


def once(names: Iterable[str]) -> list[str]:
    """Return each name once, in their order."""
    return list(dict.fromkeys(names))


def earlier(path: Path, budget: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what an earlier call with the same budget has written; figures of another budget are not written over."""
    written = json.loads(path.read_text()) if path.exists() else {"budget": budget, key: {}}
    if written["budget"] != budget:
        refuse(f"{path} holds figures of another budget. Give another --out, or remove it.")
    figures: dict[str, Any] = written[key]
    return figures


def ablate(options: argparse.Namespace) -> None:
    """Write the variants of the default: one seed each, three of the default itself, which say how much is chance."""
    others = (options.epochs, options.models, options.rates, options.rooms, options.size, options.test_seed)
    if any(value is not None for value in others):
        refuse(
            "The ablations have a budget of their own: of these options they take --seeds, --jobs, --runs and --out."
        )
    epochs = 1 if options.quick else ABLATION_EPOCHS
    package = make_config(SHOEBOXES, QUICK if options.quick else {})
    rate = package.trainer.learning_rate
    budget = {"epochs": epochs, "quick": options.quick, "learning_rate": rate}
    budget |= {"train_rooms": package.simulation.train_rooms, "output_size": package.data.output_size}
    variants = earlier(options.out, budget, "variants")
    names = once(options.ablations or list(ABLATIONS)[: 2 if options.quick else None])
    if "default" not in {*names, *variants}:
        refuse(f"{options.out} has no default yet, which the variants are shown against. Ask for it as well.")
    wanted = [(name, seed) for name in names for seed in range(options.seeds if name == "default" else 1)]
    configs = [
        campaign_config(name, ABLATIONS[name], epochs, rate, seed, options.runs / "ablations", options.quick)
        for name, seed in wanted
    ]
    runs: dict[str, list[FinishedRun]] = {name: [] for name in names}
    for (name, _), run in zip(wanted, finished_runs(configs, options.jobs), strict=True):
        runs[name].append(run)
    for name, found in runs.items():
        judged = [
            report(run, "val") | {"hard_rmse": report(run, "val", "hard", TEST_SEEDS["hard"])["rmse"]} for run in found
        ]
        variants[name] = over_seeds(judged) | {"changed": ABLATIONS[name], "seeds": len(found)} | noted(found[0])
    variants = {name: variants[name] for name in ABLATIONS if name in variants}
    write(options.out, provenance(options.jobs) | {"budget": budget, "variants": variants})


def main() -> None:
    offered = parser(__doc__)
    offered.add_argument("--quick", action="store_true", help="tiny rooms, two epochs: shows that the campaign runs")
    offered.add_argument(
        "--ablations",
        nargs="*",
        choices=list(ABLATIONS),
        metavar="VARIANT",
        help="train these variants of the default instead (all)",
    )
    offered.add_argument("--epochs", type=positive, help=f"of every run ({EPOCHS})")
    offered.add_argument("--seeds", type=positive, default=3, help="per model (3)")
    offered.add_argument("--models", nargs="+", choices=list(MODELS), help="to train (all)")
    offered.add_argument("--rates", nargs="+", type=float, help=f"to search among; one is taken as it is {RATES}")
    offered.add_argument("--rooms", type=positive, help="to train in, after the search (the package's default)")
    offered.add_argument("--size", type=int, choices=(64, 128, 256), help="side of the maps in pixels (the package's)")
    offered.add_argument("--test-seed", type=whole, help="that draws the rooms to test in (0, and 1 for the hard ones)")
    offered.add_argument("--jobs", type=positive, default=own_cores(), help="runs at once (one per core)")
    offered.add_argument("--runs", type=Path, default=Path("results/accuracy"), help="folder of the runs")
    offered.add_argument("--out", type=Path, help="JSON to write (in benchmarks/results; a quick one beside its runs)")
    options = offered.parse_args()
    if not options.out:
        options.out = options.runs if options.quick else RESULTS
        options.out /= "accuracy.json" if options.ablations is None else "ablations.json"
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"Cannot write to {options.out.parent}: {error.strerror}.")
    (compare_models if options.ablations is None else ablate)(options)


if __name__ == "__main__":
    run_script(main)
