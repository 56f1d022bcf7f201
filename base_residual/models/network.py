"""Depth networks: an encoder, one or two decoders, and the front end before them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from base_residual.acoustics.doubts import Examined, examine, joined
from base_residual.acoustics.framing import as_echo_batch, echo_frames
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.acoustics.recordings import checked_rate
from base_residual.camera import DepthCamera
from base_residual.config.schema import Config
from base_residual.data.sample import abbreviate_names
from base_residual.data.views import camera_of
from base_residual.errors import CheckpointError, ConfigError
from base_residual.metrics import Evaluation
from base_residual.models.checkpoint import StoredNet, load
from base_residual.models.code import Drawn, EchoCode
from base_residual.models.decomposition import DepthDecomposition, Prediction, base_share, compose, raw_of
from base_residual.models.mirror import DoublingHead
from base_residual.models.parts import make_decoder, make_encoder
from base_residual.models.remainder import Calibration, Remainder
from base_residual.models.twins import evaluating

log = logging.getLogger("base_residual")

ECHOES_AT_ONCE = 32  # that go through a network in a prediction: memory stays flat, and more are no faster


class DepthNet(StoredNet):
    """A network from an echo's features to a depth map, with the front end that makes them.

    Args:
        config: the settings that it was made from; None for a network without a front end of its own.
        max_depth: in metres.
        output_size: side S of the map, in pixels.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """What the setting `model.name` calls such a network."""

    has_residual = False
    """True where base and residual are two predictions."""

    def __init__(self, config: Config | None, max_depth: float, output_size: int) -> None:
        super().__init__(config)
        self.max_depth, self.output_size = max_depth, output_size
        self.front_end = EchoFrontEnd(config.audio, output_size) if config else None
        self.remainder: Remainder | None = None

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Make the untrained network, on the CPU, that a configuration describes.

        Raises:
            ConfigError: it describes another kind of network.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Return base, residual and final from features, each (B, 1, S, S) in metres.

        Args:
            x: (B, C, H, W) for a 2-D encoder, (B, C, T) for a 1-D one.
            detach_base: keep gradients of final from reaching the base decoder.

        Raises:
            ShapeError: the network cannot take the shape.
        """
        return self.draw(x, detach_base)[0]

    def draw(self, x: Tensor, detach_base: bool = False) -> tuple[DepthDecomposition, Tensor]:
        """Return what `forward` does, and the features that the last decoder has drawn from."""
        raise NotImplementedError

    def last_head(self) -> nn.Conv2d | nn.Linear:
        """Return the layer that draws the last map."""
        raise NotImplementedError

    def expect_remainder(self, calibration: Calibration) -> None:
        """Give the network an unfitted remainder, and that calibration."""
        self.remainder, self.calibration = self.make_remainder(), calibration

    def make_remainder(self) -> Remainder:
        """Make an unfitted remainder that goes with this network, on its device."""
        head = self.last_head()
        assert isinstance(head, nn.Conv2d)
        remainder = Remainder(head.in_channels, isinstance(head, DoublingHead), self.max_depth)
        return remainder.to(head.weight.device)

    def initialise_depth(self, depth: float) -> None:
        """Let the untrained network predict `depth` metres everywhere."""
        raise NotImplementedError

    def decompose(self, waveform: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Return depth from echoes (B, 2, T) of the network's own rate and length, on its device."""
        return self.interpret(self.features(waveform), detach_base)

    def interpret(self, features: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Return depth from the front end's features.

        The network computes in the precision of its weights, whatever autocast is around: float32 as it is loaded,
        another one after `model.half()` and the like.
        """
        with self._own_precision(features.device) as kind:
            parts: DepthDecomposition = self(features.to(kind), detach_base)
        return parts

    def draw_from(self, features: Tensor, detach_base: bool = False) -> tuple[DepthDecomposition, Tensor]:
        """Return what `interpret` does, and the features that the last decoder has drawn from."""
        with self._own_precision(features.device) as kind:
            return self.draw(features.to(kind), detach_base)

    def bound(self, features: Tensor, detach_base: bool = False) -> tuple[DepthDecomposition, Tensor | None]:
        """Return what `interpret` does, and its remainder in metres, (B, 1, S, S); None if it is not calibrated."""
        with self._own_precision(features.device) as kind:
            return self.draw_bounded(features.to(kind), detach_base)

    def draw_bounded(self, x: Tensor, detach_base: bool = False) -> tuple[DepthDecomposition, Tensor | None]:
        """Return what `forward` does, and the remainder in metres, (B, 1, S, S); None if it is not calibrated."""
        if self.remainder is None or self.calibration is None:
            return self(x, detach_base), None
        parts, drawn_from = self.draw(x, detach_base)
        return parts, self.calibration.factor * self.remainder(drawn_from, parts)

    @contextmanager
    def _own_precision(self, device: torch.device) -> Iterator[torch.dtype]:
        """Compute in the precision of the weights within the context, which gives it."""
        kind = next(self.parameters()).dtype
        with torch.autocast(device.type, kind if kind.itemsize == 2 else None, enabled=kind.itemsize == 2):
            yield kind

    def features(self, waveform: Tensor) -> Tensor:
        """Return the front end's features of echoes (B, 2, T), in full precision and without gradients."""
        front_end = self._need_front_end()
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False):
            features: Tensor = front_end(waveform)
        return features

    def predict(self, waveform: Tensor | NDArray[Any], sample_rate: int | None = None) -> Prediction:
        """Predict depth from echoes as they were recorded, without gradients and in evaluation mode.

        Threads may share a network: nothing of it changes, and its mode does not matter. What makes a prediction
        doubtful is logged as a warning, once for all echoes.

        Args:
            waveform: (2, T) or (B, 2, T), left ear first, floating-point numbers or integers in full scale; the direct
                sound is found in it, and it is cut or padded as in training.
            sample_rate: its rate in Hz, if it is not the one of the training data.

        Returns:
            base, residual and final, (B, 1, S, S) in metres, on the network's device; B = 1 for one echo. Its
            `remainder` is how far off they may be, and its method `points` gives them in space.

        Raises:
            ShapeError: the waveform has another shape.
            DataError: it holds samples that are not finite, too large or no numbers, or has a rate that no echo has.
            PredictionError: a prediction is not finite.
            ConfigError: the network was made without a front end.
        """
        examined = self.examine(waveform, sample_rate)
        warn_of_doubts(examined.doubts)
        return self.predict_examined(examined.waveform)

    def examine(self, waveform: Tensor | NDArray[Any], sample_rate: int | None = None) -> Examined:
        """Bring echoes to what the network takes, on the CPU, and say what is doubtful about each; see `predict`."""
        audio = self._need_front_end().config
        rate = audio.sample_rate if sample_rate is None else checked_rate(sample_rate, "The echo")
        frames = echo_frames(self.max_depth, audio.sample_rate)
        parts = [examine(batch, rate, frames, audio) for batch in as_echo_batch(waveform).cpu().split(ECHOES_AT_ONCE)]
        return joined(parts)

    @torch.inference_mode(False)
    @torch.no_grad()  # inference mode would make tensors that nobody may change
    def predict_examined(self, echoes: Tensor) -> Prediction:
        """Predict depth from echoes (B, 2, T) that `examine` has brought to what the network takes.

        Raises:
            PredictionError: a prediction is not finite.
        """
        device, model = next(self.parameters()).device, evaluating(self)
        parts, bounds = zip(
            *(model.bound(model.features(batch.to(device))) for batch in echoes.split(ECHOES_AT_ONCE)), strict=True
        )
        prediction = Prediction(*map(torch.cat, zip(*parts, strict=True)))
        prediction.camera = self.camera
        known = [bound for bound in bounds if bound is not None]
        if known and model.calibration is not None:
            prediction.half_width, prediction.level = torch.cat(known), model.calibration.level
        return prediction.require_finite()

    @property
    def camera(self) -> DepthCamera | None:
        """Return the camera that the depth maps of the training were seen by; None if its view is not known."""
        return None if self.config is None else camera_of(self.config.data)

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
        from base_residual.models import hub

        hub.save_model(self, folder, evaluation, **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """Load a network that `save_pretrained` has written, on the CPU and in evaluation mode.

        Args:
            source: a folder, or a hub's name of a model, `owner/name`.
            options: what the hub's client takes: `revision`, `token`, `cache_dir`, `force_download` and
                `local_files_only`.

        Raises:
            MissingExtraError: huggingface_hub is not installed.
            CheckpointError: there is no such model, or its file is not a checkpoint of such a network.
        """
        from base_residual.models import hub

        return load(hub.fetch(source, **options), partial(cls._stored_in, source)).model

    @classmethod
    def _stored_in(cls, source: str | Path, config: Config) -> Self:
        """Make the network that the checkpoint in `source` describes, if it is one of this kind."""
        if config.model.name not in cls.names:
            kind = next(other for other in KINDS if config.model.name in other.names).__name__
            raise CheckpointError(f"{source} is a {kind}, not a {cls.__name__}. Load it with {kind}.from_pretrained.")
        return cls.from_config(config)

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
        config: the settings that it was made from, if it is to have a front end.
    """

    names = ("base_residual",)
    has_residual = True

    def __init__(
        self,
        encoder: nn.Module,
        base_decoder: nn.Module,
        residual_decoder: nn.Module,
        max_depth: float,
        output_size: int,
        residual_bound: float = 0.2,
        config: Config | None = None,
    ) -> None:
        super().__init__(config, max_depth, output_size)
        self.encoder = encoder
        self.base_decoder = base_decoder
        self.residual_decoder = residual_decoder
        self.residual_bound = residual_bound

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Make the untrained network; see `DepthNet.from_config`."""
        model, data = config.model, config.data
        if model.name not in cls.names:
            raise ConfigError(
                f"The model '{model.name}' is a baseline and splits nothing. Make it with "
                "base_residual.models.factory.create_model, or leave model.name as it is."
            )
        return cls(
            make_encoder(config),
            make_decoder(model.base_decoder, config),
            make_decoder(model.decoder, config),
            data.max_depth,
            data.output_size,
            model.residual_bound,
            config,
        )

    def draw(self, x: Tensor, detach_base: bool = False) -> tuple[DepthDecomposition, Tensor]:
        """Return base, residual and final, and the residual decoder's features; see `DepthNet.draw`."""
        code: EchoCode = self.encoder(x)
        base: Drawn = self.base_decoder(code)
        residual: Drawn = self.residual_decoder(code._replace(base=base_share(base.raw)))
        parts = compose(base.raw, residual.raw, self.max_depth, self.residual_bound, detach_base)
        return parts, residual.features

    def last_head(self) -> nn.Conv2d | nn.Linear:
        """Return the layer that draws the residual."""
        return head_of(self.residual_decoder)

    def initialise_depth(self, depth: float) -> None:
        """Let the untrained base predict `depth` metres everywhere, and the residual nothing."""
        start_head(self.base_decoder, raw_of(depth / self.max_depth))
        start_head(self.residual_decoder, 0.0)


def head_of(decoder: nn.Module) -> nn.Conv2d | nn.Linear:
    """Return a decoder's last layer."""
    head = decoder.head
    assert isinstance(head, nn.Conv2d | nn.Linear)
    return head


def start_head(decoder: nn.Module, raw: float) -> None:
    """Set a decoder's last layer so that its map begins near a raw value everywhere."""
    head = head_of(decoder)
    assert head.bias is not None
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.fill_(raw)


class PlainNet(DepthNet):
    """An encoder and one decoder. As `unet` it is the field's recipe, as `plain` ours without the decomposition.

    Args:
        encoder: from features to an `EchoCode`.
        decoder: from the code to the raw map.
        config: the settings that it was made from.
    """

    names = ("plain", "unet")

    def __init__(self, encoder: nn.Module, decoder: nn.Module, config: Config) -> None:
        super().__init__(config, config.data.max_depth, config.data.output_size)
        self.encoder, self.decoder = encoder, decoder

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Make the untrained network; see `DepthNet.from_config`."""
        return cls(make_encoder(config), make_decoder(config.model.decoder, config), config)

    def draw(self, x: Tensor, detach_base: bool = False) -> tuple[DepthDecomposition, Tensor]:
        """Return depth, of which the base is the whole and the residual 0, and the decoder's features."""
        drawn: Drawn = self.decoder(self.encoder(x))
        final = base_share(drawn.raw) * self.max_depth
        return DepthDecomposition(final, torch.zeros_like(final), final), drawn.features

    def last_head(self) -> nn.Conv2d | nn.Linear:
        """Return the layer that draws the map."""
        return head_of(self.decoder)

    def initialise_depth(self, depth: float) -> None:
        """Let the untrained network predict `depth` metres everywhere."""
        start_head(self.decoder, raw_of(depth / self.max_depth))


def warn_of_doubts(doubts: list[list[str]]) -> None:
    """Log in one sentence which echoes of a batch have doubts, and which, if any has."""
    doubtful: dict[str, list[str]] = {}
    for index, reasons in enumerate(doubts, start=1):
        for reason in reasons:
            doubtful.setdefault(reason, []).append(str(index))
    if doubtful:
        which = "; ".join(f"number {abbreviate_names(names)} {reason}" for reason, names in doubtful.items())
        log.warning(
            "What is predicted for %d of %d echoes is not to be trusted: %s.",
            sum(map(bool, doubts)),
            len(doubts),
            which,
        )


KINDS = (BaseResidualNet, PlainNet)
