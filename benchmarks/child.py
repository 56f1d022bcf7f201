"""What `speed.py` measures in processes of its own: memory from the start on, and training with a core per process.

python child.py prepare ROOT SPLIT SETTINGS         # most memory of preparing a split, in KiB
python child.py epoch ROOT SPLIT SETTINGS BATCH     # most memory of its own that an epoch's training holds, in KiB
python child.py steps SETTINGS BATCH STEPS          # samples per second of training, alone or under torchrun
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from base_residual.acoustics.framing import echo_frames
from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
from base_residual.data.sample import EchoBatch
from base_residual.models.factory import create_model
from base_residual.training.batches import Batches, make_loader
from base_residual.training.distributed import process_group
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import make_step
from base_residual.training.sync_batch_norm import synchronise_batch_norms

CPU = torch.device("cpu")


def kibibytes(field: str) -> int:
    """Return a figure of this process's memory, by its name in Linux."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def prepare(root: str, split: str, settings: str) -> int:
    open_dataset("batvisionv2", root, split, make_config(json.loads(settings)))
    return kibibytes("VmHWM")


def epoch(root: str, split: str, settings: str, size: str) -> int:
    config, held = make_config(json.loads(settings)), list[int]()
    dataset = open_dataset("batvisionv2", root, split, config)
    batches = Batches(len(dataset), int(size), 0)
    model = create_model(config).train()
    # After the forward pass all is held that the gradients need; what is mapped from files does not count.
    model.register_forward_hook(lambda *_: held.append(kibibytes("RssAnon")))
    updater = make_step(model, make_optimizer(model, config.trainer), config, len(batches), batches.least)
    for step, batch in enumerate(make_loader(dataset, batches, 0, CPU)):
        updater.update(batch, 1, step)
    return max(held)


def steps(settings: str, size: str, count: str) -> float | None:
    """Return samples per second of all processes together, in the one that leads; nothing in the others."""
    config, batch, times = make_config(json.loads(settings)), int(size), int(count)
    with process_group(CPU) as processes:
        model = create_model(config).train()
        if processes.world > 1:
            synchronise_batch_norms(model)
        own, side = batch // processes.world, config.data.output_size
        updater = make_step(model, make_optimizer(model, config.trainer), config, times, own, processes)
        depth = config.data.max_depth * torch.rand(own, 1, side, side)
        share = EchoBatch(0.1 * torch.randn(own, 2, echo_frames(config.data.max_depth)), depth, [""] * own)
        updater.update(share, 1, 0)
        processes.wait()
        start = time.perf_counter()
        for step in range(times):
            updater.update(share, 1, step)
        processes.wait()
        return times * batch / (time.perf_counter() - start) if processes.leads else None


if __name__ == "__main__":
    found = {"prepare": prepare, "epoch": epoch, "steps": steps}[sys.argv[1]](*sys.argv[2:])
    if found is not None:
        print(found)
