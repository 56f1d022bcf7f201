"""Activation checkpointing: less memory for more time (the setting trainer.recompute)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from base_residual.models.decoders import MapDecoder
from base_residual.models.lookup import LookupDecoder
from base_residual.models.time_encoder import TimeStage
from base_residual.models.unet import DoubleConv


def checkpoint_activations(network: nn.Module) -> None:
    """Let the stages of a network compute their activations again for the gradients instead of keeping them.

    Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174, 2016. The gradients stay the
    same; on a CPU, threads no longer share a batch.
    """
    for module in network.modules():
        if isinstance(module, DoubleConv | TimeStage | MapDecoder | LookupDecoder):
            contexts = partial(_first_and_again, module)
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, context_fn=contexts)  # type: ignore[method-assign]


def _first_and_again(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _norms_do_not_learn(module)


@contextmanager
def _norms_do_not_learn(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms, which have taken this batch in already."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
