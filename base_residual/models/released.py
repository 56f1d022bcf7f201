"""The released models: weights that come with the package, by name."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from base_residual.config.names import listed
from base_residual.config.presets import VIEWS, Layer
from base_residual.errors import CheckpointError
from base_residual.files.json import from_json
from base_residual.files.paths import expand_home

SAMPLE_VIEW = VIEWS["ideal"]  # of the camera that has seen the depth map of the recording in the package
DEFAULT = "small"  # what is taken where no model is named
TRIED_ON: Layer = {"simulation": {"train_rooms": 200, "val_rooms": 1, "test_rooms": 200, "poses": 1, "seed": 1}}
"""Rooms that no released model was trained on, to score and draw one where no dataset is named; they take seconds."""


class Released(NamedTuple):
    """A model that comes with the package.

    Attributes:
        output_size: side of its maps, in pixels.
        max_depth: in metres.
        about: what it is and was trained on, in a sentence.
        rmse: in metres, by the name of a world that it has not been trained on; and that of what hears nothing there.
        sha256: of its file.
    """

    output_size: int
    max_depth: float
    about: str
    rmse: dict[str, tuple[float, float]]
    sha256: str


def released() -> dict[str, Released]:
    """Return the released models by name."""
    content = (_folder() / "models.json").read_bytes()
    models: dict[str, Released] = from_json(dict[str, Released], content)
    return models


def find_weights(model: str | Path) -> Path:
    """Return the file of a model: the path that was given, or that of the released model of that name.

    Raises:
        CheckpointError: there is neither, or the released file has been changed.
    """
    path, name = expand_home(model), str(model)
    if path.is_file() or path.suffix or path.parent != Path() or (path.is_dir() and name not in released()):
        return path
    return find_released(name)


def find_released(name: str) -> Path:
    """Return the file of the released model of that name, whatever lies in the current folder.

    Raises:
        CheckpointError: there is none, or the file has been changed.
    """
    known = released()
    if name not in known:
        raise CheckpointError(f"There is no checkpoint {name}. The released models are {listed(name, known)}")
    file = _folder() / f"{name}.safetensors"
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != known[name].sha256:
        raise CheckpointError(f"{file} is not the file that was released. Install the package again.")
    return file


def is_released(model: str | Path) -> bool:
    """Return whether a checkpoint, or the model of a name, is one that comes with the package."""
    return find_weights(model).parent == _folder()


def sample() -> tuple[Path, Path]:
    """Return the files of a recording that comes with the package, and of the depth map that a camera saw there.

    The room is simulated, and is heard by a rig that no released model has been trained with.
    """
    return _folder() / "room.wav", _folder() / "room.npy"


def _folder() -> Path:
    return Path(str(resources.files("base_residual") / "weights"))
