"""Lanes: parts of a batch that go through a network at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from golden import inputs

from base_residual.config.presets import Layer
from base_residual.config.schema import Config
from base_residual.data.sample import EchoBatch
from base_residual.machine import side_by_side
from base_residual.models.factory import create_model
from base_residual.training import lanes
from base_residual.training.cost_estimate import _time_step
from base_residual.training.distributed import ALONE, Processes
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import TrainingStep, _make_lanes, make_step

MakeConfig = Callable[..., Config]


@pytest.fixture
def batch(tiny: MakeConfig) -> EchoBatch:
    return inputs.batch(tiny(), 8)


@pytest.fixture(autouse=True)
def small_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base_residual.training.step.SMALLEST", 2)


class InOrder:
    """An executor without threads, which a process that tests are forked from could not have."""

    def __init__(self, count: int, initializer: Callable[[int], None], initargs: tuple[int]) -> None:
        self.asked, self.map = (count, initializer, initargs), map


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes one after the other, and threads that are counted and not there."""
    asked = [1]
    monkeypatch.setattr(torch, "set_num_threads", lambda count: asked.__setitem__(0, count))
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[0])
    monkeypatch.setattr(lanes, "ThreadPoolExecutor", InOrder)


def step_of(config: Config, threads: int, training: bool = True) -> TrainingStep:
    torch.manual_seed(0)
    model = create_model(config).train(training)
    torch.set_num_threads(threads)
    optimizer = torch.optim.AdamW(model.parameters(), config.trainer.learning_rate, fused=True)  # keeps gradients
    return make_step(model, optimizer, config, steps=2, least=8)


def gradients(step: TrainingStep) -> list[torch.Tensor]:
    found = [weight.grad for weight in step.model.parameters() if weight.grad is not None]
    assert len(found) == len(list(step.model.parameters()))
    return found


@pytest.mark.parametrize(
    ("threads", "trainer", "count"),
    [
        (1, {}, 0),
        (2, {}, 2),
        (3, {}, 3),
        (16, {}, 4),
        (4, {"accumulate": 2}, 2),
        (4, {"accumulate": 4}, 0),
        (4, {"recompute": True}, 0),
    ],
)
@pytest.mark.usefixtures("in_order")
def test_there_are_as_many_as_threads_and_enough_recordings_for(
    tiny: MakeConfig, threads: int, trainer: Layer, count: int
) -> None:
    made = step_of(tiny({"trainer": trainer}), threads).lanes
    assert (len(made) if made else 0) == count


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(("compiled", "world"), [(True, 1), (False, 2)])
def test_neither_several_processes_nor_a_compiled_network_have_any(
    tiny: MakeConfig, compiled: bool, world: int
) -> None:
    config, processes = tiny({"trainer": {"compile": compiled}}), Processes(world=world)
    torch.set_num_threads(4)
    assert _make_lanes(create_model(config), config.trainer, 8, processes) is None
    assert _make_lanes(create_model(config).to("meta"), tiny().trainer, 8, ALONE) is None
    assert _make_lanes(create_model(config), tiny().trainer, 8, ALONE) is not None


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("loss", [{}, {"curriculum": True, "warmup_epochs": 0}])
def test_lanes_learn_what_the_same_parts_one_after_the_other_learn(
    tiny: MakeConfig, batch: EchoBatch, loss: Layer
) -> None:
    together = step_of(tiny({"loss": loss}), 2)
    apart = step_of(tiny({"loss": loss, "trainer": {"accumulate": 2}}), 1)
    torch.testing.assert_close(together.update(batch, 1, 0), apart.update(batch, 1, 0))
    for mine, theirs in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.usefixtures("in_order")
def test_lanes_in_parts_have_the_gradient_of_the_whole(tiny: MakeConfig, batch: EchoBatch) -> None:
    batch.depth[0, :, 3:] = 0
    config = tiny({"trainer": {"grad_clip": 1e6}})
    whole, parts = step_of(config, 1, False), step_of(config.model_copy(deep=True), 2, False)
    parts.parts, parts.pieces = 2, 4
    torch.testing.assert_close(parts.update(batch, 1, 0), whole.update(batch, 1, 0), rtol=1e-4, atol=1e-5)
    total = torch.stack([gradient.norm() for gradient in gradients(whole)]).norm()
    apart = [(a - b).norm() for a, b in zip(gradients(parts), gradients(whole), strict=True)]
    assert torch.stack(apart).norm() < 0.01 * total


@pytest.mark.usefixtures("in_order")
def test_threads_are_shared_out_and_a_lane_has_enough_recordings(tiny: MakeConfig) -> None:
    assert lanes.Lanes(create_model(tiny()), 2, 5)._pool.asked == (2, torch.set_num_threads, (2,))
    assert lanes.SMALLEST == 8  # the numbers of a training follow from it


@pytest.mark.usefixtures("in_order")
def test_what_a_loss_does_not_need_gets_no_gradient_and_a_norm_needs_no_statistics() -> None:
    model = torch.nn.ModuleList([torch.nn.BatchNorm1d(3, track_running_stats=False), torch.nn.Linear(3, 1)])
    made = lanes.Lanes(model, 2, 2)
    assert made.backward(lambda twin, lane: (twin[0].weight.sum() * (lane + 1), torch.ones(4))).tolist() == [2.0] * 4
    assert model[0].weight.grad.tolist() == [3.0] * 3
    assert model[1].weight.grad is None


@pytest.mark.parametrize("ordered", [False, True])
def test_the_same_seed_gives_the_same_numbers_and_means_of_statistics(
    tiny: MakeConfig, batch: EchoBatch, ordered: bool, request: pytest.FixtureRequest
) -> None:
    if ordered:
        request.getfixturevalue("in_order")
    ends = []
    for _ in range(2):
        step = step_of(tiny(), 3)
        sums = [step.update(batch, 1, number) for number in range(2)]
        ends.append([*sums, *step.model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    assert step.lanes
    for statistic, *own in step.lanes._statistics:
        if statistic.is_floating_point():
            torch.testing.assert_close(statistic, sum(own) / 3)
            assert not torch.equal(own[0], own[1])
        else:
            assert statistic == 2


def test_each_lane_has_a_thread_of_its_own_with_its_share_of_all(tiny: MakeConfig) -> None:
    made, met = lanes.Lanes(create_model(tiny()), 2, 5), threading.Barrier(2)

    def loss_of(network: torch.nn.Module, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
        met.wait(timeout=30)  # both are here at the same time
        loss = sum(weight.sum() for weight in network.parameters()) * (lane + 1)
        return loss, torch.tensor([lane, torch.get_num_threads()])

    assert made.backward(loss_of).tolist() == [0 + 1, 2 + 2]
    assert all((weight.grad == 3).all() for weight in made._model.parameters())


def test_a_fault_in_one_lane_is_a_fault_of_the_step(tiny: MakeConfig, batch: EchoBatch) -> None:
    step = step_of(tiny(), 2)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    batch.waveform[1, 0, 40] = float("nan")
    assert step.update(batch, 1, 0).tolist() == [0.0] * 5
    assert step.faults.found() == [batch.ids]
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())


def test_a_step_is_timed_with_a_recording_for_each_lane(tiny: MakeConfig) -> None:
    config = tiny({"trainer": {"batch_size": 16}})
    torch.set_num_threads(8)
    assert _time_step(config, create_model(config), 16) > 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_is_done_side_by_side_comes_in_order_and_is_read_little_ahead(threads: int) -> None:
    read, made = list[int](), list[int]()

    def items() -> Iterator[int]:
        for number in range(9):
            read.append(number)
            yield number

    def square(number: int) -> tuple[int, int]:
        time.sleep(0.01 * (number % 2))
        return number**2, torch.get_num_threads()

    torch.set_num_threads(2)
    for found, inside in side_by_side(square, items(), threads):
        made.append(found)
        assert (inside, torch.get_num_threads()) == ((2, 2) if threads == 1 else (1, 1))
        assert len(read) <= len(made) + threads
    assert made == [number**2 for number in range(9)]
    assert torch.get_num_threads() == 2


def test_an_error_side_by_side_comes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda number: 1 // number, [2, 1, 0], 2))


def test_between_lanes_a_step_takes_one_thread(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny({"trainer": {"batch_size": 16}})
    torch.set_num_threads(2)
    model, seen = create_model(config).train(), list[int]()
    step = make_step(model, make_optimizer(model, config.trainer), config, 1, 16)
    change = step._change_weights
    monkeypatch.setattr(step, "_change_weights", lambda fault: (seen.append(torch.get_num_threads()), change(fault)))
    assert step.lanes is not None
    step.update(inputs.batch(config, 16), 1, 0)
    assert seen == [1]
    assert torch.get_num_threads() == 2
