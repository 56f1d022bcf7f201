"""The benchmarks run end to end in their quick forms, go on where they were stopped, and refuse mistakes in words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from conftest import TINY
from nursery import Forked, Nursery
from test_cli import brdepth

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY_SETTINGS = [f"{section}.{name}={value}" for section, settings in TINY.items() for name, value in settings.items()]


@pytest.fixture
def campaign(
    tmp_path: Path, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Runs the campaign in its quick form, in this process, and gives the JSON that it wrote."""
    out, accuracy = tmp_path / "out.json", script("accuracy")

    def run(*options: str) -> Path:
        words = ["--jobs=1", "--quick", *options, f"--runs={tmp_path / 'runs'}", f"--out={out}"]
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *words])
        monkeypatch.setattr(script("campaign"), "workers", ThreadPoolExecutor)
        accuracy.main()
        return out

    return run


@pytest.fixture
def refused(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Calls the campaign with options with which it does not begin, and gives what it says."""

    def run(*options: object) -> str:
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            script("accuracy").main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_the_accuracy_campaign_runs_in_its_quick_form_and_keeps_what_it_has(
    campaign: Callable[..., Path], refused: Callable[..., str]
) -> None:
    other = ("--seeds", "1", "--rooms", "6", "--test-seed", "5")
    out = campaign("--models", "unet", *other)
    searched = json.loads(out.read_text())["models"]["unet"]
    assert str(searched["learning_rate"]) in searched["rates_tried"]
    campaign("--models", "default", "--rates", "0.003", *other)
    result = json.loads(out.read_text())
    assert list(result["models"]) == ["unet", "default"]
    assert result["models"]["default"]["learning_rate"] == 0.003
    assert result["models"]["unet"]["rmse"] == searched["rmse"]
    for summary in result["models"].values():
        assert summary["rmse"]["mean"] > 0
        assert summary["hard"]["rmse"]["mean"] > 0
        assert summary["gflops"] > 0
        assert len(summary["val_rmse"]) == 1
    assert 0 < result["hours"] < 1
    assert result["budget"]["quick"] is True
    assert result["budget"]["train_rooms"] == 6
    assert result["budget"]["test_seeds"] == {"standard": 5, "hard": 5}
    assert out.with_suffix(".png").exists()
    assert "holds figures of another budget" in refused("--quick", "--out", out)
    assert json.loads(out.read_text()) == result


def test_the_ablations_run_in_their_quick_form(campaign: Callable[..., Path]) -> None:
    out = campaign("--seeds=2", "--ablations", "default")
    first = json.loads(out.read_text())["variants"]
    assert first["default"]["seeds"] == 2
    assert first["default"]["rmse"]["std"] > 0
    campaign("--ablations", "waveform", "waveform")
    rows = json.loads(out.read_text())["variants"]
    assert list(rows) == ["default", "waveform"]
    assert rows["default"] == first["default"]
    assert rows["waveform"]["seeds"] == 1
    assert rows["waveform"]["changed"] == {"audio": {"front_end": "waveform", "bands": []}, "data": {"stretch": 0.0}}
    assert rows["waveform"]["hard_rmse"]["mean"] > 0


def test_a_run_has_the_rooms_and_the_size_that_are_asked_for(
    tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    make = script("campaign").campaign_config
    small, large = (
        make("default", {}, 2, 0.001, 0, tmp_path, rooms=rooms, size=size) for rooms, size in ((8, 64), (9, 128))
    )
    assert (large.simulation.train_rooms, large.data.output_size) == (9, 128)
    assert small.run_dir != large.run_dir


def test_a_run_is_kept_only_if_all_of_its_settings_were_written(
    tmp_path: Path, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[object] = []
    runs = script("campaign")

    class Trainer:
        def __init__(self, config: object, **_: object) -> None:
            trained.append(config)

        def fit(self) -> None:
            """As if it had trained."""

    monkeypatch.setattr(runs, "Trainer", Trainer)
    config = runs.campaign_config("default", {}, 2, 0.001, 0, tmp_path, quick=True)
    config.run_dir.mkdir(parents=True)
    for name in ("evaluation.json", runs.NOTE):
        (config.run_dir / name).write_text("{}")
    moved = config.to_yaml().replace(str(tmp_path), "results")
    assert moved != config.to_yaml()
    for text, times in ((config.to_yaml(), 0), (moved, 0), (config.to_yaml().replace("  average: 0.5\n", ""), 1)):
        (config.run_dir / "config.yaml").write_text(text, encoding="utf-8")
        runs.train(config, 1, {})
        assert len(trained) == times


def test_a_campaign_that_is_killed_leaves_no_process_behind(tmp_path: Path, nursery: Nursery) -> None:
    program = f"""
import os, sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import campaign
print(campaign.workers(1).submit(os.getpid).result(), flush=True)
time.sleep(99)
"""
    killed = Forked(nursery, tmp_path / "said", program)
    while not (tmp_path / "said").read_text().endswith("\n"):
        assert killed.poll() is None
        time.sleep(0.05)
    worker = int((tmp_path / "said").read_text())
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


def test_a_campaign_that_cannot_begin_says_why(tmp_path: Path, refused: Callable[..., str]) -> None:
    for option, value in (("--epochs", 3), ("--size", 128), ("--test-seed", 0)):
        assert "have a budget of their own" in refused("--ablations", option, value)
    assert "has no default yet" in refused("--ablations", "mel", "--out", tmp_path / "none.json")
    assert "invalid choice: 'melt'" in refused("--ablations", "melt")
    (tmp_path / "file").touch()
    assert f"Cannot write to {tmp_path / 'file'}" in refused("--out", tmp_path / "file" / "out.json")


@pytest.mark.parametrize("name", ["accuracy", "speed", "kill", "resize"])
@pytest.mark.parametrize("words", [["--help"], ["--out"]])
def test_a_script_helps_and_refuses(
    name: str,
    words: list[str],
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as ended:
        script(name).main()
    said = capsys.readouterr()
    assert ended.value.code == (0 if words == ["--help"] else 2)
    assert f"python benchmarks/{name}.py" in said.out or "expected one argument" in said.err


def test_the_lowest_versions_are_those_of_the_project(script: Callable[[str], ModuleType]) -> None:
    lowest = script("lowest")
    project = {
        "dependencies": ["torch>=2.11; sys_platform != 'darwin'", "torch>=2.13; sys_platform == 'darwin'", "a>=1, <3"],
        "optional-dependencies": {"report": ["bokeh>=3.7"], "docs": ["mkdocs>=1.6"], "dev": ["base[report]"]},
    }
    assert lowest.lower_ends(project, "linux") == {"torch": "2.11", "a": "1", "bokeh": "3.7"}
    assert lowest.lower_ends(project, "darwin")["torch"] == "2.13"
    with pytest.raises(ValueError, match=r"b has no lowest version in pyproject\.toml"):
        lowest.lower_ends({"dependencies": ["b"], "optional-dependencies": {}})
    own = tomllib.loads((BENCHMARKS.parent / "pyproject.toml").read_text())["project"]
    assert {"torch", "typer", "bokeh", "onnxruntime", "sounddevice"} <= lowest.lower_ends(own).keys()
    assert "benchmarks/lowest.py" in (BENCHMARKS.parent / "CONTRIBUTING.md").read_text()


def test_what_other_work_costs_is_measured_beside_that_work_and_told_for_one_thread_and_many(
    tmp_path: Path,
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy, started = script("busy"), list[subprocess.Popen[bytes]]()
    start = subprocess.Popen

    def follow(*words: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(start(*words, **options))  # type: ignore[call-overload]
        return started[-1]

    def child(*words: object, **environment: str) -> float:
        others = sum(process.poll() is None for process in started)
        return 100.0 * int(environment["OMP_NUM_THREADS"]) / (1 + others)

    monkeypatch.setattr(busy.subprocess, "Popen", follow)
    monkeypatch.setattr(busy, "BUSY", "import time; time.sleep(60)")
    monkeypatch.setattr(busy, "child", child)
    monkeypatch.setattr(busy, "own_cores", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["busy.py", "--quick", "--turns=2", f"--out={tmp_path / 'busy.json'}"])
    busy.main()
    assert all(process.poll() is not None for process in started)
    found = json.loads((tmp_path / "busy.json").read_text())
    assert found["samples_per_s"] == {
        "idle, one thread": [100.0] * 2,
        "idle, a thread per core": [200.0] * 2,
        "busy, one thread": [100 / 3] * 2,
        "busy, a thread per core": [200 / 3] * 2,
    }
    assert found["time_over_one_thread"] == {"idle": 0.5, "busy": 0.5}
    assert "busy: with a thread for each core, a step takes 0.50 times as long" in capsys.readouterr().out


def test_the_first_commands_stages_are_what_a_training_prints(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "cache"))
    first, readme = script("first_command"), (BENCHMARKS.parent / "README.md").read_text()
    assert first.first_command(readme, "train").endswith("&& brdepth train")
    settings = [word for setting in TINY_SETTINGS for word in ("--set", setting)]
    printed = brdepth("train", *settings, "--results-dir", tmp_path / "results").splitlines()
    now = iter(range(100))
    reached = first.timeline(printed, lambda: next(now))
    assert set(reached) == {*first.STAGES, "all of it"}
    assert list(reached.values()) == sorted(reached.values())
    assert first.timeline(["Error: no"], iter([5.0, 7.25]).__next__) == {"all of it": 2.2}


def test_the_count_of_doubtful_recordings_runs_in_its_quick_form(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyroomacoustics", reason="the worlds' rooms are those of pyroomacoustics")
    monkeypatch.setattr(sys, "argv", ["doubts.py", "--quick", f"--out={tmp_path / 'out.json'}"])
    script("doubts").main()
    kinds = json.loads((tmp_path / "out.json").read_text())["kinds"]
    assert {kind["recordings"] for kind in kinds.values()} == {3}
    *others, field, own = (kind["doubted"] for kind in kinds.values())
    assert set(others) == {3}
    assert field == own == 0


def test_a_commit_that_is_not_there_is_one_sentence(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["first_command.py", "--commit", "nowhere"])
    with pytest.raises(SystemExit) as ended:
        script("first_command").main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "Error: There is no commit nowhere.\n"
