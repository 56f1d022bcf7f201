"""A checkpoint as one ONNX file: waveform in, depth out."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, Json
from torch import Tensor, nn

from base_residual.acoustics.binaural import STEP
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.hearing import count_around, emitted_sound, fit_echo, hear
from base_residual.acoustics.matched_filter import Pair
from base_residual.camera import DepthCamera
from base_residual.config.presets import MAX_RATE, MIN_RATE
from base_residual.config.schema import Angle, AudioConfig
from base_residual.deploy.real_filter import RealMatchedFilter, turns
from base_residual.errors import BaseResidualError, CheckpointError, MissingExtraError
from base_residual.files.atomic import write_whole
from base_residual.machine import standard_torch
from base_residual.models.network import DepthNet
from base_residual.plots.figures import Map
from base_residual.version import __version__

OPSET = 18  # the oldest that the exporter writes, for the sake of older runtimes
RESERVE = 0.1  # seconds that a recording may begin before the emission
TOLERANCE = 1e-3  # metres between ONNX Runtime and PyTorch
LARGEST = 2**31  # bytes in one ONNX file
OUTPUTS = ("base", "residual", "final", "remainder")  # the last one of a calibrated network alone


class ExportError(BaseResidualError):
    """A model cannot be written as ONNX, or what was written computes something else."""


@standard_torch()
def export_onnx(model: DepthNet, path: Path) -> Path:
    """Write a model with its front end as one ONNX file that needs nothing of this package.

    The input is `waveform`, float32 (batch, 2, frames) of any batch size and level; the outputs are `base`, `residual`
    and `final`, float32 (batch, 1, S, S) in metres, and of a calibrated network its `remainder`. The file removes
    offset and rumble and finds the direct sound, too. The metadata say `max_depth` in metres, `sample_rate` in Hz,
    `output_size` S in pixels, `frames` of a recording and its `reserve`, up to which the emission may be late, both in
    samples, and this package's `version`. Where the view of the camera is known, they say its `field_of_view`,
    `[across, upward]` in degrees, and `depth_along`, "axis" or "ray"; of a calibrated network, the `level` of its
    remainder. The reserve is 0 where the network takes recordings from their first sample on.

    Args:
        model: a network with a front end, on any device; it is not changed.
        path: the file to write; it appears once ONNX Runtime agrees with PyTorch.

    Returns:
        The path.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ExportError: the model has no front end or too many weights, onnxscript does not go with this PyTorch, or ONNX
            Runtime computes another depth.
        PredictionError: what the model predicts is not finite.
        RunError: the file cannot be written.
    """
    front_end = _require_exportable(model)
    rate = front_end.config.sample_rate
    frames = recorded_frames(model)
    net = ExportedNet(copy.deepcopy(model).cpu().float()).eval()
    net.model.predict(sample_echoes(1, frames, rate))  # refuses what is not finite, which the exporter would trip over
    program = _converted(net, frames, OUTPUTS if model.calibration else OUTPUTS[:-1])
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # names of source files and lines
    metadata = {
        "max_depth": model.max_depth,
        "sample_rate": rate,
        "output_size": model.output_size,
        "frames": frames,
        "reserve": _reserve(front_end.config),
        "version": __version__,
    }
    if model.camera:
        metadata |= {"field_of_view": list(model.camera.field_of_view), "depth_along": model.camera.along}
    if model.calibration:
        metadata["level"] = model.calibration.level
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
    config, frames = model.front_end.config, recorded_frames(model)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    largest = []
    for batch in (1, 3):
        echoes = sample_echoes(batch, frames, config.sample_rate).roll(_reserve(config) * (batch - 1) // 2, dims=-1)
        with torch.inference_mode():
            heard = fit_echo(echoes, config.sample_rate, echo_frames(model.max_depth, config.sample_rate), config)
            parts, remainder = model.bound(model.features(heard))
        ours = torch.stack([*parts] if remainder is None else [*parts, remainder])
        found = session.run(OUTPUTS[: len(ours)], {"waveform": echoes.numpy()})
        theirs = torch.stack([torch.from_numpy(part) for part in found])
        largest.append((ours - theirs).abs().max())
    return float(torch.stack(largest).max())


class OpenedModel(NamedTuple):
    """An exported model in ONNX Runtime.

    Attributes:
        run: gives the outputs by name for recordings (B, 2, frames), float32.
        frames: of a recording, in samples.
        sample_rate: in Hz.
        camera: None where its view is not known.
    """

    run: Callable[[Map], dict[str, Map]]
    frames: int
    sample_rate: int
    camera: DepthCamera | None


def open_onnx(path: Path, threads: int) -> OpenedModel:
    """Open an exported model in ONNX Runtime, on the CPU.

    Args:
        path: a file that `export_onnx` has written.
        threads: that a call takes.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: it is no such file, or does not run.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("What an ONNX file costs", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what is wrong with a file is raised
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no parent of their own
        raise CheckpointError(f"{path} is no ONNX file that can be run here.") from error
    names = [output.name for output in session.get_outputs()]

    def run(echoes: Map) -> dict[str, Map]:
        found: list[Map] = session.run(names, {"waveform": echoes})  # type: ignore[assignment]
        return dict(zip(names, found, strict=True))

    try:
        about = _About.model_validate(session.get_modelmeta().custom_metadata_map)
        if names not in (list(OUTPUTS), list(OUTPUTS[:-1])):
            raise ValueError("it has other outputs")
        run(np.zeros((1, 2, about.frames), np.float32))
    except Exception as error:  # of pydantic, and of the runtime
        raise CheckpointError(f"{path} is an ONNX file, but none that brdepth export has written.") from error
    camera = DepthCamera(about.field_of_view, about.depth_along) if about.field_of_view else None
    return OpenedModel(run, about.frames, about.sample_rate, camera)


class _About(BaseModel):
    """Check the metadata of an exported model."""

    model_config = ConfigDict(defer_build=True)  # until a file is opened

    frames: int = Field(ge=1, le=10**7)
    sample_rate: int = Field(ge=MIN_RATE, le=MAX_RATE)
    field_of_view: Json[tuple[Angle, Angle]] | None = None
    depth_along: Literal["axis", "ray"] = "axis"


def sample_echoes(batch: int, frames: int, sample_rate: int) -> Tensor:
    """Return float32 (batch, 2, frames): a chirp's echoes by random walls, with noise; every third is silent."""
    rng = torch.Generator().manual_seed(0)
    chirp = emitted_sound(sample_rate)
    walls = torch.randn(batch, 2, frames, generator=rng) * (torch.rand(batch, 2, frames, generator=rng) < 0.01)
    walls[..., 0] = 3
    decay = torch.exp(-5 * torch.arange(frames) / frames)
    sound = F.conv1d(F.pad(walls * decay, (len(chirp) - 1, 0)).flatten(0, 1)[:, None], chirp.flip(0)[None, None])
    echoes = 0.1 * sound.view(batch, 2, frames) + 1e-4 * torch.randn(batch, 2, frames, generator=rng)
    echoes[2::3] = 0  # where a division by 0 would show
    return echoes


class ExportedNet(nn.Module):
    """A network behind a hearing and a front end that export.

    Args:
        model: a network with a front end.
    """

    def __init__(self, model: DepthNet) -> None:
        super().__init__()
        assert model.front_end is not None
        config = model.front_end.config
        self.frames = echo_frames(model.max_depth, config.sample_rate)
        self.aligned, self.rate = config.emission == "found", config.sample_rate
        self.front_end = RealFrontEnd(model.front_end, self.frames)
        template = emitted_sound(self.rate)
        self.matched_filter = RealMatchedFilter(recorded_frames(model), len(template))
        self.model = model

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Return base, residual and final of recordings (B, 2, T), and the remainder of a calibrated network."""
        if self.aligned:
            waveform = hear(
                waveform, self.rate, self.frames, pulse=self.matched_filter, mean_around=_mean_around
            ).waveform
        parts, remainder = self.model.draw_bounded(self.front_end(waveform))
        return (*parts,) if remainder is None else (*parts, remainder)


def _mean_around(signal: Tensor, reach: int) -> Tensor:
    """Return what the hearing's own mean does, without sums that need double precision.

    A sum over many neighbours is one over few, of sums over few: a runtime takes them one by one.
    """
    width = 2 * reach + 1
    few = next(part for part in range(math.isqrt(width), 0, -1) if width % part == 0)
    padded = F.pad(signal, (reach, reach)).flatten(0, 1)[:, None]  # (2B, 1, T + 2 reach)
    near = F.conv1d(padded, signal.new_ones(1, 1, few))
    sums = F.conv1d(near, signal.new_ones(1, 1, width // few), dilation=few).unflatten(0, (-1, 2))[:, :, 0]
    return sums / count_around(signal.shape[-1], reach, signal.device)


def recorded_frames(model: DepthNet) -> int:
    """Return the length of the recordings that an exported network takes, in samples."""
    assert model.front_end is not None
    config = model.front_end.config
    return echo_frames(model.max_depth, config.sample_rate) + _reserve(config)


def _reserve(config: AudioConfig) -> int:
    """Return the samples that a recording may begin before the emission."""
    return round(RESERVE * config.sample_rate) if config.emission == "found" else 0


class RealFrontEnd(EchoFrontEnd):
    """The same front end in real numbers: its Fourier transforms are convolutions and products of matrices.

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
        waves = torch.cat(turns(torch.arange(config.n_fft // 2 + 1), time, config.n_fft)) * self.window
        self.waves = nn.Buffer(waves.float()[:, None], persistent=False)  # (2 * (n_fft // 2 + 1), 1, win_length)

        self.matched_filter = RealMatchedFilter(frames, self.template_frames, STEP, self.edges, config.sample_rate)

    def magnitude(self, waveform: Tensor) -> Tensor:
        """Return what `EchoFrontEnd.magnitude` does, by a convolution with windowed cosines and sines."""
        n_fft, window = self.config.n_fft, self.config.win_length
        before, after = n_fft // 2 - self.start, n_fft // 2 - (n_fft - window - self.start)
        signal = F.pad(waveform, (before, after)).flatten(0, 1)[:, None]  # (2B, 1, T + before + after)
        real, imag = F.conv1d(signal, self.waves, stride=self.config.hop_length).chunk(2, dim=1)
        magnitude: Tensor = (real.square() + imag.square()).sqrt().unflatten(0, (-1, 2))
        return magnitude

    def pulses(self, waveform: Tensor, template: Tensor) -> tuple[Pair, list[Pair]]:
        """Return what `EchoFrontEnd.pulses` does, by products of matrices."""
        return self.matched_filter.with_bands(waveform, template)


def _converted(net: nn.Module, frames: int, outputs: Sequence[str]) -> torch.onnx.ONNXProgram:
    """Convert a network from waveform to depth, with so many outputs.

    Raises:
        ExportError: onnxscript does not go with this PyTorch.
    """
    with _quiet():
        try:
            program = torch.onnx.export(
                _traced(net, frames),
                input_names=["waveform"],
                output_names=outputs,
                dynamic_shapes={"waveform": {0: "batch"}},
                opset_version=OPSET,
                verbose=False,
            )
        except ImportError as error:
            raise ExportError(
                f"The installed onnxscript does not go with PyTorch {torch.__version__} ({error}). Install a newer one."
            ) from error
    assert program is not None
    return program


def _traced(net: nn.Module, frames: int) -> torch.export.ExportedProgram:
    """Trace a network from waveform to depth, for any batch size."""
    batch = {"waveform": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(net, (torch.zeros(2, 2, frames),), dynamic_shapes=batch)
    # The exporter to ONNX cannot tell the type of a clamp between an int and a float.
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default):
        if node.args[0].meta["val"].is_floating_point():
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
