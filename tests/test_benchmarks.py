from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_accuracy_campaign_runs_in_its_quick_form(tmp_path: Path) -> None:
    out = tmp_path / "accuracy.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "accuracy.py"),
        "--quick",
        "--seeds",
        "2",
        "--models",
        "unet",
        "default",
    ]
    done = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs"), "--out", str(out)],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
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
