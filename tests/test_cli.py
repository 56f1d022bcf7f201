from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import TINY, write_batvision
from nursery import Forked, Nursery
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import base_residual.deploy.onnx
from base_residual import __version__, load_model
from base_residual.cli.help_pages import write_parameters
from base_residual.cli.main import app
from base_residual.cli.printer import Printer
from base_residual.config.presets import SPLITS
from base_residual.config.resolve import make_config
from base_residual.config.schema import setting_field
from base_residual.deploy import benchmark
from base_residual.deploy.predict import predict_files
from base_residual.errors import DataError, TrainingInterrupted
from base_residual.evaluation.comparison import compare_runs, read_run
from base_residual.training.trainer import Trainer

TINY_OPTIONS = [
    item
    for section, values in TINY.items()
    for key, value in values.items()
    for item in ("--set", f"{section}.{key}={value}")
]

QUICK = ["--set", "data.output_size=32", "--set", "model.base_channels=4"]  # a network whose steps take no time


def brdepth(*arguments: object, code: int = 0) -> str:
    """What the command prints on both streams; it must end with that exit code and never with a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def sentence(output: str) -> str:
    """The one error line of an output."""
    lines = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, output
    return lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run on the tiny rooms and what its command printed."""
    folder = tmp_path_factory.mktemp("run")
    output = brdepth("train", *TINY_OPTIONS, "--results-dir", folder, "--experiment-name", "cli")
    return next(folder.iterdir()), output


def test_options_that_would_do_nothing_are_named(
    run: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = run[0] / "best.safetensors"
    for option in ("--split", "val"), ("--count", 2), ("--data-root", tmp_path):
        said = sentence(brdepth("visualize", checkpoint, "--audio", "echo.wav", *option, code=2))
        assert said == f"Error: {option[0]} does nothing beside --audio; leave one of them out."
    brdepth("train", "--warmup-epochs", 3, "--dry-run", "--quiet")
    assert "--warmup-epochs does nothing without --adaptive or --curriculum." in caplog.text


def test_results_on_other_data_say_which(run: tuple[Path, str], tmp_path: Path) -> None:
    checkpoint, own = run[0] / "best.safetensors", run[0] / "best_test_decomposition.png"
    brdepth("simulate", tmp_path / "attic", "--rooms", 1, "--val-rooms", 1, "--test-rooms", 1, "--max-depth", 8)
    brdepth("visualize", checkpoint)
    before = own.read_bytes()
    said = brdepth("visualize", checkpoint, "--data-root", tmp_path / "attic", "--json")
    assert Path(json.loads(said)["picture"]).name == "best_attic_test_decomposition.png"
    assert own.read_bytes() == before
    assert "split test of attic" in brdepth("eval", checkpoint, "--data-root", tmp_path / "attic")
    told = json.loads(brdepth("eval", checkpoint, "--data-root", tmp_path / "attic", "--json"))
    assert (told["checkpoint"], told["data_root"]) == (str(checkpoint), str(tmp_path / "attic"))
    (table,) = (tmp_path / "attic").glob("*/train.csv")
    table.unlink()
    said = brdepth("eval", checkpoint, "--data-root", tmp_path / "attic")
    assert "No blind guess: No recordings for the split 'train' under" in said


@pytest.mark.parametrize("name", ["a.jpg", "a.html", "a"])
def test_a_picture_is_a_png(run: tuple[Path, str], tmp_path: Path, name: str) -> None:
    said = sentence(brdepth("visualize", run[0] / "best.safetensors", "--out", tmp_path / name, code=2))
    assert said.endswith(f"/{name} would hold a PNG picture. Give a name that ends in .png.")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is needed")
def test_output_that_cannot_be_written_is_one_sentence(run: tuple[Path, str], tmp_path: Path, nursery: Nursery) -> None:
    program = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); import base_residual.__main__"
    done = Forked(nursery, tmp_path / "said", program, "eval", run[0] / "best.safetensors", "--json")
    said, _ = done.communicate()
    assert (done.returncode, said) == (2, "Error: No space left on device.\n")


def test_training_prints_the_epochs_the_metrics_the_criteria_and_where_things_are(run: tuple[Path, str]) -> None:
    folder, output = run
    assert re.search(r"^Epoch 1: Loss=\d+\.\d\d \(recon=\d+\.\d\d, base=\d+\.\d\d, sparse=\d+\.\d\d\)", output, re.M)
    assert re.search(rf"^First picture: {folder}/epoch_0001_decomposition.png\nEpoch 2: Loss=", output, re.M)
    for words in (
        "rmse",
        "abs_rel",
        "delta1",
        "residual_gain",
        "Success criteria",
        "32 x 32 pixels",
        "epoch_0002_decomposition.png",
    ):
        assert words in output
    assert re.search(
        r"Against the mean depth map of the training set \(rmse \d\.\d+ m\): (\d+\.\d% lower|NOT lower)", output
    )
    assert re.search(r"Against the best constant of the training set", output)
    assert f"Run folder: {folder}" in output
    assert list(folder.parent.glob("base_residual_*_cli*/epoch_*_decomposition.png"))


def test_no_table_is_wider_than_eighty_columns(run: tuple[Path, str]) -> None:
    folder, output = run
    printed = output + brdepth("eval", folder / "best.safetensors") + brdepth("--help") + brdepth("train", "--help")
    tables = [
        line for line in printed.splitlines() if str(folder.parent) not in line and not line.startswith("Against")
    ]
    assert max(len(line) for line in tables) <= 80


def test_evaluating_prints_the_same_figures_as_json(run: tuple[Path, str]) -> None:
    folder, _ = run
    report = json.loads(brdepth("eval", folder / "best.safetensors", "--json"))
    stored = json.loads((folder / "evaluation.json").read_text())
    assert report["metrics"] == pytest.approx(stored["metrics"], abs=1e-5)
    assert report["protocol"] == stored["protocol"]
    assert [criterion["name"] for criterion in report["criteria"]] == [c["name"] for c in stored["criteria"]]
    near = json.loads(brdepth("eval", folder / "best.safetensors", "--json", "--split", "val", "--min-depth", "0.5"))
    assert near["protocol"]["min_depth"] == 0.5
    assert near["blind_rmse"] != pytest.approx(report["blind_rmse"], abs=1e-5)
    assert "base_smoothness" in brdepth("eval", folder / "last.safetensors")


def test_every_way_to_judge_a_run_says_first_whether_it_is_ahead_of_what_hears_nothing(
    run: tuple[Path, str], tmp_path: Path
) -> None:
    moved = shutil.copytree(run[0], tmp_path / "moved")
    stored = json.loads((moved / "evaluation.json").read_text())
    (moved / "evaluation.json").unlink()  # so that it has to be learned from the training split
    alone = json.loads(brdepth("eval", moved / "best.safetensors", "--json"))
    assert alone["blind_rmse"] == pytest.approx(stored["blind_rmse"], abs=1e-5)
    assert alone["criteria"][0] == stored["criteria"][0]
    for best, verdict in ((1e-3, "NO"), (1e3, "yes")):
        (moved / "evaluation.json").write_text(json.dumps(stored | {"blind_rmse": {"constant": best}}))
        said = brdepth("eval", moved / "best.safetensors")
        assert re.search(rf"{verdict} +ahead of what hears nothing", said)
        assert "Against the best constant of the training set" in said
        criteria = compare_runs([run[0], moved]).criteria(read_run(moved))
        assert criteria[0].verdict == verdict
        assert verdict == "yes" or not any(criterion.met for criterion in criteria)


def test_visualizing_a_split_and_recordings_of_ones_own(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = run
    output = brdepth("visualize", folder / "best.safetensors", "--count", 2)
    picture = Path(output.strip().removeprefix("Picture: "))
    assert picture.parent == folder
    with Image.open(picture) as image:
        assert image.width > image.height
    echo = tmp_path / "own.wav"
    soundfile.write(echo, 0.1 * np.random.default_rng(0).standard_normal((9000, 2)), 48_000)
    brdepth("visualize", folder / "best.safetensors", "--audio", echo, "--out", tmp_path / "own.png")
    with Image.open(tmp_path / "own.png") as image:
        assert image.format == "PNG"


def test_predicting_writes_metres_and_a_picture_for_each_recording(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = run
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal((5000, 2)), 44_100)
    output = brdepth(
        "predict", folder / "best.safetensors", tmp_path / "a.wav", tmp_path / "b.wav", "--out", tmp_path / "out"
    )
    assert len(re.findall(r"[ab]_depth.npy  ", output)) == 2
    assert output.endswith("is not calibrated (brdepth calibrate).\n")
    for name in ("a", "b"):
        depth = np.load(tmp_path / "out" / f"{name}_depth.npy", allow_pickle=False)
        assert (depth.shape, depth.dtype) == ((32, 32), np.float32)
        assert 0 <= depth.min() <= depth.max() <= 8.0
        assert (tmp_path / "out" / f"{name}_depth.png").exists()


def test_what_is_predicted_is_kept_and_what_cannot_be_is_known_before(
    run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_residual.deploy.predict.ECHOES_AT_ONCE", 1)
    good, broken, out = tmp_path / "good.wav", tmp_path / "broken.wav", tmp_path / "out"
    soundfile.write(good, np.full((5000, 2), 0.1), 44_100)
    command = ("predict", run[0] / "best.safetensors", good)
    loop = tmp_path / "loop.wav"
    loop.symlink_to(loop)
    for last, words in (
        (tmp_path / "none.wav", "none.wav does not exist"),
        (tmp_path, "is a folder"),
        (loop, "loop.wav is no plain file"),
        ("/dev/null", "/dev/null is no plain file"),
    ):
        assert words in sentence(brdepth(*command, last, "--out", out, code=2))
        assert not out.exists()
    soundfile.write(broken, np.full((5000, 2), np.nan, np.float32), 44_100, "FLOAT")
    assert "NaN" in sentence(brdepth(*command, broken, "--out", out, code=2))
    assert {path.name for path in out.iterdir()} == {"good_depth.npy", "good_depth.png"}


def test_a_recording_that_says_little_is_predicted_with_a_word_of_warning(
    run: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros((5000, 2)), 44_100)
    soundfile.write(tmp_path / "short.wav", np.full((100, 2), 0.1), 44_100)
    for name, words in (("silent", "silent.wav is silent"), ("short", "ends 0.002 s, and an echo from 8")):
        caplog.clear()
        brdepth("predict", run[0] / "best.safetensors", tmp_path / f"{name}.wav", "--out", tmp_path / "out")
        assert len(caplog.messages) == 1
        assert words in caplog.messages[0]
        assert (tmp_path / "out" / f"{name}_depth.npy").exists()


def test_an_unknown_format_to_export_is_answered_with_the_known_ones(run: tuple[Path, str]) -> None:
    said = sentence(brdepth("export", run[0] / "best.safetensors", "--format", "onxx", code=2))
    assert "Known are onnx" in said


def test_what_a_checkpoint_costs_is_measured_here(run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "perf_counter", partial(next, count()))  # each call takes a second: few are enough
    path = run[0] / "best.safetensors"
    table = brdepth("benchmark", path, "--batch-size", 2)
    for name in ("parameters", "operations for one echo", "latency of one echo, median", "throughput, 2 at a time"):
        assert name in table
    assert max(map(len, table.splitlines())) <= 80
    found = json.loads(brdepth("benchmark", path, "--batch-size", 2, "--json"))
    assert found["batch_size"] == 2
    assert 0 < found["latency_median_ms"] <= found["latency_p95_ms"]


def test_simulated_rooms_can_be_written_checked_and_trained_on(tmp_path: Path) -> None:
    root = tmp_path / "rooms"
    few = ["--rooms", 8, "--val-rooms", 2, "--test-rooms", 2, "--poses", 1, "--output-size", 32, "--max-depth", 8]
    offered = re.search(rf"brdepth (train --data-root {root}.*)", brdepth("simulate", root, *few))
    assert offered
    assert "8 train, 2 val, 2 test" in brdepth(*offered[1].split(), "--dry-run", "--set", "model.base_channels=4")
    report = brdepth("check-data", root)
    for words in ("Simulated_Rooms", "train 8, val 2, test 2", "44100 (12 files)", "32 x 32", "No problems."):
        assert words in report
    found = json.loads(brdepth("check-data", root, "--json"))
    assert found["recordings"]["Simulated_Rooms/train"] == 8
    output = brdepth("train", *TINY_OPTIONS, "--data-root", root, "--results-dir", tmp_path / "results", "--epochs", 1)
    assert "Epoch 1:" in output


def test_rooms_of_a_rig_are_trained_on_with_its_camera(tmp_path: Path) -> None:
    root = tmp_path / "rooms"
    few = ["--rooms", 2, "--val-rooms", 1, "--test-rooms", 1, "--poses", 1, "--output-size", 32, "--max-depth", 8]
    offered = re.search(
        rf"brdepth (train --data-root {root}.*)", brdepth("simulate", root, "--rig", "batvisionv2", *few)
    )
    assert offered
    assert offered[1].endswith("--set simulation.rig=batvisionv2")
    assert "2 train, 1 val, 1 test" in brdepth(*offered[1].split(), "--dry-run", "--set", "model.base_channels=4")
    others = brdepth("train", *TINY_OPTIONS, "--data-root", root, "--results-dir", tmp_path / "results", code=2)
    assert "camera of the rig 'batvisionv2', 86 x 57 degrees" in sentence(others)


def test_preparing_says_what_it_made_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "cache"))
    root = write_batvision(tmp_path / "data")
    options = ["prepare", "--dataset", "batvisionv2", "--data-root", str(root), "--output-size", "32"]
    lines = brdepth(*options).splitlines()
    assert [line.split(",")[0] for line in lines] == [f"{split}: 2 recordings" for split in ("train", "val", "test")]
    for line in lines:
        assert (Path(line.rsplit(", ", 1)[1]) / "depth.npy").is_file()
    assert brdepth(*options, "--set", "audio.emission=first", "--set", "data.prepare=false").splitlines() != lines


def test_a_shard_says_what_is_still_to_come(tmp_path: Path) -> None:
    few = ["--rooms", 2, "--val-rooms", 1, "--test-rooms", 1, "--poses", 1, "--output-size", 16, "--max-depth", 8]
    said = brdepth("simulate", tmp_path / "rooms", *few, "--shard", "1/2")
    assert f"Shard 1/2 is rendered beside {tmp_path / 'rooms'}, which appears when all shards are." in said
    assert not (tmp_path / "rooms").exists()
    assert f"Rooms: {tmp_path / 'rooms'}" in brdepth("simulate", tmp_path / "rooms", *few, "--shard", "2/2")


def test_checking_names_each_problem_and_ends_with_code_one(tmp_path: Path) -> None:
    root = write_batvision(tmp_path)
    (root / "Attic" / "audio" / "audio_0.wav").unlink()
    soundfile.write(root / "Attic" / "audio" / "audio_1.wav", np.zeros((100, 2)), 44_100)
    np.save(root / "Attic" / "depth" / "depth_1.npy", np.zeros((4, 4, 3)))
    output = " ".join(brdepth("check-data", root, code=1).split())
    assert output.count("audio_0.wav does not exist") == 3
    assert output.count("audio_1.wav is silent") == 3
    assert output.count("depth_1.npy has shape (4, 4, 3)") == 3
    assert "Several splits list 2 recordings" in output
    assert "10 problems." in output


def test_checking_finds_nothing_where_each_split_has_recordings_of_its_own(tmp_path: Path) -> None:
    root = write_batvision(tmp_path, count=3)
    for number, split in enumerate(SPLITS, start=1):
        table = root / "Attic" / f"{split}.csv"
        lines = table.read_text().splitlines()
        table.write_text(f"{lines[0]}\n{lines[number]}\n")
    assert "No problems." in brdepth("check-data", root)
    table.write_text("\n".join(lines[:2]) + "\n")  # the test split is the train split
    output = " ".join(brdepth("check-data", root, code=1).split())
    assert "Several splits list 1 recording, which a test would share with training: " in output
    assert "1 problem." in output


OLD_LINE = (
    "--dataset batvisionv2 --batch_size 64 --learning_rate 0.001 --use_wandb --use_adaptive_loss "
    "--warmup_epochs 20 --experiment_name improved_adaptive"
)


def test_the_older_line_means_what_it_meant() -> None:
    config = yaml.safe_load(brdepth("train", *OLD_LINE.split(), "--dry-run", *QUICK))
    assert config["data"]["name"] == "batvisionv2"
    assert (config["trainer"]["batch_size"], config["trainer"]["learning_rate"]) == (64, 0.001)
    assert config["tracking"]["wandb"] is True
    assert config["tracking"]["experiment_name"] == "improved_adaptive"
    assert config["loss"] | {"adaptive": True, "curriculum": True, "warmup_epochs": 20} == config["loss"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_older_line_runs_on_the_real_recording(
    tmp_path: Path, real_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRDEPTH_DATA", str(real_root))
    monkeypatch.chdir(tmp_path)
    output = brdepth("train", *OLD_LINE.split(), "--epochs", 1)
    assert "Epoch 1: Loss=" in output
    folder = tmp_path / "results" / "base_residual_batvisionv2_BS64_Lr0.001_AdamW_improved_adaptive"
    assert (folder / "epoch_0001_decomposition.png").exists()
    assert list((folder / "wandb").glob("offline-run-*"))


def test_the_real_recording_is_learned_evaluated_drawn_and_predicted(tmp_path: Path, real_root: Path) -> None:
    """One recording, 22 % holes and one stray pixel at 15.7 m: what the rmse of its valid pixels takes into account."""
    options = "--lambda-base 0 --lambda-sparse 0 --epochs 60 --learning-rate 0.005 --warmup_epochs 60"
    sizes = ["data.output_size=64", "data.mirror=false", "data.num_workers=0", "trainer.picture_every=1000"]
    sizes += ["model.base_channels=8", "model.base_decoder=map", "loss.recon=rmse", "trainer.save_every=1000"]
    settings = [item for setting in sizes for item in ("--set", setting)]
    real = ["--dataset", "batvisionv2", "--data-root", real_root]
    brdepth("train", *real, *options.split(), *settings, "--results-dir", tmp_path)
    checkpoint = next(tmp_path.iterdir()) / "last.safetensors"
    assert json.loads(brdepth("eval", checkpoint, "--json"))["metrics"]["rmse"] < 0.15
    brdepth("visualize", checkpoint)
    brdepth("predict", checkpoint, real_root / "Sample_Location" / "audio" / "audio_47.wav", "--out", tmp_path / "p")
    depth = np.load(tmp_path / "p" / "audio_47_depth.npy", allow_pickle=False)
    assert 0.5 < float(np.median(depth)) < 1.5


def test_resuming_and_overwriting_from_the_command_line(tmp_path: Path) -> None:
    line = ["train", *TINY_OPTIONS, "--results-dir", tmp_path, "--epochs"]
    brdepth(*line, 1)
    assert "--resume" in sentence(brdepth(*line, 2, code=2))
    resumed = brdepth(*line, 2, "--resume")
    assert "Epoch 2:" in resumed
    assert "Epoch 1:" not in resumed
    assert "Epoch 1:" in brdepth(*line, 1, "--overwrite")


def test_a_configuration_file_is_read_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("trainer: {epochs: 7, batch_size: 5}\nloss: {lambda_base: 0.3}\n")
    options = ["--epochs", 9, "--preset", "aggressive", "--dry-run", *QUICK]
    config = yaml.safe_load(brdepth("train", "--config", path, *options))
    assert (config["trainer"]["epochs"], config["trainer"]["batch_size"]) == (9, 5)
    assert (config["loss"]["lambda_base"], config["loss"]["lambda_sparse"]) == (1.0, 0.3)
    path.write_text(yaml.safe_dump(config))  # all settings, as each run leaves them
    options = ["--preset", "conservative", "--size", "tiny", "--dry-run"]
    again = yaml.safe_load(brdepth("train", "--config", path, *options))
    assert (config["model"]["base_channels"], again["model"]["base_channels"]) == (4, 8)
    assert again["loss"]["lambda_sparse"] == 0.1
    assert (config["loss"]["lowpass_kernel"], again["loss"]["lowpass_kernel"]) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --dataset batvisionv2", "No dataset folder was given"),
        ("train --dataset batvisionv2 --data-root nowhere", "nowhere does not exist"),
        ("train --dataset batvisionv2 --data-root .", "No recordings for the split 'train'"),
        ("train --dataset kitti", "'simulated', 'batvisionv2', 'batvisionv1', 'replica' or 'own', not 'kitti'"),
        ("train --size huge", "Known sizes are tiny, small, base, original"),
        ("train --preset wild", "Known presets are default, original, aggressive, conservative"),
        ("train --epochs 0", "trainer.epochs: .*greater than or equal to 1"),
        ("train --set trainer.epoch=3", "did you mean 'epochs'"),
        ("train --set nonsense", "section.key=value"),
        ("train --config none.yaml", "Cannot read the configuration none.yaml"),
        ("train --device cuda:99", "'cuda:99' is not on this machine"),
        ("train --experiment-name ../../etc", "tracking.experiment_name"),
        ("eval none.safetensors", "none.safetensors does not exist"),
        ("eval junk.safetensors", "not a readable safetensors file"),
        ("visualize junk.safetensors", "not a readable safetensors file"),
        ("predict junk.safetensors a.wav", "not a readable safetensors file"),
        ("check-data nowhere", "nowhere does not exist"),
        ("check-data /dev/null", "/dev/null is no folder"),
        ("train --dataset batvisionv2 --data-root /dev/null", "/dev/null is no folder"),
        ("eval /dev/null", "/dev/null is no plain file"),
        ("check-data .", "No recordings"),
        ("simulate .", "is not empty"),
        ("simulate rooms --max-depth 70", "hold depth up to 65.534 m, and data.max_depth is 70 m"),
        ("calibrate . --dataset batvisionv2", "is a folder; name the file in it"),
        ("calibrate / --dataset batvisionv2", "is a folder; name the file in it"),
        ("simulate rooms --style spooky", "'rich', 'standard' or 'hard'"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    assert re.search(words, sentence(brdepth(*arguments.split(), code=2)))


def damage(root: Path, kind: str) -> None:
    audio, depth = root / "Attic" / "audio" / "audio_0.wav", root / "Attic" / "depth" / "depth_0.npy"
    match kind:
        case "no column":
            table = root / "Attic" / "train.csv"
            table.write_text(table.read_text().replace("depth file name", "file"))
        case "missing file":
            audio.unlink()
        case "broken wav":
            audio.write_bytes(b"RIFF....WAVE")
        case "mono wav":
            soundfile.write(audio, np.zeros(100), 44_100)
        case "wrong rank":
            np.save(depth, np.zeros((4, 4, 3)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no column", "has no column 'depth file name'"),
        ("missing file", "audio_0.wav does not exist"),
        ("broken wav", "audio_0.wav is not a readable sound file"),
        ("mono wav", "has 1 channel; expected are 2"),
        ("wrong rank", r"depth_0.npy has shape \(4, 4, 3\)"),
    ],
)
def test_a_broken_dataset_ends_in_one_sentence_and_code_two(tmp_path: Path, kind: str, words: str) -> None:
    root = write_batvision(tmp_path / "set")
    damage(root, kind)
    options = [*TINY_OPTIONS, "--dataset", "batvisionv2", "--data-root", root, "--results-dir", tmp_path / "results"]
    assert re.search(words, sentence(brdepth("train", *options, code=2)))


def test_recordings_that_cannot_be_predicted_are_named(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = run
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        soundfile.write(tmp_path / place / "echo.wav", np.zeros((100, 2)), 44_100)
    checkpoint = folder / "best.safetensors"
    assert "does not exist" in sentence(brdepth("predict", checkpoint, "gone.wav", code=2))
    twice = brdepth("predict", checkpoint, tmp_path / "x" / "echo.wav", tmp_path / "y" / "echo.wav", code=2)
    assert "called 'echo'" in sentence(twice)
    (tmp_path / "y" / "echo.wav").rename(tmp_path / "y" / "Echo.wav")  # the same for the disks of many machines
    assert "called 'Echo'" in sentence(brdepth("predict", checkpoint, *sorted(tmp_path.glob("?/?cho.wav")), code=2))
    assert "Known are train, val, test" in sentence(brdepth("eval", checkpoint, "--split", "dev", code=2))


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (TrainingInterrupted("Stopped in epoch 1 after 2 of 3 steps."), "Stopped in epoch 1 after 2 of 3 steps."),
        (KeyboardInterrupt(), "Stopped. What was finished is kept."),
    ],
)
def test_what_is_stopped_ends_with_a_sentence_and_code_130(
    stop: BaseException, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(trainer: Trainer) -> None:
        raise stop

    monkeypatch.setattr(Trainer, "fit", fit)
    assert words in brdepth("train", *TINY_OPTIONS, "--results-dir", tmp_path, code=130)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(36, "File name too long", "x" * 300), "xxx: File name too long."),
        (PermissionError("no"), "no."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "The memory does not suffice."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "does not suffice."),
        (MemoryError(), "does not suffice."),
    ],
)
def test_what_the_machine_refuses_ends_in_a_sentence(
    error: Exception, words: str, run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_residual.models.factory.load_checkpoint", raising(error))
    assert words in sentence(brdepth("eval", run[0] / "best.safetensors", code=2))


@pytest.mark.parametrize("error", [IndexError("a bug"), RuntimeError("another")])
def test_a_bug_shows_as_one(error: Exception, run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base_residual.models.factory.load_checkpoint", raising(error))
    assert CliRunner().invoke(app, ["eval", str(run[0] / "best.safetensors")]).exception is error


def test_a_reader_that_has_seen_enough_is_no_mistake(run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base_residual.models.factory.load_checkpoint", raising(BrokenPipeError(32, "Broken pipe")))
    result = CliRunner().invoke(app, ["eval", str(run[0] / "best.safetensors")])
    assert result.exit_code == 1
    assert "Error" not in result.output


def raising(error: Exception) -> Callable[..., None]:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


def test_a_folder_is_no_file_to_write_to(run: tuple[Path, str]) -> None:
    checkpoint = run[0] / "best.safetensors"
    for place in ("/", ".", run[0]):
        assert "Cannot write" in sentence(brdepth("visualize", checkpoint, "--out", place, code=2))


def test_no_recording_is_no_prediction(run: tuple[Path, str]) -> None:
    with pytest.raises(DataError, match="No recording was given"):
        predict_files(load_model(run[0] / "best.safetensors"), [])


def test_another_dataset_is_not_sought_in_the_folder_of_the_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRDEPTH_DATA", raising=False)
    options = [*TINY_OPTIONS, "--dataset", "batvisionv2", "--data-root", write_batvision(tmp_path / "set")]
    brdepth("train", *options, "--results-dir", tmp_path / "results", "--epochs", 1)
    (checkpoint,) = tmp_path.glob("results/*/best.safetensors")
    assert json.loads(brdepth("eval", checkpoint, "--json"))["dataset"] == "batvisionv2"
    assert "No dataset folder was given" in sentence(brdepth("eval", checkpoint, "--dataset", "replica", code=2))


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a[test] b[/y]"
    assert f"Training in {folder}" in brdepth("train", *TINY_OPTIONS, "--results-dir", folder, "--epochs", 1)


def test_unwritable_results_end_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = brdepth("train", *TINY_OPTIONS, "--results-dir", tmp_path / "file", code=2)
    assert "Cannot write to" in sentence(output)


def test_the_version_is_printed() -> None:
    assert brdepth("--version").strip() == f"brdepth {__version__}"


def streams(*arguments: object, code: int = 0) -> tuple[str, str]:
    """What the command prints on standard output, and on standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_training_as_json_prints_the_result_alone_and_the_epochs_beside_it(tmp_path: Path) -> None:
    found, beside = streams("train", *TINY_OPTIONS, "--results-dir", tmp_path, "--json")
    result = json.loads(found)
    stored = json.loads((next(tmp_path.iterdir()) / "evaluation.json").read_text())
    assert {key: result[key] for key in stored} == stored
    assert (result["epochs"], result["best"]["epoch"]) == (2, result["best_epoch"])
    assert Path(result["checkpoint"]).is_file()
    assert Path(result["picture"]).is_file()
    assert re.search(r"^Epoch 2: Loss=", beside, re.M)


def test_quiet_training_prints_nothing(tmp_path: Path) -> None:
    line = ["train", *TINY_OPTIONS, "--results-dir", tmp_path, "--epochs", 1, "--quiet"]
    assert streams(*line) == ("", "")
    assert streams(*line, code=2)[1].startswith("Error: ")


def test_every_command_has_both_switches_and_every_switch_takes_no_value() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) == 15
    for name in commands:
        text = brdepth(name, "--help")
        assert "--json " in text
        assert "--quiet " in text
        assert max(map(len, text.splitlines())) <= 80
        assert "bool" not in text


def test_every_result_can_be_read_by_a_program(
    run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, root = run[0] / "best.safetensors", tmp_path / "rooms"
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal((5000, 2)), 44_100)
    few = ["--rooms", 4, "--val-rooms", 2, "--test-rooms", 2, "--poses", 1, "--output-size", 32, "--max-depth", 8]
    small = ["--output-size", 32, "--max-depth", 8]

    def found(*arguments: object) -> dict[str, Any]:
        printed, beside = streams(*arguments, "--json")
        assert beside == ""
        answer: dict[str, Any] = json.loads(printed)
        return answer

    assert found("simulate", root, *few) == {"root": str(root), "shard": "1/1", "complete": True}
    made = found("prepare", "--data-root", root, *small)
    assert [made[split]["recordings"] for split in ("train", "val", "test")] == [4, 2, 2]
    assert Path(made["val"]["folder"]).is_dir()
    assert found("check-data", root)["problems"] == []
    assert found("eval", checkpoint)["split"] == "test"
    assert Path(found("visualize", checkpoint, "--count", 1)["picture"]).is_file()
    (prediction,) = found("predict", checkpoint, tmp_path / "a.wav", "--out", tmp_path)["predictions"]
    assert prediction["recording"] == str(tmp_path / "a.wav")
    assert np.load(prediction["depth"]).shape == (32, 32)
    monkeypatch.setattr(base_residual.deploy.onnx, "export_onnx", lambda model, path: path)  # which is slow
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    exported = {"onnx": str(tmp_path / "m.onnx"), "bytes": 4}
    assert found("export", checkpoint, "--out", tmp_path / "m.onnx") == exported
    assert found("compare", run[0], shutil.copytree(run[0], tmp_path / "twin"))["picture"] is None
    assert streams("eval", checkpoint, "--quiet") == ("", "")


def test_what_is_no_number_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(as_json=True, quiet=True).json({"smoothness": float("nan"), "far": float("inf"), "path": Path("a")})
    assert json.loads(capsys.readouterr().out) == {"smoothness": None, "far": None, "path": "a"}


def test_a_dry_run_prints_settings_to_train_with_and_what_that_costs(tmp_path: Path) -> None:
    line = ["train", *TINY_OPTIONS, "--results-dir", tmp_path / "results", "--dry-run"]
    printed, beside = streams(*line)
    assert beside == ""
    assert yaml.safe_load(printed)["trainer"]["epochs"] == 2
    comments = [line for line in printed.splitlines() if line.startswith("#")]
    assert [line.split()[1] for line in comments if line[2] != " "] == [
        "network:",
        "data:",
        "device:",
        "time:",
        "memory:",
    ]
    assert max(map(len, comments)) <= 80
    assert "16 train, 4 val, 4 test" in printed
    assert re.search(r"GFLOP for one echo", printed)
    (tmp_path / "again.yaml").write_text(printed)
    again = json.loads(streams("train", "--config", tmp_path / "again.yaml", "--dry-run", "--json")[0])
    assert again["config"] == yaml.safe_load(printed)
    cost = again["estimate"]
    assert (cost["steps"], cost["batch_size"]) == (2, 8)
    assert cost["epoch_s"] == pytest.approx(2 * cost["step_s"] + 4 * cost["evaluation_s"])
    assert cost["total_s"] == pytest.approx(2 * cost["epoch_s"] + 4 * cost["evaluation_s"])
    assert list(tmp_path.iterdir()) == [tmp_path / "again.yaml"]


def test_a_dry_run_needs_no_data_and_says_that_none_are_there() -> None:
    line = ["train", "--dry-run", "--dataset", "batvisionv2", "--data-root", "nowhere", "--batch-size", 2]
    printed = brdepth(*line, *QUICK)
    assert "# data:    only a step can be timed. The dataset folder nowhere does not exist." in printed
    assert re.search(r"^# time:    about \S+ s for a step of 2 recordings", printed, re.M)


def test_of_several_processes_one_prints_the_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["train", *TINY_OPTIONS, "--dry-run", "--json"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert streams(*line) == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert json.loads(streams(*line)[0]).keys() == {"config", "estimate"}


def test_a_quiet_dry_run_judges_the_settings_alone() -> None:
    assert streams("train", "--dry-run", "--quiet") == ("", "")
    assert sentence(brdepth("train", "--epochs", 0, "--dry-run", "--quiet", code=2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --dataset batvision2", "did you mean 'batvisionv2'?"),
        ("train --model residual", "'base_residual', 'plain' or 'unet', not 'residual'; did you mean 'base_residual'?"),
        ("train --preset agressive", "Known presets are .*; did you mean 'aggressive'?"),
        ("train --size smal", "Known sizes are tiny, small, base, original; did you mean 'small'?"),
        ("train --set trainer.optimizer=adamw", "'Muon', 'AdamW' or 'Adam', not 'adamw'; did you mean 'AdamW'?"),
        ("simulate rooms --style standart", "did you mean 'standard'?"),
        ("download batvisionv3 data --yes", "Known are batvisionv2, batvisionv1; did you mean 'batvisionv"),
    ],
)
def test_an_unknown_value_is_answered_with_the_known_ones_and_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(words.replace("?", r"\?"), sentence(brdepth(*arguments.split(), code=2)))


def test_an_unknown_device_or_split_is_answered_with_the_known_ones(run: tuple[Path, str]) -> None:
    checkpoint = run[0] / "best.safetensors"
    assert "'tpu' is not on this machine. It has" in sentence(brdepth("eval", checkpoint, "--device", "tpu", code=2))
    assert "'cuda:x' is not" in sentence(brdepth("eval", checkpoint, "--device", "cuda:x", code=2))
    assert "did you mean 'test'?" in sentence(brdepth("eval", checkpoint, "--split", "tests", code=2))


def test_unknown_commands_and_options_name_the_nearest() -> None:
    assert "Did you mean 'train'?" in brdepth("trian", code=2)
    assert "--epochs" in brdepth("train", "--epoch", 3, code=2)


def completed(words: str) -> list[str]:
    """What bash is offered after these words."""
    asked = {"_BRDEPTH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    return CliRunner().invoke(app, [], prog_name="brdepth", env=asked).output.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("brdepth tra", ["train"]),
        ("brdepth train --lambda-", ["--lambda-recon", "--lambda-base", "--lambda-sparse"]),
        ("brdepth train --dataset bat", ["batvisionv2", "batvisionv1"]),
        ("brdepth train --model ", ["base_residual", "plain", "unet"]),
        ("brdepth train --preset a", ["aggressive"]),
        ("brdepth train --size ", ["tiny", "small", "base", "original"]),
        ("brdepth train --device c", ["cpu", "cuda"]),
        ("brdepth eval best.safetensors --split ", ["train", "val", "test"]),
        ("brdepth simulate rooms --style ", ["rich", "standard", "hard"]),
        ("brdepth download ", ["batvisionv2", "batvisionv1"]),
        ("brdepth eval ", []),  # bash then offers files
    ],
)
def test_a_shell_completes_commands_options_and_values(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_once_completion_is_installed(tmp_path: Path) -> None:
    """In a new bash that reads the file which --install-completion has changed; `brdepth` is this checkout's."""
    (tmp_path / "brdepth").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m base_residual "$@"\n')
    (tmp_path / "brdepth").chmod(0o755)
    place = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}

    def bash(script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script], env=os.environ | place, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "complete -o default -F _brdepth_completion brdepth" in bash("brdepth --show-completion; true")
    assert "bash completion installed" in bash("brdepth --install-completion; true")
    offered = bash(
        "source ~/.bashrc; COMP_WORDS=(brdepth train --dataset rep); COMP_CWORD=3; "
        '_brdepth_completion brdepth; echo "${COMPREPLY[@]}"'
    )
    assert offered == "replica\n"


def test_the_exit_codes_are_in_the_help() -> None:
    text = brdepth("--help")
    for words in ("0    done", "1    check-data found problems", "2    a mistake", "130  stopped"):
        assert words in text


def test_the_help_groups_options_by_what_they_are_about() -> None:
    sections = {"Options": "--preset", "Data": "--dataset", "Loss": "--lambda-base", "Trainer": "--epochs"}
    parts = brdepth("train", "--help").split("\n\n")
    for name, option in (sections | {"Output": "--quiet"}).items():
        assert [option in part for part in parts if part.startswith(f"{name}:\n")] == [True]
    assert "OUT <path>  Folder to create." in brdepth("simulate", "--help").split("Arguments:\n")[1]


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"pydantic"}),
        (["train", "--help"], set()),
        (["train", "--dry-run", "--quiet"], set()),
    ],
)
def test_help_waits_for_no_heavy_import(arguments: list[str], unwanted: set[str]) -> None:
    heavy = {"torch", "numpy", "scipy", "matplotlib", "pyroomacoustics", "rich"} | unwanted
    script = (
        "import sys\nfrom base_residual.cli.main import app\n"
        f"sys.argv = ['brdepth', *{arguments!r}]\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_setting_of_an_option_has_a_field_of_the_same_kind() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    settings = [each for command in commands.values() for each in getattr(command.callback, "settings", {}).values()]
    assert {setting.key for setting in settings} >= {("loss", "lambda_base"), ("simulation", "train_rooms")}
    for setting in settings:
        default = setting_field(*setting.key).get_default()
        assert default is None or isinstance(default, setting.kind), setting.key


def test_an_option_without_a_panel_is_shown_among_the_options() -> None:
    option = SimpleNamespace(param_type_name="option", get_help_record=lambda _: ("--help", "Show this."))
    shown: list[object] = []
    formatter = SimpleNamespace(section=lambda name: nullcontext(shown.append(name)), write_dl=shown.extend)
    write_parameters([option], None, formatter)  # as the help's own option is in Typer up to 0.24
    assert shown == ["Options", ("--help", "Show this.")]


def test_the_defaults_in_the_help_are_those_in_force() -> None:
    text = " ".join(brdepth("train", "--help").split())
    config = make_config({"data": {"name": "batvisionv2"}}).model_dump()
    assert f"(default: {config['trainer']['epochs']}; simulated: " in text
    assert f"(default: {config['loss']['lambda_sparse']})" in text
    assert "(default: off)" in text
    assert "base_residual|plain|unet" in text
    assert "Known are simulated, batvisionv2, batvisionv1, replica, own." in text
