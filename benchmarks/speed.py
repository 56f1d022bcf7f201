"""Measure the package against the way in which this field's code loads, trains and judges, on the same recordings.

Both ways take turns in one process (A B A B ...), and a ratio is the median of the turns' ratios, so that whatever else
the machine does slows both; that of several processes is of the medians of each. The recordings are generated: noise
that decays, and slanted walls with holes, in the layout of BatVision V2, read from a warm page cache. Writes JSON, a
table and a figure.

    python benchmarks/speed.py            # the committed result, results/speed.json, in some twenty-five minutes
    python benchmarks/speed.py --quick    # a few tiny recordings and networks: shows that it runs
    python benchmarks/speed.py --profile  # where a training step's time goes, results/profile.json, in a minute or two
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from accuracy import HERE, Target, commit, machine
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader, Dataset

from base_residual.acoustics.framing import echo_frames, fit_echo
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.config.presets import PRESETS, SIZES, Layer
from base_residual.config.resolve import make_config, merge
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.batvision import V2, list_recordings
from base_residual.data.sample import EchoBatch
from base_residual.data.simulated import simulate
from base_residual.deploy.benchmark import gflops, parameter_count
from base_residual.errors import MissingExtraError
from base_residual.files.atomic import replacing
from base_residual.machine import mixed_precision
from base_residual.metrics import DEPTH_METRICS, DepthMetrics
from base_residual.models.factory import create_base_residual_model, create_model
from base_residual.models.network import DepthNet
from base_residual.plots.figures import save_figure
from base_residual.training.batches import Batches, make_loader
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step

RATE = 44_100  # Hz
MAX_DEPTH = 30.0  # metres
EPOCH = 1_911  # recordings of BatVision V2 to train on
REFERENCE_BATCH = 4
WAYS = ("reference", "original", "default")  # to train
SPLITS = {"test": 1, "val": 2, "train": 4}  # how many times as large as the smallest
CPU = torch.device("cpu")

LINUX = sys.platform == "linux"
PREPARE = """
import json, sys
from pathlib import Path
from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
root, split, data = sys.argv[1:]
open_dataset("batvisionv2", root, split, make_config({"data": json.loads(data)}))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""

TRAIN_ON = """
import json, sys
from pathlib import Path
import torch
from base_residual.models.factory import create_model
from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step
from base_residual.training.batches import Batches, make_loader

root, split, settings, size = sys.argv[1:]
config, device, held = make_config(json.loads(settings)), torch.device("cpu"), []
dataset = open_dataset("batvisionv2", root, split, config)
batches = Batches(len(dataset), int(size), 0)
model = create_model(config).train()
model.register_forward_hook(  # when all is held that the gradients need; what is mapped from files counts as theirs
    lambda *_: held.append(int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]))
)
updater = make_step(model, make_optimizer(model, config.trainer), config, len(batches), batches.least)
for step, batch in enumerate(make_loader(dataset, batches, 0, device)):
    updater.update(batch, 1, step)
print(max(held))
"""

TRAIN = """
import json, sys, time
import torch
from base_residual.acoustics.framing import echo_frames
from base_residual.models.factory import create_model
from base_residual.config.resolve import make_config
from base_residual.data.sample import EchoBatch
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step
from base_residual.training.distributed import process_group
from base_residual.training.sync_batch_norm import synchronise_batch_norms

def train(config, batch, steps, processes):
    model = create_model(config).train()
    if processes.world > 1:
        synchronise_batch_norms(model)
    count, side = batch // processes.world, config.data.output_size
    updater = make_step(model, make_optimizer(model, config.trainer), config, steps, count, processes)
    depth = config.data.max_depth * torch.rand(count, 1, side, side)
    share = EchoBatch(0.1 * torch.randn(count, 2, echo_frames(config.data.max_depth)), depth, [""] * count)
    updater.update(share, 1, 0)
    processes.wait()
    start = time.perf_counter()
    for step in range(steps):
        updater.update(share, 1, step)
    processes.wait()
    return steps * batch / (time.perf_counter() - start)

with process_group(torch.device("cpu")) as processes:
    speed = train(make_config(json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), processes)
    if processes.leads:
        print(speed)
"""

Way = Callable[[], int]
"""One of several ways to do the same; returns how many samples it has dealt with."""


class Sizes(NamedTuple):
    """How much is measured."""

    recordings: int = 128  # of the smallest split
    camera: tuple[int, int] = (720, 1280)  # pixels of a depth map as stored
    side: int = 256  # pixels of a depth map as predicted
    channels: int = 64  # of the reference's network and of the preset `original`
    default_channels: int = 16  # of the default network
    batch: int = 64
    card_batch: int = 32  # of the preset `original` on a graphics card; on the CPU it has the reference's
    batches: tuple[int, ...] = (1, 4, 16, 64)
    sides: tuple[int, ...] = (64, 128, 256)
    rooms: int = 200  # to render
    repeats: int = 5  # in one turn, of what takes milliseconds
    process_steps: int = 6  # training steps in one turn of several processes
    card_steps: int = 20  # training steps, or matrix products, in one turn on a graphics card
    product: int = 2048  # rows and columns of the matrices whose product shows what a processor can do
    card_product: int = 8192  # the same for a graphics card
    turns: int = 6  # of each way; of several, the first does not count
    long_turns: int = 4  # the same, where a turn takes seconds
    growth_turns: int = 3
    symmetric: bool = True  # the default network; one that does not know the mirror exports in a third of the time


QUICK = Sizes(8, (72, 128), 32, 4, 4, 8, 8, (1, 8), (16, 32), 2, 1, 1, 1, 64, 64, 1, 1, 1, symmetric=False)


# The reference's way.


class ReferenceData(Dataset[tuple[Tensor, Tensor]]):
    """A spectrogram and a depth map per recording, made anew each time that it is read."""

    def __init__(self, root: Path, split: str, side: int) -> None:
        self.recordings, self.side = list_recordings(root, split), side

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        recording = self.recordings[index]
        sound, rate = soundfile.read(recording.audio[0], dtype="float32")
        waveform = fit_echo(torch.from_numpy(sound.T.copy()), rate, RATE, int(2 * MAX_DEPTH / 340 * RATE))
        depth = np.load(recording.depth).astype(np.float32) / 1000
        depth[depth > MAX_DEPTH] = MAX_DEPTH
        return reference_spectrogram(waveform, self.side), resized(torch.from_numpy(depth)[None], self.side)


def resized(image: Tensor, side: int) -> Tensor:
    """An image (C, H, W) with another side, as torchvision's `Resize` makes it by default."""
    return F.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]


def reference_spectrogram(waveform: Tensor, side: int) -> Tensor:
    """Magnitudes (2, side, side) of an echo (2, T)."""
    window = torch.hann_window(64)
    return resized(torch.stft(waveform, 512, 16, 64, window, return_complex=True).abs(), side)


def reference_loader(root: Path, split: str, side: int, batch: int, workers: int = 2) -> DataLoader[Any]:
    data = ReferenceData(root, split, side)
    return DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def reference_network(channels: int = 64, side: int = 256) -> DepthNet:
    """A U-Net with two full decoders; the package's 2-D network is that very architecture."""
    return create_base_residual_model(input_channels=2, base_channels=channels, output_size=side, max_depth=MAX_DEPTH)


def reference_training(channels: int, side: int, device: torch.device) -> Callable[[Sequence[Tensor]], float]:
    """A training step from spectrograms, in fp32, that waits for the loss of its batch."""
    model = reference_network(channels, side).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)

    def step(batch: Sequence[Tensor]) -> float:
        spectrogram, gt = (part.to(device) for part in batch)
        base, residual, final = model(spectrogram)
        smooth = F.interpolate(F.avg_pool2d(gt, 16, stride=1, padding=8), gt.shape[-2:], mode="bilinear")
        valid = gt > 0
        loss = (final - gt)[valid].abs().mean() + 0.8 * (base - smooth)[valid].abs().mean()
        loss = loss + 0.2 * residual[valid].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def reference_metrics(pred: NDArray[np.float32], gt: NDArray[np.float32]) -> dict[str, float]:
    """Metrics of maps (B, 1, H, W) in metres: image by image over valid pixels, then their mean."""
    images = []
    for one, truth in zip(pred, gt, strict=True):
        valid = truth > 0
        truth, one = truth[valid], np.clip(one[valid], 0.001, MAX_DEPTH)
        ratio = np.maximum(truth / one, one / truth)
        image = [np.sqrt(((truth - one) ** 2).mean()), np.abs(truth - one).mean(), (np.abs(truth - one) / truth).mean()]
        image.append(np.abs(np.log10(truth) - np.log10(one)).mean())
        images.append(image + [(ratio < 1.25**power).mean() for power in (1, 2, 3)])
    return dict(zip(DEPTH_METRICS, np.mean(images, axis=0).tolist(), strict=True))


# The package's way.


def package_config(sizes: Sizes, layer: Layer | None = None, side: int | None = None) -> Config:
    data = {"name": "batvisionv2", "output_size": side or sizes.side, "max_depth": MAX_DEPTH}
    model = {"base_channels": sizes.default_channels, "symmetric": sizes.symmetric}
    return make_config({"data": data, "model": model}, layer or {})


def package_loader(
    config: Config, root: Path, split: str, batch: int, workers: int = 0, device: torch.device = CPU
) -> DataLoader[Any]:
    dataset = open_dataset("batvisionv2", root, split, config)
    return make_loader(dataset, Batches(len(dataset), batch, 0), workers, device)


def package_training(config: Config, device: torch.device) -> Callable[[EchoBatch], Tensor]:
    """The very update that `Trainer` makes of each batch.

    Its time holds the augmentation and the front end; the reference's step begins after its spectrograms.
    """
    model = create_model(config).to(device).train()
    updater = make_step(model, make_optimizer(model, config.trainer), config, steps=1, least=1)
    return lambda batch: updater.update(batch, epoch=1, step=0)


# Both, side by side.


def write_recordings(root: Path, sizes: Sizes) -> None:
    """Recordings of half a second in the layout of BatVision V2; the splits are beginnings of one list."""
    rng = np.random.default_rng(0)
    for name in ("audio", "depth"):
        (root / "Attic" / name).mkdir(parents=True)
    decay = np.exp(-np.linspace(0, 8, RATE // 2))[:, None]
    rows, columns = (np.linspace(0, 1, length)[:, None] for length in sizes.camera)
    table = []
    for number in range(sizes.recordings * max(SPLITS.values())):
        sound = 0.2 * decay * rng.standard_normal((RATE // 2, 2))
        soundfile.write(root / "Attic" / "audio" / f"{number}.wav", sound, RATE, "PCM_16")
        near, down, right = rng.uniform(500, 5000, 3)  # mm
        depth = near + down * rows + right * columns.T + rng.uniform(0, 50, sizes.camera)
        depth[rng.random(sizes.camera) < 0.1] = 0
        depth[: sizes.camera[0] // 4, : sizes.camera[1] // 2] = 0
        np.save(root / "Attic" / "depth" / f"{number}.npy", depth.astype(np.uint16))
        table.append(["Attic/audio", f"{number}.wav", "Attic/depth", f"{number}.npy"])
    for split, times in SPLITS.items():
        with (root / "Attic" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([V2.columns, *table[: times * sizes.recordings]])


def take_turns(turns: int, ways: Mapping[Any, Way]) -> dict[Any, list[float]]:
    """Samples per second of each way in each of its turns; of several, the first is left out."""
    speeds: dict[Any, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            start = time.perf_counter()
            count = way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            speeds[name].append(count / (time.perf_counter() - start))
    return {name: found[turns > 1 :] for name, found in speeds.items()}


def over(speeds: Mapping[str, Sequence[float]], way: str, other: str = "reference") -> float:
    """How many times as fast as the other a way is."""
    return statistics.median(a / b for a, b in zip(speeds[way], speeds[other], strict=True))


def medians(speeds: Mapping[Any, Sequence[float]]) -> dict[Any, float]:
    return {name: statistics.median(found) for name, found in speeds.items()}


def repeated(times: int, act: Callable[[], object], count: int = 1) -> Way:
    """A way that acts on `count` samples, several times."""

    def way() -> int:
        for _ in range(times):
            act()
        return times * count

    return way


def reading(loader: DataLoader[Any], then: Callable[[Any], object] = len) -> Way:
    """A way that reads all batches, and does something with each."""

    def way() -> int:
        count = 0
        for batch in loader:
            count += len(batch[0])
            then(batch)
        return count

    return way


def empty_cache(folder: Path) -> None:
    os.environ["BRDEPTH_CACHE"] = tempfile.mkdtemp(dir=folder)


def loading(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Reading a prepared set, the same with spectrograms made of it, and the preparing."""
    config = package_config(sizes)
    front_end = EchoFrontEnd(package_config(sizes, PRESETS["original"]).audio, sizes.side)
    theirs = partial(reference_loader, root, "train", sizes.side, sizes.batch)
    ours = package_loader(config, root, "train", sizes.batch)

    def prepare_and_read() -> int:
        empty_cache(root.parent)
        return reading(package_loader(config, root, "train", sizes.batch))()

    often = repeated(sizes.repeats, reading(ours), len(ours.dataset))
    ways = {"reference": reading(theirs()), "package": often}
    ways["with spectrograms"] = reading(ours, lambda batch: front_end(batch.waveform))
    first = {"reference": lambda: reading(theirs())(), "package": prepare_and_read}
    return {"loader": take_turns(sizes.turns, ways), "first_epoch": take_turns(sizes.long_turns, first)}


def judging(sizes: Sizes) -> dict[str, Any]:
    """Metrics of a batch of maps."""
    gt = MAX_DEPTH * torch.rand(sizes.batch, 1, sizes.side, sizes.side)
    pred, gt = gt * (0.5 + torch.rand_like(gt)), gt * (torch.rand_like(gt) > 0.2)

    def ours() -> object:
        metrics = DepthMetrics(MAX_DEPTH)
        metrics.update(pred, gt)
        return metrics.compute()

    ways = {"reference": repeated(1, lambda: reference_metrics(pred.numpy(), gt.numpy()), sizes.batch)}
    return {"metrics": take_turns(sizes.turns, ways | {"package": repeated(sizes.repeats, ours, sizes.batch)})}


def trained(sizes: Sizes) -> dict[str, Config]:
    """What is trained beside the reference."""
    original = merge(PRESETS["original"], {"model": {"base_channels": sizes.channels}})
    return {"original": package_config(sizes, original), "default": package_config(sizes)}


def trained_batches(sizes: Sizes, device: torch.device) -> dict[str, int]:
    """How many recordings are in a step of each."""
    return {"original": REFERENCE_BATCH if device.type == "cpu" else sizes.card_batch, "default": sizes.batch}


def precisions(sizes: Sizes, device: torch.device) -> dict[str, torch.dtype]:
    """What each way's network computes in."""
    mixed = {n: mixed_precision(c.trainer.precision, device) for n, c in trained(sizes).items()}
    ours = {n: torch.bfloat16 if isinstance(found, torch.autocast) else torch.float32 for n, found in mixed.items()}
    return {"reference": torch.float32} | ours


def product_name(dtype: torch.dtype) -> str:
    return f"product in {str(dtype).removeprefix('torch.')}"


def products(sizes: Sizes, device: torch.device) -> dict[str, Way]:
    """Products of large square matrices in each precision in use: the most that a device can be got to do."""
    card = device.type == "cuda"
    side = sizes.card_product if card else sizes.product

    def multiply(matrix: Tensor) -> None:
        before = torch.get_float32_matmul_precision()
        if card:  # a convolution in fp32 may use TF32 by default, and a product only when it is told so
            torch.set_float32_matmul_precision("high")
        torch.mm(matrix, matrix)
        torch.set_float32_matmul_precision(before)

    times = sizes.card_steps if card else sizes.repeats
    kinds = sorted(set(precisions(sizes, device).values()), key=str)
    matrices = {kind: torch.randn(side, side, device=device).to(kind) for kind in kinds}
    return {product_name(kind): repeated(times, partial(multiply, matrix)) for kind, matrix in matrices.items()}


def shares(step: Mapping[str, Sequence[float]], sizes: Sizes, device: torch.device = CPU) -> dict[str, float]:
    """Operations of each way's training steps, as a share of those of a matrix product in the same precision.

    A step has three times the operations of its forward pass: the backward pass finds gradients of inputs and weights.
    """
    costs = {name: 3 * gflops(create_model(config)) for name, config in trained(sizes).items()}  # per sample
    costs["reference"] = costs["original"]  # the same network
    one = 2e-9 * (sizes.card_product if device.type == "cuda" else sizes.product) ** 3  # 10^9 operations of a product
    kinds = precisions(sizes, device)
    return {name: over(step, name, product_name(kinds[name])) * cost / one for name, cost in costs.items()}


def training(root: Path, sizes: Sizes, device: torch.device = CPU) -> dict[str, Any]:
    """Training steps and, beside them, matrix products; on a graphics card, epochs with all their reading, too."""
    card = device.type == "cuda"
    configs, batches = trained(sizes), trained_batches(sizes, device)
    loaders = {"reference": reference_loader(root, "train", sizes.side, REFERENCE_BATCH, 2 if card else 0)}
    loaders |= {n: package_loader(config, root, "train", batches[n], 0, device) for n, config in configs.items()}
    steps: dict[str, Callable[[Any], object]] = {"reference": reference_training(sizes.channels, sizes.side, device)}
    steps |= {name: package_training(config, device) for name, config in configs.items()}
    ways = {}
    for name, step in steps.items():
        batch = next(iter(loaders[name]))
        ways[name] = repeated(sizes.card_steps if card else 1, partial(step, batch), len(batch[0]))
    found = {"step": take_turns(sizes.long_turns, ways | products(sizes, device))}
    if card:
        found["epoch"] = take_turns(sizes.long_turns, {n: reading(loaders[n], step) for n, step in steps.items()})
    return found


def hearing(work: Path, sizes: Sizes) -> dict[str, Any]:
    """From one echo to a depth map."""
    reference, model = reference_network(sizes.channels, sizes.side).eval(), create_model(package_config(sizes)).eval()
    waveform = 0.1 * torch.randn(2, echo_frames(MAX_DEPTH))
    theirs = torch.no_grad()(lambda: reference(reference_spectrogram(waveform, sizes.side)[None]))
    ways = {"reference": repeated(1, theirs), "package": repeated(sizes.repeats, lambda: model.predict(waveform))}
    try:
        session = onnx_session(model, work / "model.onnx")
        ways["onnx"] = repeated(sizes.repeats, lambda: session.run(None, {"waveform": waveform[None].numpy()}))
    except MissingExtraError as error:
        print(f"Without the figure of ONNX Runtime: {error}")
    return {"echo": take_turns(sizes.turns, ways)}


def onnx_session(model: DepthNet, path: Path) -> Any:
    from base_residual.deploy.onnx import export_onnx

    export_onnx(model, path)
    import onnxruntime  # optional; without it the export has just said so

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def starting(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Rendering rooms on all cores, and what a user waits for at each start, in fresh processes."""
    rooms = {"train_rooms": sizes.rooms, "val_rooms": 1, "test_rooms": 1}
    config = make_config({"data": {"output_size": sizes.side}, "simulation": rooms})

    def render() -> int:
        simulate(Path(tempfile.mkdtemp(dir=work)), config.data, config.simulation)
        return config.simulation.poses * sum(rooms.values())

    commands = {
        "torch": ["-c", "import torch"],
        "package": ["-c", "from base_residual import Trainer, create_base_residual_model"],
        "help": ["-m", "base_residual", "--help"],
    }
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    ways = {name: repeated(1, partial(run, [sys.executable, *words])) for name, words in commands.items()}
    return {"start": take_turns(sizes.turns, ways), "simulate": take_turns(sizes.long_turns, {"package": render})}


def named(sizes: Sizes) -> dict[str, dict[str, float | None]]:
    """What the networks of each size cost, and the rmse that `accuracy.py --ablations` has found for them."""
    found = HERE / "results" / "ablations.json"
    variants = json.loads(found.read_text())["variants"] if found.exists() else {}
    narrow = {"model": {"base_channels": sizes.default_channels}} if sizes is QUICK else {}
    models = {name: create_model(package_config(sizes, merge(layer, narrow))).eval() for name, layer in SIZES.items()}
    echo = 0.1 * torch.randn(2, echo_frames(MAX_DEPTH))
    ways = {name: repeated(sizes.repeats, partial(model.predict, echo)) for name, model in models.items()}
    speeds = medians(take_turns(sizes.turns, ways))
    scores = {name: variants.get("default" if name == "small" else f"size-{name}") for name in models}
    return {
        name: {
            "parameters": parameter_count(model),
            "gflops": gflops(model),
            "echo_ms": 1000 / speeds[name],
            "rmse": score["rmse"]["mean"] if (score := scores[name]) else None,
        }
        for name, model in models.items()
    }


def headline(speeds: Mapping[str, Any]) -> dict[str, float]:
    """The figures that have a target, and those beside them."""
    echo, start = medians(speeds["echo"]), medians(speeds["start"])
    return {
        "loader_ratio": over(speeds["loader"], "package"),
        "loader_spectrogram_ratio": over(speeds["loader"], "with spectrograms"),
        "first_epoch_ratio": over(speeds["first_epoch"], "package"),
        "metrics_ratio": over(speeds["metrics"], "package"),
        "train_ratio_original": over(speeds["step"], "original"),
        "train_ratio_default": over(speeds["step"], "default"),
        "echo_ratio": over(speeds["echo"], "package"),
        "echo_ms": 1000 / echo["package"],
        **({"onnx_ms": 1000 / echo["onnx"]} if "onnx" in echo else {}),
        "simulate_per_s": medians(speeds["simulate"])["package"],
        "import_ratio": over(speeds["start"], "torch", "package"),
        "help_s": 1 / start["help"],
    }


def peak_of_preparing(root: Path, split: str, config: Config) -> float:
    """The most memory that a fresh process holds, from its start to the end of preparing a split, in MB."""
    empty_cache(root.parent)
    return kilobytes(PREPARE, root, split, config.data.model_dump_json()) / 1024


def peak_of_training(root: Path, split: str, config: Config, batch: int) -> float:
    """The most memory of its own that a fresh process holds while it trains for an epoch, in MB."""
    settings = config.model_dump_json(include={"data", "model"})
    return kilobytes(TRAIN_ON, root, split, settings, batch) / 1024


def kilobytes(program: str, *words: object) -> int:
    """What a program says of its memory, in a fresh process."""
    command = [sys.executable, "-c", program, *map(str, words)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def swept(x: str, y: str, turns: int, ways: Mapping[tuple[str, int], Way]) -> dict[str, Any]:
    """Speeds, or milliseconds where the name of the y axis begins with it, of each series over what grows."""
    found = medians(take_turns(turns, ways))
    at = sorted({value for _, value in ways})
    values = {key: 1000 / speed if y.startswith("ms") else speed for key, speed in found.items()}
    return {"x": x, "y": y, "at": at, "series": {name: [values[name, place] for place in at] for name, _ in ways}}


def training_in(processes: int, sizes: Sizes) -> float:
    """Samples per second of the default network in that many processes with one thread each, several by torchrun."""
    config = package_config(sizes).model_dump_json(include={"data", "model"})
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(TRAIN)
        done = subprocess.run(
            [*command, script, config, str(sizes.batch), str(sizes.process_steps)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"Training in {processes} processes has failed:\n{done.stderr}")
    return float(done.stdout)


def apart(runs: int, sizes: Sizes) -> float:
    """Samples per second of that many runs in one process each, side by side: what the machine has to give."""
    with ThreadPoolExecutor(runs) as pool:
        return sum(pool.map(lambda _: training_in(1, sizes), range(runs)))


def growth(root: Path, sizes: Sizes) -> dict[str, Any]:
    """What it costs as the work grows."""
    config, side, turns = package_config(sizes), sizes.side, sizes.growth_turns
    model = create_model(config).eval()
    echoes = 0.1 * torch.randn(max(sizes.batches), 2, echo_frames(MAX_DEPTH))
    predict = {("package", n): repeated(sizes.repeats, partial(model.predict, echoes[:n]), n) for n in sizes.batches}
    step: dict[tuple[str, int], Way] = {}
    for pixels in sizes.sides:
        depth = MAX_DEPTH * torch.rand(len(echoes), 1, pixels, pixels)
        theirs = reference_training(sizes.channels, pixels, CPU)
        images = torch.rand(REFERENCE_BATCH, 2, pixels, pixels)
        step["reference", pixels] = repeated(1, partial(theirs, (images, depth[: len(images)])), len(images))
        ours = package_training(package_config(sizes, side=pixels), CPU)
        step["package", pixels] = repeated(1, partial(ours, EchoBatch(echoes, depth, [])), len(echoes))
    splits = {times * sizes.recordings: split for split, times in SPLITS.items()}
    read: dict[tuple[str, int], Way] = {}
    for count, split in splits.items():
        read["reference", count] = reading(reference_loader(root, split, side, sizes.batch))
        read["package", count] = reading(package_loader(config, root, split, sizes.batch))
    batch = max(1, sizes.batch // 8)  # so that all workers have something to do, and that the heap settles
    share: dict[tuple[str, int], Way] = {}
    for workers in range(3):
        share["reference", workers] = reading(reference_loader(root, "test", side, batch, workers))
        share["package", workers] = reading(package_loader(config, root, "test", batch, workers))
    panels = {
        "batch_size": swept("echoes per prediction", "samples/s", turns, predict),
        "image_side": swept("side of a map (pixels)", "ms of training per sample", turns, step),
        "recordings": swept("recordings read", "samples/s", turns, read),
        "workers": swept("worker processes that read", "samples/s", turns, share),
    }
    turns_of = [(training_in(1, sizes), training_in(2, sizes), apart(2, sizes)) for _ in range(turns)]
    one, together, alone = (statistics.median(found) for found in zip(*turns_of, strict=True))
    panels["processes"] = {"x": "processes, with one thread each", "y": "samples/s of training", "at": [1, 2]}
    panels["processes"]["series"] = {"package": [one, together], "runs that share nothing": [one, alone]}
    if LINUX:
        panels["memory"] = {"x": "recordings", "y": "peak memory (MB)", "at": list(splits)}
        panels["memory"]["series"] = {
            "preparing": [peak_of_preparing(root, split, config) for split in splits.values()],
            "training, mapped files apart": [peak_of_training(root, split, config, batch) for split in splits.values()],
        }
    return panels


# What came of it.


class Goal(NamedTuple):
    """A figure in words, what it is meant to be at least or at most, and its unit."""

    words: str
    least: float | None = None
    most: float | None = None
    unit: str = " times"


GOALS = {
    "loader_ratio": Goal("reading a prepared set", least=50),
    "loader_spectrogram_ratio": Goal("reading it and making spectrograms of it"),
    "first_epoch_ratio": Goal("preparing it and reading it once", least=1),
    "metrics_ratio": Goal("metrics of each map", least=20),
    "train_ratio_original": Goal("training the preset `original`, the same network", least=2),
    "train_ratio_default": Goal("training the default", least=10),
    "echo_ratio": Goal("from one echo to a map"),
    "echo_ms": Goal("from one echo to a map", most=40, unit=" ms"),
    "onnx_ms": Goal("from one echo to a map in ONNX Runtime", most=30, unit=" ms"),
    "processes_ratio": Goal("training in two processes with a core each, of one", least=1.8),
    "processes_share": Goal("the same, of two runs that share nothing"),
    "simulate_per_s": Goal("simulated poses on all cores", least=100, unit="/s"),
    "import_ratio": Goal("time to import the package, of that of torch alone", most=1.2),
    "help_s": Goal("`brdepth --help`", most=0.3, unit=" s"),
}


def targets(ratios: Mapping[str, float]) -> list[Target]:
    """What was measured, and whether it is as it is meant to be; met is None where there is nothing to say."""
    found = []
    for name, goal in GOALS.items():
        value, bound = ratios.get(name), goal.least or goal.most
        words = f"{goal.words}, at {'least' if goal.least else 'most'} {bound:g}{goal.unit}" if bound else goal.words
        met = None
        if value is not None and bound is not None:
            met = value >= bound if goal.least else value <= bound
        found.append(Target(words, "not run" if value is None else f"{shown(value)}{goal.unit}", met))
    return found


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as tables for the documentation."""
    verdict = {True: "met", False: "**not met**", None: ""}
    rows = [["times as fast as the reference, if nothing else is said", "measured", ""]]
    tables = [rows + [[one.words, one.measured, verdict[one.met]] for one in targets(result["ratios"])]]
    for panel in result["growth"].values():
        rows = [[f"{panel['y']}, by {panel['x']}", *map(str, panel["at"])]]
        tables.append(rows + [[name, *map(shown, values)] for name, values in panel["series"].items()])
    rows = [["size", "parameters", "GFLOPs", "one echo (ms)", "rmse in the ablations (m)"]]
    for name, cost in result["sizes"].items():
        rmse = "not run" if cost["rmse"] is None else f"{cost['rmse']:.3f}"
        rows.append([name, f"{cost['parameters'] / 1e6:.2f} M", shown(cost["gflops"]), shown(cost["echo_ms"]), rmse])
    tables.append(rows)
    step, share = result["per_second"]["step"], result.get("share_of_peak")
    rows = [["steps on the processor", "samples/s", "share of peak"]]
    tables.append(rows + [[n, shown(step[n]), f"{share[n]:.1%}" if share else "not run"] for n in WAYS])
    card = result["card"]
    rows = [[f"steps on {card['device'] if card else 'a graphics card'}", "samples/s", "share of peak"]]
    rows[0].append(f"seconds for {EPOCH:,} recordings")
    for n in WAYS:
        figures = [shown(card["step"][n]), f"{card['share_of_peak'][n]:.1%}", shown(card["epoch_s"][n])] if card else []
        rows.append([n, *(figures or ["not run"] * 3)])
    tables.append(rows)
    return ruled(tables)


def ruled(tables: Sequence[Sequence[Sequence[str]]]) -> str:
    """Tables, whose first rows are headings, in Markdown."""
    ruled = [[rows[0], ["---"] * len(rows[0]), *rows[1:]] for rows in tables]
    return "\n".join("".join(f"| {' | '.join(row)} |\n" for row in rows) for rows in ruled)


def figure(result: Mapping[str, Any]) -> Any:
    """The ratios beside what is asked of them, and every cost over what grows."""
    from matplotlib.figure import Figure

    panels = list(result["growth"].values())
    lines = -(-(1 + len(panels)) // 3)
    drawn = Figure(figsize=(13, 3.6 * lines), dpi=120, layout="constrained")
    bars, *axes = drawn.subplots(lines, 3).flat
    names = [name for name in reversed(GOALS) if "_ratio" in name and not GOALS[name].most]
    drawn_bars = bars.barh([name.replace("_", " ") for name in names], [result["ratios"][name] for name in names])
    bars.bar_label(drawn_bars, fmt=shown, padding=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    bars.margins(x=0.2)
    for place, name in enumerate(names):
        bars.vlines(GOALS[name].least or [], place - 0.45, place + 0.45, "k", lw=2)
    bars.set(xscale="log", xlabel="times as fast as the reference, or as one process; black: target")
    for axis, panel in zip(axes, panels, strict=False):
        for name, values in panel["series"].items():
            axis.plot(panel["at"], values, "o-", color="0.5" if name == "reference" else None, label=name)
        far = "reference" in panel["series"]  # apart
        axis.set(xlabel=panel["x"], ylabel=panel["y"], yscale="log" if far else "linear")
        if panel["at"][0] > 0:
            axis.set_xscale("log", base=2)
        axis.set_xticks(panel["at"], [str(value) for value in panel["at"]])
        if not far:
            axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.legend(frameon=False)
    for axis in (bars, *axes):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    return drawn


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """All figures; each part says when it is done."""
    root, start = work / "recordings", time.perf_counter()
    parts: dict[str, Callable[[], Any]] = {
        "recordings": lambda: write_recordings(root, sizes),
        "loading": lambda: loading(root, sizes),
        "judging": lambda: judging(sizes),
        "training": lambda: training(root, sizes),
        "hearing": lambda: hearing(work, sizes),
        "starting": lambda: starting(work, sizes),
        "sizes": lambda: named(sizes),
        "growth": lambda: growth(root, sizes),
        "card": lambda: training(root, sizes, torch.device("cuda")) if torch.cuda.is_available() else None,
    }
    empty_cache(work)
    found = {}
    for name, part in parts.items():
        found[name] = part()
        print(f"{time.perf_counter() - start:4.0f} s: {name}", flush=True)
    names = ("loading", "judging", "training", "hearing", "starting")
    speeds = {key: value for name in names for key, value in found[name].items()}
    card = found["card"]
    if card:
        epochs = {name: EPOCH / speed for name, speed in medians(card["epoch"]).items()}
        share = shares(card["step"], sizes, torch.device("cuda"))
        card = {"device": torch.cuda.get_device_name(), "step": medians(card["step"]), "epoch_s": epochs}
        card["share_of_peak"] = share
    per_second = {name: medians(ways) for name, ways in speeds.items()}
    kept = {name: found[name] for name in ("sizes", "growth")}
    processes = found["growth"]["processes"]["series"]
    one, two = processes["package"]
    ratios = headline(speeds) | {"processes_ratio": two / one}
    ratios["processes_share"] = two / processes["runs that share nothing"][1]
    kept["share_of_peak"] = shares(speeds["step"], sizes)
    return {"ratios": ratios, "per_second": per_second, "card": card} | kept


def profile(sizes: Sizes, device: torch.device) -> dict[str, dict[str, float]]:
    """Share of a training step's time that each operation takes by itself, the largest first, of each network."""
    card = device.type == "cuda"
    side = sizes.side

    def depth(count: int) -> Tensor:
        return MAX_DEPTH * torch.rand(count, 1, side, side)

    images = torch.rand(REFERENCE_BATCH, 2, side, side)
    theirs = reference_training(sizes.channels, side, device)
    steps: dict[str, Callable[[], object]] = {"reference": partial(theirs, (images, depth(REFERENCE_BATCH)))}
    for name, config in trained(sizes).items():
        count = trained_batches(sizes, device)[name]
        batch = EchoBatch(0.1 * torch.randn(count, 2, echo_frames(MAX_DEPTH)), depth(count), [])
        steps[name] = partial(package_training(config, device), batch)
    found = {}
    for name, step in steps.items():
        step()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card else [])]
        with torch.profiler.profile(activities=kinds) as profiler:
            step()
            if card:
                torch.cuda.synchronize()
        # Kernels stand beside the operations that start them, and would count twice.
        events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
        times = {event.key: event.self_device_time_total if card else event.self_cpu_time_total for event in events}
        total = sum(times.values())
        largest = sorted(times, key=lambda key: times[key], reverse=True)
        found[name] = {key: times[key] / total for key in largest if times[key] > 0}
    return found


def profile_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The operations that take at least a fiftieth of a step of one of the networks."""
    names = list(dict.fromkeys(key for ops in found.values() for key, share in ops.items() if share >= 0.02))
    rows = [["operation", *found]]
    rows += [[f"`{name}`", *(f"{ops.get(name, 0):.1%}" for ops in found.values())] for name in names]
    rest = (sum(share for key, share in ops.items() if key not in names) for ops in found.values())
    return ruled([[*rows, ["all others", *(f"{share:.1%}" for share in rest)]]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny recordings and networks: shows that it runs")
    parser.add_argument("--profile", action="store_true", help="only where a training step's time goes")
    parser.add_argument("--out", type=Path, help="JSON to write, instead of results/speed.json or results/profile.json")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    out = options.out or HERE / "results" / ("profile.json" if options.profile else "speed.json")
    torch.manual_seed(0)
    if options.profile:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = profile(sizes, device)
        shown_on = machine() if device.type == "cpu" else torch.cuda.get_device_name()
        write(out, {"machine": shown_on, "commit": commit(), "shares": found}, profile_table(found))
        return
    with tempfile.TemporaryDirectory() as work:
        result = measure(Path(work), sizes)
    where = {"machine": machine(), "commit": commit(), "measured": sizes._asdict()}
    write(out, where | result, markdown(result))
    save_figure(figure(result), out.with_suffix(".png"))


def write(out: Path, result: Mapping[str, Any], tables: str) -> None:
    """A result as JSON, and its tables beside it."""
    with replacing(out) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")
    with replacing(out.with_suffix(".md")) as aside:
        aside.write_text(tables, encoding="utf-8")


if __name__ == "__main__":
    main()
