"""How much a released model is worth where recordings are few.

    python benchmarks/few_recordings.py choose --recordings 120 --starts small frozen --out results/fine_tuning.json
    python benchmarks/few_recordings.py exam  # to report; the line above is to choose by
    python benchmarks/few_recordings.py exam --recordings 30 120 480 --starts plain --out results/few_plain.json

Trains on the first recordings of a world of `carry_over.py`, from scratch and from the released model, with the same
settings but for the learning rate, and tests on the world's test rooms. `frozen` is the released model whose encoder
stays as it is; `plain` begins from scratch, without the split. The rate is chosen by the validation rmse of the first
seed, and so is the epoch in every run. Each run is noted in the JSON as it ends, and not repeated there.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from carry_over import SHARED, WORLDS, rendered, world_figures
from reporting import RESULTS, parser, positive, provenance, refuse, run_script, write

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.run_layout import val_rmse
from base_residual.data.sample import EchoDataset
from base_residual.models.factory import load_checkpoint
from base_residual.models.network import DepthNet
from base_residual.models.released import DEFAULT, released
from base_residual.plots.figures import save_figure, standard_style
from base_residual.training.fine_tuning import fine_tuning_config
from base_residual.training.trainer import Trainer

FROZEN, PLAIN = "frozen", "plain"
STARTS = ("scratch", DEFAULT)
UNTRAINED = ("scratch", PLAIN)
RATES = {**dict.fromkeys(UNTRAINED, (0.001, 0.002, 0.004)), **dict.fromkeys((DEFAULT, FROZEN), (0.0005, 0.001, 0.002))}
VALIDATED = 60  # recordings by which epoch and rate are chosen
STEPS, LEAST_EPOCHS = 300, 15  # steps of 32 recordings, and epochs, that every run has at least
Row = dict[str, Any]


def some_of(root: Path, count: int, out: Path) -> Path:
    """Make a dataset of the first training recordings of a world, and of all its others; it links to the files."""
    folder = out / f"first_{count}"
    for location in (path for path in root.iterdir() if path.is_dir()):
        (folder / location.name).mkdir(parents=True, exist_ok=True)
        for part in location.iterdir():
            target = folder / location.name / part.name
            if part.is_dir() and not target.exists():
                target.symlink_to(part.resolve())
            elif part.suffix == ".csv":
                rows = part.read_text().splitlines()
                kept = rows[: 1 + count] if part.stem == "train" else rows
                target.write_text("\n".join(kept) + "\n")
    return folder


class FrozenEncoder(Trainer):
    """A training that leaves the encoder's weights as they are."""

    def _make_network(self, train: EchoDataset, first: DepthNet | None) -> DepthNet:
        model = super()._make_network(train, first)
        for name, part in model.named_children():
            part.requires_grad_(name != "encoder")
        return model


def train(world: Path, start: str, count: int, rate: float, seed: int, out: Path) -> dict[str, float]:
    """Train once; return validation and test rmse of the best epoch, in metres."""
    steps = -(-count // 32)
    layer: Layer = {
        "data": {"name": "batvisionv2", "root": str(world), "follow_links": True},
        "trainer": {
            "epochs": max(LEAST_EPOCHS, STEPS // steps),
            "learning_rate": rate,
            "seed": seed,
            "picture_every": 1000,
        },
        "tracking": {"results_dir": str(out), "experiment_name": f"{start}-{count}-{rate:g}-{seed}"},
    }
    config = fine_tuning_config(DEFAULT, layer)
    if start == PLAIN:
        config = make_config(config.model_dump(mode="json"), {"model": {"name": PLAIN, "decoder": "map"}})
    kind = FrozenEncoder if start == FROZEN else Trainer
    result = kind(config, init=None if start in UNTRAINED else DEFAULT, overwrite=True, trackers=[]).fit()
    found = {"val": min(val_rmse(result.history)), "test": result.test.metrics["rmse"]}
    print(f"{start}, {count} recordings, rate {rate:g}, seed {seed}: {found}", flush=True)
    return found


def run_all(rates: Sequence[float], seeds: int, run: Callable[[float, int], Row]) -> None:
    """Run the first seed with every rate, and the other seeds with the one that validates best."""
    first = min((run(rate, 0) for rate in rates), key=lambda row: row["val"])
    for seed in range(1, seeds):
        run(first["rate"], seed)


def points_of(runs: Sequence[Row], weights: str) -> list[Row]:
    """Return mean and spread of the test rmse over the seeds, for each start and number of recordings.

    Args:
        runs: all that are done, with whichever weights.
        weights: hash of the released model's; runs from those of an earlier one do not count.
    """
    points = list[Row]()
    for start, count in dict.fromkeys((row["start"], row["recordings"]) for row in runs):
        key = {"start": start, "recordings": count}
        own = [row for row in runs if key.items() <= row.items() and row["weights"] in (None, weights)]
        if own:
            best = min((row for row in own if row["seed"] == 0), key=lambda row: row["val"])
            values = [row["test"] for row in own if row["rate"] == best["rate"]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.fmean(values)
            points.append({**key, "rate": best["rate"], "mean": mean, "std": spread, "seeds": len(values)})
    return points


def curve_figure(points: list[Row], blind: float, zero: float) -> Any:
    """Draw rmse over the number of recordings."""
    from matplotlib.figure import Figure

    with standard_style():
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for start in dict.fromkeys(point["start"] for point in points):
            own = [point for point in points if point["start"] == start]
            heard, means, spreads = ([point[name] for point in own] for name in ("recordings", "mean", "std"))
            axes.errorbar(heard, means, spreads, marker="o", capsize=3, label=f"from {start}")
        axes.axhline(blind, color="grey", linestyle=":", label="hears nothing")
        axes.axhline(zero, color="grey", linestyle="--", label=f"{DEFAULT} as it is")
        axes.set(xscale="log", xlabel="recordings of the new world", ylabel="test rmse (m)")
        counts = sorted({point["recordings"] for point in points})
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.legend()
    return figure


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("world", choices=WORLDS, help="whose recordings stand in for a robot's")
    asked.add_argument("--recordings", nargs="+", type=positive, default=[30, 120, 480, 1900])
    asked.add_argument("--starts", nargs="+", choices=RATES, default=STARTS)
    asked.add_argument("--seeds", type=positive, default=3)
    for start, rates in RATES.items():
        asked.add_argument(f"--{start}-rates", nargs="+", type=float, default=rates, help="default: %(default)s")
    asked.add_argument("--work", type=Path, default=Path("few"), help="folder of the runs")
    asked.add_argument("--shared", type=Path, default=SHARED, help="head and real recording")
    asked.add_argument(
        "--out", type=Path, default=RESULTS / "few_recordings.json", help="JSON; the figure goes beside it"
    )
    given = asked.parse_args()
    counts = {"train": max(200, *given.recordings), "val": VALIDATED, "test": 200}
    root = rendered([given.world], counts, 0, given.work / "worlds", given.shared)[given.world]
    zero, weights = world_figures(load_checkpoint(DEFAULT), root), released()[DEFAULT].sha256
    about: Row = {"world": given.world, "test_recordings": counts["test"]}
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    if before and not about.items() <= before.items():
        refuse(f"{given.out} holds the results of another world. Give another --out.")
    runs: list[Row] = before.get("runs", [])

    def note() -> list[Row]:
        points = points_of(runs, weights)
        found = {"blind": zero["blind"], "as it is": zero["rmse"], "runs": runs, "points": points}
        write(given.out, {**provenance(), **about, **found})
        return points

    for count in given.recordings:
        some = some_of(root, count, given.work / given.world)
        for start in given.starts:

            def run(rate: float, seed: int, start: str = start, count: int = count, some: Path = some) -> Row:
                begun = {"start": start, "weights": None if start in UNTRAINED else weights}
                key = begun | {"recordings": count, "rate": rate, "seed": seed}
                found = next((row for row in runs if key.items() <= row.items()), None)
                if found is None:
                    runs.append(found := key | train(some, start, count, rate, seed, given.work / given.world))
                    note()
                return found

            run_all(getattr(given, f"{start}_rates"), given.seeds, run)
    points = note()
    print(f"Wrote {save_figure(curve_figure(points, zero['blind'], zero['rmse']), given.out.with_suffix('.png'))}.")


if __name__ == "__main__":
    run_script(main)
