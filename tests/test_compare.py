from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import brdepth, sentence

from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.errors import RunError
from base_residual.evaluation.comparison import compare_runs, read_run, used_settings
from base_residual.training.trainer import Trainer


@pytest.fixture
def folders(tiny: Callable[..., Config]) -> dict[str, Path]:
    """A finished run of the default and one of the U-Net."""
    return {
        name: Trainer(
            tiny({"model": {"name": name}, "loss": {"lambda_sparse": weight}, "tracking": {"experiment_name": name}}),
            trackers=[],
        )
        .fit()
        .run_dir
        for name, weight in (("base_residual", 0.1), ("unet", 0.02))
    }


def test_runs_are_measured_against_the_unet_among_them(folders: dict[str, Path], tmp_path: Path) -> None:
    comparison = compare_runs(list(folders.values()))
    assert comparison.reference.folder == folders["unet"]
    run = comparison.runs[0]
    assert comparison.ahead(run) == pytest.approx(1 - run.rmse / comparison.reference.rmse)
    assert comparison.epochs_to_reference(comparison.reference) == 1 + comparison.reference.val_rmse.index(
        min(comparison.reference.val_rmse)
    )
    assert comparison.criteria(run)[2].met is not None
    (lead, *_) = comparison.criteria(comparison.reference)
    assert lead.met is None
    assert lead.figure.endswith("it is the baseline")
    assert comparison.differing == {  # but for what a U-Net does nothing with
        "data.stretch": [0.25, 0.0],
        "audio.front_end": ["matched", "spectrogram"],
        "model.name": ["base_residual", "unet"],
        "model.encoder": ["time", "unet"],
        "model.decoder": ["lookup", "unet"],
    }
    output = brdepth("compare", *folders.values(), "--out", tmp_path / "c.png")
    assert "Success criteria: base_residual" in output
    assert re.search(r"^4 images: 32 x 32 pixels \(area mean of measured pixels\), gt > 0", output, re.M)
    assert (tmp_path / "c.png").exists()
    assert max(len(line) for line in output.splitlines() if "Picture" not in line) <= 80
    report = json.loads(brdepth("compare", *folders.values(), "--json"))
    assert [run["model"] for run in report["runs"]] == ["base_residual", "unet"]


def test_a_lead_is_judged_on_the_same_data_and_not_among_baselines(folders: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(folders["unet"], tmp_path / "other")
    comparison = compare_runs([*folders.values(), other])
    (lead, *_) = comparison.criteria(comparison.runs[2])
    assert (lead.met, lead.figure.partition("; ")[2]) == (None, "it is a U-Net baseline as well")
    moved = shutil.copytree(folders["base_residual"], tmp_path / "moved")
    report = json.loads((moved / "evaluation.json").read_text())
    report["blind_rmse"]["constant"] *= 1.01
    (moved / "evaluation.json").write_text(json.dumps(report))
    comparison = compare_runs([folders["unet"], moved])
    lead = comparison.criteria(comparison.runs[1])[2]
    assert (lead.met, lead.figure.partition("; ")[2]) == (
        None,
        "the baseline has learnt from other depth maps, or was tested on others",
    )


def test_many_runs_fit_into_80_columns(folders: dict[str, Path], tmp_path: Path) -> None:
    runs = [shutil.copytree(folders["base_residual"], tmp_path / f"base_residual_{n}") for n in range(12)]
    for number, run in enumerate(runs):
        settings = (
            (run / "config.yaml")
            .read_text()
            .replace("experiment_name: base_residual", f"experiment_name: run-{number:02d}")
        )
        (run / "config.yaml").write_text(settings.replace("lambda_sparse: 0.1", f"lambda_sparse: 0.{1 + number % 2}"))
    output = brdepth("compare", *runs, "--out", tmp_path / "c.png")
    assert max(len(line) for line in output.splitlines() if "Picture" not in line) <= 80
    for heading in ("converged", "reached", "delta1"):
        assert heading in output
    words = " ".join(output.split())
    assert "loss.lambda_sparse 0.1 run-00, run-02, run-04, run-06, run-08, run-10" in words


def test_tables_are_there_even_if_the_picture_cannot_be_written(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "c.png").mkdir()
    output = brdepth("compare", *folders.values(), "--out", tmp_path / "c.png", code=2)
    assert "Success criteria: base_residual" in output
    assert "Error: Cannot write" in output


def test_runs_are_told_apart_by_what_differs(tiny: Callable[..., Config], tmp_path: Path) -> None:
    first, second = (
        Trainer(
            tiny({"tracking": {"results_dir": str(tmp_path / name)}, "loss": {"lambda_sparse": weight}}), trackers=[]
        )
        .fit()
        .run_dir
        for name, weight in (("one", 0.0), ("two", 0.5))
    )
    comparison = compare_runs([first, second])
    assert comparison.names == ["one", "two"]  # model, experiment and folder are called the same
    assert comparison.differing == {"loss.lambda_sparse": [0.0, 0.5]}
    output = brdepth("compare", first, second, "--out", tmp_path / "c.png")
    assert "What differs" in output
    assert re.search(r"loss.lambda_sparse\s+0.0\s+0.5", output)
    assert json.loads(brdepth("compare", first, second, "--json"))["differing"] == comparison.differing
    unet = Trainer(tiny({"model": {"name": "unet"}}), trackers=[]).fit().run_dir
    assert compare_runs([first, second, unet]).differing["loss.lambda_sparse"] == [0.0, 0.5, "-"]


def test_a_setting_differs_only_where_something_is_done_with_it() -> None:
    names = ("base_residual", "plain", "unet")
    default, plain, unet = (set(used_settings(make_config({"model": {"name": name}}))) for name in names)
    assert plain - unet == {"model.symmetric"}
    assert unet < plain
    assert {"loss.lambda_base", "model.residual_bound"} < default - plain
    assert "loss.recon" in plain
    sections = make_config().model_dump(exclude={"tracking"}).items()
    assert default == {f"{section}.{name}" for section, values in sections for name in values}


def test_a_lead_is_judged_where_both_had_the_same_budget(folders: dict[str, Path], tiny: Callable[..., Config]) -> None:
    longer = {"trainer": {"epochs": 3}, "simulation": {"train_rooms": 24}, "tracking": {"experiment_name": "longer"}}
    run = Trainer(tiny(longer), trackers=[]).fit().run_dir
    comparison = compare_runs([run, folders["unet"]])
    lead = comparison.criteria(comparison.runs[0])[2]
    assert lead.met is None
    assert "not the same budget: 3 epochs in 24 rooms, the baseline 2 epochs in 16 rooms" in lead.figure


def test_runs_of_other_data_or_protocols_do_not_compare(folders: dict[str, Path], tiny: Callable[..., Config]) -> None:
    report = folders["unet"] / "evaluation.json"
    changed = json.loads(report.read_text())
    changed["protocol"]["min_depth"] = 0.5
    report.write_text(json.dumps(changed))
    assert "another protocol" in sentence(brdepth("compare", *folders.values(), code=2))


def test_a_run_is_not_compared_with_itself(folders: dict[str, Path]) -> None:
    folder = next(iter(folders.values()))
    with pytest.raises(RunError, match="A run is given twice"):
        compare_runs([folder, folder / ".." / folder.name])


def test_what_is_no_finished_run_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at least two"):
        compare_runs([tmp_path])
    with pytest.raises(RunError, match="not the folder of a finished run"):
        read_run(tmp_path)
    (folders["unet"] / "evaluation.json").write_text("{}")
    with pytest.raises(RunError, match="is damaged"):
        read_run(folders["unet"])


def test_convergence_is_the_first_epoch_near_the_best(folders: dict[str, Path]) -> None:
    run = replace(read_run(folders["unet"]), history=[{"val/rmse": rmse} for rmse in (0.9, 0.51, 0.505, 0.5)])
    assert run.converged_at() == 2
    assert run.reached(0.505) == 3
    assert run.reached(0.4) is None
