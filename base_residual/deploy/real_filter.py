"""The matched filter in real numbers, for formats and runtimes that know no complex ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.acoustics.matched_filter import Pair, analytic_weights, band_weights, fast_length


class RealMatchedFilter(nn.Module):
    """Pulse compression as `base_residual.acoustics.matched_filter.compress` does it, by products of real matrices.

    ONNX Runtime's own transform is slow and inaccurate where a length is no power of two, and the lengths have to be
    those of training. Of L = P * Q samples, laid out as P rows, the transform is one of every column, a twiddle, and
    one of every row (Cooley and Tukey, Mathematics of Computation 19, 1965). The frequency k1 + P * k2 stays at
    (k1, k2) until the inverse; negative ones are left out, since an analytic signal has none.

    Args:
        frames: length of the echoes, in samples.
        template: length of the emitted sound, in samples.
        step: samples from one that is kept in a band to the next.
        edges: of the bands, in Hz.
        sample_rate: in Hz; it matters for bands alone.
    """

    def __init__(
        self, frames: int, template: int, step: int = 1, edges: Sequence[float] = (), sample_rate: int = 0
    ) -> None:
        super().__init__()
        length = fast_length(frames + template, step)
        rows = next(p for p in range(math.isqrt(length), 0, -1) if length % p == 0 and length // p % step == 0)
        self.shape, self.step = (rows, length // rows), step
        p, q = torch.arange(rows), torch.arange(length // rows)
        half = q[: length // 2 // rows + 1]  # as much of k2 as the Nyquist frequency needs
        self.over_columns = nn.Buffer(block(*turns(p, p, rows)).float(), persistent=False)  # (2P, 2P)
        self.twiddle = nn.Buffer(torch.stack(turns(p, q, length)).float(), persistent=False)  # (2, P, Q)
        self.over_rows = nn.Buffer(block(*turns(q, half, len(q))).float(), persistent=False)  # (2Q, 2 half)
        cpu = torch.device("cpu")
        weights = torch.stack([analytic_weights(length, cpu), *band_weights(length, edges, sample_rate, cpu)]) / length
        weights = F.pad(weights, (0, rows * len(half) - weights.shape[1])).unflatten(1, (len(half), rows)).mT
        self.weights = nn.Buffer(weights, persistent=False)  # (1 + bands, P, half), the first of all frequencies

    def forward(self, waveform: Tensor, template: Tensor) -> Pair:
        """Return the real and the imaginary part of echoes (B, 2, T) behind the filter for (N,) or (B, N)."""
        return self._signal(self._product(waveform, template), self.weights[0], 1, waveform.shape[-1])

    def with_bands(self, waveform: Tensor, template: Tensor) -> tuple[Pair, list[Pair]]:
        """Return what `forward` does, and one sample of `step` in each band, (B, 2, ceil(T / step))."""
        product = self._product(waveform, template)
        whole = self._signal(product, self.weights[0], 1, waveform.shape[-1])
        kept = -(-waveform.shape[-1] // self.step)
        return whole, [self._signal(product, weights, self.step, kept) for weights in self.weights[1:]]

    def _product(self, waveform: Tensor, template: Tensor) -> Pair:
        """Return the spectrum of echoes times the conjugate one of the emitted sound, (B, 2, P, half)."""
        real, imag = self._spectrum(template.unsqueeze(-2))  # one for both ears
        return _times(self._spectrum(waveform), (real, -imag))

    def _spectrum(self, signal: Tensor) -> Pair:
        """Return the frequencies of signals (..., T) from 0 to the Nyquist frequency, (..., P, half)."""
        rows, columns = self.shape
        grid = F.pad(signal, (0, rows * columns - signal.shape[-1])).unflatten(-1, self.shape)
        grid = _times(_halves(self.over_columns.mT[:, :rows] @ grid, -2), self.twiddle)
        return _halves(torch.cat(grid, dim=-1) @ self.over_rows, -1)

    def _signal(self, spectrum: Pair, weights: Tensor, step: int, samples: int) -> Pair:
        """Return the first samples, one of `step`, of a spectrum (..., P, half) times weights (P, half)."""
        weighted = torch.cat([weights * part for part in spectrum], dim=-1)
        cosine, sine = self.twiddle[..., ::step]
        grid = _times(_halves(weighted @ self.over_rows[::step].mT, -1), (cosine, -sine))
        real, imag = _halves(self.over_columns @ torch.cat(grid, dim=-2), -2)  # (..., P, Q / step)
        return real.flatten(-2)[..., :samples], imag.flatten(-2)[..., :samples]


def turns(rows: Tensor, columns: Tensor, length: int) -> Pair:
    """Return exp(-2 pi i row * column / length) for whole numbers, float64."""
    angle = (torch.outer(rows, columns) % length).double() * (-2 * math.pi / length)
    return angle.cos(), angle.sin()


def block(real: Tensor, imag: Tensor) -> Tensor:
    """Return a complex matrix as a real one, for rows of real, then imaginary parts; its transpose is the adjoint."""
    return torch.cat([torch.cat([real, imag], dim=1), torch.cat([-imag, real], dim=1)])


def _halves(both: Tensor, dim: int) -> Pair:
    real, imag = both.chunk(2, dim=dim)
    return real, imag


def _times(a: Pair | Tensor, b: Pair | Tensor) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
