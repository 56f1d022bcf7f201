"""The depth of the empty room, from a dataset's table to the loss of the base."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_batvision
from golden import inputs

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.augment import augment
from base_residual.data.batvision import V2
from base_residual.data.check import check_data
from base_residual.data.sample import EchoSample, collate
from base_residual.errors import DataError, ShapeError
from base_residual.evaluation import evaluate
from base_residual.losses import BaseResidualLoss, decomposition_terms, low_pass
from base_residual.models.factory import create_model
from base_residual.training.optimisation import generator, make_optimizer
from base_residual.training.step import make_step

MakeConfig = Callable[..., Config]


@pytest.fixture
def furnished(tmp_path: Path) -> Path:
    """A dataset of three recordings, of which the last has no empty room."""
    root = write_batvision(tmp_path, count=3)
    (root / "Attic" / "layout").mkdir()
    for number in range(2):
        depth = np.load(root / "Attic" / "depth" / f"depth_{number}.npy")
        np.save(root / "Attic" / "layout" / f"depth_{number}.npy", depth + np.uint16(500 * (number + 1)))
    for table in (root / "Attic").glob("*.csv"):
        header, *rows = csv.reader(table.read_text().splitlines())
        known = [["Attic/layout", row[-1]] for row in rows[:2]] + [["", ""]]
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([[*header, *V2.empty_room], *map(list.__add__, rows, known)])
    return root


def settings(**data: object) -> Config:
    return make_config({"data": {"name": "batvisionv2", "output_size": 32, "max_depth": 8.0} | data})


@pytest.mark.parametrize("prepare", [False, True])
def test_a_table_may_name_the_empty_rooms(furnished: Path, prepare: bool, tmp_path: Path) -> None:
    config = settings(prepare=prepare)
    samples = [open_dataset("batvisionv2", furnished, "train", config)[index] for index in range(3)]
    for sample, more in zip(samples, (0.5, 1.0), strict=False):
        assert sample.empty_room is not None
        measured = sample.depth > 0
        torch.testing.assert_close(sample.empty_room[measured], sample.depth[measured] + more, atol=0.002, rtol=0)
    unknown = samples[2].empty_room
    assert not unknown.any() if prepare else unknown is None  # a prepared set has a row for every recording
    batch = collate(samples)
    assert batch.empty_room is not None
    assert batch.empty_room.shape == batch.depth.shape
    assert not batch.empty_room[2].any()
    assert torch.equal(batch.empty_room[0, 0], samples[0].empty_room)


def test_a_dataset_without_empty_rooms_has_none(tmp_path: Path) -> None:
    dataset = open_dataset("batvisionv2", write_batvision(tmp_path), "train", settings())
    assert dataset[0].empty_room is None
    assert collate([dataset[0], dataset[1]]).empty_room is None


def test_the_files_of_empty_rooms_lie_in_the_dataset(furnished: Path) -> None:
    table = furnished / "Attic" / "train.csv"
    table.write_text(table.read_text().replace("Attic/layout", "../elsewhere"))
    with pytest.raises(DataError, match="leaves the dataset folder"):
        open_dataset("batvisionv2", furnished, "train", settings())


def test_a_prepared_set_follows_the_empty_rooms(furnished: Path) -> None:
    def first() -> torch.Tensor:
        found = open_dataset("batvisionv2", furnished, "train", settings())[0].empty_room
        assert found is not None
        return found

    before, path = first(), furnished / "Attic" / "layout" / "depth_0.npy"
    np.save(path, np.load(path) + np.uint16(1000))
    torch.testing.assert_close(first()[before > 0], before[before > 0] + 1, atol=0.002, rtol=0)


@pytest.mark.parametrize("empty", [torch.ones(8, 4), torch.ones(8, 8).double(), torch.full((8, 8), -1.0)])
def test_an_empty_room_is_a_map_like_the_depth(empty: torch.Tensor) -> None:
    with pytest.raises(DataError, match="The empty room of hall has shape"):
        collate([EchoSample(torch.zeros(2, 8), torch.ones(8, 8), "hall", empty)])


def test_simulated_rooms_know_what_stands_before_their_walls(tiny: MakeConfig) -> None:
    dataset = open_dataset("simulated", config=tiny())
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert batch.empty_room is not None
    measured = (batch.depth > 0) & (batch.empty_room > 0)
    assert (batch.empty_room >= batch.depth - 0.01)[measured].float().mean() > 0.98
    assert (batch.empty_room > batch.depth + 0.1)[measured].any()


def test_the_empty_room_changes_as_the_depth_does(tiny: MakeConfig) -> None:
    config, batch = tiny({"data": {"stretch": 0.3}}), inputs.batch(tiny(), 8)
    chances = [[generator(1, place) for place in range(8)] for _ in range(2)]
    alone = augment(batch.waveform, batch.depth, config.audio, config.data, chances[0])
    both = augment(batch.waveform, batch.depth, config.audio, config.data, chances[1], batch.depth)
    assert alone.empty_room is None
    assert both.empty_room is not None
    assert torch.equal(both.depth, alone.depth)
    assert torch.equal(both.empty_room, alone.depth)
    assert not torch.equal(both.empty_room, batch.depth)


def test_the_base_is_held_to_the_empty_room_where_it_is_known() -> None:
    chance = torch.Generator().manual_seed(0)
    base, gt = (1 + torch.rand(2, 1, 8, 8, generator=chance) for _ in range(2))
    gt[0, 0, 3], empty = 0, gt + 0.5
    empty[1] = 0  # not known
    smooth = low_pass(gt, 3, gt > 0)
    target = torch.cat([empty[:1], smooth[1:]])
    terms = decomposition_terms(base, torch.zeros_like(base), base, gt, 3, empty_room=empty)
    torch.testing.assert_close(terms.base, (base - target).abs()[gt > 0].mean())
    total, again = BaseResidualLoss(lowpass_kernel=3)(base, torch.zeros_like(base), base, gt, empty_room=empty)
    assert again.base == terms.base
    assert total == terms.recon + 0.8 * terms.base
    with pytest.raises(ShapeError, match="empty_room has shape"):
        decomposition_terms(base, base, base, gt, 3, empty_room=empty[:, 0])


@pytest.mark.parametrize("layer", [{}, {"loss": {"layout": "lowpass"}}, {"model": {"name": "plain"}}])
def test_a_step_takes_the_target_that_the_settings_name(tiny: MakeConfig, layer: Layer) -> None:
    config = tiny(layer)
    known = inputs.batch(config, 4)
    known = known._replace(empty_room=known.depth + 2)

    def base_term(batch: object) -> float:
        torch.manual_seed(0)
        model = create_model(config).train()
        step = make_step(model, make_optimizer(model, config.trainer), config, steps=1, least=4)
        return float(step.update(batch, 1, 0)[2])  # type: ignore[arg-type]

    apart = abs(base_term(known) - base_term(known._replace(empty_room=None)))
    assert (apart > 0.1) == (not layer)


def test_evaluation_says_how_far_base_and_final_are_from_the_empty_room(tiny: MakeConfig) -> None:
    config = tiny()
    model, batch = create_model(config).eval(), inputs.batch(config, 3)
    samples = [
        EchoSample(batch.waveform[row], batch.depth[row, 0], str(row), batch.depth[row, 0] + 1) for row in (0, 1)
    ]
    samples.append(EchoSample(batch.waveform[2], batch.depth[2, 0], "2"))
    found = evaluate(model, samples)
    found.check()
    with torch.no_grad():
        base, _, final = model.decompose(batch.waveform[:2])
    for name, part in {"base_layout_rmse": base, "final_layout_rmse": final}.items():
        errors = (part - (batch.depth[:2] + 1).clamp(max=model.max_depth)).square().mean(dim=(1, 2, 3)).sqrt()
        assert found.decomposition[name] == pytest.approx(float(errors.mean()), rel=1e-4)
        assert any(row[0] == name and row[1].endswith(" m") for row in found.rows())
    plain = evaluate(model, [sample._replace(empty_room=None) for sample in samples])
    plain.check()
    assert "base_layout_rmse" not in plain.decomposition


def test_checking_a_dataset_reads_the_empty_rooms(furnished: Path) -> None:
    (furnished / "Attic" / "layout" / "depth_0.npy").write_bytes(b"no map")
    np.save(furnished / "Attic" / "layout" / "depth_1.npy", np.full((24, 40), 2.0))  # in metres
    problems = "\n".join(check_data(furnished).problems)
    assert "layout/depth_0.npy" in problems
    assert "layout/depth_1.npy" in problems
