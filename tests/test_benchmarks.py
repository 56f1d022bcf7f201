from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The campaign, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("accuracy")


@pytest.fixture
def campaign(tmp_path: Path, accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the campaign in its quick form, in this process, or by its command with processes of its own."""
    out = tmp_path / "out.json"

    def run(*options: str, jobs: int = 1) -> Path:
        """The JSON that it wrote."""
        words = [f"--jobs={jobs}", "--quick", "--seeds=2", *options, f"--runs={tmp_path / 'runs'}", f"--out={out}"]
        if jobs > 1:
            subprocess.run([sys.executable, BENCHMARKS / "accuracy.py", *words], check=True)
        else:
            monkeypatch.setattr(sys, "argv", ["accuracy.py", *words])
            monkeypatch.setattr(accuracy, "workers", ThreadPoolExecutor)
            accuracy.main()
        return out

    return run


@pytest.fixture
def refused(
    accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Calls the campaign, in this process, with options with which it does not begin."""

    def run(*options: str) -> str:
        """What it says."""
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *options])
        with pytest.raises(SystemExit) as ended:
            accuracy.main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_the_accuracy_campaign_runs_in_its_quick_form(
    campaign: Callable[..., Path], refused: Callable[..., str]
) -> None:
    other = ("--rooms", "24", "--size", "64", "--test-seed", "5")
    out = campaign("--models", "unet", "--rates", "0.003", *other)
    assert json.loads(out.read_text())["models"]["unet"]["learning_rate"] == 0.003
    campaign("--models", "default", *other)
    result = json.loads(out.read_text())
    assert set(result["models"]) == {"unet", "default"}
    for summary in result["models"].values():
        assert summary["rmse"]["mean"] > 0
        assert summary["rmse"]["std"] > 0
        assert summary["hard"]["rmse"]["mean"] > 0
        assert summary["gflops"] > 0
        assert len(summary["val_rmse"]) == 2
    searched = result["models"]["default"]
    assert str(searched["learning_rate"]) in searched["rates_tried"]
    assert 0 < result["hours"] < 1
    assert result["budget"]["quick"] is True
    assert result["budget"]["train_rooms"] == 24
    assert result["budget"]["output_size"] == 64
    assert result["budget"]["test_seeds"] == {"standard": 5, "hard": 5}
    assert out.with_suffix(".png").exists()
    assert "residual_gain" in out.with_suffix(".md").read_text()
    assert "holds figures of another budget" in refused("--quick", "--out", str(out))
    assert json.loads(out.read_text()) == result


def test_a_run_is_kept_only_if_all_of_its_settings_were_written(
    tmp_path: Path, accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[object] = []

    class Trainer:
        def __init__(self, config: object, **_: object) -> None:
            trained.append(config)

        def fit(self) -> None:
            """As if it had trained."""

    monkeypatch.setattr(accuracy, "Trainer", Trainer)
    config = accuracy.campaign_config("default", {}, 2, 0.001, 0, tmp_path, quick=True)
    config.run_dir.mkdir(parents=True)
    for name in ("evaluation.json", accuracy.NOTE):
        (config.run_dir / name).write_text("{}")
    moved = config.to_yaml().replace(str(tmp_path), "results")
    assert moved != config.to_yaml()
    for text, times in ((config.to_yaml(), 0), (moved, 0), (config.to_yaml().replace("  average: 0.5\n", ""), 1)):
        (config.run_dir / "config.yaml").write_text(text, encoding="utf-8")
        accuracy.train(config, 1, {})
        assert len(trained) == times


def test_a_campaign_that_is_killed_leaves_no_process_behind() -> None:
    program = (
        "import os, time, accuracy; print(accuracy.workers(1).submit(os.getpid).result(), flush=True); time.sleep(99)"
    )
    env = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        worker = int(killed.stdout.readline())
        os.kill(worker, 0)  # it is there
        killed.kill()
    for _ in range(300):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived the campaign")


def test_the_ablations_take_no_other_budget(refused: Callable[..., str]) -> None:
    assert "have a budget of their own" in refused("--ablations", "--epochs", "3")
    assert "have a budget of their own" in refused("--ablations", "--size", "128")


def test_an_ablation_without_the_default_to_compare_it_with_is_refused(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "has no default yet" in refused("--ablations", "mel", "--out", str(tmp_path / "none.json"))
    assert "invalid choice: 'melt'" in refused("--ablations", "melt")


def test_the_ablations_run_in_their_quick_form(campaign: Callable[..., Path]) -> None:
    out = campaign("--ablations", jobs=2)
    first = json.loads(out.read_text())["variants"]
    assert {name: row["seeds"] for name, row in first.items()} == {"default": 2, "waveform": 1, "spectrogram": 1}
    campaign("--ablations", "mel", "mel")
    result = json.loads(out.read_text())
    rows = result["variants"]
    assert list(rows) == [*first, "mel"]
    assert {name: rows[name] for name in first} == first
    assert rows["mel"]["seeds"] == 1
    assert all(len(row["commit"]) == 40 for row in rows.values())
    assert result["variants"]["default"]["rmse"]["std"] > 0
    assert result["variants"]["waveform"]["changed"] == {"audio": {"front_end": "waveform"}, "data": {"stretch": 0.0}}
    assert result["variants"]["waveform"]["hard_rmse"]["mean"] > 0
    assert "audio.front_end=waveform" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(("rmse", "gflops", "met"), [(0.79, 0.5, True), (0.81, 0.51, False)])
def test_a_target_is_met_by_the_figures_alone(rmse: float, gflops: float, met: bool, accuracy: ModuleType) -> None:
    names = ("base_smoothness", "base_positive", "residual_abs_mean", "residual_gain", "residual_detail_corr")
    default = {name: {"mean": 0.06} for name in names} | {"rmse": {"mean": rmse}, "hard": {"rmse": {"mean": rmse}}}
    default |= {"gflops": gflops, "val_rmse": [[rmse]], "epochs_to_baseline": 3 if met else 4}
    unet = {"rmse": {"mean": 1.0}, "hard": {"rmse": {"mean": 0.8}}, "gflops": 1.0, "val_rmse": [[1, 1, 1, 0.9]]}
    found = {one.words: one.met for one in accuracy.targets({"unet": unet, "default": default})}
    assert found["rmse at least 20 % below the field's recipe"] is met
    assert found["at no more than half its operations"] is met
    assert found["at least 25 % fewer epochs to the field's best"] is met
    assert found["ahead of unet on the harder rooms"] is met
    assert found["residual_gain above 5 %"] is True
    assert found["residual_detail_corr above 0.3"] is False
    assert found["best of the first 20 epochs within 2 % of the best of the run"] is None
