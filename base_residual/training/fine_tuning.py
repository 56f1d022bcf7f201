"""The settings of a training that begins with the weights of another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.models.adopt import require_alike
from base_residual.models.factory import load_model

KEPT = ("output_size", "max_depth", "noise", "damping", "coloration", "stretch")
FEW_RECORDINGS: Layer = {"trainer": {"epochs": 40, "learning_rate": 0.001, "batch_size": 32}}
"""What is right for some hundred recordings, from weights that know echoes."""


def fine_tuning_config(
    init: str | Path,
    *layers: Mapping[str, Any],
    preset: str = "default",
    size: str | None = None,
    file: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration of a training that begins with a network's weights.

    The network, its front end, the map's side, the largest depth and the augmentation are those of the checkpoint; the
    optimisation is one for some hundred recordings. What is given wins over both.

    Args:
        init: a checkpoint, or the name of a released model.
        layers: as `make_config` takes them, and so are the others.
        preset: a name from `PRESETS`.
        size: a name from `SIZES`.
        file: the settings of a file, beneath all others that are given.

    Raises:
        CheckpointError: there is no such network.
        ConfigError: in one sentence per wrong setting; or the network is another one than that of the weights.
    """
    config = load_model(init).config
    assert config is not None
    kept = config.model_dump(mode="json")
    data = {name: kept["data"][name] for name in KEPT}
    beneath = {"model": kept["model"], "audio": kept["audio"], "data": data}
    found = make_config(*layers, preset=preset, size=size, file=merge(beneath, FEW_RECORDINGS, file or {}))
    require_alike(found, config)
    return found
