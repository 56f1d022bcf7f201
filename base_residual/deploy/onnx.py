"""A checkpoint as one ONNX file: waveform in, depth out."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.matched_filter import analytic_weights, fast_length
from base_residual.errors import BaseResidualError, MissingExtraError
from base_residual.files.atomic import write_whole
from base_residual.machine import standard_torch
from base_residual.models.network import DepthNet
from base_residual.version import __version__

OPSET = 18  # the oldest that the exporter writes, for the sake of older runtimes
TOLERANCE = 1e-3  # metres between ONNX Runtime and PyTorch
LARGEST = 2**31  # bytes in one ONNX file
OUTPUTS = ("base", "residual", "final")

Pair = tuple[Tensor, ...]  # real and imaginary part


class ExportError(BaseResidualError):
    """A model cannot be written as ONNX, or what was written computes something else."""


@standard_torch()
def export_onnx(model: DepthNet, path: Path) -> Path:
    """Write a model with its front end as one ONNX file that needs nothing of this package.

    The input is `waveform`, float32 (batch, 2, frames) of any batch size; the outputs are `base`, `residual` and
    `final`, float32 (batch, 1, S, S) in metres. The metadata say `max_depth` in metres, `sample_rate` in Hz,
    `output_size` S in pixels, `frames` in samples, whether it was trained on `aligned` echoes, and this package's
    `version`.

    Args:
        model: a network with a front end, on any device; it is not changed.
        path: the file to write; it appears once ONNX Runtime agrees with PyTorch.

    Returns:
        The path.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ExportError: the model has no front end or too many weights, or ONNX Runtime computes another depth.
        PredictionError: what the model predicts is not finite.
        RunError: the file cannot be written.
    """
    front_end = _require_exportable(model)
    rate = front_end.config.sample_rate
    frames = echo_frames(model.max_depth, rate)
    net = ExportedNet(copy.deepcopy(model).cpu().float(), frames).eval()
    net.model.predict(sample_echoes(1, frames, rate))  # refuses what is not finite, which the exporter would trip over
    with _quiet():
        program = torch.onnx.export(
            _traced(net, frames),
            input_names=["waveform"],
            output_names=OUTPUTS,
            dynamic_shapes={"waveform": {0: "batch"}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # names of source files and lines
    metadata = {
        "max_depth": model.max_depth,
        "sample_rate": rate,
        "output_size": model.output_size,
        "frames": frames,
        "aligned": front_end.config.emission == "found",
        "version": __version__,
    }
    program.model.metadata_props.update({key: str(value) for key, value in metadata.items()})
    content = program.model_proto.SerializeToString()
    difference = check_onnx(model, content)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"ONNX Runtime and PyTorch differ by {difference:.3g} m; expected are at most {TOLERANCE:g} m. "
            "Nothing was written. Try other versions of onnxscript and onnxruntime."
        )
    write_whole(path, content)
    return path


def _require_exportable(model: DepthNet) -> EchoFrontEnd:
    """Return the front end of a model that can be exported on this machine; raise as `export_onnx` says otherwise."""
    if not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise MissingExtraError("export", "onnx")
    if model.front_end is None:
        raise ExportError("This network has no front end. Make it from a Config to export it from waveform to depth.")
    size = sum(4 * weights.numel() for weights in model.parameters())
    if size >= LARGEST:
        raise ExportError(
            f"The weights take {size / 2**30:.1f} GiB; one ONNX file holds less than {LARGEST / 2**30:.0f} GiB. "
            "Train a model with fewer model.base_channels."
        )
    return model.front_end


@standard_torch()
def check_onnx(model: DepthNet, exported: Path | bytes) -> float:
    """Return the largest difference between what ONNX Runtime and PyTorch make of the same echoes, in metres.

    Args:
        model: the network that was exported.
        exported: its ONNX file, or the content of one.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("export", "onnx") from error
    model = copy.deepcopy(model).cpu().float().eval()  # a GPU rounds in its own way
    assert model.front_end is not None
    rate = model.front_end.config.sample_rate
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    largest = []
    for batch in (1, 3):
        echoes = sample_echoes(batch, echo_frames(model.max_depth, rate), rate)
        with torch.inference_mode():
            ours = torch.stack(model.decompose(echoes))
        theirs = torch.stack([torch.from_numpy(part) for part in session.run(OUTPUTS, {"waveform": echoes.numpy()})])
        largest.append((ours - theirs).abs().max())
    return float(torch.stack(largest).max())


def sample_echoes(batch: int, frames: int, sample_rate: int) -> Tensor:
    """Return float32 (batch, 2, frames): a chirp's echoes by random walls, with noise; every third is silent."""
    rng = torch.Generator().manual_seed(0)
    chirp = torch.from_numpy(ChirpDesign().waveform(sample_rate)).float()
    walls = torch.randn(batch, 2, frames, generator=rng) * (torch.rand(batch, 2, frames, generator=rng) < 0.01)
    walls[..., 0] = 3
    decay = torch.exp(-5 * torch.arange(frames) / frames)
    sound = F.conv1d(F.pad(walls * decay, (len(chirp) - 1, 0)).flatten(0, 1)[:, None], chirp.flip(0)[None, None])
    echoes = 0.1 * sound.view(batch, 2, frames) + 1e-4 * torch.randn(batch, 2, frames, generator=rng)
    echoes[2::3] = 0  # where a division by 0 would show
    return echoes


class ExportedNet(nn.Module):
    """A network behind a front end that exports.

    Args:
        model: a network with a front end.
        frames: length of the echoes, in samples.
    """

    def __init__(self, model: DepthNet, frames: int) -> None:
        super().__init__()
        assert model.front_end is not None
        self.front_end = RealFrontEnd(model.front_end, frames)
        self.model = model

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Return base, residual and final of echoes (B, 2, T)."""
        return tuple(self.model(self.front_end(waveform)))


class RealFrontEnd(EchoFrontEnd):
    """The same front end in real numbers: its Fourier transforms are convolutions and products of matrices.

    ONNX Runtime's own transform is slow and inaccurate where a length is no power of two, and the lengths have to be
    those of training. Of L = P * Q samples, laid out as P rows, the transform is one of every column, a twiddle, and
    one of every row (Cooley and Tukey, Mathematics of Computation 19, 1965). The frequency k1 + P * k2 stays at
    (k1, k2) until the inverse; negative ones are left out, since an analytic signal has none.

    Args:
        front_end: what it is to equal.
        frames: length of the echoes, in samples.
    """

    def __init__(self, front_end: EchoFrontEnd, frames: int) -> None:
        super().__init__(front_end.config, front_end.image_size)
        self.template = front_end.template
        config = self.config
        # The window is non-zero in the middle of each transform.
        self.start = (config.n_fft - config.win_length) // 2
        time = torch.arange(config.win_length) + self.start
        waves = torch.cat(_turns(torch.arange(config.n_fft // 2 + 1), time, config.n_fft)) * self.window
        self.waves = nn.Buffer(waves.float()[:, None], persistent=False)  # (2 * (n_fft // 2 + 1), 1, win_length)

        length = fast_length(frames + len(self.template))
        rows = next(p for p in range(math.isqrt(length), 0, -1) if length % p == 0)
        self.shape = rows, length // rows
        p, q = torch.arange(rows), torch.arange(length // rows)
        half = q[: length // 2 // rows + 1]  # as much of k2 as the Nyquist frequency needs
        self.over_columns = nn.Buffer(_block(*_turns(p, p, rows)).float(), persistent=False)  # (2P, 2P)
        self.twiddle = nn.Buffer(torch.stack(_turns(p, q, length)).float(), persistent=False)  # (2, P, Q)
        self.over_rows = nn.Buffer(_block(*_turns(q, half, len(q))).float(), persistent=False)  # (2Q, 2 half)
        weights = analytic_weights(length, torch.device("cpu")).view(len(q), rows).T[:, : len(half)] / length
        self.weights = nn.Buffer(weights, persistent=False)  # (P, half)

    def magnitude(self, waveform: Tensor) -> Tensor:
        """Return what `EchoFrontEnd.magnitude` does, by a convolution with windowed cosines and sines."""
        n_fft, window = self.config.n_fft, self.config.win_length
        before, after = n_fft // 2 - self.start, n_fft // 2 - (n_fft - window - self.start)
        signal = F.pad(waveform, (before, after)).flatten(0, 1)[:, None]  # (2B, 1, T + before + after)
        real, imag = F.conv1d(signal, self.waves, stride=self.config.hop_length).chunk(2, dim=1)
        magnitude: Tensor = (real.square() + imag.square()).sqrt().unflatten(0, (-1, 2))
        return magnitude

    def pulse(self, waveform: Tensor, template: Tensor) -> Pair:
        """Return what `EchoFrontEnd.pulse` does, by products of matrices."""
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


def _turns(rows: Tensor, columns: Tensor, length: int) -> Pair:
    """Return exp(-2 pi i row * column / length) for whole numbers, float64."""
    angle = (torch.outer(rows, columns) % length).double() * (-2 * math.pi / length)
    return angle.cos(), angle.sin()


def _block(real: Tensor, imag: Tensor) -> Tensor:
    """Return a complex matrix as a real one, for rows of real, then imaginary parts; its transpose is the adjoint."""
    return torch.cat([torch.cat([real, imag], dim=1), torch.cat([-imag, real], dim=1)])


def _times(a: Pair | Tensor, b: Pair | Tensor) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _traced(net: nn.Module, frames: int) -> torch.export.ExportedProgram:
    """Trace a network from waveform to depth, for any batch size."""
    batch = {"waveform": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(net, (torch.zeros(2, 2, frames),), dynamic_shapes=batch)
    # The exporter to ONNX cannot tell the type of a clamp between an int and a float.
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default):
        node.args = (node.args[0], *(float(bound) for bound in node.args[1:]))
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on itself: unfolded constants, unused inputs, deprecated calls of its own."""
    talkers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
