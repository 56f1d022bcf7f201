from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY
from test_cli import brdepth, sentence

from base_residual.config.presets import Layer
from base_residual.config.resolve import load_layer, make_config
from base_residual.errors import RunError
from base_residual.evaluation.comparison import compare_runs, read_run, used_settings
from base_residual.training.trainer import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of the default and one of the U-Net."""
    results = {"tracking": {"results_dir": str(tmp_path_factory.mktemp("results"))}}
    own = {name: {"model": {"name": name}, "tracking": {"experiment_name": name}} for name in ("base_residual", "unet")}
    return {name: Trainer(make_config(TINY, results, layer), trackers=[]).fit().run_dir for name, layer in own.items()}


@pytest.fixture
def folders(trained: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of the finished runs, which a test may change."""
    return {name: Path(shutil.copytree(run, tmp_path / "results" / run.name)) for name, run in trained.items()}


def copied(run: Path, to: Path, **changed: Layer) -> Path:
    """A copy of a run that was trained with other settings, as its config.yaml says."""
    shutil.copytree(run, to)
    config = make_config(load_layer(run / "config.yaml"), changed)
    (to / "config.yaml").write_text(config.to_yaml())
    return to


def test_runs_are_measured_against_the_unet_among_them(folders: dict[str, Path], tmp_path: Path) -> None:
    comparison = compare_runs(list(folders.values()))
    assert comparison.reference.folder == folders["unet"]
    run = comparison.runs[0]
    assert comparison.ahead(run) == pytest.approx(1 - run.rmse / comparison.reference.rmse)
    assert comparison.epochs_to_reference(comparison.reference) == 1 + comparison.reference.val_rmse.index(
        min(comparison.reference.val_rmse)
    )
    assert comparison.criteria(run)[3].met is not None
    (_, lead, *_) = comparison.criteria(comparison.reference)
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
    (_, lead, *_) = comparison.criteria(comparison.runs[2])
    assert (lead.met, lead.figure.partition("; ")[2]) == (None, "it is a U-Net baseline as well")
    moved = shutil.copytree(folders["base_residual"], tmp_path / "moved")
    report = json.loads((moved / "evaluation.json").read_text())
    report["blind_rmse"]["constant"] *= 1.01
    (moved / "evaluation.json").write_text(json.dumps(report))
    comparison = compare_runs([folders["unet"], moved])
    lead = comparison.criteria(comparison.runs[1])[3]
    assert (lead.met, lead.figure.partition("; ")[2]) == (
        None,
        "the baseline has learnt from other depth maps, or was tested on others",
    )


def test_many_runs_fit_into_80_columns(folders: dict[str, Path], tmp_path: Path) -> None:
    runs = [
        copied(
            folders["base_residual"],
            tmp_path / f"base_residual_{number}",
            loss={"lambda_sparse": 0.1 + number % 2 / 10},
            tracking={"experiment_name": f"run-{number:02d}"},
        )
        for number in range(12)
    ]
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


def test_runs_are_told_apart_by_what_differs(folders: dict[str, Path], tmp_path: Path) -> None:
    run = folders["base_residual"]
    first, second = (
        copied(run, tmp_path / name / run.name, loss={"lambda_sparse": weight})
        for name, weight in (("one", 0.0), ("two", 0.5))
    )
    comparison = compare_runs([first, second])
    assert comparison.names == ["one", "two"]  # model, experiment and folder are called the same
    assert comparison.differing == {"loss.lambda_sparse": [0.0, 0.5]}
    output = brdepth("compare", first, second, "--out", tmp_path / "c.png")
    assert "What differs" in output
    assert re.search(r"loss.lambda_sparse\s+0.0\s+0.5", output)
    assert json.loads(brdepth("compare", first, second, "--json"))["differing"] == comparison.differing
    assert compare_runs([first, second, folders["unet"]]).differing["loss.lambda_sparse"] == [0.0, 0.5, "-"]


def test_a_setting_differs_only_where_something_is_done_with_it() -> None:
    names = ("base_residual", "plain", "unet")
    default, plain, unet = (set(used_settings(make_config({"model": {"name": name}}))) for name in names)
    assert plain - unet == {"audio.bands", "model.symmetric"}
    assert unet < plain
    assert {"loss.lambda_base", "model.residual_bound"} < default - plain
    assert "loss.recon" in plain
    sections = make_config().model_dump(exclude={"tracking"}).items()
    assert default == {f"{section}.{name}" for section, values in sections for name in values}


def test_a_lead_is_judged_where_both_had_the_same_budget(folders: dict[str, Path], tmp_path: Path) -> None:
    longer = {"trainer": {"epochs": 3}, "simulation": {"train_rooms": 24}}
    run = copied(folders["base_residual"], tmp_path / "longer", **longer)
    comparison = compare_runs([run, folders["unet"]])
    lead = comparison.criteria(comparison.runs[0])[3]
    assert lead.met is None
    assert "not the same budget: 3 epochs in 24 rooms, the baseline 2 epochs in 16 rooms" in lead.figure


def test_runs_of_other_data_or_protocols_do_not_compare(folders: dict[str, Path]) -> None:
    report = folders["unet"] / "evaluation.json"
    changed = json.loads(report.read_text())
    changed["protocol"]["min_depth"] = 0.5
    report.write_text(json.dumps(changed))
    assert "another protocol" in sentence(brdepth("compare", *folders.values(), code=2))


def test_what_differs_between_runs_that_do_not_compare_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    run = folders["base_residual"]
    for number, (layer, words) in enumerate(
        [
            ({"simulation": {"test_rooms": 5}}, r"what differs is simulation\.test_rooms \(4 and 5\)\."),
            ({"simulation": {"seed": 3, "poses": 2}}, r"simulation\.poses \(1 and 2\), simulation\.seed \(0 and 3\)"),
            ({"data": {"name": "own"}}, r"data\.name \(simulated and own\)"),
        ]
    ):
        with pytest.raises(RunError, match=words):
            compare_runs([run, copied(run, tmp_path / f"{number}", **layer)])
    shorter = copied(run, tmp_path / "shorter")
    report = json.loads((run / "evaluation.json").read_text())
    report["metrics"]["images"], report["protocol"]["min_depth"] = 3, 0.5
    (shorter / "evaluation.json").write_text(json.dumps(report))
    with pytest.raises(RunError, match=r"the protocol's min_depth \(0\.0 and 0\.5\), images \(4\.0 and 3\.0\)"):
        compare_runs([run, shorter])


def test_settings_of_rooms_do_not_tell_recordings_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    recorded = {"data": {"name": "batvisionv2", "root": str(tmp_path)}}
    seeds = [{"simulation": {"seed": seed}} for seed in (0, 3)]
    runs = [copied(folders["base_residual"], tmp_path / str(row), **recorded, **seeds[row]) for row in range(2)]
    assert len(compare_runs(runs).runs) == 2


@pytest.mark.parametrize(
    ("part", "changed", "words"),
    [
        ("metrics", {"rmse": -1.0}, "a figure that cannot be, rmse=-1"),
        ("metrics", {"rmse": 42.7}, "errors beyond the largest depth"),
        ("metrics", {"rmse": None}, "a figure that cannot be, rmse=nan"),
        ("metrics", {"delta1": 1.5}, "delta1=1.5"),
        ("metrics", {"images": 0}, "no images"),
        ("metrics", {"beauty": 1.0}, "there is a beauty in it"),
        ("decomposition", {"residual_detail_corr": -2.0}, "residual_detail_corr=-2"),
        ("decomposition", {"residual_abs_mean": -0.1}, "residual_abs_mean=-0.1"),
        ("blind_rmse", {"constant": -0.5}, "constant=-0.5"),
    ],
)
def test_a_run_with_figures_that_cannot_be_is_damaged(
    folders: dict[str, Path], part: str, changed: dict[str, float | None], words: str
) -> None:
    path = folders["base_residual"] / "evaluation.json"
    report = json.loads(path.read_text())
    report[part] |= changed
    path.write_text(json.dumps(report))
    with pytest.raises(RunError, match=rf"is damaged: .*{words}"):
        read_run(path.parent)


@pytest.mark.parametrize("figure", ["rmse", "images", "images_without_depth", "base_rmse", "clamped_share"])
def test_a_run_without_a_figure_is_damaged(folders: dict[str, Path], figure: str) -> None:
    path = folders["base_residual"] / "evaluation.json"
    report = json.loads(path.read_text())
    report["metrics" if figure in report["metrics"] else "decomposition"].pop(figure)
    path.write_text(json.dumps(report))
    with pytest.raises(RunError, match=f"is damaged: there is no {figure} in it"):
        read_run(path.parent)


@pytest.mark.parametrize("rmse", ["-1.0", "null"])
def test_an_epoch_with_an_error_that_cannot_be_is_damaged(folders: dict[str, Path], rmse: str) -> None:
    path = folders["base_residual"] / "metrics.jsonl"
    path.write_text(re.sub(r'"val/rmse": [\d.]+', f'"val/rmse": {rmse}', path.read_text()))
    with pytest.raises(RunError, match=r"is damaged: .*an epoch whose val/rmse is"):
        read_run(path.parent)


@pytest.mark.parametrize("figure", ["train/loss_base", "val/residual_abs_mean"])
def test_an_epoch_without_a_figure_is_damaged(folders: dict[str, Path], figure: str) -> None:
    path = folders["base_residual"] / "metrics.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, *(re.sub(rf'"{figure}": [^,}}]+,? ?', "", line) for line in others)]))
    with pytest.raises(RunError, match=f"is damaged: there is no {figure} in it"):
        read_run(path.parent)


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
