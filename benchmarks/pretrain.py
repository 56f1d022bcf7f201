"""Train the models that come with the package, from rendering to the file.

    python benchmarks/pretrain.py small --work FOLDER         # goes on where it was stopped
    python benchmarks/pretrain.py batvisionv2 --work FOLDER   # begins with small, which has to be there
    python benchmarks/pretrain.py --sample                    # the recording that comes with the package

The rooms are rendered once. A first stage learns small maps, where most is cheap to learn; further ones begin with its
weights and draw larger ones. The remainder is set by the validation rooms. The weights go into the package in half
precision, with the figures of rooms that the model has not been trained on, and the curves into results/pretrain.json
and a figure.
"""

from __future__ import annotations

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
from carry_over import rendered, world_figures
from reporting import HERE, RESULTS, parser, provenance, run_script, write

from base_residual.config.presets import VIEWS
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
SQUARE_VIEW = VIEWS["varied"]  # of the other worlds
OPTIONS = {  # of `brdepth simulate`, by setting
    "train_rooms": "--rooms",
    "val_rooms": "--val-rooms",
    "test_rooms": "--test-rooms",
    "poses": "--poses",
    "seed": "--seed",
    "rig": "--rig",
}


class Stage(NamedTuple):
    """One training: the side of its maps, its epochs, its peak learning rate and its optimiser."""

    output_size: int
    epochs: int
    learning_rate: float
    optimizer: str


class Recipe(NamedTuple):
    """How a model is made: the rooms, its largest depth, the stages, and the released model that it begins with."""

    rooms: dict[str, Any]
    max_depth: float
    stages: tuple[Stage, ...]
    start: str | None = None

    @property
    def side(self) -> int:
        """The side of the rendered maps, in pixels: that of the last stage."""
        return self.stages[-1].output_size


ROOMS = {"train_rooms": 40_000, "val_rooms": 500, "test_rooms": 500, "poses": 1}
RECIPES = {
    "small": Recipe(
        ROOMS | {"seed": 1000},
        12.0,
        # After so many steps, what Muon learns carries over no better.
        (Stage(64, 5, 0.002, "AdamW"), Stage(128, 1, 0.001, "AdamW")),
    ),
    "batvisionv2": Recipe(
        ROOMS | {"seed": 2000, "rig": "batvisionv2"},
        30.0,
        (Stage(128, 2, 0.001, "AdamW"), Stage(256, 1, 0.0005, "AdamW")),
        "small",
    ),
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
        brdepth("simulate", root, *rooms, "--output-size", recipe.side, "--max-depth", recipe.max_depth)


def train(stage: Stage, recipe: Recipe, root: Path, runs: Path, first: str | Path | None) -> Path:
    """Train a stage, or go on with it; return the folder of its run."""
    name = f"pre{stage.output_size}"
    found = [folder for folder in runs.glob(f"*_{name}") if (folder / STATE).exists()]
    if not (found and (found[0] / EVALUATION).exists()):
        settings: list[object] = ["--data-root", root, "--results-dir", runs, "--experiment-name", name]
        settings += ["--epochs", stage.epochs, "--learning-rate", stage.learning_rate]
        settings += ["--set", f"data.output_size={stage.output_size}", "--set", f"trainer.optimizer={stage.optimizer}"]
        settings += ["--set", f"data.max_depth={recipe.max_depth}"]
        rig = recipe.rooms.get("rig", "varied")  # whose camera the rooms are seen by
        settings += ["--set", f"simulation.rig={rig}"]
        if found:
            settings = ["--config", found[0] / CONFIG, "--resume"]
        else:
            settings += ["--overwrite", *(["--init", first] if first else [])]
        brdepth("train", *settings)
        found = list(runs.glob(f"*_{name}"))
    return found[0]


def release(name: str, recipe: Recipe, best: Path) -> Path:
    """Write the best weights into the package, in half precision; what batch norm has counted keeps its own.

    The run has calibrated them: its remainder was fitted to training rooms and set by the validation rooms.
    """
    loaded, path = load_checkpoint(best), WEIGHTS / f"{name}.safetensors"
    config = make_config(
        loaded.config.model_dump(mode="json"),
        {"data": {"root": None}, "simulation": recipe.rooms, "tracking": {"results_dir": "results"}},
    )
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.to(torch.float16)
    save_checkpoint(path, loaded.model, loaded.epoch, loaded.history, config, loaded.model.provenance.start)
    return path


def describe(recipe: Recipe, path: Path, rooms: Path) -> Released:
    """Note what a released model is, and how it does on rooms that it has not been trained on.

    These are its own test rooms, and the other worlds if their camera has the model's view.
    """
    loaded = load_checkpoint(path)
    others = rendered() if loaded.config.data.field_of_view == SQUARE_VIEW else {}
    figures = {world: world_figures(loaded, root) for world, root in ({"own rooms": rooms} | others).items()}
    heard = "loudspeakers, ears and recorders that are drawn at random"
    if "rig" in recipe.rooms:
        heard = "what a robot of BatVision V2 may have been, and seen by its camera"
    return Released(
        loaded.model.output_size,
        loaded.model.max_depth,
        f"{recipe.rooms['train_rooms']:,} simulated rooms, each heard once by {heard}.",
        {world: (round(found["rmse"], 3), round(found["blind"], 3)) for world, found in figures.items()},
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def curves_figure(histories: dict[tuple[str, int], list[Record]]) -> Any:
    """Draw validation rmse over the epochs of all stages, by model and side of the map."""
    from matplotlib.figure import Figure

    with standard_style():
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        begun: dict[str, int] = {}  # epochs of earlier stages
        for (name, size), history in histories.items():
            start = begun.get(name, 0)
            epochs = range(start + 1, start + len(history) + 1)
            axes.plot(epochs, val_rmse(history), marker="o", label=f"{name}, maps of {size} x {size}")
            begun[name] = start + len(history)
        axes.set(xlabel=f"epochs of {ROOMS['train_rooms']:,} recordings", ylabel="validation rmse (m)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return figure


def write_sample() -> None:
    """Render the recording that comes with the package: a room heard by a rig that no training draws."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "rooms"
        counts = ("--rooms", 1, "--val-rooms", 1, "--test-rooms", 4, "--poses", 1, "--seed", SAMPLE_SEED)
        shape = ("--output-size", RECIPES["small"].side, "--max-depth", RECIPES["small"].max_depth)
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
    best: str | Path | None = recipe.start
    histories = {}
    for stage in recipe.stages:
        best = train(stage, recipe, root, runs, best) / BEST
        histories[stage.output_size] = load_checkpoint(best.with_name("last.safetensors")).history
    assert isinstance(best, Path)
    path = release(given.model, recipe, best)
    about = describe(recipe, path, root)
    listed = WEIGHTS / "models.json"
    known = json.loads(listed.read_text()) if listed.exists() else {}
    write_whole(listed, json.dumps(known | {given.model: about._asdict()}, indent=2) + "\n")
    results = RESULTS / "pretrain.json"
    made = json.loads(results.read_text()) if results.exists() else {}
    made[given.model] = {**provenance(), "recipe": recipe._asdict(), "histories": histories}
    write(results, made)
    curves = {(name, int(side)): history for name, one in made.items() for side, history in one["histories"].items()}
    print(f"Wrote {save_figure(curves_figure(curves), RESULTS / 'pretrain.png')}.")


if __name__ == "__main__":
    run_script(main)
