"""A network begins with the weights of another, fitted to its own map and its own largest depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from base_residual.config.schema import Config
from base_residual.errors import ConfigError
from base_residual.models.decomposition import raw_of
from base_residual.models.factory import create_model
from base_residual.models.lookup import BEAMS, TAPS, LookupDecoder
from base_residual.models.network import BaseResidualNet, DepthNet, PlainNet, head_of
from base_residual.models.time_encoder import TIME_STAGES

OF_TIME = ("encoder.latent.0.common.weight", "encoder.latent.0.apart.weight")  # they have weights for each moment
STEEPEST = 0.5  # of a largest depth: where heads agree at most; farther on, a sigmoid is too flat to be rescaled


@torch.no_grad()
def adopt(model: DepthNet, other: DepthNet, depth: float) -> None:
    """Give a network the weights of another; it goes on predicting what that one does.

    A map of another side has as many stages fewer or more, and a new one passes on what it gets. Where the largest
    depth differs, moments keep their weights and later ones begin at 0, and the heads are rescaled so that `depth` and
    its neighbourhood stay where they are; predictions then stay about the same.

    Args:
        model: made from settings with the same sections `model` and `audio`; it is changed.
        other: whose weights it gets.
        depth: a typical one, in metres, where both heads agree to first order.

    Raises:
        ConfigError: the networks differ in more than the side of the map and the largest depth, or these do not fit.
    """
    require_alike(model.config, other.config)
    theirs, mine = _fitted_in_time(model, other), model.state_dict()
    new = _new_stages(model, other)
    model.load_state_dict({name: tensor if name in new else theirs[name] for name, tensor in mine.items()})
    if new:
        assert isinstance(model, BaseResidualNet)
        assert isinstance(model.residual_decoder, LookupDecoder)
        _pass_on(model.residual_decoder.stages, {int(name.split(".")[2]) for name in new})
    if model.max_depth != other.max_depth:
        _keep_metres(model, other.max_depth, depth)


def require_alike(config: Config | None, other: Config | None) -> None:
    """Raise a ConfigError that names a setting in which a network and one that gives it its weights may not differ."""
    if config is None or other is None:  # a caller's own networks
        raise ConfigError("A network that was made from plain keywords neither gives its weights nor takes others'.")
    for section in ("model", "audio"):
        own, given = (settings.model_dump(mode="json")[section] for settings in (config, other))
        for name, value in own.items():
            if value != given[name]:
                resampled = "; recordings of other rates are resampled" if name == "sample_rate" else ""
                raise ConfigError(
                    f"The weights are those of a network with {section}.{name}={given[name]}, and the settings say "
                    f"{value}. Leave {section}.{name} out{resampled}."
                )
    if config.model.encoder == "unet":  # which sees all echoes as images of the same side
        for name in ("output_size", "max_depth"):
            if getattr(config.data, name) != getattr(other.data, name):
                raise ConfigError(f"The weights of a 2-D network fit its own {name} alone. Leave data.{name} out.")
    with torch.device("meta"):  # takes no memory
        _new_stages(create_model(config), create_model(other))


def _new_stages(model: DepthNet, other: DepthNet) -> set[str]:
    """Return the names of the weights that a larger map needs and a smaller one has not.

    Raises:
        ConfigError: it needs others as well.
    """
    mine, theirs = ({name: weight.shape for name, weight in net.state_dict().items()} for net in (model, other))
    of_time = set(OF_TIME)
    missing = {name for name, shape in mine.items() if theirs.get(name) != shape} - of_time
    new = {name for name in missing if name not in theirs and name.startswith("residual_decoder.stages.")}
    if missing != new:
        raise ConfigError(
            f"Weights for maps of {other.output_size} x {other.output_size} pixels do not fit maps of "
            f"{model.output_size} x {model.output_size}. Leave data.output_size out."
        )
    return new


def _fitted_in_time(model: DepthNet, other: DepthNet) -> dict[str, Tensor]:
    """Return the weights of a network for the length of another one's echoes: cut, or with zeros for later moments."""
    theirs, mine = dict(other.state_dict()), model.state_dict()
    channels = TIME_STAGES[-1] * (model.config.model.base_channels if model.config else 0)
    for name in OF_TIME:
        if name in theirs:
            moments = theirs[name].unflatten(1, (channels, -1))
            fitted = mine[name].new_zeros(mine[name].shape).unflatten(1, (channels, -1))
            kept = min(moments.shape[-1], fitted.shape[-1])
            fitted[..., :kept] = moments[..., :kept]
            theirs[name] = fitted.flatten(1)
    return theirs


def _pass_on(stages: nn.Sequential, places: set[int]) -> None:
    """Let new stages, a convolution and its norm each, give what they get.

    What they get has gone through a norm and a ReLU. Of a normal variable, that is a rectified one, whose mean and
    variance make a new norm change nothing, in training neither.
    """
    mean = spread = torch.zeros(())
    for place, part in enumerate(stages):
        if place in places and isinstance(part, nn.Conv2d):
            nn.init.dirac_(part.weight)
        elif isinstance(part, nn.BatchNorm2d):
            if place not in places:
                mean, spread = _rectified(part.bias, part.weight.abs())
            else:
                part.bias.copy_(mean)
                part.weight.copy_(spread)
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.copy_(mean)
                part.running_var.copy_(spread.square() - part.eps)


def _rectified(mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of max(x, 0) for normal x."""
    spread = spread.clamp(min=1e-3)
    ratio = mean / spread
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * torch.erfc(-ratio / math.sqrt(2))
    first = mean * below + spread * density
    second = (mean.square() + spread.square()) * below + mean * spread * density
    return first, (second - first.square()).clamp(min=1e-4).sqrt()


def _keep_metres(model: DepthNet, before: float, depth: float) -> None:
    """Rescale what is a share of the largest depth, which was `before` and is another one now, in metres."""
    ratio = model.max_depth / before
    depth = min(depth, STEEPEST * model.max_depth, STEEPEST * before)
    share, other = depth / model.max_depth, depth / before
    slope = (1 - other) / (1 - share)  # of d depth / d raw = depth (1 - share), which stays as it is
    shift = raw_of(share) - slope * raw_of(other)
    if isinstance(model, PlainNet):
        _rescale(model.decoder, slope, shift)
    elif isinstance(model, BaseResidualNet):
        _rescale(model.base_decoder, slope, shift)
        _rescale(model.residual_decoder, 1 / ratio, 0.0)
        if isinstance(model.residual_decoder, LookupDecoder):
            _listen_at_the_same_metres(model.residual_decoder, ratio)


def _rescale(decoder: nn.Module, slope: float, shift: float) -> None:
    """Let a decoder draw slope * raw + shift."""
    head = head_of(decoder)
    assert head.bias is not None
    head.weight.mul_(slope)
    head.bias.mul_(slope).add_(shift)


def _listen_at_the_same_metres(decoder: LookupDecoder, ratio: float) -> None:
    """Fit a lookup to shares of a largest depth that is `ratio` times what it was.

    Its taps are spread over the residual's reach, which has become as much longer. What an old tap has heard is found
    between two of the new ones, or at the outermost. The base comes in as 4 * share - 1, and the constant by which that
    differs goes into the norm's mean.
    """
    place = (torch.linspace(-1, 1, TAPS, dtype=torch.float32) / ratio).clamp(-1, 1) * (TAPS - 1) / 2 + (
        TAPS - 1
    ) / 2  # among the new taps
    between = (1 - (place[:, None] - torch.arange(TAPS)).abs()).clamp(min=0)  # (TAPS old, TAPS new), rows add up to 1
    mix = decoder.mix[0]
    assert isinstance(mix, nn.Conv2d)
    mix.weight.copy_((mix.weight.unflatten(1, (BEAMS, TAPS)).movedim(2, -1) @ between).movedim(-1, 2).flatten(1, 2))
    first, norm = decoder.stages[0], decoder.stages[1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.sub_((ratio - 1) * first.weight[:, -1].sum(dim=(1, 2)))
    first.weight[:, -1].mul_(ratio)
