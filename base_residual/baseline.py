"""The plain networks that every claim is measured against: one decoder, one L1 loss, no decomposition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from base_residual.config import Config
from base_residual.losses import Count, LossTerms, LossWeights, ReconKind, here, reconstruction
from base_residual.model import (
    DepthDecomposition,
    DepthNet,
    create_base_residual_model,
    make_decoder,
    make_encoder,
    raw_of,
    start_head,
)

WIDE = 32  # base channels from which AVX2 trains a U-Net up to a third faster as it is than channels last


class PlainNet(DepthNet):
    """An encoder and one decoder. As `unet` it is the field's recipe, as `plain` ours without the decomposition.

    Args:
        config: gives the encoder, the decoder and the front end.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.data.max_depth, config.data.output_size)
        self.encoder = make_encoder(config)
        self.decoder = make_decoder(config.model.decoder, config)

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        """Depth from features; the base is all of it and the residual 0."""
        final = torch.sigmoid(self.decoder(self.encoder(x)).float()) * self.max_depth
        return DepthDecomposition(final, torch.zeros_like(final), final)

    def start_at(self, depth: float) -> None:
        """Let the untrained network predict `depth` metres everywhere."""
        start_head(self.decoder, raw_of(depth / self.max_depth))


class PlainLoss(nn.Module):
    """The reconstruction over valid pixels alone, with the interface of `BaseResidualLoss`.

    Args:
        recon: its kind; see `losses.reconstruction`.
        count: what the mean divides by; see `losses.Count`.
    """

    weights = LossWeights(recon=1.0, base=0.0, sparse=0.0)

    def __init__(self, recon: ReconKind = "l1", count: Count = here) -> None:
        super().__init__()
        self.recon, self.count = recon, count

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes over the epochs."""

    def forward(
        self, base: Tensor, residual: Tensor, final: Tensor, gt: Tensor, valid_mask: Tensor | None = None
    ) -> tuple[Tensor, LossTerms]:
        """The loss and its terms, of which only the reconstruction is not 0."""
        valid = gt > 0 if valid_mask is None else valid_mask
        recon = reconstruction(final, gt, valid, self.recon, self.count)
        return recon, LossTerms(recon, torch.zeros_like(recon), torch.zeros_like(recon))


def create_model(config: Config) -> DepthNet:
    """The network that a configuration names (base_residual, plain or unet), laid out as its convolutions like it."""
    model = create_base_residual_model(config) if config.model.name == "base_residual" else PlainNet(config)
    if _channels_last(config):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _channels_last(config: Config) -> bool:
    """Whether images are faster channels last: with AVX-512 or tensor cores, and without in all but wide U-Nets."""
    wide = config.model.encoder == "unet" and config.model.base_channels >= WIDE
    return not wide or torch.cuda.is_available() or "AVX512" in torch.backends.cpu.get_cpu_capability()
