"""Measure what a model costs on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.hearing import emitted_sound, lead_frames
from base_residual.deploy.onnx import open_onnx, sample_echoes
from base_residual.errors import ConfigError
from base_residual.machine import cpu_threads, device_name, few_threads, load, many_threads, standard_torch
from base_residual.models.network import DepthNet
from base_residual.models.twins import evaluating

WARM_UP = 3  # calls before the clock starts
FEWEST = 5  # calls that are timed, however long they take


@dataclass(frozen=True)
class Cost:
    """The cost of a model on one device.

    Attributes:
        parameters: their number.
        gflops: floating-point operations of the network for one echo, two per multiply-add, in 10^9; without the front
            end, as everywhere else in this project.
        latency_median_ms: from one echo's waveform to its depth map, front end included, in milliseconds.
        latency_p95_ms: what 95 of 100 such calls stay below, in milliseconds.
        scan_median_ms: from the waveform to a planar scan, remainder included; None where the view is not known.
        throughput: echoes per second in batches of `batch_size`, front end included.
        batch_size: echoes in each of those batches.
        peak_memory_mib: the most that the process has held so far, PyTorch itself included, on CUDA what was allocated
            on the device meanwhile; in MiB, None where the system does not tell.
        device: name of the processor.
        threads: of the CPU that PyTorch uses for batches.
        threads_for_one: the same for one echo.
        load: cores of the machine at work or wanted in the minute before the timing; None where nobody tells.
    """

    parameters: int
    gflops: float
    latency_median_ms: float
    latency_p95_ms: float
    scan_median_ms: float | None
    throughput: float
    batch_size: int
    peak_memory_mib: float | None
    device: str
    threads: int
    threads_for_one: int
    load: float | None


@dataclass(frozen=True)
class OnnxCost:
    """The cost of an exported model in ONNX Runtime, on the CPU.

    Attributes:
        latency_median_ms: from one recording's samples to all that the file gives, in milliseconds.
        latency_p95_ms: what 95 of 100 such calls stay below, in milliseconds.
        scan_median_ms: from the samples to a planar scan; None where the camera's view is not known.
        device: name of the processor.
        threads: that one call takes.
        load: cores of the machine at work or wanted in the minute before the timing; None where nobody tells.
    """

    latency_median_ms: float
    latency_p95_ms: float
    scan_median_ms: float | None
    device: str
    threads: int
    load: float | None


@standard_torch()
def measure(model: DepthNet, batch_size: int = 32, seconds: float = 3.0) -> Cost:
    """Time a model on its device, from waveform to depth; the model is not changed.

    Args:
        model: a network with a front end, on the device that is asked about.
        batch_size: echoes per batch for the throughput.
        seconds: that each of the two timings lasts, latency and throughput.

    Raises:
        ConfigError: the network has no front end.
    """
    if model.front_end is None:
        raise ConfigError("This network has no front end. Make it from a Config to measure it from waveform to depth.")
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    echoes = clear_echoes(batch_size, model.max_depth, model.front_end.config.sample_rate)

    def timed(act: Callable[[Tensor], object], count: int) -> NDArray[np.float64]:
        def once() -> None:
            act(echoes[:count])
            if device.type != "cpu":
                torch.accelerator.synchronize(device)

        return _durations(once, seconds)

    load_before, ready = load(), evaluating(model)
    camera = model.camera
    with cpu_threads(few_threads()):
        single = 1e3 * timed(ready.predict, 1)
        scanned = timed(lambda echo: ready.predict(echo).scan(), 1) if camera else None
    with cpu_threads(many_threads()), torch.inference_mode():
        batched = timed(lambda some: ready.bound(ready.features(some.to(device))), batch_size)
    return Cost(
        parameters=parameter_count(model),
        gflops=gflops(model),
        latency_median_ms=float(np.median(single)),
        latency_p95_ms=float(np.percentile(single, 95)),
        scan_median_ms=None if scanned is None else 1e3 * float(np.median(scanned)),
        throughput=batch_size / float(np.median(batched)),
        batch_size=batch_size,
        peak_memory_mib=peak_memory(device),
        device=device_name(device),
        threads=many_threads(),
        threads_for_one=few_threads(),
        load=load_before,
    )


def measure_onnx(path: Path, seconds: float = 3.0) -> OnnxCost:
    """Time an exported model in ONNX Runtime, one recording at a time.

    Args:
        path: a file that `export_onnx` has written.
        seconds: that each of the two timings lasts.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: it is no such file.
    """
    threads, load_before = few_threads(), load()
    run, frames, rate, camera = open_onnx(path, threads)
    echo = sample_echoes(1, frames, rate).numpy()
    single = 1e3 * _durations(lambda: run(echo), seconds)
    scanned = None
    if camera is not None:
        with cpu_threads(threads):
            scanned = _durations(lambda: camera.scan(torch.from_numpy(run(echo)["final"][0, 0])), seconds)
    return OnnxCost(
        latency_median_ms=float(np.median(single)),
        latency_p95_ms=float(np.percentile(single, 95)),
        scan_median_ms=None if scanned is None else 1e3 * float(np.median(scanned)),
        device=device_name(torch.device("cpu")),
        threads=threads,
        load=load_before,
    )


def clear_echoes(count: int, max_depth: float, sample_rate: int) -> Tensor:
    """Return float32 (count, 2, T): a chirp and a little noise, about which there is nothing to be doubted."""
    frames, lead = echo_frames(max_depth, sample_rate), lead_frames(sample_rate)
    echoes = 0.01 * torch.randn(count, 2, frames, generator=torch.Generator().manual_seed(0))
    chirp = emitted_sound(sample_rate)[: frames - lead]
    echoes[..., lead : lead + len(chirp)] += chirp
    return echoes


def parameter_count(model: nn.Module) -> int:
    """Return the number of weights that a network learns."""
    return sum(weights.numel() for weights in model.parameters())


def gflops(model: DepthNet) -> float:
    """Return the floating-point operations for one echo in 10^9, two per multiply-add, without the front end."""
    assert model.front_end is not None
    device = next(model.parameters()).device
    frames = echo_frames(model.max_depth, model.front_end.config.sample_rate)
    with torch.no_grad():
        features = model.front_end(torch.zeros(1, 2, frames, device=device))
        with FlopCounterMode(display=False) as counter:
            evaluating(model).bound(features)
    return float(counter.get_total_flops()) / 1e9


def _durations(call: Callable[[], object], seconds: float) -> NDArray[np.float64]:
    """Return the seconds of each call; the calls follow one another."""
    for _ in range(WARM_UP):
        call()
    marks = [perf_counter()]
    while len(marks) <= FEWEST or marks[-1] - marks[0] < seconds:
        call()
        marks.append(perf_counter())
    return np.diff(marks)


def peak_memory(device: torch.device) -> float | None:
    """Return the most memory in MiB that the process has held, or that was allocated on a card; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes in what the system counts
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
