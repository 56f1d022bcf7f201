"""The state of a run, saved as one file from which the run goes on exactly where it stood."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from base_residual.config.resolve import written_config
from base_residual.config.run_layout import EVALUATION, STATE, Record, val_rmse
from base_residual.config.schema import Config
from base_residual.data.splits import ALIKE, SplitIdentity
from base_residual.errors import ConfigError, RunError, counted
from base_residual.files.json import as_json, from_json
from base_residual.files.tensors import read_header, read_tensors, write_tensors
from base_residual.losses import LOSS_NAMES
from base_residual.models.checkpoint import Start
from base_residual.models.network import DepthNet
from base_residual.training.distributed import Processes, is_first_process
from base_residual.training.optimizer_state import optimizer_outline, optimizer_tensors, restore_optimizer

log = logging.getLogger("base_residual")

WITHOUT_EFFECT = {
    "trainer.save_every",
    "trainer.picture_every",
    "data.root",
    "data.follow_links",
    "data.num_workers",
    "trainer.device",
    "trainer.threads",
    "trainer.compile",
    "trainer.recompute",
    "data.field_of_view",
    "data.depth_along",
}
"""Settings that decide how a run goes, or what its depth maps are taken for, and none of its numbers.

But on a CPU, threads, compiling and recomputing decide whether a batch is learned in parts, of which each has its own
batch norm; a run that goes on with others of them goes on a little differently.
"""

SUMS = len(LOSS_NAMES) + 1  # the loss, its terms, and how many steps they are the sums of


@dataclass
class Position:
    """Hold where a run stands: the epoch at work (from 1), its finished steps and their losses, what came before.

    `data` is what each split holds: a run goes on with the recordings that it was begun with. `start` is the checkpoint
    whose weights it was begun with, if it was.
    """

    epoch: int
    step: int
    sums: Tensor  # (SUMS,)
    history: list[Record]
    data: dict[str, SplitIdentity]
    start: Start | None = None

    @classmethod
    def at_start(cls, data: dict[str, SplitIdentity], start: Start | None = None) -> Self:
        """Return where a run begins."""
        return cls(1, 0, torch.zeros(SUMS), [], data, start)

    def end_epoch(self, record: Record) -> None:
        """Go to the beginning of the next epoch."""
        self.history.append(record)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, torch.zeros(SUMS)

    @property
    def best_epoch(self) -> int:
        """Return the epoch with the lowest validation rmse so far."""
        return 1 + int(np.argmin(val_rmse(self.history)))


class _Place(BaseModel):
    """Describe a position in the header of a saved state."""

    model_config = ConfigDict(defer_build=True)  # until a run is resumed

    epoch: int = Field(ge=1)
    step: int = Field(ge=0)
    history: list[Record]
    data: dict[str, SplitIdentity]
    start: Start | None = None


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
    """Return all tensors of the networks, by the part that each plays and their names in it."""
    return {
        f"{part}.{name}": tensor for part, network in networks.items() for name, tensor in network.state_dict().items()
    }


def restore_state(
    path: Path,
    config: Config,
    networks: Mapping[str, DepthNet],
    optimizer: torch.optim.Optimizer,
    data: dict[str, SplitIdentity],
) -> Position:
    """Bring a run's networks and its optimiser to a saved state.

    Raises:
        CheckpointError: the file is broken, or holds the weights of another network.
        RunError: it was saved by a run with other settings or other recordings, or its header is damaged.
    """
    header = read_header(path)
    try:
        place = from_json(_Place, header["position"])
        settings = written_config(json.loads(header["config"])).model_dump(mode="json")
        if len(place.history) != place.epoch - 1:
            raise ValueError(f"{len(place.history)} epochs are recorded before epoch {place.epoch}")
        differing = sorted(differing_settings(settings, config.model_dump(mode="json")))
        if differing:
            raise RunError(
                f"{path} was saved with other settings: {', '.join(differing)}. "
                "Resume with the same ones, or use another --experiment-name."
            )
        _check_data(path, place.data, data)
        if config.trainer.epochs < len(place.history):
            raise RunError(
                f"The run in {config.run_dir} has {counted(len(place.history), 'epoch')} and cannot end after "
                f"{config.trainer.epochs} (trainer.epochs). Give as many or more, or begin another run."
            )
        planned, schedule = settings["trainer"]["epochs"], config.trainer.lr_schedule
        if planned != config.trainer.epochs and schedule != "constant" and is_first_process():
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
        return Position(place.epoch, place.step, tensors["sums"], place.history, data, place.start)
    except (AttributeError, ConfigError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise RunError(f"The saved state {path} is damaged ({error}). Start anew with --overwrite.") from error


def _check_data(path: Path, old: dict[str, SplitIdentity], new: dict[str, SplitIdentity]) -> None:
    """Raise a RunError if a split holds other recordings than it did when a state was saved."""
    for split, now in new.items():
        if old[split].differs(now):
            others = "others" if old[split].recordings == now.recordings else f"{now.recordings}"
            raise RunError(
                f"{path} was saved by a run on {counted(old[split].recordings, 'recording')} in its {split} split, and "
                f"now there are {others}. Resume with the same ones, or use another --experiment-name."
            )


def resumed(
    config: Config, networks: Mapping[str, DepthNet], optimizer: torch.optim.Optimizer, start: Position
) -> Position:
    """Go on from the state in a run's folder, or from the start where there is none.

    Raises:
        CheckpointError: the file is broken, or holds the weights of another network.
        RunError: it was saved by a run with other settings or other recordings, is damaged, or is gone; or the run has
            more epochs than are asked for.
    """
    run_dir, position = config.run_dir, start
    if (run_dir / STATE).exists():
        position = restore_state(run_dir / STATE, config, networks, optimizer, start.data)
    elif (run_dir / EVALUATION).exists():
        raise RunError(
            f"The run in {run_dir} is finished, and {STATE}, from which it could go on, is gone. Replace it with "
            "--overwrite (overwrite=True), or use another --experiment-name."
        )
    return position


def check_alike(position: Position, config: Config, processes: Processes) -> None:
    """Refuse processes of which one goes on where another begins, or that have other settings, data or folders."""
    there = config.run_dir.is_dir()  # the first one has made it
    counts = [split.recordings for split in position.data.values()]
    start = int(position.start.sha256[:12], 16) if position.start else 0
    own = torch.tensor([[position.epoch, position.step, there, settings_hash(config), start, *counts]])
    alike = len(processes.gathered(own).unique(dim=0)) == 1
    if alike:  # so that all have as many figures
        figures = torch.tensor([[pair for split in position.data.values() for pair in split.samples]])
        found = processes.gathered(figures)
        alike = torch.allclose(found, found[:1].expand_as(found), rtol=ALIKE, atol=1e-6, equal_nan=True)
    if not alike:
        raise RunError(
            f"The processes have other settings, different states in {config.run_dir}, or different "
            "recordings. All machines need the same command, results folder and dataset."
        )


def differing_settings(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """Return the names of the settings that decide a run's numbers and differ between two configurations."""
    sections = (old.keys() | new.keys()) - {"tracking"}
    keys = {(section, key) for section in sections for key in old.get(section, {}).keys() | new.get(section, {}).keys()}
    differing = {f"{s}.{k}" for s, k in keys if old.get(s, {}).get(k) != new.get(s, {}).get(k)}
    return differing - WITHOUT_EFFECT - {"trainer.epochs", "trainer.on_fault"}


def settings_hash(config: Config) -> int:
    """Return a hash of the settings in which processes that train together have to agree."""
    settings = config.model_dump(mode="json", exclude={"tracking"})
    named = {f"{section}.{key}": value for section, part in settings.items() for key, value in part.items()}
    text = json.dumps({name: value for name, value in named.items() if name not in WITHOUT_EFFECT}, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])  # what an int64 holds
