"""Train the models that come with the package, from rendering to the file.

    python benchmarks/pretrain.py small --work FOLDER   # goes on where it was stopped
    python benchmarks/pretrain.py --sample              # the recording that comes with the package

The rooms are rendered once. A first stage learns small maps, where most is cheap to learn; further ones begin with its
weights and draw larger ones. The weights go into the package in half precision, with the figures of the worlds of
`carry_over.py`, and the curves into results/pretrain.json and a figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from carry_over import WORLDS, rendered, world_figures
from reporting import HERE, RESULTS, parser, provenance, run_script, write

from base_residual.config.resolve import make_config
from base_residual.config.run_layout import BEST, CONFIG, EVALUATION, STATE, Record, val_rmse
from base_residual.files.atomic import write_whole
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import load_checkpoint
from base_residual.models.released import Released
from base_residual.plots.figures import save_figure, standard_style

WEIGHTS = HERE.parent / "base_residual" / "weights"
SAMPLE = "test_000003_0"  # of the rooms with this seed
SAMPLE_SEED = 7
OPTIONS = {  # of `brdepth simulate`, by setting
    "train_rooms": "--rooms",
    "val_rooms": "--val-rooms",
    "test_rooms": "--test-rooms",
    "poses": "--poses",
    "seed": "--seed",
}
LARGEST = 128  # side of the rendered maps, in pixels


class Stage(NamedTuple):
    """One training: the side of its maps, its epochs, its peak learning rate and its optimiser."""

    output_size: int
    epochs: int
    learning_rate: float
    optimizer: str


class Recipe(NamedTuple):
    """How a model is made: the rooms, its largest depth and the stages."""

    rooms: dict[str, Any]
    max_depth: float
    stages: tuple[Stage, ...]


RECIPES = {
    "small": Recipe(
        {"train_rooms": 40_000, "val_rooms": 500, "test_rooms": 500, "poses": 1, "seed": 1000},
        12.0,
        (Stage(64, 5, 0.002, "AdamW"),),  # after so many steps, what Muon learns carries over no better
    )
}


def brdepth(*words: object) -> None:
    """Run a command of the package; end with its exit code if it fails."""
    done = subprocess.run([sys.executable, "-m", "base_residual", *map(str, words)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def render(recipe: Recipe, root: Path) -> None:
    """Render the rooms, or go on rendering them."""
    if not (root / "rooms.json").exists():
        rooms = [word for name, value in recipe.rooms.items() for word in (OPTIONS[name], value)]
        brdepth("simulate", root, *rooms, "--output-size", LARGEST, "--max-depth", recipe.max_depth)


def train(stage: Stage, root: Path, runs: Path, first: Path | None) -> Path:
    """Train a stage, or go on with it; return the folder of its run."""
    name = f"pre{stage.output_size}"
    found = [folder for folder in runs.glob(f"*_{name}") if (folder / STATE).exists()]
    if not (found and (found[0] / EVALUATION).exists()):
        settings: list[object] = ["--data-root", root, "--results-dir", runs, "--experiment-name", name]
        settings += ["--epochs", stage.epochs, "--learning-rate", stage.learning_rate]
        settings += ["--set", f"data.output_size={stage.output_size}", "--set", f"trainer.optimizer={stage.optimizer}"]
        if found:
            settings = ["--config", found[0] / CONFIG, "--resume"]
        else:
            settings += ["--overwrite", *(["--init", first] if first else [])]
        brdepth("train", *settings)
        found = list(runs.glob(f"*_{name}"))
    return found[0]


def release(name: str, recipe: Recipe, best: Path) -> Path:
    """Write the best weights into the package, in half precision; what batch norm has counted keeps its own."""
    loaded, path = load_checkpoint(best), WEIGHTS / f"{name}.safetensors"
    config = make_config(
        loaded.config.model_dump(mode="json"),
        {"data": {"root": None}, "simulation": recipe.rooms, "tracking": {"results_dir": "results"}},
    )
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.to(torch.float16)
    save_checkpoint(path, loaded.model, loaded.epoch, loaded.history, config, loaded.model.provenance.start)
    return path


def describe(recipe: Recipe, path: Path) -> Released:
    """Note what a released model is, and how it does on worlds that it has not been trained on."""
    echoes = {"train": 200, "val": 20, "test": 200}
    asked = argparse.Namespace(worlds=list(WORLDS), seed=0, data=None, shared=HERE.parents[1] / "shared", **echoes)
    loaded = load_checkpoint(path)
    figures = {world: world_figures(loaded, root) for world, root in rendered(asked).items()}
    rooms = recipe.rooms["train_rooms"]
    return Released(
        loaded.model.output_size,
        loaded.model.max_depth,
        f"{rooms:,} simulated rooms, each heard once by loudspeakers, ears and recorders that are drawn at random.",
        {world: (round(found["rmse"], 3), round(found["blind"], 3)) for world, found in figures.items()},
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def curves_figure(histories: dict[int, list[Record]], recordings: int) -> Any:
    """Draw validation rmse over epochs of so many recordings."""
    from matplotlib.figure import Figure

    with standard_style():
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        start = 0
        for size, history in histories.items():
            epochs = range(start + 1, start + len(history) + 1)
            axes.plot(epochs, val_rmse(history), marker="o", label=f"maps of {size} x {size}")
            start += len(history)
        axes.set(xlabel=f"epochs of {recordings:,} recordings", ylabel="validation rmse (m)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return figure


def write_sample() -> None:
    """Render the recording that comes with the package: a room heard by a rig that no training draws."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "rooms"
        counts = ("--rooms", 1, "--val-rooms", 1, "--test-rooms", 4, "--poses", 1, "--seed", SAMPLE_SEED)
        shape = ("--output-size", LARGEST, "--max-depth", RECIPES["small"].max_depth)
        brdepth("simulate", root, *counts, *shape, "--rig", "ideal", "--quiet")
        (sound,), (depth,) = (list(root.glob(f"*/{kind}/{SAMPLE}.*")) for kind in ("audio", "depth"))
        waveform, rate = soundfile.read(sound, dtype="int16")
        soundfile.write(WEIGHTS / "room.wav", waveform, rate, "PCM_16")
        np.save(WEIGHTS / "room.npy", np.load(depth))


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("model", nargs="?", choices=RECIPES, help="to train")
    asked.add_argument("--work", type=Path, default=Path("pretraining"), help="folder of the rooms and the runs")
    asked.add_argument("--sample", action="store_true", help="write the recording that comes with the package, and end")
    given = asked.parse_args()
    if given.sample:
        write_sample()
        return
    if given.model is None:
        asked.error("name a model, or give --sample")
    recipe, root, runs = RECIPES[given.model], given.work / "rooms", given.work / "runs"
    render(recipe, root)
    best, histories = None, {}
    for stage in recipe.stages:
        best = train(stage, root, runs, best) / BEST
        histories[stage.output_size] = load_checkpoint(best.with_name("last.safetensors")).history
    assert best is not None
    path = release(given.model, recipe, best)
    about = describe(recipe, path)
    listed = WEIGHTS / "models.json"
    known = json.loads(listed.read_text()) if listed.exists() else {}
    write_whole(listed, json.dumps(known | {given.model: about._asdict()}, indent=2) + "\n")
    write(RESULTS / "pretrain.json", {**provenance(), "recipe": recipe._asdict(), "histories": histories})
    figure = curves_figure(histories, recipe.rooms["train_rooms"] * recipe.rooms["poses"])
    print(f"Wrote {save_figure(figure, RESULTS / 'pretrain.png')}.")


if __name__ == "__main__":
    run_script(main)
