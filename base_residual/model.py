"""The network that splits a depth map into base and residual, and what any depth network here can do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from base_residual.audio import EchoFrontEnd, as_float32, checked_rate, echo_frames, fit_echo
from base_residual.config import Config, make_config
from base_residual.errors import CheckpointError, ConfigError, DataError, ShapeError
from base_residual.lookup import LookupDecoder
from base_residual.memory import keep_freed_memory
from base_residual.networks import EchoCode, GridDecoder, MapDecoder, TimeEncoder, UNetDecoder, UNetEncoder

if TYPE_CHECKING:
    from base_residual.evaluation import Evaluation
    from base_residual.tracking import Record

ECHOES_AT_ONCE = 32  # that go through a network in a prediction: memory stays flat, and more are no faster
LATENT = 24  # length of an echo's latent vector, per base channel


class DepthDecomposition(NamedTuple):
    """A predicted depth map and its two parts, each (B, 1, S, S) in metres; a notebook draws them."""

    base: Tensor
    residual: Tensor
    final: Tensor

    def show(self, gt: Tensor | NDArray[np.floating[Any]] | None = None) -> None:
        """Draw base, residual and final at once: in a notebook beneath the cell, else in the system's picture viewer.

        Args:
            gt: the ground truth, (S, S) for one prediction or (B, 1, S, S), in metres, 0 where nothing was measured.

        Raises:
            ShapeError: the ground truth has another shape.
            RunError: there is nothing to show it in.
        """
        from base_residual import notebook

        notebook.show(notebook.prediction_figure(self, gt))

    def _repr_png_(self) -> bytes:
        """What a notebook shows where a cell ends with a prediction."""
        from base_residual.notebook import prediction_figure
        from base_residual.visualize import as_png

        return as_png(prediction_figure(self))


def compose(
    base_raw: Tensor,
    residual_raw: Tensor,
    max_depth: float,
    bound: float = 0.2,
    detach_base: bool = False,
    activations: Literal["smooth", "hard"] = "smooth",
) -> DepthDecomposition:
    """Give two raw maps their bounds and add them.

    Args:
        base_raw: the base decoder's map (B, 1, S, S), unbounded.
        residual_raw: the residual decoder's map (B, 1, S, S), unbounded.
        max_depth: in metres.
        bound: largest residual, as a share of max_depth.
        detach_base: keep gradients of the sum from reaching the base (the curriculum after its warm-up).
        activations: sigmoid and tanh, or their tangents at 0, cut off at the bounds, where no gradient passes.

    Returns:
        base in [0, max_depth], residual in +-bound * max_depth, final in [0, max_depth].
    """
    residual_raw = residual_raw.float()
    part = torch.tanh(residual_raw) if activations == "smooth" else residual_raw.clamp(-1, 1)
    base, residual = base_share(base_raw, activations) * max_depth, part * (bound * max_depth)
    final = ((base.detach() if detach_base else base) + residual).clamp(0, max_depth)
    return DepthDecomposition(base, residual, final)


def base_share(base_raw: Tensor, activations: Literal["smooth", "hard"] = "smooth") -> Tensor:
    """The base as a share of max_depth, from 0 to 1, in full precision."""
    base_raw = base_raw.float()
    return torch.sigmoid(base_raw) if activations == "smooth" else (0.5 + base_raw / 4).clamp(0, 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A network in evaluation mode for a while, and then in the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class DepthNet(nn.Module):
    """A network from an echo's features to a depth map, with the front end that makes them.

    Args:
        config: the settings that it was made from; None for a network without a front end of its own.
        max_depth: in metres.
        output_size: side S of the map, in pixels.
    """

    splits = False
    """Whether base and residual are two predictions."""

    def __init__(self, config: Config | None, max_depth: float, output_size: int) -> None:
        super().__init__()
        self.config = config
        self.epoch = 0  # after which a checkpoint was saved, and the history until then; see checkpoint.py
        self.history: list[Record] = []
        self.max_depth, self.output_size = max_depth, output_size
        self.front_end = EchoFrontEnd(config.audio, output_size) if config else None

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Depth from features; see the subclasses."""
        raise NotImplementedError

    def start_at(self, depth: float) -> None:
        """Let the untrained network predict `depth` metres everywhere."""
        raise NotImplementedError

    def listen(self, waveform: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Depth from echoes of the right rate and length, (B, 2, T), on the network's device."""
        parts: DepthDecomposition = self(self.hear(waveform), detach_base)
        return parts

    def hear(self, waveform: Tensor) -> Tensor:
        """What the network gets of echoes (B, 2, T): the front end's features, in full precision, without gradients."""
        front_end = self._need_front_end()
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False):
            features: Tensor = front_end(waveform)
        return features

    @torch.inference_mode()
    def predict(
        self, waveform: Tensor | NDArray[np.floating[Any]], sample_rate: int | None = None
    ) -> DepthDecomposition:
        """Depth from echoes as they were recorded, without gradients and in evaluation mode.

        Args:
            waveform: (2, T) or (B, 2, T) in [-1, 1], left ear first; aligned, cut or padded as in training.
            sample_rate: its rate in Hz, if it is not the one of the training data.

        Returns:
            base, residual and final, (B, 1, S, S) in metres, on the network's device; B = 1 for one echo.

        Raises:
            ShapeError: the waveform has another shape.
            DataError: it holds samples that are not finite, or has a rate that no echo has.
            ConfigError: the network was made without a front end.
        """
        rate = self._need_front_end().config.sample_rate
        echoes = as_float32(waveform)
        if echoes.ndim == 2:
            echoes = echoes[None]
        if echoes.ndim != 3 or echoes.shape[1] != 2:
            raise ShapeError(
                f"Echoes have shape {tuple(echoes.shape)}; expected is (2 ears, samples) or (batch, 2, samples)."
            )
        if not echoes.isfinite().all():
            raise DataError("The echoes hold NaN or infinite samples.")
        given = rate if sample_rate is None else checked_rate(sample_rate, "The echo")
        echoes = fit_echo(echoes, given, rate, echo_frames(self.max_depth, rate), self.aligns)
        device = next(self.parameters()).device
        keep_freed_memory(device)
        with evaluating(self):
            batches = [self.listen(batch.to(device)) for batch in echoes.split(ECHOES_AT_ONCE)]
        return DepthDecomposition(*map(torch.cat, zip(*batches, strict=True)))

    def save_pretrained(self, folder: str | Path, evaluation: Evaluation | None = None, **options: Any) -> None:
        """Write the network as `model.safetensors`, a checkpoint like any other, with a model card beside it.

        The card says what the settings and the history say. A README.md that is there already stays as it is.

        Args:
            folder: where to.
            evaluation: figures for the card, such as a result's `test`.
            options: what huggingface_hub's `ModelHubMixin.save_pretrained` takes, such as `push_to_hub=True`, `repo_id`
                and `private`, to publish it as well.

        Raises:
            MissingExtraError: huggingface_hub is not installed.
            ConfigError: the network was made from plain keywords.
            RunError: the folder cannot be written, or the hub does not take it.
            TrainingError: a weight is not finite.
        """
        from base_residual import hub

        hub.save_model(self, folder, evaluation, **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """A network that `save_pretrained` has written, on the CPU and in evaluation mode.

        Args:
            source: a folder, or a hub's name of a model, `owner/name`.
            options: what the hub's client takes: `revision`, `token`, `cache_dir`, `force_download` and
                `local_files_only`.

        Raises:
            MissingExtraError: huggingface_hub is not installed.
            CheckpointError: there is no such model, or its file is not a checkpoint of such a network.
        """
        from base_residual import hub

        model = hub.load_pretrained(source, **options)
        if not isinstance(model, cls):
            raise CheckpointError(
                f"{source} is a {type(model).__name__}, not a {cls.__name__}. Load it with "
                f"{type(model).__name__}.from_pretrained."
            )
        return model

    @property
    def aligns(self) -> bool:
        """Whether it was trained on echoes that begin with their direct sound."""
        return self.config is not None and self.config.data.align_onset

    def _need_front_end(self) -> EchoFrontEnd:
        if self.front_end is None:
            raise ConfigError(
                "This network was made from plain keywords and has no front end. "
                "Make it from a Config to predict from waveforms."
            )
        return self.front_end


class BaseResidualNet(DepthNet):
    """One shared encoder, a decoder for the base and one for the residual: final = base + residual.

    Args:
        encoder: from features to an `EchoCode`.
        base_decoder: from the code to the base's raw map.
        residual_decoder: from the code, the base now part of it, to the residual's raw map.
        max_depth: in metres.
        output_size: side S of the maps, in pixels.
        residual_bound: largest residual, as a share of max_depth.
        activations: what keeps the parts in bounds; see `compose`.
        config: the settings that it was made from, if it is to have a front end.
    """

    splits = True

    def __init__(
        self,
        encoder: nn.Module,
        base_decoder: nn.Module,
        residual_decoder: nn.Module,
        max_depth: float,
        output_size: int,
        residual_bound: float = 0.2,
        activations: Literal["smooth", "hard"] = "smooth",
        config: Config | None = None,
    ) -> None:
        super().__init__(config, max_depth, output_size)
        self.encoder = encoder
        self.base_decoder = base_decoder
        self.residual_decoder = residual_decoder
        if activations not in ("smooth", "hard"):
            raise ConfigError(f"Unknown activations '{activations}'. Known are smooth, hard.")
        self.residual_bound, self.activations = residual_bound, activations

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Depth from features.

        Args:
            x: (B, C, H, W) for a 2-D encoder, (B, C, T) for a 1-D one.
            detach_base: keep gradients of final from reaching the base decoder.

        Returns:
            base, residual and final, each (B, 1, S, S) in metres.

        Raises:
            ShapeError: the network cannot take the shape.
        """
        code: EchoCode = self.encoder(x)
        base_raw = self.base_decoder(code)  # (B, 1, S, S)
        residual_raw = self.residual_decoder(code._replace(base=base_share(base_raw, self.activations)))
        return compose(base_raw, residual_raw, self.max_depth, self.residual_bound, detach_base, self.activations)

    def start_at(self, depth: float) -> None:
        """Let the untrained base predict `depth` metres everywhere, and the residual nothing."""
        start_head(self.base_decoder, raw_of(depth / self.max_depth, self.activations))
        start_head(self.residual_decoder, 0.0)


def raw_of(share: float, activations: Literal["smooth", "hard"] = "smooth") -> float:
    """The raw value that becomes a base of `share` times max_depth."""
    share = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share)) if activations == "smooth" else 4 * (share - 0.5)


def start_head(decoder: nn.Module, raw: float) -> None:
    """Set a decoder's last layer so that its map begins near a raw value everywhere."""
    head = decoder.head
    assert isinstance(head, nn.Conv2d | nn.Linear)
    assert head.bias is not None
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.fill_(raw)


def make_encoder(config: Config) -> nn.Module:
    """The encoder that a configuration asks for, fitting its front end."""
    audio, data, model = config.audio, config.data, config.model
    front_end = EchoFrontEnd(audio, data.output_size)
    if model.encoder == "unet":
        return UNetEncoder(front_end.channels, model.base_channels, model.bilinear)
    frames = echo_frames(data.max_depth, audio.sample_rate)
    return TimeEncoder(front_end.swapped, model.base_channels, LATENT * model.base_channels, frames, model.symmetric)


def make_decoder(name: str, config: Config) -> nn.Module:
    """The decoder of that name: grid, map, lookup or unet."""
    data, model = config.data, config.model
    latent_size = LATENT * model.base_channels
    match name:
        case "grid":
            return GridDecoder(latent_size, model.base_grid, data.output_size)
        case "map":
            return MapDecoder(latent_size, model.base_channels, data.output_size)
        case "lookup":
            return LookupDecoder(latent_size, model.base_channels, data.output_size, model.residual_bound)
        case _:
            return UNetDecoder(model.base_channels, model.bilinear, data.output_size)


def create_base_residual_model(config: Config | None = None, **overrides: Any) -> BaseResidualNet:
    """Make a `BaseResidualNet`.

    With a configuration, or with settings of its sections as nested mappings, the network has the front end that goes
    with it and predicts from waveforms. With the plain keywords it is the 2-D network, images in: a U-Net encoder and
    two U-Net decoders.

    Args:
        config: settings; default: the package's.
        overrides: sections of the configuration (`model={"base_channels": 16}`), or any of the plain keywords
            `input_channels` (2), `base_channels` (64), `bilinear` (True), `output_size` (256), `max_depth` (30.0).

    Returns:
        The network, untrained, on the CPU.

    Raises:
        ConfigError: a keyword is unknown or its value out of bounds.
    """
    plain = {"input_channels", "base_channels", "bilinear", "output_size", "max_depth"}
    if config is None and overrides and overrides.keys() <= plain:
        return _plain_keywords(**overrides)
    if overrides.keys() & plain or overrides.keys() - set(Config.model_fields):
        raise ConfigError(
            f"Cannot use {', '.join(sorted(overrides))}. Give sections of the configuration "
            f"({', '.join(Config.model_fields)}), or plain keywords alone ({', '.join(sorted(plain))})."
        )
    given = config.model_dump(mode="json") if config else {}
    config = make_config(given, overrides)
    if config.model.name != "base_residual":
        raise ConfigError(
            f"The model '{config.model.name}' is a baseline and splits nothing. Make it with baseline.create_model, or "
            "leave model.name as it is."
        )
    return BaseResidualNet(
        make_encoder(config),
        make_decoder(config.model.base_decoder, config),
        make_decoder(config.model.decoder, config),
        config.data.max_depth,
        config.data.output_size,
        config.model.residual_bound,
        config.model.activations,
        config,
    )


def _plain_keywords(
    input_channels: int = 2,
    base_channels: int = 64,
    bilinear: bool = True,
    output_size: int = 256,
    max_depth: float = 30.0,
) -> BaseResidualNet:
    for name, value in {
        "input_channels": input_channels,
        "base_channels": base_channels,
        "output_size": output_size,
        "max_depth": max_depth,
    }.items():
        if value <= 0:
            raise ConfigError(f"{name} is {value}; expected is more than 0.")
    return BaseResidualNet(
        UNetEncoder(input_channels, base_channels, bilinear),
        UNetDecoder(base_channels, bilinear, output_size),
        UNetDecoder(base_channels, bilinear, output_size),
        max_depth,
        output_size,
    )
