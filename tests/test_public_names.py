from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import base_residual


@pytest.mark.parametrize("name", base_residual.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(base_residual, name).__name__ == name


@pytest.mark.parametrize(
    "path",
    [
        "audio.compress",
        "baseline.PlainNet",
        "baseline.create_model",
        "checkpoint.load_model",
        "chirp.ChirpDesign",
        "compare.Comparison",
        "compare.compare_runs",
        "config.Config",
        "config.make_config",
        "data.open_dataset",
        "data.own.Recordings",
        "data.sample.EchoSample",
        "evaluation.Evaluation",
        "evaluation.Protocol",
        "evaluation.evaluate",
        "evaluation.success_criteria",
        "export.export_onnx",
        "losses.AdaptiveBaseResidualLoss",
        "losses.BaseResidualLoss",
        "losses.LossTerms",
        "losses.LossWeights",
        "losses.low_pass",
        "metrics.depth_metrics",
        "model.BaseResidualNet",
        "model.DepthDecomposition",
        "model.create_base_residual_model",
        "notebook.show",
        "predict.write_predictions",
        "tracking.Tracker",
        "trainer.FitResult",
        "trainer.Trainer",
        "visualize.decomposition_figure",
        "visualize.panels",
    ],
)
def test_each_public_import_path_is_kept(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert getattr(import_module(f"base_residual.{module}"), name).__name__ == name


def test_an_import_path_is_kept_in_a_new_process_and_in_both_forms() -> None:
    code = (
        "import base_residual.trainer; from base_residual.trainer import Trainer; print(base_residual.trainer.Trainer)"
    )
    assert "Trainer" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_module_that_is_not_there_is_missing_as_any_other() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'base_residual\.nowhere'"):
        import_module("base_residual.nowhere")
