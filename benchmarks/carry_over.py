"""Try trained models on worlds that no training has seen.

    python benchmarks/carry_over.py BEST.safetensors [...]   # several: one model, trained with several seeds
    python benchmarks/carry_over.py BEST.safetensors [...] --at-home STANDARD.safetensors [...]
    python benchmarks/carry_over.py BEST.safetensors --worlds choose heads   # what decisions may be taken by
    python benchmarks/carry_over.py --simulated ROOT         # renders the worlds, and draws the envelopes of all
    python benchmarks/carry_over.py --bundle                 # renders the rooms that the package tries its models on

`exam`: rooms of pyroomacoustics with plans of many shapes, furniture, materials of its table, image sources and its ray
tracer, heard by a measured head. Nothing is chosen by it. `choose`: shoeboxes of the same program with other materials,
heard by two microphones. `heads`: such shoeboxes and L shapes, heard by heads that are drawn. `real`: one recording of
BatVision V2, which proves nothing by itself. `standard`: the package's own shoeboxes, and beside them what models
trained on those alone reach there. `changes`: what happens to a depth map when an echo of the exam is stored in another
way.

Rooms are rendered once, into the cache: 420 echoes of a world take some five minutes on a core. Needs pyroomacoustics
and h5py, and the folder `shared` with the head and the real recording.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exam_changes import measure_changes
from exam_envelopes import envelopes_figure
from exam_worlds import CHOOSE, EXAM, HEADS, VERSION, World, write_bundle, write_world
from reporting import HERE, RESULTS, parser, positive, provenance, run_script, write

from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
from base_residual.data.batvision import list_recordings
from base_residual.evaluation import evaluate
from base_residual.evaluation.blind import BlindGuess
from base_residual.evaluation.elsewhere import BATVISION_VIEW, OTHER_ROOMS, try_on
from base_residual.files.cache import cache_folder
from base_residual.models.checkpoint import Checkpoint
from base_residual.models.factory import load_checkpoint
from base_residual.models.network import DepthNet
from base_residual.plots.console import plain_console
from base_residual.plots.figures import save_figure
from base_residual.plots.tables import Table

WORLDS: dict[str, World] = {world.name: world for world in (EXAM, CHOOSE, HEADS)}
COUNTS = {"train": 200, "val": 20, "test": 200}  # echoes of a world
SHARED = HERE.parents[1] / "shared"
PARTS = (*WORLDS, "real", "standard", "changes")
STANDARD = {"style": "standard", "rig": "ideal", "scene": None, "head": None, "train_rooms": 100, "val_rooms": 1}
SAMPLE = Path("batvision_v2_sample/BatvisionV2")
TRIED = 6  # recordings of the exam whose echoes are changed
Figures = dict[str, float]


def world_figures(loaded: Checkpoint[DepthNet], root: Path | None) -> Figures:
    """Return a model's figures on the test rooms of a world, or of standard shoeboxes, beside what hears nothing."""
    given = {"data": {"name": "batvisionv2" if root else "simulated", "root": root}, "simulation": STANDARD}
    config = make_config(loaded.config.model_dump(mode="json"), given)
    train, test = (open_dataset(config.data.name, root, split, config) for split in ("train", "test"))
    found = evaluate(loaded.model, test).metrics
    blind = BlindGuess.from_dataset(train).rmse_on(test, loaded.model.max_depth)
    return {
        "rmse": float(found["rmse"]),
        "mae": float(found["mae"]),
        "blind": blind["mean_map"],
        "share": float(found["rmse"]) / blind["mean_map"],
        "constant": blind["constant"],
    }


def real_figures(loaded: Checkpoint[DepthNet], root: Path, view: tuple[float, float] | None) -> Figures:
    """Return a model's figures on the real recordings, and that of the best constant, which knows their depth."""
    tried = try_on(loaded.model, loaded.config, root, "real", view)
    return {"rmse": tried.rmse, "constant": tried.constant}


def over_seeds(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return mean, standard deviation and values of each figure over the checkpoints."""
    return {
        name: {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "values": values,
        }
        for name in found[0]
        for values in [[figures[name] for figures in found]]
    }


def measure(checkpoints: Sequence[Path], parts: Iterable[str], roots: Mapping[str, Path], shared: Path) -> Any:
    """Return all figures of checkpoints on the parts that are asked for."""
    loaded = [load_checkpoint(path) for path in checkpoints]
    found: dict[str, Any] = {}
    for part in parts:
        if part in (*WORLDS, "standard"):
            found[part] = over_seeds([world_figures(each, roots.get(part)) for each in loaded])
        elif part == "real":
            for name, view in (("real, as it is", None), ("real, camera's view", BATVISION_VIEW)):
                found[name] = over_seeds([real_figures(each, shared / SAMPLE, view) for each in loaded])
        else:
            paths = [recording.audio[0] for recording in list_recordings(roots["exam"], "test")[:TRIED]]
            found[part] = over_seeds([measure_changes(each.model, paths) for each in loaded])
    return found


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the figures as tables that fit into 80 columns."""

    def shown(figures: Mapping[str, Any], name: str) -> str:
        if name not in figures:
            return ""
        spread = f" ± {figures[name]['std']:.3f}" if name == "rmse" and len(figures[name]["values"]) > 1 else ""
        return f"{figures[name]['mean']:.3f}{spread}"

    columns = {"rmse": "rmse (m)", "mae": "mae (m)", "blind": "blind", "share": "/ blind", "constant": "constant"}
    worlds = {name: figures for name, figures in found.items() if name != "changes"}
    rows = [(name, *(shown(figures, column) for column in columns)) for name, figures in worlds.items()]
    made = [Table("", ("world", *columns.values()), rows, right=range(1, 6))] if rows else []
    if "changes" in found:
        moved = [(name, f"{values['mean']:.4f}") for name, values in found["changes"].items()]
        made.append(Table("", ("change of the recording", "the map moves by (m)"), moved, right=(1,)))
    return made


def show_progress(what: str, done: int, of: int) -> None:
    """Say on the terminal how far the rendering is; elsewhere that it has ended."""
    if sys.stderr.isatty() or done == of:
        print(f"\r{what}: {done} of {of} echoes", end="\n" if done == of else "", file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    asked = parser(__doc__)
    asked.add_argument("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="of one model, a seed each")
    asked.add_argument("--worlds", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    for split, what in (("train", "for its mean map"), ("val", "to validate on"), ("test", "to test on")):
        asked.add_argument(f"--{split}", type=positive, default=COUNTS[split], help=f"echoes of a world {what}")
    asked.add_argument("--seed", type=int, default=0, help="decides every room and echo")
    asked.add_argument("--data", type=Path, help="folder of the rendered worlds; default: the cache")
    asked.add_argument("--shared", type=Path, default=SHARED, help="head and real recording")
    asked.add_argument("--simulated", type=Path, help="a folder of simulated rooms; draws envelopes.png")
    asked.add_argument("--at-home", nargs="+", type=Path, default=[], metavar="CHECKPOINT", help="of standard rooms")
    asked.add_argument("--bundle", action="store_true", help="write the other rooms that the package holds, and end")
    asked.add_argument("--out", type=Path, default=RESULTS / "carry_over.json", help="JSON; the figure goes beside it")
    return asked.parse_args()


def rendered(
    worlds: Iterable[str] = WORLDS,
    counts: Mapping[str, int] = COUNTS,
    seed: int = 0,
    data: Path | None = None,
    shared: Path = SHARED,
) -> dict[str, Path]:
    """Render the worlds that are not there yet; return the folder of each.

    Args:
        worlds: by name.
        counts: echoes of each split.
        seed: decides every room and echo.
        data: folder of the worlds; default: the cache.
        shared: folder of the head and of the real recording.
    """
    roots = {}
    for name in (name for name in WORLDS if name in worlds):
        kept = cache_folder("carry-over", {"world": name, "seed": seed, "version": VERSION})
        roots[name] = write_world(WORLDS[name], data / name if data else kept, counts, shared, seed, show_progress)
        print(f"{name}: {roots[name]}", file=sys.stderr)
    return roots


def main() -> None:
    asked = options()
    if asked.bundle:
        print(f"Wrote {write_bundle(EXAM, OTHER_ROOMS, asked.shared)}.")
        return
    needed = {"exam" if part == "changes" else part for part in asked.worlds}
    counts = {split: getattr(asked, split) for split in COUNTS}
    roots = rendered(needed, counts, asked.seed, asked.data, asked.shared)
    if asked.simulated:
        sets = {"simulated": asked.simulated, **roots, "real": asked.shared / SAMPLE}
        print(f"Wrote {save_figure(envelopes_figure(sets), asked.out.with_name('envelopes.png'))}.")
    if asked.checkpoints:
        found = measure(asked.checkpoints, asked.worlds, roots, asked.shared)
        if asked.at_home:
            found["standard, trained there"] = measure(asked.at_home, ["standard"], {}, asked.shared)["standard"]
        console = plain_console()
        for table in tables(found):
            console.print(table.to_rich())
        if "real, as it is" in found:
            console.print("The real recording is a single one, and proves nothing. Its constant knows its depth.")
        counts = {split: getattr(asked, split) for split in ("train", "test")}
        write(asked.out, {**provenance(), "seeds": len(asked.checkpoints), "echoes": counts, "worlds": found})


if __name__ == "__main__":
    run_script(main)
