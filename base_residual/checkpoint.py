"""One safetensors file that explains itself, and the training state beside it. Nothing here runs code from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from base_residual import __version__
from base_residual.baseline import create_model
from base_residual.config import Config, make_config
from base_residual.errors import CheckpointError, ConfigError, TrainingError
from base_residual.files import as_json, from_json, replacing
from base_residual.model import DepthNet
from base_residual.tracking import Record

Tensors = dict[str, Tensor]

FORMAT = "base-residual-depth/1"
KINDS = {torch.float32: "F32", torch.int64: "I64"}  # the types that a network's tensors have, as the file names them
ADAM = ("step", "exp_avg", "exp_avg_sq")  # what the optimiser keeps of each parameter


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is known of it.

    Attributes:
        model: the network with its weights, in evaluation mode.
        config: the settings of its run.
        epoch: after which it was saved, from 1.
        history: one record per epoch, as in metrics.jsonl.
        version: of the package that wrote it.
    """

    model: DepthNet
    config: Config
    epoch: int
    history: list[Record]
    version: str


def save_checkpoint(
    path: Path, model: DepthNet, epoch: int, history: list[Record], config: Config | None = None
) -> None:
    """Write a model's weights, with its settings and its history in the header.

    Args:
        path: the file to write.
        model: a network that was made from a configuration.
        epoch: after which it is saved, from 1; 0 for one that has not been trained.
        history: one record per epoch, as in metrics.jsonl.
        config: settings to write instead of the model's own.

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
    write_tensors(path, model.state_dict(), header)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint; the file alone is enough.

    Args:
        path: a `.safetensors` file that a run has written.
        device: where the model goes.

    Raises:
        CheckpointError: the file is missing, broken, or no checkpoint of this package.
    """
    path = Path(path)
    header = read_header(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of base-residual-depth.")
    try:
        config = make_config(json.loads(header["config"]))
        epoch, history = int(header["epoch"]), from_json(list[Record], header["history"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"The header of {path} is damaged: {error}") from error
    with torch.device("meta"):  # takes no memory, whatever the header says
        outline = create_model(config)
    tensors = read_tensors(path, outline.state_dict())
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise CheckpointError(f"The weights in {path} are damaged: they hold NaN or infinite values.")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = create_model(config)
    model.load_state_dict(tensors)
    model.epoch, model.history = epoch, history
    return Checkpoint(model.to(device).eval(), config, epoch, history, header.get("version", "unknown"))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> DepthNet:
    """A trained network, ready for `predict` from a waveform.

    Args:
        path: a checkpoint.
        device: where the model goes.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return load_checkpoint(path, device).model


def write_tensors(path: Path, tensors: Tensors, header: dict[str, str]) -> None:
    """Write a safetensors file aside and rename it into place.

    Raises:
        RunError: the file cannot be written.
        TrainingError: a tensor is not finite; the file stays as it was.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise TrainingError(f"{path} was not written, because {name} is not finite any more.")
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    with replacing(path) as aside:
        aside.write_bytes(content)


def read_header(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; its tensors are not read.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    with _opened(path) as file:
        header: dict[str, str] = file.metadata() or {}
        return header


def read_tensors(path: Path, required: Mapping[str, Tensor], optional: Mapping[str, Tensor] | None = None) -> Tensors:
    """Tensors of a safetensors file, once all their names, shapes and types have been found to be those expected.

    Raises:
        CheckpointError: the file is missing or broken, or its tensors are others.
    """
    allowed = {**required, **(optional or {})}
    with _opened(path) as file:
        names = set(file.keys())
        for name in sorted(required.keys() | names):
            came = file.get_slice(name) if name in names else None
            wanted = allowed.get(name)
            if came is None or wanted is None or (came.get_shape(), came.get_dtype()) != _kind(wanted):
                raise CheckpointError(f"The weights in {path} do not fit the network that they are for ({name}).")
        # Copies: what is mapped keeps a replaced file's place on the disk for as long as a run goes on with it.
        return {name: file.get_tensor(name).clone() for name in names}


def _kind(tensor: Tensor) -> tuple[list[int], str]:
    return list(tensor.shape), KINDS[tensor.dtype]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file in it, such as {path / 'best.safetensors'}.")
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimiser's state as named tensors: `optimizer.PARAMETER.KEY`."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{key}": value
        for number, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def optimizer_outline(optimizer: torch.optim.Optimizer) -> Tensors:
    """The names, and the shapes, of all that `optimizer_tensors` can give."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    scalar = torch.zeros(())
    return {
        f"optimizer.{number}.{key}": scalar if key == "step" else parameter
        for number, parameter in enumerate(parameters)
        for key in ADAM
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give an optimiser the state that `optimizer_tensors` took from another one of the same parameters.

    Raises:
        ValueError: a part of a parameter's state is missing.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            # A fused step runs through memory, in which a parameter's state has to lie as the parameter does.
            like = tensor if key == "step" else torch.empty_like(parameters[int(number)]).copy_(tensor)
            state.setdefault(int(number), {})[key] = like
    if any(values.keys() != set(ADAM) for values in state.values()):
        raise ValueError("the optimiser's state is incomplete")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
