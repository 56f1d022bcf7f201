"""A run's folder: held by one process at a time, with the state in it that lets the run go on where it stood."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from base_residual.config.run_layout import CONFIG, EVALUATION, METRICS, REPORT, WANDB_ID, Record
from base_residual.config.schema import Config
from base_residual.errors import RunError
from base_residual.files.atomic import discard
from base_residual.files.json import as_json, from_json
from base_residual.files.tensors import read_header, read_tensors, write_tensors
from base_residual.models.network import DepthNet
from base_residual.training.distributed import leading
from base_residual.training.optimizer_state import optimizer_outline, optimizer_tensors, restore_optimizer

log = logging.getLogger("base_residual")

OWN_TO_A_MACHINE = {
    "trainer.save_every",
    "trainer.picture_every",
    "data.root",
    "data.num_workers",
    "trainer.device",
    "trainer.compile",
    "trainer.recompute",
}
"""Settings that decide how a run goes, and none of its numbers."""

SUMS = 5
RUN_FILES = (
    CONFIG,
    METRICS,
    "*.safetensors",
    "*.onnx",
    "*.png",
    EVALUATION,
    REPORT,
    WANDB_ID,
)


@dataclass
class Position:
    """Where a run stands: the epoch at work (from 1), its finished steps and their summed losses, what came before.

    `recordings` is how many there are to train on: with their number, the order in which they come would change.
    """

    epoch: int
    step: int
    sums: Tensor  # (SUMS,) total, recon, base, sparse, and how many steps they are the sums of
    history: list[Record]
    recordings: int

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation rmse so far."""
        return 1 + int(np.argmin([record["val/rmse"] for record in self.history]))


class _Place(BaseModel):
    """A position as it stands in the header of a saved state."""

    model_config = ConfigDict(defer_build=True)  # until a run is resumed

    epoch: int = Field(ge=1)
    step: int = Field(ge=0)
    history: list[Record]
    recordings: int


@contextmanager
def claimed(run_dir: Path, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold a run's folder for one process, and refuse to touch another run's files.

    Raises:
        RunError: the folder holds a run, is in use, or cannot be written to.
    """
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / ".lock", blocking=False)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"Another process is training in {run_dir}. Wait for it, or use another --experiment-name."
        ) from error
    except OSError as error:
        raise RunError(f"Cannot write to {run_dir}: {error.strerror or error}.") from error
    try:
        if not resume and not overwrite and any(_files(run_dir)):
            raise RunError(
                f"{run_dir} already holds a run. Go on with --resume (resume=True), choose another "
                "--experiment-name (tracking.experiment_name), or replace it with --overwrite (overwrite=True)."
            )
        _remove(run_dir.glob(".*.partial*"))  # files of a process that was killed
        yield
    finally:
        discard(run_dir / ".lock")  # while it is held: nobody else may hold another file of that name
        lock.release()
        with suppress(OSError):  # there is something to keep, or somebody has removed the folder
            run_dir.rmdir()


def remove_run(run_dir: Path) -> None:
    """Remove the files of a run.

    Raises:
        RunError: one cannot be removed.
    """
    _remove(_files(run_dir))


def _files(run_dir: Path) -> Iterator[Path]:
    return (path for pattern in RUN_FILES for path in run_dir.glob(pattern))


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        try:
            path.unlink()
        except OSError as error:
            raise RunError(f"Cannot remove {path}: {error.strerror or error}.") from error


def save_state(
    path: Path, config: Config, networks: Mapping[str, DepthNet], optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Write all that a run needs to go on exactly where it stands, as one file.

    Args:
        path: where to.
        config: of the run.
        networks: the one in training, and what goes with it.
        optimizer: of the first.
        position: where the run stands.

    Raises:
        RunError: the file cannot be written.
    """
    tensors = _named(networks) | optimizer_tensors(optimizer)
    tensors["sums"] = position.sums
    place = {name: getattr(position, name) for name in _Place.model_fields}
    write_tensors(path, tensors, {"config": config.model_dump_json(), "position": as_json(place)})


def _named(networks: Mapping[str, DepthNet]) -> dict[str, Tensor]:
    """All tensors of the networks, by the part that each plays and their names in it."""
    return {
        f"{part}.{name}": tensor for part, network in networks.items() for name, tensor in network.state_dict().items()
    }


def restore_state(
    path: Path, config: Config, networks: Mapping[str, DepthNet], optimizer: torch.optim.Optimizer, recordings: int
) -> Position:
    """Bring a run's networks and its optimiser to a saved state.

    Raises:
        CheckpointError: the file is broken, or holds the weights of another network.
        RunError: it was saved by a run with other settings or other recordings, or its header is damaged.
    """
    header = read_header(path)
    try:
        place, settings = from_json(_Place, header["position"]), json.loads(header["config"])
        if len(place.history) != place.epoch - 1:
            raise ValueError(f"{len(place.history)} epochs are recorded before epoch {place.epoch}")
        differing = sorted(differing_settings(settings, config.model_dump(mode="json")))
        if differing:
            raise RunError(
                f"{path} was saved with other settings: {', '.join(differing)}. "
                "Resume with the same ones, or use another --experiment-name."
            )
        if place.recordings != recordings:
            raise RunError(
                f"{path} was saved by a run on {place.recordings} recordings, and now there are {recordings}. Resume "
                "with the same ones, or use another --experiment-name."
            )
        planned, schedule = settings["trainer"]["epochs"], config.trainer.lr_schedule
        if planned != config.trainer.epochs and schedule != "constant" and leading():
            log.warning(
                "The run was begun with %d epochs and now has %d: its learning rate goes on along the new schedule.",
                planned,
                config.trainer.epochs,
            )
        outline = _named(networks) | {"sums": torch.zeros(SUMS)}
        tensors = read_tensors(path, outline, optimizer_outline(optimizer))
        for part, network in networks.items():
            network.load_state_dict({name: tensors[f"{part}.{name}"] for name in network.state_dict()})
        restore_optimizer(optimizer, tensors)
        return Position(place.epoch, place.step, tensors["sums"], place.history, place.recordings)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise RunError(f"The saved state {path} is damaged ({error}). Start anew with --overwrite.") from error


def differing_settings(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """Names of the settings that decide a run's numbers and differ between two configurations."""
    sections = (old.keys() | new.keys()) - {"tracking"}
    keys = {(section, key) for section in sections for key in old.get(section, {}).keys() | new.get(section, {}).keys()}
    differing = {f"{s}.{k}" for s, k in keys if old.get(s, {}).get(k) != new.get(s, {}).get(k)}
    return differing - OWN_TO_A_MACHINE - {"trainer.epochs", "trainer.on_fault"}


def settings_mark(config: Config) -> int:
    """A number that tells the settings apart in which processes that train together have to agree."""
    settings = config.model_dump(mode="json", exclude={"tracking"})
    named = {f"{section}.{key}": value for section, part in settings.items() for key, value in part.items()}
    text = json.dumps({name: value for name, value in named.items() if name not in OWN_TO_A_MACHINE}, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])  # what an int64 holds
