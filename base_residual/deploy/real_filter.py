"""The matched filter in real numbers, for formats and runtimes that know no complex ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.acoustics.matched_filter import analytic_weights, fast_length

Pair = tuple[Tensor, ...]  # real and imaginary part


class RealMatchedFilter(nn.Module):
    """Pulse compression as `base_residual.acoustics.matched_filter.compress` does it, by products of real matrices.

    ONNX Runtime's own transform is slow and inaccurate where a length is no power of two, and the lengths have to be
    those of training. Of L = P * Q samples, laid out as P rows, the transform is one of every column, a twiddle, and
    one of every row (Cooley and Tukey, Mathematics of Computation 19, 1965). The frequency k1 + P * k2 stays at
    (k1, k2) until the inverse; negative ones are left out, since an analytic signal has none.

    Args:
        frames: length of the echoes, in samples.
        template: length of the emitted sound, in samples.
    """

    def __init__(self, frames: int, template: int) -> None:
        super().__init__()
        length = fast_length(frames + template)
        rows = next(p for p in range(math.isqrt(length), 0, -1) if length % p == 0)
        self.shape = rows, length // rows
        p, q = torch.arange(rows), torch.arange(length // rows)
        half = q[: length // 2 // rows + 1]  # as much of k2 as the Nyquist frequency needs
        self.over_columns = nn.Buffer(block(*turns(p, p, rows)).float(), persistent=False)  # (2P, 2P)
        self.twiddle = nn.Buffer(torch.stack(turns(p, q, length)).float(), persistent=False)  # (2, P, Q)
        self.over_rows = nn.Buffer(block(*turns(q, half, len(q))).float(), persistent=False)  # (2Q, 2 half)
        weights = analytic_weights(length, torch.device("cpu")).view(len(q), rows).T[:, : len(half)] / length
        self.weights = nn.Buffer(weights, persistent=False)  # (P, half)

    def forward(self, waveform: Tensor, template: Tensor) -> Pair:
        """Return the real and the imaginary part of echoes (B, 2, T) behind the filter for (N,) or (B, N)."""
        real, imag = self._spectrum(template.unsqueeze(-2))  # one for both ears
        spectrum = _times(self._spectrum(waveform), (self.weights * real, -self.weights * imag))  # (B, 2, P, half)
        cosine, sine = self.twiddle
        grid = _times((torch.cat(spectrum, dim=-1) @ self.over_rows.mT).chunk(2, dim=-1), (cosine, -sine))
        real, imag = (self.over_columns @ torch.cat(grid, dim=-2)).chunk(2, dim=-2)  # (B, 2, P, Q)
        return real.flatten(-2)[..., : waveform.shape[-1]], imag.flatten(-2)[..., : waveform.shape[-1]]

    def _spectrum(self, signal: Tensor) -> Pair:
        """Return the frequencies of signals (..., T) from 0 to the Nyquist frequency, (..., P, half)."""
        rows, columns = self.shape
        grid = F.pad(signal, (0, rows * columns - signal.shape[-1])).unflatten(-1, self.shape)
        grid = _times((self.over_columns.mT[:, :rows] @ grid).chunk(2, dim=-2), self.twiddle)
        return (torch.cat(grid, dim=-1) @ self.over_rows).chunk(2, dim=-1)


def turns(rows: Tensor, columns: Tensor, length: int) -> Pair:
    """Return exp(-2 pi i row * column / length) for whole numbers, float64."""
    angle = (torch.outer(rows, columns) % length).double() * (-2 * math.pi / length)
    return angle.cos(), angle.sin()


def block(real: Tensor, imag: Tensor) -> Tensor:
    """Return a complex matrix as a real one, for rows of real, then imaginary parts; its transpose is the adjoint."""
    return torch.cat([torch.cat([real, imag], dim=1), torch.cat([-imag, real], dim=1)])


def _times(a: Pair | Tensor, b: Pair | Tensor) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
