"""The result of a run, for programs, notebooks and evaluation.json."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from base_residual.config.run_layout import BEST, Record
from base_residual.errors import counted
from base_residual.evaluation import Criterion, criteria_table
from base_residual.evaluation.blind import blind_lines
from base_residual.evaluation.elsewhere import Tried
from base_residual.metrics import Evaluation
from base_residual.models.checkpoint import Start
from base_residual.models.remainder import Calibration
from base_residual.plots.display import show
from base_residual.plots.figures import as_png
from base_residual.training.curves import history_figure


@dataclass(frozen=True)
class FitResult:
    """Hold what a run has come to.

    Attributes:
        run_dir: folder with all that it wrote.
        history: one record per epoch, as in metrics.jsonl.
        best_epoch: the epoch with the lowest validation rmse, whose weights are in best.safetensors.
        test: figures of those weights on the test split.
        blind: test rmse of the training set's mean map and of its best constant, in metres.
        criteria: the success criteria.
        picture: the last decomposition picture.
        title: what the run is, in words.
        elsewhere: how a model of simulated rooms did on others.
        start: the checkpoint whose weights it began with, if it did.
        calibration: the promise of the best weights' remainder, if they have one.
        uncalibrated: why they have none.
    """

    run_dir: Path
    history: list[Record]
    best_epoch: int
    test: Evaluation
    blind: dict[str, float]
    criteria: list[Criterion]
    picture: Path
    title: str = ""
    elsewhere: list[Tried] = field(default_factory=list)
    start: Start | None = None
    calibration: Calibration | None = None
    uncalibrated: str = ""

    @property
    def best(self) -> Record:
        """Return the record of the best epoch."""
        return self.history[self.best_epoch - 1]

    def as_dict(self) -> dict[str, Any]:
        """Return what evaluation.json says and where things are, ready for JSON."""
        return self.evaluation_report() | {
            "best_epoch": self.best_epoch,
            "epochs": len(self.history),
            "best": self.best,
            "run_dir": str(self.run_dir),
            "checkpoint": str(self.run_dir / BEST),
            "picture": str(self.picture),
        }

    def evaluation_report(self) -> dict[str, Any]:
        """Return what evaluation.json has: figures on the test split and elsewhere, blind guesses and criteria."""
        return self.test.as_dict() | {
            "split": "test",
            "blind_rmse": self.blind,
            "criteria": [criterion._asdict() for criterion in self.criteria],
            "elsewhere": [tried._asdict() for tried in self.elsewhere],
            "start": self.start and self.start._asdict(),
            "calibration": self.calibration and self.calibration._asdict(),
        }

    def sentences(self) -> list[str]:
        """Return how far ahead of what hears nothing the model is, here and elsewhere, and how far off it may be."""
        return [*blind_lines(self.test.metrics["rmse"], self.blind), *map(str, self.elsewhere), self._remainder()]

    def _remainder(self) -> str:
        """Return what the remainder promises, and what it holds."""
        if self.calibration is None:
            return f"No remainder, which would say how far off a pixel may be. {self.uncalibrated}".rstrip()
        mean, held = self.test.interval["remainder_mean"], self.test.interval["coverage"]
        return f"Remainder for {self.calibration}: {mean:.2f} m on average; on the test split {held:.1%} lie within."

    def plot(self) -> None:
        """Draw the curves at once: in a notebook beneath the cell, else in the system's picture viewer.

        Raises:
            RunError: there is nothing to show them in.
        """
        show(history_figure(self.history, self.title or self.run_dir.name))

    def _repr_html_(self) -> str:
        """Return what a notebook shows where a cell ends with a result: curves, figures, success criteria."""
        lowest = f"validation rmse {self.best['val/rmse']:.3f} m"
        best = f"The best of {counted(len(self.history), 'epoch')} is {self.best_epoch}, {lowest}."
        curves = b64encode(as_png(history_figure(self.history))).decode()
        return "".join(
            [
                f"<p><b>{escape(str(self.run_dir))}</b><br>{escape(best)}</p>",
                f'<img alt="loss and validation rmse over the epochs" style="max-width:100%" '
                f'src="data:image/png;base64,{curves}">',
                "<p><b>Test split</b></p>",
                self.test._repr_html_(),
                *(f"<p>{escape(sentence)}</p>" for sentence in self.sentences()),
                "<p><b>Success criteria</b></p>",
                criteria_table(self.criteria, title="").to_html(),
            ]
        )
