"""The way in which this field's code reads and trains, written plainly, to measure the package against.

A spectrogram per recording is made in the data loader, the depth map is resized each time that it is read, and the
network is a U-Net with two full decoders that is trained in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base_residual.acoustics.framing import cut, resample
from base_residual.data.batvision import list_recordings
from base_residual.models.factory import create_base_residual_model
from base_residual.models.network import DepthNet

RATE = 44_100  # Hz
MAX_DEPTH = 30.0  # metres
BATCH = 4


class ReferenceData(Dataset[tuple[Tensor, Tensor]]):
    """A spectrogram and a depth map per recording, made anew each time that it is read."""

    def __init__(self, root: Path, split: str, side: int) -> None:
        self.recordings, self.side = list_recordings(root, split), side

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        recording = self.recordings[index]
        sound, rate = soundfile.read(recording.audio[0], dtype="float32")
        waveform = cut(resample(torch.from_numpy(sound.T.copy()), rate, RATE), int(2 * MAX_DEPTH / 340 * RATE))
        depth = np.load(recording.depth).astype(np.float32) / 1000
        depth[depth > MAX_DEPTH] = MAX_DEPTH
        return spectrogram(waveform, self.side), resized(torch.from_numpy(depth)[None], self.side)


def resized(image: Tensor, side: int) -> Tensor:
    """Return an image (C, H, W) with another side, as torchvision's `Resize` makes it by default."""
    return F.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]


def spectrogram(waveform: Tensor, side: int) -> Tensor:
    """Return magnitudes (2, side, side) of an echo (2, T)."""
    window = torch.hann_window(64)
    return resized(torch.stft(waveform, 512, 16, 64, window, return_complex=True).abs(), side)


def loader(root: Path, split: str, side: int, batch: int, workers: int = 2) -> DataLoader[Any]:
    data = ReferenceData(root, split, side)
    return DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def network(channels: int = 64, side: int = 256) -> DepthNet:
    """Return a U-Net with two full decoders; the package's 2-D network is that very architecture."""
    return create_base_residual_model(input_channels=2, base_channels=channels, output_size=side, max_depth=MAX_DEPTH)


def training(channels: int, side: int, device: torch.device) -> Callable[[Sequence[Tensor]], float]:
    """Return a training step from spectrograms, in fp32, that waits for the loss of its batch."""
    model = network(channels, side).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)

    def step(batch: Sequence[Tensor]) -> float:
        spectrograms, gt = (part.to(device) for part in batch)
        base, residual, final = model(spectrograms)
        smooth = F.interpolate(F.avg_pool2d(gt, 16, stride=1, padding=8), gt.shape[-2:], mode="bilinear")
        valid = gt > 0
        loss = (final - gt)[valid].abs().mean() + 0.8 * (base - smooth)[valid].abs().mean()
        loss = loss + 0.2 * residual[valid].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
