"""A run on disk: the names of its files, and the form of its records."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from base_residual.config.presets import SPLITS
from base_residual.files.json import Number

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
BEST = "best.safetensors"
LAST = "last.safetensors"
STATE = "training_state.safetensors"
EVALUATION = "evaluation.json"
CURVES = "curves.png"
REPORT = "report.html"
WANDB_ID = "wandb_id.txt"
PICTURE = re.compile(r"epoch_\d{4,}_decomposition\.png")
PICTURES = ("decomposition", "view")  # that `visualize` draws
OF_WEIGHTS = (BEST, LAST)  # beside which `export` and `visualize` write, unless they are told where


def picture_name(epoch: int) -> str:
    """Return the name of the decomposition picture that an epoch leaves."""
    return f"epoch_{epoch:04d}_decomposition.png"


def written_about(weights: Path, shown: str, kind: str = PICTURES[0]) -> Path:
    """Return the picture of that kind that `visualize` draws with a run's weights: of a split, mostly."""
    return weights.with_name(f"{weights.stem}_{shown}_{kind}.png")


def written_files(run_dir: Path) -> list[Path]:
    """Return the files in a folder that a run has written there, or a command about its weights; nobody else's.

    Their names are exact, so that a user's own pictures, notes and weights are none of them.
    """
    names = {CONFIG, METRICS, BEST, LAST, STATE, EVALUATION, CURVES, REPORT, WANDB_ID}
    for weights in (run_dir / name for name in OF_WEIGHTS):
        drawn = {written_about(weights, split, kind).name for split in SPLITS for kind in PICTURES}
        names |= {weights.with_suffix(".onnx").name, *drawn}
    return [path for path in run_dir.iterdir() if path.name in names or PICTURE.fullmatch(path.name)]


def _judged(record: dict[str, float]) -> dict[str, float]:
    if "val/rmse" not in record:
        raise ValueError("an epoch without val/rmse")
    if not record["val/rmse"] >= 0:  # NaN neither
        raise ValueError(f"an epoch whose val/rmse is {record['val/rmse']:g}")
    if any(isinstance(value, int) and abs(value) >= 2**63 for value in record.values()):
        raise ValueError("a whole number that nothing here counts to")
    return record


Record = Annotated[dict[str, int | Number], AfterValidator(_judged)]
"""One epoch: `epoch`, `train/loss_total`, ..., `val/rmse`, ..."""


def val_rmse(history: Iterable[Record]) -> list[float]:
    """Return the validation rmse of each epoch, in metres."""
    return [record["val/rmse"] for record in history]
