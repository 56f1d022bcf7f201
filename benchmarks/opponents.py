"""Opponents of the decomposition: networks that hear what a strong two-eared baseline of the literature hears.

None of them splits depth. Each predicts in one piece, and at a test the mean of what it makes of an echo and of the
flipped map that it makes of the echo with its ears swapped. They are written for maps of 64 pixels and more.

- `deep-unet`: an image-to-image network down to one pixel (Isola et al., CVPR 2017), over pictures of both ears.
- `queries`: each direction asks an echo's tokens at three scales (as in Perceiver IO: Jaegle et al., ICLR 2022), after
  the ears have exchanged what they heard.
- `recurrent`: convolutions along time and along frequency in turn, then a GRU along time and one along frequency.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.acoustics.binaural import log_level
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.hearing import lead_frames, unit_peak
from base_residual.config.schema import Config
from base_residual.models.decomposition import DepthDecomposition, raw_of
from base_residual.models.network import DepthNet, start_head

WINDOWS = (64, 256)  # samples of the two Fourier transforms: 1.5 and 6 ms
HOP = 32  # samples between windows
NEAR = 3  # bins and windows on a side over which coherence is averaged
CHANNELS = 6  # of a picture for each window: two levels, their difference, a phase as two numbers, coherence
SWAPPED = ((1, 1), (0, 1), (2, -1), (3, 1), (4, -1), (5, 1))  # channel and sign of each one once the ears are swapped


class Pictures(EchoFrontEnd):
    """Echoes as pictures, frequency downward and time to the right, for two lengths of window."""

    @property
    def swapped(self) -> tuple[tuple[int, int], ...]:
        """Return the channel, and its sign, that each channel equals once the ears are swapped."""
        return tuple((place + CHANNELS * number, sign) for number in range(len(WINDOWS)) for place, sign in SWAPPED)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return pictures (B, 12, S, S) of echoes (B, 2, T)."""
        return torch.cat([self.picture(unit_peak(waveform), length) for length in WINDOWS], dim=1)

    def picture(self, waveform: Tensor, length: int) -> Tensor:
        """Return the picture (B, 6, S, S) for one length of window."""
        window = torch.hann_window(length, device=waveform.device)
        spectrum = torch.stft(
            waveform.flatten(0, 1), length, HOP, window=window, pad_mode="constant", return_complex=True
        ).unflatten(0, (-1, 2))  # (B, 2, bins, windows)
        left, right = spectrum.unbind(1)
        direct = 1 + (lead_frames(self.config.sample_rate) + len(self.template)) // HOP  # windows of the direct sound
        level = log_level(spectrum.abs(), spectrum[..., :direct].abs())  # (B, 2, bins, windows)
        cross = left * right.conj()
        phase = torch.polar(torch.ones_like(cross.real), cross.angle())
        both = [torch.view_as_real(cross).unbind(-1), (left.abs().square(), right.abs().square())]
        real, imag, one, other = (self._local(part) for pair in both for part in pair)
        coherence = (real.square() + imag.square()).sqrt() / (one * other).sqrt().clamp(min=1e-12)
        parts = [*level.unbind(1), level[:, 0] - level[:, 1], phase.real, phase.imag, coherence]
        return F.interpolate(torch.stack(parts, dim=1), (self.image_size, self.image_size), mode="area")

    @staticmethod
    def _local(part: Tensor) -> Tensor:
        return F.avg_pool2d(part[:, None], NEAR, 1, NEAR // 2, count_include_pad=False)[:, 0]


class Opponent(DepthNet):
    """A network that predicts depth in one piece.

    Args:
        config: gives the map and the largest depth.
        front_end: what it hears by.
        body: from features to a raw map (B, 1, S, S).
    """

    def __init__(self, config: Config, front_end: EchoFrontEnd, body: nn.Module) -> None:
        super().__init__(config, config.data.max_depth, config.data.output_size)
        self.front_end, self.body = front_end, body
        self.places = [place for place, _ in front_end.swapped]
        signs = torch.tensor([float(sign) for _, sign in front_end.swapped])
        self.register_buffer("signs", signs, persistent=False)

    signs: Tensor

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Return depth, all of it as the base; at a test the mean of both ways round."""
        final = self._depth(x)
        if not self.training:
            swapped = x[:, self.places] * self.signs.view(-1, *[1] * (x.ndim - 2))
            final = (final + self._depth(swapped).flip(-1)) / 2
        return DepthDecomposition(final, torch.zeros_like(final), final)

    def _depth(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.body(x).float()) * self.max_depth

    def initialise_depth(self, depth: float) -> None:
        """Let the untrained network predict `depth` metres everywhere."""
        start_head(self.body, raw_of(depth / self.max_depth))


def halving(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 4, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.LeakyReLU(0.2, inplace=True)
    )


def doubling(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class DeepUNet(nn.Module):
    """Down to one pixel, and up again beside what was seen on the way.

    Args:
        channels: of the pictures.
        width: channels of the finest stage.
        side: of pictures and map, a power of two.
    """

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        widths = [width * min(8, 2**stage) for stage in range(side.bit_length() - 1)]
        self.down = nn.ModuleList(halving(a, b) for a, b in pairwise([channels, *widths]))
        beside = [0, *widths[-2::-1]]  # of what is seen on the way, from the coarsest to the finest
        outside = [*widths[-2::-1], width]
        inside = [widths[-1], *(wide + seen for wide, seen in zip(outside, beside[1:], strict=False))]
        self.up = nn.ModuleList(doubling(a, b) for a, b in zip(inside, outside, strict=True))
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw map (B, 1, S, S) of pictures (B, C, S, S)."""
        seen = []
        for stage in self.down:
            x = stage(x)
            seen.append(x)
        x = self.up[0](seen.pop())
        for stage in self.up[1:]:
            x = stage(torch.cat([x, seen.pop()], dim=1))
        raw: Tensor = self.head(x)
        return raw


class TimeHalving(nn.Module):
    """Two convolutions over the time of one ear, of which the first halves it, with a shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inside, outside, 5, 2, 2, bias=False)
        self.second = nn.Conv1d(outside, outside, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(outside), nn.BatchNorm1d(outside)])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outside, T / 2) of (B, inside, T)."""
        halved = F.relu(self.norms[0](self.first(x)))
        return F.relu(halved + self.norms[1](self.second(halved)))


class Queries(nn.Module):
    """Each direction of a coarse map asks the echo's tokens; a few convolutions draw the map from the answers.

    Args:
        channels: of the features, of both ears together.
        width: of tokens and answers.
        side: of the map.
    """

    SCALES = 3  # whose tokens are read, the coarsest ones
    CELLS = 16  # per side that ask
    HEADS = 4

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        widths = [channels, width // 4, width // 2, width, width, width]
        self.stages = nn.ModuleList(TimeHalving(a, b) for a, b in pairwise(widths))
        self.exchange = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(self.SCALES))
        self.moments = nn.ParameterList(0.02 * torch.randn(1, 1, width) for _ in range(self.SCALES))
        self.time = nn.Linear(2 * self.BANDS, width)
        places = (torch.arange(self.CELLS) + 0.5) / self.CELLS
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        waves = torch.cat([self.waves(rows.flatten()), self.waves(columns.flatten())], dim=1)
        self.register_buffer("directions", waves, persistent=False)  # (cells, 4 * BANDS)
        self.ask = nn.Sequential(nn.Linear(4 * self.BANDS, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(nn.MultiheadAttention(width, self.HEADS, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.think = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(2)
        )
        stages, inside = list[nn.Module](), width
        for _ in range(int(math.log2(side // self.CELLS))):
            stages.append(doubling(inside, inside // 2))
            inside //= 2
        self.draw = nn.Sequential(*stages)
        self.head = nn.Conv2d(inside, 1, 3, padding=1)

    BANDS = 6
    directions: Tensor

    @classmethod
    def waves(cls, places: Tensor) -> Tensor:
        """Return sines and cosines of places (N,) from 0 to 1, (N, 2 * BANDS)."""
        angles = places[:, None] * math.pi * 2 ** torch.arange(cls.BANDS, device=places.device)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw map (B, 1, S, S) of features over time (B, C, T)."""
        tokens = []
        for number, stage in enumerate(self.stages, start=self.SCALES - len(self.stages)):
            x = stage(x)
            if number >= 0:
                x = x + F.relu(self.exchange[number](x))
                places = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
                tokens.append(x.transpose(1, 2) + self.time(self.waves(places)) + self.moments[number])
        heard = torch.cat(tokens, dim=1)  # (B, tokens, width)
        asked = self.ask(self.directions).expand(len(x), -1, -1)
        for number, (layer, think) in enumerate(zip(self.layers, self.think, strict=True)):
            asked = asked + layer(self.norms[2 * number](asked), heard, heard, need_weights=False)[0]
            asked = asked + think(self.norms[2 * number + 1](asked))
        raw: Tensor = self.head(self.draw(asked.transpose(1, 2).unflatten(2, (self.CELLS, self.CELLS))))
        return raw


class Recurrent(nn.Module):
    """Convolutions along time and frequency in turn, a GRU along time and one along frequency, and a decoder.

    Args:
        channels: of the pictures.
        width: channels of the first stage.
        side: of pictures and map.
    """

    COARSE = 8  # pixels on a side at which the recurrent layers run

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        halvings = int(math.log2(side // self.COARSE))
        widths = [width * 2**stage for stage in range(halvings)]
        stages = list[nn.Module]()
        for a, b in pairwise([channels, *widths]):
            stages += [
                nn.Conv2d(a, b, (1, 5), (1, 2), (0, 2), bias=False),  # along time
                nn.BatchNorm2d(b),
                nn.ReLU(inplace=True),
                nn.Conv2d(b, b, (5, 1), (2, 1), (2, 0), bias=False),  # along frequency
                nn.BatchNorm2d(b),
                nn.ReLU(inplace=True),
            ]
        self.down = nn.Sequential(*stages)
        wide = widths[-1]
        gru = partial(nn.GRU, batch_first=True, bidirectional=True)
        self.over_time, self.over_frequency = gru(wide, wide // 2), gru(wide, wide // 2)
        self.latent = nn.Linear(wide * self.COARSE**2, 4 * wide)
        self.start = nn.Linear(4 * wide, wide * self.COARSE**2)
        self.up = nn.Sequential(*(doubling(a, b) for a, b in pairwise([*widths[::-1], width])))
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw map (B, 1, S, S) of pictures (B, C, S, S)."""
        grid = self.down(x).permute(0, 2, 3, 1)  # (B, frequency, time, C)
        for along in (self.over_time, self.over_frequency):
            grid = (along(grid.flatten(0, 1))[0].unflatten(0, grid.shape[:2])).transpose(1, 2)
        start = F.relu(self.start(F.relu(self.latent(grid.flatten(1)))))
        raw: Tensor = self.head(self.up(start.unflatten(1, (-1, self.COARSE, self.COARSE))))
        return raw


def make_opponent(name: str, config: Config) -> Opponent:
    """Make an opponent by its name, untrained, for the map and the depth of a configuration."""
    kinds = {
        "deep-unet": (Pictures, DeepUNet, 16),
        "queries": (EchoFrontEnd, Queries, 128),
        "recurrent": (Pictures, Recurrent, 32),
    }
    hears, body, width = kinds[name]
    side = config.data.output_size
    front_end = hears(config.audio, side)
    return Opponent(config, front_end, body(front_end.channels, width, side))


OPPONENTS = ("deep-unet", "queries", "recurrent")
