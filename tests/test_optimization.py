from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from golden import inputs

from base_residual.config.presets import Layer
from base_residual.config.schema import Config
from base_residual.data.augment import augment, stretch
from base_residual.data.sample import EchoBatch
from base_residual.errors import ConfigError, TrainingError
from base_residual.machine import mixed_precision, resolve_device, standard_torch
from base_residual.models.factory import create_model
from base_residual.training.distributed import Processes
from base_residual.training.optimisation import generator, learning_rate, make_optimizer
from base_residual.training.step import TrainingStep, make_step
from base_residual.training.trainer import Trainer

MakeConfig = Callable[..., Config]


@pytest.fixture
def batch(tiny: MakeConfig) -> EchoBatch:
    return inputs.batch(tiny(), 8)


def updated(config: Config, batch: EchoBatch) -> dict[str, torch.Tensor]:
    """Weights after two updates from the same start."""
    torch.manual_seed(0)
    model = create_model(config).train()
    updater = make_step(model, make_optimizer(model, config.trainer), config, steps=2, least=len(batch.ids))
    for step in range(2):
        assert torch.isfinite(updater.update(batch, 1, step)).all()
    return model.state_dict()


def gradients(config: Config, batch: EchoBatch) -> list[torch.Tensor]:
    """Gradients of each weight in the first update, with fixed norms.

    After a step of AdamW, what rounding has left of a gradient would count as much as a large one.
    """
    torch.manual_seed(0)
    model = create_model(config).eval()
    updater = make_step(model, make_optimizer(model, config.trainer), config, steps=2, least=len(batch.ids))
    assert torch.isfinite(updater.update(batch, 1, 0)).all()
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize(("most", "recon"), [(0.0, "l1"), (0.3, "l1"), (0.0, "rmse")])
def test_parts_of_a_batch_add_up_to_its_gradient(tiny: MakeConfig, batch: EchoBatch, most: float, recon: str) -> None:
    # With fixed norms, parts of other sizes and with other holes give what the whole gives.
    batch = EchoBatch(batch.waveform[:7], batch.depth[:7].clone(), batch.ids[:7])
    batch.depth[0, :, 3:] = 0
    batch.depth[1] = 0.6  # a wall nearer than a metre
    batch.depth[2] = 0
    data = {"coloration": 0.0, "stretch": most}  # with copies, rounding turns the sign of an error that is nearly 0
    whole, parts, other = (
        gradients(
            tiny({"trainer": {"accumulate": count, "grad_clip": 1e6}, "data": data, "loss": {"recon": recon}}), batch
        )
        for count in (1, 4, 100)
    )
    total = torch.stack([gradient.norm() for gradient in whole]).norm()
    for split in (parts, other):
        apart = torch.stack([(one - all_).norm() for one, all_ in zip(split, whole, strict=True)]).norm()
        assert apart < 0.01 * total


def test_the_network_hears_rooms_as_large_as_their_maps(tiny: MakeConfig, batch: EchoBatch) -> None:
    config = tiny({"data": {"mirror": False, "noise": 0.0, "damping": 0.0, "coloration": 0.0, "stretch": 0.3}})
    model = create_model(config)
    heard: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    make_step(model, make_optimizer(model, config.trainer), config, steps=1, least=8).update(batch, 1, 0)
    chances = [generator(config.trainer.seed, 1, 0, place) for place in range(8)]
    changed = augment(batch.waveform, batch.depth, config.audio, config.data, chances)
    assert torch.equal(heard[0], stretch(model.features(batch.waveform), changed.size, changed.emitted))
    assert not torch.equal(changed.depth, batch.depth)


@pytest.mark.parametrize("preset", ["default", "original"])
def test_recomputing_changes_the_memory_and_not_the_weights(tiny: MakeConfig, batch: EchoBatch, preset: str) -> None:
    kept: dict[bool, int] = {}
    found = {}
    for recompute in (False, True):
        sizes: list[int] = []
        pack = functools.partial(lambda sizes, tensor: sizes.append(tensor.nbytes) or tensor, sizes)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found[recompute] = updated(tiny({"trainer": {"recompute": recompute}}, preset=preset), batch)
        kept[recompute] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]
    for name, value in found[False].items():
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(found[True][name], value, rtol=1e-4, atol=1e-6)


def test_a_step_in_bf16_computes_with_the_weights_that_the_last_one_has_left(
    tiny: MakeConfig, batch: EchoBatch
) -> None:
    data = {"mirror": False, "noise": 0.0, "damping": 0.0, "coloration": 0.0, "stretch": 0.0}
    settings = {"precision": "bf16", "learning_rate": 0.01, "lr_schedule": "constant", "average": 0}
    config = tiny({"data": data, "trainer": settings})
    model = create_model(config).train()
    step = make_step(model, make_optimizer(model, config.trainer), config, steps=12, least=8)
    with standard_torch():  # as around a whole training
        losses = [float(step.update(batch, 1, number)[0]) for number in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_update_reports_the_loss_of_the_whole_batch(tiny: MakeConfig, batch: EchoBatch) -> None:
    sums = []
    for count in (1, 2):
        torch.manual_seed(0)
        config = tiny({"trainer": {"accumulate": count}})
        model = create_model(config).eval()
        one = make_step(model, make_optimizer(model, config.trainer), config, steps=1, least=8)
        sums.append(one.update(batch, 1, 0))
    assert sums[0].shape == (5,)
    assert sums[0][-1] == 1  # the step counts
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-5)


def test_a_compiled_network_learns_the_same(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(layer: Layer, name: str) -> list[dict[str, float]]:
        return Trainer(tiny({"trainer": layer, "tracking": {"experiment_name": name}}), trackers=[]).fit().history

    plain = run({}, "plain")
    compiled: list[object] = []
    eager = functools.partial(torch.compile, backend="eager")  # traces, and leaves the compiler's minutes out
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or eager(network))
    for mine, theirs in zip(run({"compile": True}, "compiled"), plain, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert len(compiled) == 1


def test_a_machine_that_cannot_compile_is_told_how_to_train(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: object) -> None:
        raise OSError("there is no compiler\n\nand much more")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    with pytest.raises(TrainingError, match=r"cannot compile the network here .*no compiler\)\. .* --no-compile\.$"):
        Trainer(tiny({"trainer": {"compile": True}}), trackers=[]).fit()


def updater(config: Config) -> TrainingStep:
    torch.manual_seed(0)
    model = create_model(config).train()
    return make_step(model, make_optimizer(model, config.trainer), config, steps=2, least=8)


def test_an_update_asks_no_tensor_for_its_value(
    tiny: MakeConfig, batch: EchoBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = updater(tiny({"trainer": {"accumulate": 2}}))

    def waits(*_: object) -> None:
        raise AssertionError("the device would have to be waited for")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    sums = one.update(batch, 1, 0)
    monkeypatch.undo()
    assert torch.isfinite(sums).all()


@pytest.mark.parametrize(("least", "accumulate", "parts", "micro_batch"), [(7, 3, 3, 3), (8, 4, 4, 2), (2, 5, 2, 1)])
def test_a_batch_goes_through_in_as_many_parts_as_the_settings_say_or_as_it_has_recordings(
    tiny: MakeConfig, least: int, accumulate: int, parts: int, micro_batch: int
) -> None:
    config = tiny({"trainer": {"accumulate": accumulate}})
    model = create_model(config)
    one = make_step(model, make_optimizer(model, config.trainer), config, steps=1, least=least)
    assert (one.parts, one.micro_batch) == (parts, micro_batch)


def test_the_reconstruction_leaves_the_base_alone_after_the_warm_up_of_the_curriculum(tiny: MakeConfig) -> None:
    with_, without = (updater(tiny({"loss": {"curriculum": on, "warmup_epochs": 2}})) for on in (True, False))
    assert [with_.detaches(epoch) for epoch in (1, 2, 3)] == [False, False, True]
    assert [without.detaches(epoch) for epoch in (1, 2, 3)] == [False, False, False]


def test_an_update_predicts_in_the_precision_and_with_the_curriculum_of_the_settings(
    tiny: MakeConfig, batch: EchoBatch
) -> None:
    for precision, epoch, expected in (("fp32", 1, (False, False)), ("bf16", 2, (True, True))):
        one = updater(tiny({"trainer": {"precision": precision}, "loss": {"curriculum": True, "warmup_epochs": 1}}))
        seen: list[tuple[bool, object]] = []
        one.model.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append((torch.is_autocast_enabled("cpu"), inputs[1]))
        )
        one.update(batch, epoch, 0)
        assert seen == [expected]
        assert not torch.is_autocast_enabled("cpu")


class Pair(Processes):
    """The first of two processes, of which the other one tells the same and a step at fault."""

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 0.5 if tensor.ndim == 0 else tensor


class Shared:
    """A network whose gradients are averaged over processes but within `no_sync`."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.apart = model, False
        self.calls: list[bool] = []

    def __call__(self, *inputs: object) -> object:
        self.calls.append(self.apart)
        return self.model(*inputs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.apart = True
        yield
        self.apart = False


def test_processes_average_their_gradients_in_the_last_part_alone_and_share_their_faults(
    tiny: MakeConfig, batch: EchoBatch
) -> None:
    one = updater(tiny({"trainer": {"accumulate": 3}}))
    network, processes = Shared(one.model), Pair(0, 2)
    parallel = TrainingStep(one.model, network, one.loss, one.optimizer, None, one.config, 1, 8, processes)
    assert torch.equal(parallel.update(batch, 1, 0), torch.zeros(5))
    assert network.calls == [True, True, False]
    assert parallel.faults.found() == [batch.ids]


def test_processes_change_the_recordings_of_a_batch_as_one_would(tiny: MakeConfig, batch: EchoBatch) -> None:
    one, batch = updater(tiny()), batch._replace(empty_room=2 * batch.depth)
    whole = one._augmented(batch, 1, 0)
    for rank in range(3):
        places = slice(rank, None, 3)
        processes = Processes(rank, 3)
        part = TrainingStep(one.model, one.model, one.loss, one.optimizer, None, one.config, 1, 2, processes)
        share = EchoBatch(*(values[places] for values in batch))
        for mine, all_ in zip(part._augmented(share, 1, 0), whole, strict=True):
            torch.testing.assert_close(mine, all_[places])


@pytest.mark.parametrize("name", ["base_residual", "unet"])
def test_the_loss_of_several_processes_is_a_mean_over_all_of_them(
    tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made: list[tuple[object, dict[str, object]]] = []

    def parallel(network: torch.nn.Module, **options: object) -> torch.nn.Module:
        made.append((network, options))
        warnings.warn("an option has another name in newer versions", FutureWarning, stacklevel=1)
        return network

    monkeypatch.setattr("base_residual.training.step.DistributedDataParallel", parallel)
    config = tiny({"model": {"name": name}})
    model = create_model(config)
    one = make_step(model, make_optimizer(model, config.trainer), config, 1, 8, Processes(1, 2))
    assert one.processes == Processes(1, 2)
    assert one.loss.count == one.processes.mean
    assert made == [(model, {"device_ids": None, "broadcast_buffers": False})]


def test_the_settings_say_what_is_averaged_and_compiled(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: ("compiled", network))
    config = tiny({"trainer": {"compile": True, "average": 0.0}})
    model = create_model(config)
    one = make_step(model, make_optimizer(model, config.trainer), config, 1, 8)
    assert one.network == ("compiled", model)
    assert one.networks == {"model": model}
    assert one.eval_model is model
    averaged = updater(tiny({"trainer": {"average": 2.0}}))
    assert averaged.network is averaged.model
    assert averaged.average is not None
    assert averaged.average._keep == 0.75  # a span of two epochs with two steps each
    assert averaged.networks == {"model": averaged.model, "mean": averaged.average.model}
    assert averaged.eval_model is averaged.average.model


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no graphics card")
def test_an_update_does_not_wait_for_the_card(tiny: MakeConfig, batch: EchoBatch) -> None:
    config = tiny()
    model = create_model(config).to("cuda").train()
    one = make_step(model, make_optimizer(model, config.trainer), config, steps=2, least=8)
    one.update(batch, 1, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = one.update(batch, 1, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(sums).all()


def test_gradients_that_explode_are_cut_to_the_norm_that_is_allowed(tiny: MakeConfig, batch: EchoBatch) -> None:
    one = updater(tiny({"loss": {"lambda_recon": 1e6}, "trainer": {"grad_clip": 0.5, "optimizer": "AdamW"}}))
    assert torch.isfinite(one.update(batch, 1, 0)).all()
    norm = torch.stack([weights.grad.norm() for weights in one.model.parameters() if weights.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_though_the_loss_is_finite(
    tiny: MakeConfig, batch: EchoBatch, value: float
) -> None:
    one = updater(tiny())
    one.update(batch, 1, 0)
    assert one.faults.found() == []
    hook = next(one.model.parameters()).register_hook(lambda gradient: torch.full_like(gradient, value))
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    kept = [tensor.clone() for state in one.optimizer.state.values() for tensor in state.values()]
    assert torch.equal(one.update(batch, 1, 1), torch.zeros(5))
    assert one.faults.found() == [batch.ids]
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    now = [tensor for state in one.optimizer.state.values() for tensor in state.values()]
    assert all(torch.equal(*pair) for pair in zip(now, kept, strict=True))
    hook.remove()
    one.update(batch, 1, 1)
    assert one.faults.found() == []
    assert not torch.equal(next(one.model.parameters()), next(iter(before.values())))


def test_where_an_optimiser_takes_steps_at_fault_it_is_not_asked_to(
    tiny: MakeConfig, batch: EchoBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, steps = updater(tiny()), []
    monkeypatch.setattr(one.optimizer, "step", lambda: steps.append((one.device.type, bool(one.optimizer.found_inf))))
    for name in ("mps", "cpu"):
        one.device = torch.device(name)
        for fault in (True, False):
            one._change_weights(torch.tensor(fault))
    assert steps == [("mps", False), ("cpu", True), ("cpu", False)]  # elsewhere it looks at `found_inf` itself


@pytest.mark.parametrize("what", ["silent", "dark", "both"])
def test_a_batch_of_silence_or_of_maps_without_depth_is_no_fault(tiny: MakeConfig, batch: EchoBatch, what: str) -> None:
    waveform = batch.waveform if what == "dark" else torch.zeros_like(batch.waveform)
    depth = batch.depth if what == "silent" else torch.zeros_like(batch.depth)
    one = updater(tiny({"data": {"noise": 0.0}}))
    sums = one.update(EchoBatch(waveform, depth, batch.ids), 1, 0)
    assert one.faults.found() == []
    assert (float(sums[1]) > 0) == (what == "silent")
    assert all(tensor.isfinite().all() for tensor in one.model.state_dict().values())


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_device_that_is_there_is_taken(device: str) -> None:
    assert resolve_device(device).type in ("cpu", "cuda", "mps")


def test_a_device_that_is_not_there_names_those_that_are(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'cuda:7' is not on this machine. It has .*cpu"):
        Trainer(tiny({"trainer": {"device": "cuda:7"}}))


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_the_optimiser_is_the_one_of_the_settings(tiny: MakeConfig, kind: str) -> None:
    config = tiny({"trainer": {"optimizer": kind, "learning_rate": 0.02, "weight_decay": 0.3}})
    optimizer = make_optimizer(create_model(config), config.trainer)
    assert type(optimizer).__name__ == kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.3)


def test_the_learning_rate_rises_and_falls_or_stays(tiny: MakeConfig) -> None:
    settings = tiny().trainer
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    peak = rates.index(max(rates))
    assert 10 <= peak <= 16
    assert max(rates) == pytest.approx(settings.learning_rate, rel=0.01)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.01 * settings.learning_rate
    constant = tiny({"trainer": {"lr_schedule": "constant"}}).trainer
    assert {learning_rate(step, 100, constant) for step in range(100)} == {settings.learning_rate}


def test_the_precision_asked_for_is_in_force() -> None:
    for precision, expected in (("fp32", False), ("bf16", True)):
        with mixed_precision(precision, torch.device("cpu")):
            assert torch.is_autocast_enabled("cpu") is expected
