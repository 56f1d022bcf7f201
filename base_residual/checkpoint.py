"""One safetensors file that explains itself, and the training state beside it. Nothing here runs code from a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from base_residual.baseline import create_model
from base_residual.config import Config, make_config
from base_residual.errors import CheckpointError, ConfigError, TrainingError
from base_residual.files import replacing
from base_residual.model import DepthNet

FORMAT = "base-residual-depth/1"


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
    history: list[dict[str, float]]
    version: str


def save_checkpoint(path: Path, model: DepthNet, epoch: int, history: list[dict[str, float]]) -> None:
    """Write a model's weights, with its settings and its history in the header.

    Raises:
        RunError: the file cannot be written.
    """
    assert model.config is not None
    header = {
        "format": FORMAT,
        "version": version("base-residual-depth"),
        "epoch": str(epoch),
        "config": model.config.model_dump_json(),
        "history": json.dumps(history),
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
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of base-residual-depth.")
    try:
        config = make_config(json.loads(header["config"]))
        epoch, history = int(header["epoch"]), json.loads(header["history"])
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"The header of {path} is damaged: {error}") from error
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = create_model(config)
    expected = model.state_dict()
    for name in expected.keys() | tensors.keys():
        came, wanted = tensors.get(name), expected.get(name)
        if came is None or wanted is None or came.shape != wanted.shape:
            raise CheckpointError(f"The weights in {path} do not fit the network that its header describes ({name}).")
    model.load_state_dict(tensors)
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


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file in it, such as {path / 'best.safetensors'}.")
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: `optimizer.PARAMETER.KEY`."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{key}": value
        for number, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` took from another one of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
