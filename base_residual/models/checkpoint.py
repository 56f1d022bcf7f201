"""One safetensors file that explains itself: weights, settings and history of a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import nn

from base_residual.config.resolve import written_config
from base_residual.config.run_layout import Record
from base_residual.config.schema import Config
from base_residual.errors import CheckpointError, ConfigError
from base_residual.files.json import as_json, from_json
from base_residual.files.paths import expand_home
from base_residual.files.tensors import read_header, read_tensors, write_tensors
from base_residual.machine import standard_torch
from base_residual.models.remainder import Calibration
from base_residual.version import __version__

FORMAT = "base-residual-depth/1"


class Start(NamedTuple):
    """The checkpoint whose weights a training began with.

    Attributes:
        name: of a released model, or of the file.
        sha256: of the file.
    """

    name: str
    sha256: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.name} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class Provenance:
    """The training that a network's weights come from.

    Attributes:
        epoch: after which they were saved, from 1; 0 where they were never in a checkpoint.
        history: one record per epoch until then, as in metrics.jsonl.
        start: what it began with; None for weights drawn at random.
    """

    epoch: int = 0
    history: list[Record] = field(default_factory=list)
    start: Start | None = None


class StoredNet(nn.Module):
    """A network that a checkpoint can hold.

    Args:
        config: the settings that it was made from; None for a network that no checkpoint can hold.
    """

    def __init__(self, config: Config | None) -> None:
        super().__init__()
        self.config = config
        self.provenance = Provenance()
        self.calibration: Calibration | None = None

    def expect_remainder(self, calibration: Calibration) -> None:
        """Give the network a remainder of that calibration, the weights of which are still to come."""
        raise NotImplementedError


Net = TypeVar("Net", bound=StoredNet)


@dataclass(frozen=True)
class Checkpoint(Generic[Net]):
    """A model and what is known of it.

    Attributes:
        model: the network with its weights, in evaluation mode.
        config: the settings of its run.
        epoch: after which it was saved, from 1.
        history: one record per epoch, as in metrics.jsonl.
        version: of the package that wrote it.
    """

    model: Net
    config: Config
    epoch: int
    history: list[Record]
    version: str


def save_checkpoint(
    path: Path,
    model: StoredNet,
    epoch: int,
    history: list[Record],
    config: Config | None = None,
    start: Start | None = None,
) -> None:
    """Write a model's weights, with its settings and its history in the header.

    Args:
        path: the file to write.
        model: a network that was made from a configuration.
        epoch: after which it is saved, from 1; 0 for one that has not been trained.
        history: one record per epoch, as in metrics.jsonl.
        config: settings to write instead of the model's own.
        start: what the training began with.

    Raises:
        RunError: the file cannot be written.
    """
    config = config or model.config
    assert config is not None
    header = {
        "format": FORMAT,
        "version": __version__,
        "epoch": str(epoch),
        "config": config.model_dump_json(),
        "history": as_json(history),
    }
    if start is not None:
        header["start"] = as_json(start._asdict())
    if model.calibration is not None:
        header["calibration"] = as_json(model.calibration._asdict())
    unheld = (torch.bfloat16, torch.float64)  # by any checkpoint
    weights = {
        name: values.float() if values.dtype in unheld else values for name, values in model.state_dict().items()
    }
    write_tensors(path, weights, header)


@standard_torch()
def load(path: str | Path, create: Callable[[Config], Net], device: str | torch.device = "cpu") -> Checkpoint[Net]:
    """Read a checkpoint.

    Args:
        path: a `.safetensors` file that a run has written.
        create: makes the network that a configuration describes.
        device: where the model goes.

    Raises:
        CheckpointError: the file is missing, broken, or no checkpoint of this package.
    """
    path = expand_home(path)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{path} is an ONNX file, which ONNX Runtime runs. Give the .safetensors file that it was made from."
        )
    header = read_header(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of base-residual-depth.")
    try:
        config = written_config(json.loads(header["config"]))
        epoch, history = int(header["epoch"]), from_json(list[Record], header["history"])
        start = from_json(Start, header["start"]) if "start" in header else None
        calibration = from_json(Calibration, header["calibration"]) if "calibration" in header else None
        if calibration is not None:
            calibration.check()
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"The header of {path} is damaged: {error}") from error

    def make() -> Net:
        model = create(config)
        if calibration is not None:
            model.expect_remainder(calibration)
        return model

    with torch.device("meta"):  # takes no memory, whatever the header says
        outline = make()
    tensors = read_tensors(path, outline.state_dict())
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise CheckpointError(f"The weights in {path} are damaged: they hold NaN or infinite values.")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = make()
    model.load_state_dict(tensors)
    model.provenance = Provenance(epoch, history, start)
    return Checkpoint(model.to(device).eval(), config, epoch, history, header.get("version", "unknown"))
