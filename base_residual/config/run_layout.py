"""A run on disk: the names of its files, and the form of its records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

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


def picture_name(epoch: int) -> str:
    """Return the name of the decomposition picture that an epoch leaves."""
    return f"epoch_{epoch:04d}_decomposition.png"


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
