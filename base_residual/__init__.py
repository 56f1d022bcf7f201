"""Depth from sound: a stereo echo in, a depth map in metres out, split as final = base + residual."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from base_residual.errors import OneLine
from base_residual.version import __version__ as __version__

if TYPE_CHECKING:
    from base_residual.acoustics.chirp import ChirpDesign
    from base_residual.config.resolve import make_config
    from base_residual.config.schema import Config
    from base_residual.data import open_dataset
    from base_residual.errors import BaseResidualError
    from base_residual.evaluation import evaluate
    from base_residual.losses import AdaptiveBaseResidualLoss, BaseResidualLoss
    from base_residual.models.decomposition import DepthDecomposition
    from base_residual.models.factory import create_base_residual_model, load_model
    from base_residual.models.network import BaseResidualNet
    from base_residual.training.fine_tuning import fine_tuning_config
    from base_residual.training.trainer import Trainer

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
    "fine_tuning_config",
    "load_model",
    "make_config",
    "open_dataset",
]

# Loaded when first asked for, so that `brdepth --help` does not wait for PyTorch.
_HOMES = {
    "AdaptiveBaseResidualLoss": "losses",
    "BaseResidualError": "errors",
    "BaseResidualLoss": "losses",
    "BaseResidualNet": "models.network",
    "ChirpDesign": "acoustics.chirp",
    "Config": "config",
    "DepthDecomposition": "models.decomposition",
    "Trainer": "training.trainer",
    "create_base_residual_model": "models.factory",
    "evaluate": "evaluation",
    "fine_tuning_config": "training.fine_tuning",
    "load_model": "models.factory",
    "make_config": "config",
    "open_dataset": "data",
}


# Import paths that documents and model cards name, for as long as these names are public; see docs/api.md.
_PUBLIC_PATHS = {
    "audio": {"compress": "acoustics.matched_filter"},
    "baseline": {"PlainNet": "models.network", "create_model": "models.factory"},
    "checkpoint": {"load_model": "models.factory"},
    "chirp": {"ChirpDesign": "acoustics.chirp"},
    "compare": {"Comparison": "evaluation.comparison", "compare_runs": "evaluation.comparison"},
    "export": {"export_onnx": "deploy.onnx"},
    "model": {
        "BaseResidualNet": "models.network",
        "DepthDecomposition": "models.decomposition",
        "create_base_residual_model": "models.factory",
    },
    "notebook": {"show": "plots.display"},
    "predict": {"write_predictions": "deploy.predict"},
    "tracking": {"Tracker": "training.trackers"},
    "trainer": {"FitResult": "training.result", "Trainer": "training.trainer"},
    "visualize": {"decomposition_figure": "plots.figures", "panels": "plots.figures"},
}


class _PublicPaths(MetaPathFinder, Loader):
    """Make the modules of `_PUBLIC_PATHS`, each out of the public names that are imported from it."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return the description of such a module."""
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in _PUBLIC_PATHS else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module with its names."""
        for name, home in _PUBLIC_PATHS[module.__name__.rpartition(".")[2]].items():
            setattr(module, name, getattr(import_module(f"{__name__}.{home}"), name))


sys.meta_path.append(_PublicPaths())
logging.getLogger(__name__).addFilter(OneLine())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'base_residual' has no attribute '{name}'")
    return getattr(import_module(f"base_residual.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
