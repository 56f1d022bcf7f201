"""Trackers are told how a run goes: metrics.jsonl always, Weights & Biases and TensorBoard when asked."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from base_residual.config.run_layout import METRICS, WANDB_ID, Record
from base_residual.config.schema import Config
from base_residual.errors import MissingExtraError, RunError
from base_residual.files.atomic import write_whole
from base_residual.files.json import as_json

log = logging.getLogger("base_residual")


class Tracker:
    """A listener to a run: each method is called at its event, and does nothing unless a subclass overrides it."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """`done` of `total` pieces of `what` are ready; this work, such as "Rendering rooms", comes before the run."""

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        """The run begins, or goes on after the epochs in `history`."""

    def step(self, epoch: int, done: int, steps: int) -> None:
        """`done` of `steps` batches of an epoch are through."""

    def epoch(self, history: list[Record]) -> None:
        """An epoch is over; its record is the last one."""

    def picture(self, epoch: int, path: Path) -> None:
        """A decomposition picture was written."""

    def close(self) -> None:
        """The run is over, or has failed."""


class JsonLines(Tracker):
    """`metrics.jsonl`: one line per epoch, the whole file replaced each time, so that no half line is ever left."""

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        self._path = run_dir / METRICS
        self.epoch(history)

    def epoch(self, history: list[Record]) -> None:
        write_whole(self._path, "".join(as_json(record) + "\n" for record in history))


class WeightsAndBiases(Tracker):
    """Weights & Biases: the keys of metrics.jsonl and the decomposition pictures.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("--wandb", "wandb") from error
        self._wandb = wandb

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        # Nobody may be there to answer the library's question for a key; a run must not hang on it.
        mode: Any = os.environ.get("WANDB_MODE")
        if not mode:
            mode = "online" if os.environ.get("WANDB_API_KEY") or _wandb_login() else "offline"
            if mode == "offline":
                log.warning(
                    "Weights & Biases has no key here: logging offline to %s; 'wandb sync' uploads it.", run_dir
                )
        try:
            self._run: Any = self._wandb.init(
                project=config.tracking.wandb_project,
                name=config.run_name,
                id=_identity(run_dir),
                resume="allow",
                dir=str(run_dir),
                config=config.model_dump(mode="json"),
                mode=mode,
                settings=self._wandb.Settings(silent=True),
            )
        except (self._wandb.Error, OSError, ValueError) as error:
            raise RunError(
                f"Weights & Biases does not take the run: {' '.join(str(error).split())[:200]}. Leave --wandb out, or "
                "set WANDB_MODE=offline."
            ) from error
        if self._run.url:
            log.warning("Weights & Biases: %s", self._run.url)

    def epoch(self, history: list[Record]) -> None:
        record = history[-1]
        self._run.log(record, step=int(record["epoch"]))

    def picture(self, epoch: int, path: Path) -> None:
        self._run.log({"decomposition": self._wandb.Image(str(path))}, step=epoch)

    def close(self) -> None:
        if hasattr(self, "_run"):
            self._run.finish()


def _identity(run_dir: Path) -> str:
    """Return a run's id at Weights & Biases: a resumed run keeps it, a run that replaces another gets a new one."""
    path = run_dir / WANDB_ID
    if not path.exists():
        write_whole(path, uuid4().hex)
    return path.read_text(encoding="utf-8", errors="replace")


def _wandb_login() -> bool:
    """Return whether the user's netrc can be read and holds a key for Weights & Biases."""
    for name in (".netrc", "_netrc"):
        with suppress(OSError):
            if "api.wandb.ai" in (Path.home() / name).read_text(errors="replace"):
                return True
    return False


class TensorBoard(Tracker):
    """TensorBoard event files in the run's folder, under `tensorboard/`.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("--tensorboard", "tensorboard") from error
        self._writer_type = SummaryWriter

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        self._writer: Any = self._writer_type(str(run_dir / "tensorboard"), purge_step=len(history) + 1)

    def epoch(self, history: list[Record]) -> None:
        record = history[-1]
        for key, value in record.items():
            if key != "epoch":
                self._writer.add_scalar(key, value, int(record["epoch"]))
        self._writer.flush()

    def picture(self, epoch: int, path: Path) -> None:
        from PIL import Image  # slow to import

        with Image.open(path) as image:
            self._writer.add_image("decomposition", np.asarray(image.convert("RGB")), epoch, dataformats="HWC")

    def close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()


def make_trackers(config: Config) -> list[Tracker]:
    """Make the trackers that a configuration asks for, metrics.jsonl first."""
    trackers: list[Tracker] = [JsonLines()]
    if config.tracking.wandb:
        trackers.append(WeightsAndBiases())
    if config.tracking.tensorboard:
        trackers.append(TensorBoard())
    return trackers
