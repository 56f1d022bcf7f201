"""Finished runs side by side: read from their folders, judged against the plain network among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from math import isclose, nan
from pathlib import Path
from typing import Any

from base_residual.config.resolve import load_layer, written_config
from base_residual.config.run_layout import CONFIG, EVALUATION, METRICS, Record, val_rmse
from base_residual.config.schema import Config, LossConfig
from base_residual.errors import RunError, counted
from base_residual.evaluation import CONVERGED_WITHIN, Criterion, success_criteria, why_undecided
from base_residual.evaluation.blind import MAX_FILE, Blind
from base_residual.files.atomic import read_at_most
from base_residual.files.json import from_json
from base_residual.losses import LOSS_NAMES
from base_residual.metrics import Evaluation
from base_residual.models.checkpoint import Start
from base_residual.plots.tables import Table

BASELINES = {"unet": "U-Net baseline", "plain": "plain baseline"}  # the first is preferred as the reference
UNUSED = "-"
OF_THE_PARTS = {  # settings that a baseline does nothing with
    *(f"loss.{name}" for name in LossConfig.model_fields if name != "recon"),
    *(f"model.{name}" for name in ("base_decoder", "base_grid", "residual_bound")),
}
OF_THE_TIME_ENCODER = {"model.symmetric", "audio.bands"}  # settings that a U-Net does nothing with
EVERY_EPOCH = ("val/rmse", *(f"train/loss_{name}" for name in LOSS_NAMES))


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as its folder holds it.

    Attributes:
        folder: of the run.
        config: its settings.
        history: one record per epoch, as in metrics.jsonl.
        test: figures of its best weights on the test split.
        blind: test rmse of the predictions that hear nothing, in metres.
        start: the checkpoint whose weights it began with, if it did.
    """

    folder: Path
    config: Config
    history: list[Record]
    test: Evaluation
    blind: dict[str, float]
    start: Start | None = None

    @property
    def val_rmse(self) -> list[float]:
        """Return the validation rmse of each epoch, in metres."""
        return val_rmse(self.history)

    @property
    def rmse(self) -> float:
        """Return the test rmse, in metres."""
        return self.test.metrics["rmse"]

    def converged_at(self) -> int | None:
        """Return the first epoch (from 1) whose validation rmse is within 2 % of the run's best."""
        return self.reached(min(self.val_rmse) * (1 + CONVERGED_WITHIN))

    def reached(self, target: float) -> int | None:
        """Return the first epoch (from 1) whose validation rmse is at most `target` metres."""
        return first_epoch(self.val_rmse, target)


def first_epoch(curve: Sequence[float], target: float) -> int | None:
    """Return the first epoch (from 1) of a curve that is at most `target`; None where none is."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value <= target), None)


def used_settings(config: Config) -> dict[str, Any]:
    """Return the settings that a run does something with, but for where it is tracked, by their dotted name."""
    of_the_parts = set() if config.model.name == "base_residual" else OF_THE_PARTS
    unused = of_the_parts | (OF_THE_TIME_ENCODER if config.model.encoder == "unet" else set())
    sections = config.model_dump(mode="json", exclude={"tracking"})
    settings = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    return {name: value for name, value in settings.items() if name not in unused}


@dataclass(frozen=True)
class Comparison:
    """Runs that may be compared, and the one that the others are measured against."""

    runs: list[FinishedRun]
    reference: FinishedRun

    @property
    def names(self) -> list[str]:
        """Return what tells the runs apart, in short: their experiments, models and experiments, or folders."""
        for name in (
            lambda run: run.config.tracking.experiment_name,
            lambda run: f"{run.config.model.name} {run.config.tracking.experiment_name}",
            lambda run: run.folder.name,
        ):
            names = [name(run) for run in self.runs]
            if len(set(names)) == len(names):
                return names
        paths = [run.folder.resolve().parts for run in self.runs]
        above, below = (_alike(way) for way in (paths, [path[::-1] for path in paths]))
        return ["/".join(path[above : len(path) - below]) or "/".join(path) for path in paths]

    @property
    def differing(self) -> dict[str, list[Any]]:
        """Return the settings that are not the same in all runs, by their dotted name: the value in each run.

        `UNUSED` where a run does nothing with a setting: a baseline has no parts that a loss could hold apart. With
        them comes `start`, the checkpoint that a run began with.
        """
        settings = [used_settings(run.config) | {"start": str(run.start or "random weights")} for run in self.runs]
        names = dict.fromkeys(name for setting in settings for name in setting)
        values = {name: [setting.get(name, UNUSED) for setting in settings] for name in names}
        used = {name: [value for value in given if value != UNUSED] for name, given in values.items()}
        return {name: values[name] for name, given in used.items() if any(value != given[0] for value in given)}

    def ahead(self, run: FinishedRun) -> float:
        """Return the share by which a run's test rmse lies below the reference's; negative where it lies above."""
        return 1 - run.rmse / self.reference.rmse

    def epochs_to_reference(self, run: FinishedRun) -> int | None:
        """Return the epochs until a run's validation rmse reaches the reference's best; None where it never does."""
        return run.reached(min(self.reference.val_rmse))

    def criteria(self, run: FinishedRun) -> list[Criterion]:
        """Judge a run by the success criteria; its lead only against a baseline that had the same budget."""
        why = self.why_lead_is_open(run)
        return success_criteria(
            run.test,
            run.val_rmse,
            baseline_rmse=None if why else self.reference.rmse,
            baseline_name=BASELINES.get(self.reference.config.model.name, BASELINES["unet"]),
            undecided=why or "",
            blind=run.blind,
        )

    def why_lead_is_open(self, run: FinishedRun) -> str | None:
        """Return the reason why a run's lead over the baseline is not judged; None where it is."""
        model, baseline = run.config.model.name, self.reference.config.model.name
        if baseline not in BASELINES:
            return why_undecided(model)
        if run is self.reference:
            return "it is the baseline"
        if model == baseline:
            return f"it is a {BASELINES[baseline]} as well"
        if _budget(run) != _budget(self.reference):
            return f"not the same budget: {_budget(run)}, the baseline {_budget(self.reference)}"
        if (run.start and run.start.sha256) != (self.reference.start and self.reference.start.sha256):
            return "the baseline did not begin with the same weights"
        if not _on_the_same_maps(run, self.reference):
            return "the baseline has learnt from other depth maps, or was tested on others"
        return None

    def row(self, run: FinishedRun) -> dict[str, str]:
        """Return a run's row in a table of runs, by column; empty where a run has no such figure."""
        metrics, figures = run.test.metrics, run.test.decomposition
        reached = self.epochs_to_reference(run)
        return {
            "rmse (m)": f"{run.rmse:.3f}",
            "ahead": "" if run is self.reference else f"{self.ahead(run):+.1%}",
            "abs_rel": f"{metrics['abs_rel']:.3f}",
            "delta1": f"{metrics['delta1']:.3f}",
            "gain": f"{figures['residual_gain']:.1%}" if figures else "",
            "converged": f"{run.converged_at()}",
            "reached": "never" if reached is None else f"{reached}",
        }

    def runs_table(self) -> Table:
        """Return the runs side by side."""
        names = self.names
        against = names[self.runs.index(self.reference)]
        rows = [self.row(run) for run in self.runs]
        cells = [(name, *row.values()) for name, row in zip(names, rows, strict=True)]
        return Table(f"Test split, against {against}", ("run", *rows[0]), cells, right=range(1, 1 + len(rows[0])))

    def differing_table(self) -> Table:
        """Return the settings that differ, a column for each run."""
        rows = [(name, *map(str, values)) for name, values in self.differing.items()]
        return Table("What differs", ("setting", *self.names), rows)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "reference": str(self.reference.folder),
            "differing": self.differing,
            "runs": [
                run.test.as_dict()
                | {
                    "folder": str(run.folder),
                    "model": run.config.model.name,
                    "epochs": len(run.val_rmse),
                    "ahead": self.ahead(run),
                    "converged_at": run.converged_at(),
                    "epochs_to_reference": self.epochs_to_reference(run),
                    "criteria": [criterion._asdict() for criterion in self.criteria(run)],
                }
                for run in self.runs
            ],
        }


@dataclass(frozen=True)
class _Started:
    """The start that evaluation.json names."""

    start: Start | None = None


def read_run(folder: Path) -> FinishedRun:
    """Read a run's folder.

    Raises:
        RunError: it is no run, or not a finished one.
    """
    report, metrics = folder / EVALUATION, folder / METRICS
    if not report.is_file() or not metrics.is_file():
        raise RunError(f"{folder} is not the folder of a finished run: it has no {EVALUATION} and {METRICS}.")
    try:
        noted = read_at_most(report, MAX_FILE)
        test: Evaluation = from_json(Evaluation, noted)
        blind: Blind = from_json(Blind, noted)
        start: Start | None = from_json(_Started, noted).start
        history = [from_json(Record, line) for line in read_at_most(metrics, MAX_FILE).splitlines()]
        test.check()
        if not history:
            raise ValueError("there is no epoch in it")
        lacking = {key for key in {*EVERY_EPOCH, *history[0]} for record in history if key not in record}
        if lacking:
            raise ValueError(f"there is no {min(lacking)} in it")
        wrong = [f"{name}={value}" for name, value in blind.blind_rmse.items() if value < 0]
        if wrong:
            raise ValueError(f"a figure that cannot be, {wrong[0]}")
    except (OSError, ValueError) as error:
        raise RunError(f"The run in {folder} is damaged: {error}.") from error
    return FinishedRun(folder, written_config(load_layer(folder / CONFIG)), history, test, blind.blind_rmse, start)


def _alike(paths: Sequence[Sequence[str]]) -> int:
    """Count the first parts that all paths share."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read at least two runs and put them side by side.

    Raises:
        RunError: there are fewer than two, one is not finished, or their figures do not compare.
    """
    if len(folders) < 2:
        raise RunError("Give the folders of at least two runs.")
    return read_runs(folders)


def _tested_on(run: FinishedRun) -> dict[str, Any]:
    """Return what two runs must have in common for their figures to compare, by its name."""
    simulated = run.config.data.name == "simulated"
    # Each room has a seed of its own, so that two runs may have been trained in different numbers of them.
    rooms = run.config.simulation.model_dump(exclude={"train_rooms"}) if simulated else {}
    return {
        "data.name": run.config.data.name,
        **{f"simulation.{name}": value for name, value in rooms.items()},
        **{f"the protocol's {name}": value for name, value in asdict(run.test.protocol).items()},
        **{name: run.test.metrics[name] for name in ("images", "images_without_depth")},
    }


def _budget(run: FinishedRun) -> str:
    """Return what a run has been given to learn from, in words."""
    epochs, data = counted(run.config.trainer.epochs, "epoch"), run.config.data
    rendered = data.name == "simulated" and data.root is None
    return f"{epochs} in {run.config.simulation.train_rooms} rooms" if rendered else epochs


def _on_the_same_maps(run: FinishedRun, other: FinishedRun) -> bool:
    """Return whether two runs had the same depth maps: what hears nothing is as good then, wherever their folder is."""
    return all(isclose(rmse, other.blind.get(name, nan), rel_tol=1e-5) for name, rmse in run.blind.items())


def read_runs(folders: Sequence[Path]) -> Comparison:
    """Read runs and choose their reference: the plain U-Net if there is one, else the plain network, else the first.

    Args:
        folders: of finished runs, one or more.

    Raises:
        RunError: one is not finished, or their figures do not compare.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RunError("A run is given twice.")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        first, other = _tested_on(runs[0]), _tested_on(run)
        differing = [
            f"{name} ({first[name]} and {other[name]})"
            for name in first
            if name in other and first[name] != other[name]
        ]
        if differing:
            raise RunError(
                f"{runs[0].folder} and {run.folder} were tested on other data or by another protocol; what differs is "
                f"{', '.join(differing)}."
            )
    order = [run for name in BASELINES for run in runs if run.config.model.name == name]
    return Comparison(runs, (order or runs)[0])
