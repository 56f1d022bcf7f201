"""Depth from sound: a stereo echo in, a depth map in metres out, split as final = base + residual."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from base_residual.checkpoint import load_model
    from base_residual.chirp import ChirpDesign
    from base_residual.config import Config, make_config
    from base_residual.data import open_dataset
    from base_residual.errors import BaseResidualError
    from base_residual.evaluation import evaluate
    from base_residual.losses import AdaptiveBaseResidualLoss, BaseResidualLoss
    from base_residual.model import BaseResidualNet, DepthDecomposition, create_base_residual_model
    from base_residual.trainer import Trainer

__all__ = [
    "AdaptiveBaseResidualLoss",
    "BaseResidualError",
    "BaseResidualLoss",
    "BaseResidualNet",
    "ChirpDesign",
    "Config",
    "DepthDecomposition",
    "Trainer",
    "create_base_residual_model",
    "evaluate",
    "load_model",
    "make_config",
    "open_dataset",
]

# Loaded when first asked for, so that `brdepth --help` does not wait for PyTorch.
_HOMES = {
    "AdaptiveBaseResidualLoss": "losses",
    "BaseResidualError": "errors",
    "BaseResidualLoss": "losses",
    "BaseResidualNet": "model",
    "ChirpDesign": "chirp",
    "Config": "config",
    "DepthDecomposition": "model",
    "Trainer": "trainer",
    "create_base_residual_model": "model",
    "evaluate": "evaluation",
    "load_model": "checkpoint",
    "make_config": "config",
    "open_dataset": "data",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'base_residual' has no attribute '{name}'")
    return getattr(import_module(f"base_residual.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
