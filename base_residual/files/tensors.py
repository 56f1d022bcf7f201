"""Safetensors files: named tensors with a header of text. Reading them runs no code from the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from base_residual.errors import CheckpointError, TrainingError
from base_residual.files.atomic import write_whole
from base_residual.files.paths import no_file

Tensors = dict[str, Tensor]
KINDS = {torch.float32: "F32", torch.int64: "I64"}  # the types of a network's tensors, and their names in the file


def write_tensors(path: Path, tensors: Tensors, header: dict[str, str]) -> None:
    """Write a safetensors file aside and rename it into place.

    Raises:
        RunError: the file cannot be written.
        TrainingError: a tensor is not finite; the file stays as it was.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise TrainingError(f"{path} was not written, because {name} is not finite any more.")
    write_whole(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header))


def read_header(path: Path) -> dict[str, str]:
    """Read the header of a safetensors file, but not its tensors.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    with _opened(path) as file:
        header: dict[str, str] = file.metadata() or {}
        return header


def read_tensors(path: Path, required: Mapping[str, Tensor], optional: Mapping[str, Tensor] | None = None) -> Tensors:
    """Read the tensors of a safetensors file, after all names, shapes and types are checked.

    Args:
        path: file to read.
        required: tensors with the names, shapes and types that the file must hold.
        optional: the same for those that it may hold.

    Raises:
        CheckpointError: the file is missing or broken, or its tensors are others.
    """
    allowed = {**required, **(optional or {})}
    with _opened(path) as file:
        names = set(file.keys())
        for name in sorted(required.keys() | names):
            came = file.get_slice(name) if name in names else None
            wanted = allowed.get(name)
            if came is None or wanted is None or (came.get_shape(), came.get_dtype()) not in _kinds(wanted):
                raise CheckpointError(f"The weights in {path} do not fit the network that they are for ({name}).")
        # Copies, because a mapped tensor keeps the disk space of a file that has been replaced.
        return {name: file.get_tensor(name).to(allowed[name].dtype, copy=True) for name in names}


def _kinds(tensor: Tensor) -> list[tuple[list[int], str]]:
    """Return the shape of a tensor and the types that it may have in a file, where numbers may have half precision."""
    kinds = [KINDS[tensor.dtype], *(["F16"] if tensor.dtype == torch.float32 else [])]
    return [(list(tensor.shape), kind) for kind in kinds]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file, and turn every error while it is open into a CheckpointError."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file in it, such as {path / 'best.safetensors'}.")
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} {no_file(path)}.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
