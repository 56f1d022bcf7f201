from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields

import pytest
import torch
from torch import Tensor, nn

from base_residual.config.schema import Config
from base_residual.deploy import benchmark
from base_residual.deploy.benchmark import Cost, gflops, measure
from base_residual.errors import ConfigError
from base_residual.machine import busy, device_name
from base_residual.models.decomposition import DepthDecomposition
from base_residual.models.factory import create_base_residual_model
from base_residual.models.network import DepthNet


class OneLayer(DepthNet):
    """32 * 32 depths from as many features as there are channels: the multiply-adds are known."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.data.max_depth, config.data.output_size)
        assert self.front_end is not None
        self.norm = nn.BatchNorm1d(self.front_end.channels)  # it would learn in training mode
        self.layer = nn.Linear(self.front_end.channels, 32 * 32)

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        depth = self.layer(self.norm(x).mean(dim=2)).view(-1, 1, 32, 32)
        return DepthDecomposition(depth, torch.zeros_like(depth), depth)


def test_operations_are_two_per_multiply_add_without_the_front_end(tiny: Callable[..., Config]) -> None:
    model = OneLayer(tiny())
    assert gflops(model) == pytest.approx(2 * model.layer.in_features * 32 * 32 / 1e9)


@pytest.mark.parametrize("training", [True, False])
def test_every_figure_is_there_and_the_model_is_left_as_it_was(tiny: Callable[..., Config], training: bool) -> None:
    model = OneLayer(tiny()).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = measure(model, batch_size=2, seconds=0.01)
    assert model.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert cost.parameters == sum(weights.numel() for weights in model.parameters())
    assert cost.gflops == gflops(model) > 0
    assert 0 < cost.latency_median_ms <= cost.latency_p95_ms
    assert cost.scan_median_ms is not None
    assert cost.scan_median_ms > 0
    assert cost.throughput > 0
    assert cost.batch_size == 2
    assert cost.peak_memory_mib is None or cost.peak_memory_mib > 10
    assert cost.device == device_name(torch.device("cpu"))
    assert cost.threads == torch.get_num_threads()
    assert cost.load is None or cost.load >= 0


def test_one_echo_takes_one_thread_and_batches_take_all(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_residual.machine.own_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    threads: set[tuple[int, int]] = set()
    model = OneLayer(tiny()).eval()
    heard = model.features
    monkeypatch.setattr(model, "features", lambda x: (threads.add((len(x), torch.get_num_threads())), heard(x))[1])
    cost = measure(model, batch_size=5, seconds=0.0)
    assert threads == {(1, 1), (5, 2)}
    assert (cost.threads_for_one, cost.threads) == (1, 2)
    assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert measure(model, batch_size=5, seconds=0.0).threads_for_one == 4


def test_a_busy_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert busy(5.25) == "This machine is busy, with a load of 5.2 on 8 cores: alone, it would be faster."
    assert busy(4.0) == busy(None) == ""


def test_a_batch_is_what_is_timed(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    model = OneLayer(tiny())
    heard = model.features
    monkeypatch.setattr(model, "features", lambda x: (sizes.append(len(x)), heard(x))[1])
    measure(model, batch_size=40, seconds=0.0)
    calls = benchmark.WARM_UP + benchmark.FEWEST
    assert sizes == [1] * 2 * calls + [40] * calls  # to the map, to a scan, and a batch


def test_timing_goes_on_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(benchmark, "perf_counter", lambda: next(clock))
    assert len(benchmark._durations(lambda: None, 50)) == 50
    assert len(benchmark._durations(lambda: None, 0)) == benchmark.FEWEST


def test_a_cost_is_a_record_that_json_can_hold(tiny: Callable[..., Config]) -> None:
    cost = measure(OneLayer(tiny()), batch_size=1, seconds=0.0)
    assert Cost(**json.loads(json.dumps(asdict(cost)))) == cost
    assert all(f"{field.name}:" in (Cost.__doc__ or "") for field in fields(Cost))
    with pytest.raises(FrozenInstanceError):
        cost.gflops = 0.0  # type: ignore[misc]


def test_a_network_without_a_front_end_cannot_be_timed() -> None:
    with pytest.raises(ConfigError, match=r"no front end\. Make it from a Config"):
        measure(create_base_residual_model(base_channels=4))
