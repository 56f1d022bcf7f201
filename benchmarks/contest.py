"""Let the decomposition compete with networks that do not split depth, and say where it is ahead.

    python benchmarks/contest.py --work FOLDER  # results/contest.json, some six hours of one core
    python benchmarks/contest.py --work FOLDER --entrants plain default --rates 0.002 --seeds 1 --out FILE

All train on the same rich rooms for as many epochs, with the same augmentation, optimiser and mean of weights. The
default and its variants have the package's rate; that of the others is one of three, chosen with the first seed by the
validation rooms. All are tested in rooms of another seed, by which nothing was chosen, and on the worlds of
`carry_over.py`. Each run is noted in FOLDER as it ends, and not repeated; calls for other entrants may run beside, and
one for all of them then brings the figures together.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from campaign import over_seeds
from carry_over import SHARED, WORLDS, rendered
from opponents import OPPONENTS, make_opponent
from reporting import RESULTS, parser, positive, provenance, run_script, write
from torch import Tensor
from variants import VARIANTS

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.loading import read_batches, reader
from base_residual.data.sample import EchoBatch, EchoDataset, EchoSample
from base_residual.deploy.benchmark import gflops, parameter_count
from base_residual.evaluation import evaluate
from base_residual.evaluation.blind import BlindGuess
from base_residual.machine import standard_torch
from base_residual.metrics import depth_metrics
from base_residual.models.factory import create_model
from base_residual.models.network import DepthNet
from base_residual.models.twins import evaluating
from base_residual.training.batches import Batches, make_loader
from base_residual.training.calibration import LEVEL, calibrate
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step
from base_residual.training.trainer import mean_depth

OWN: dict[str, Layer] = {
    "default": {},
    "broadband": {"audio": {"bands": []}},
    "lowpass": {"loss": {"layout": "lowpass"}},
    **{name: {} for name in VARIANTS},
    "plain": {"model": {"name": "plain"}},
}
ENTRANTS = (*OWN, *OPPONENTS)
DEFAULT_RATE = OWN.keys() - {"plain"}  # entrants with the package's rate: the default and its variants
RATES = (0.001, 0.002, 0.004)
TEST_SEED = 3  # of the rooms to test in
FAR = 5.0  # metres from which the walls of an empty room are far
Row = dict[str, Any]


def make_entrant(name: str, config: Config, depth: float) -> DepthNet:
    """Make a network, untrained, that begins with that depth everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.trainer.seed)
        if name in VARIANTS:
            return VARIANTS[name](config, depth)
        model = create_model(config) if name in OWN else make_opponent(name, config)
        model.initialise_depth(depth)
        return model


@standard_torch()
def trained(model: DepthNet, config: Config, train: EchoDataset, val: EchoDataset) -> tuple[DepthNet, list[float]]:
    """Train a network; return it as it was after the epoch that validates best, and all validation rmse, in metres."""
    batches = Batches(len(train), config.trainer.batch_size, config.trainer.seed)
    step = make_step(model, make_optimizer(model, config.trainer), config, len(batches), batches.least)
    loader = make_loader(train, batches, 0, torch.device("cpu"), config.data.max_depth)
    best, curve = model, list[float]()
    for epoch in range(1, config.trainer.epochs + 1):
        step.loss.set_epoch(epoch)
        batches.epoch = epoch
        model.train()
        for number, batch in enumerate(read_batches(loader)):
            step.update(batch, epoch, number)
        curve.append(float(evaluate(step.eval_model, val).metrics["rmse"]))
        if curve[-1] == min(curve):
            best = copy.deepcopy(step.eval_model)
    return best, curve


class Changed:
    """A dataset whose echoes are other ones: those of another room, or with the ears swapped."""

    def __init__(self, dataset: EchoDataset, echo_of: Callable[[int], Tensor]) -> None:
        self.dataset, self.echo_of = dataset, echo_of

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> EchoSample:
        return self.dataset[index]._replace(waveform=self.echo_of(index))


@torch.no_grad()
def layout_figures(model: DepthNet, dataset: EchoDataset) -> dict[str, float]:
    """Return how far base and final are from the empty room, and how far final is off in large rooms and far away.

    A fifth of the views is large, by the mean depth of the empty room. Far are the pixels whose wall is `FAR` away.
    """
    model, rows, sizes = evaluating(model), list[Tensor](), list[Tensor]()
    for batch in batches_of(dataset, model.max_depth):
        assert batch.empty_room is not None
        base, _, final = model.interpret(model.features(batch.waveform))
        far = torch.where(batch.empty_room >= FAR, batch.depth, 0)
        pairs = ((base, batch.empty_room), (final, batch.empty_room), (final, far), (final, batch.depth))
        rows.append(torch.stack([depth_metrics(*pair, model.max_depth)["rmse"] for pair in pairs], dim=1))
        sizes.append(batch.empty_room.mean(dim=(1, 2, 3)))
    errors, size = torch.cat(rows), torch.cat(sizes)
    large = size >= size.quantile(0.8)
    names = ("layout_of_base", "layout_of_final", "far_walls")
    return dict(zip(names, errors[:, :3].nanmean(dim=0).tolist(), strict=True)) | {
        "large_rooms": float(errors[large, 3].nanmean())
    }


@torch.no_grad()
def width_at_level(model: DepthNet, dataset: EchoDataset) -> float:
    """Return the mean remainder in metres, scaled so that it holds exactly `LEVEL` of all pixels."""
    model, widths, ratios = evaluating(model), list[Tensor](), list[Tensor]()
    for batch in batches_of(dataset, model.max_depth):
        parts, remainder = model.bound(model.features(batch.waveform))
        assert remainder is not None
        measured = batch.depth > 0
        widths.append(remainder[measured])
        ratios.append(((parts.final - batch.depth).abs() / remainder)[measured])
    return float(torch.cat(widths).mean() * torch.cat(ratios).quantile(LEVEL))


def batches_of(dataset: EchoDataset, max_depth: float) -> Iterator[EchoBatch]:
    return read_batches(reader(dataset, 0, max_depth, batch_size=32))


def figures(model: DepthNet, config: Config, roots: dict[str, Path]) -> dict[str, float]:
    """Return all figures of a trained network, in metres."""
    fresh = make_config(config.model_dump(mode="json"), {"simulation": {"seed": TEST_SEED, "train_rooms": 1}})
    test = open_dataset("simulated", split="test", config=fresh)
    found = evaluate(model, test)
    row = {"rmse": found.metrics["rmse"], "mae": found.metrics["mae"], **layout_figures(model, test)}
    row["no_sound"] = BlindGuess.from_dataset(open_dataset("simulated", config=config)).rmse_on(test, model.max_depth)[
        "mean_map"
    ]
    if model.has_residual:
        row |= {name: found.decomposition[name] for name in ("base_rmse", "residual_gain")}
    if model.calibration:
        row |= {name: found.interval[name] for name in ("coverage", "remainder_mean", "ause", "ause_by_depth")}
        row["width_at_level"] = width_at_level(model, test)
    for name, root in roots.items():
        elsewhere = make_config(config.model_dump(mode="json"), {"data": {"name": "batvisionv2", "root": str(root)}})
        row[name] = evaluate(model, open_dataset("batvisionv2", root, "test", elsewhere)).metrics["rmse"]
    deaf = {
        "shuffled": Changed(test, lambda index: test[(index + len(test) // 2) % len(test)].waveform),
        "ears_swapped": Changed(test, lambda index: test[index].waveform.flip(0)),
    }
    row |= {name: evaluate(model, dataset).metrics["rmse"] for name, dataset in deaf.items()}
    return {name: float(value) for name, value in row.items()}


class Contest(NamedTuple):
    """What all runs of a contest have in common; each is noted in a folder as it ends, and not repeated.

    Attributes:
        work: folder of the notes.
        roots: folders of the worlds of `carry_over.py`.
        rooms: to train on.
        epochs: of each run.
        seeds: how many runs an entrant has.
        side: of a map, in pixels.
    """

    work: Path
    roots: dict[str, Path]
    rooms: int
    epochs: int
    seeds: int
    side: int

    def settings(self, name: str, rate: float, seed: int) -> Config:
        """Return the settings of a run; an opponent has those of the plain network, but for the network itself."""
        trainer = {"learning_rate": rate, "seed": seed, "epochs": self.epochs}
        data, simulation = {"output_size": self.side}, {"train_rooms": self.rooms}
        return make_config(OWN.get(name, OWN["plain"]), {"trainer": trainer, "data": data, "simulation": simulation})

    def entrant(self, name: str, rates: Sequence[float]) -> dict[str, Any]:
        """Return mean and spread of an entrant's figures, at the rate that validates best, and what it costs."""
        first = min((self.noted(name, rate, 0) for rate in rates), key=lambda row: min(row["val"]))
        own = [first, *(self.noted(name, first["rate"], seed) for seed in range(1, self.seeds))]
        numbers = [{key: value for key, value in row.items() if isinstance(value, float)} for row in own]
        model = make_entrant(name, self.settings(name, first["rate"], 0), 1.0)
        cost = {"parameters": parameter_count(model), "gflops": gflops(model)}
        return cost | over_seeds(numbers) | {"val": [row["val"] for row in own]}

    def noted(self, name: str, rate: float, seed: int) -> Row:
        """Return what a run has come to, which is trained if there is no note of it yet."""
        note = self.work / f"{name}-r{self.rooms}-e{self.epochs}-p{self.side}-{rate:g}-{seed}.json"
        if not note.exists():
            found = self.run(name, rate, seed)
            note.parent.mkdir(parents=True, exist_ok=True)
            write(note, provenance() | found)
        row: Row = json.loads(note.read_text())
        return row

    def run(self, name: str, rate: float, seed: int) -> Row:
        """Train and test once."""
        config = self.settings(name, rate, seed)
        train, val = (open_dataset("simulated", split=split, config=config) for split in ("train", "val"))
        model = make_entrant(name, config, mean_depth(train, config.data.max_depth))
        began = time.perf_counter()
        model, curve = trained(model, config, train, val)
        minutes = (time.perf_counter() - began) / 60
        if name in OWN:
            calibrate(model, train, val, "validation rooms", LEVEL)
        row = {"val": curve, "minutes": minutes, **figures(model, config, self.roots)}
        print(f"{name}, rate {rate:g}, seed {seed}: {row['rmse']:.4f} m, {minutes:.1f} min", flush=True)
        return {"entrant": name, "rate": rate, "seed": seed, **row}


def given_contest(given: argparse.Namespace, rooms: int) -> Contest:
    """Return the contest that a script's options describe, and render its worlds."""
    roots = rendered(WORLDS, shared=given.shared)
    return Contest(given.work, roots, rooms, given.epochs, given.seeds, given.side)


def contest_parser(about: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser of the options that describe a contest, all but its rooms."""
    asked, usual = parser(about), make_config()
    asked.add_argument("--seeds", type=positive, default=3)
    asked.add_argument("--epochs", type=positive, default=usual.trainer.epochs)
    asked.add_argument("--side", type=positive, default=usual.data.output_size, help="of a map, in pixels")
    asked.add_argument("--work", type=Path, default=Path("contest"), help="folder of what each run has come to")
    asked.add_argument("--shared", type=Path, default=SHARED, help="head and real recording")
    asked.add_argument("--out", type=Path, default=RESULTS / out)
    return asked


def main() -> None:
    asked = contest_parser(__doc__, "contest.json")
    asked.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=ENTRANTS)
    asked.add_argument("--rates", nargs="+", type=float, default=RATES)
    asked.add_argument("--rooms", type=positive, default=make_config().simulation.train_rooms, help="to train on")
    given = asked.parse_args()
    contest, usual = given_contest(given, given.rooms), [make_config().trainer.learning_rate]
    entrants = {name: contest.entrant(name, usual if name in DEFAULT_RATE else given.rates) for name in given.entrants}
    asked_for = {"rooms": given.rooms, "epochs": given.epochs, "seeds": given.seeds}
    write(given.out, {**provenance(), **asked_for, "entrants": entrants})


if __name__ == "__main__":
    run_script(main)
