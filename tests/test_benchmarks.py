from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def campaign(tmp_path: Path, *options: str) -> Path:
    """Run the campaign in its quick form; the JSON that it wrote."""
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / "accuracy.py"), "--quick", "--seeds", "2", "--jobs", "2", *options]
    done = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs"), "--out", str(out)],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_accuracy_campaign_runs_in_its_quick_form(tmp_path: Path) -> None:
    out = campaign(tmp_path, "--models", "unet", "default")
    result = json.loads(out.read_text())
    assert set(result["models"]) == {"unet", "default"}
    for summary in result["models"].values():
        assert summary["rmse"]["mean"] > 0
        assert summary["rmse"]["std"] > 0
        assert summary["hard"]["rmse"]["mean"] > 0
        assert summary["gflops"] > 0
        assert len(summary["val_rmse"]) == 2
        assert str(summary["learning_rate"]) in summary["rates_tried"]
    assert result["budget"]["quick"] is True
    assert out.with_suffix(".png").exists()
    assert "residual_gain" in out.with_suffix(".md").read_text()


def test_the_ablations_run_in_their_quick_form(tmp_path: Path) -> None:
    out = campaign(tmp_path, "--ablations")
    result = json.loads(out.read_text())
    assert set(result["variants"]) == {"default", "waveform", "spectrogram"}
    assert result["budget"]["seeds"] == {"default": 2, "waveform": 1, "spectrogram": 1}
    assert result["variants"]["default"]["rmse"]["std"] > 0
    assert result["variants"]["waveform"]["changed"] == {"audio": {"front_end": "waveform"}}
    assert result["variants"]["waveform"]["hard_rmse"]["mean"] > 0
    assert "audio.front_end=waveform" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("name", "render", "key"),
    [("accuracy", "model_markdown", "models"), ("ablations", "ablation_markdown", "variants")],
)
def test_the_documentation_shows_the_committed_figures(
    name: str, render: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    results = BENCHMARKS / "results"
    figures = json.loads((results / f"{name}.json").read_text())[key]
    text = (results / f"{name}.md").read_text(encoding="utf-8")
    assert getattr(importlib.import_module("accuracy"), render)(figures) == text
    for block in text.split("\n\n"):
        assert block in (DOCS / "accuracy.md").read_text(encoding="utf-8")
