"""Batch norm over the recordings of all processes, so that their number does not change the result."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base_residual.training.distributed import summed


class SyncBatchNorm(_BatchNorm):
    """Normalise by the mean and the variance of all processes' batches, on any device.

    PyTorch's own synchronised batch norm refuses tensors on a CPU (as of 2.13), where runs and tests without a graphics
    card need it. Ioffe and Szegedy, ICML 2015.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        normal, mean, variance, count = _NormOverAll.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.running_mean, self.eps
        )
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        shared: Tensor = normal
        return shared


class _NormOverAll(torch.autograd.Function):
    """Return a batch less the mean of all processes' batches, over their deviation; also their mean, variance, count.

    PyTorch's own batch norm for one process makes the passes over the batch: it normalises by a mean and a variance
    that it is given, and what these add to the gradient is once more a batch norm, with other weights.
    """

    @staticmethod
    # pyrefly: ignore[bad-override]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, around: Tensor, eps: float) -> tuple[Tensor, ...]:
        mean, variance = torch.batch_norm_update_stats(x.float(), None, None, 0.0)
        # The squares are summed around the running mean, the same in all processes: around 0, those of a mean far from
        # it would leave nothing of a small variance.
        away, count = mean - around, x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
        total = summed(torch.cat([count * away, count * (variance + away.square()), count]))
        away, square = total[:-1].unflatten(0, (2, -1)) / total[-1]
        mean, variance, count = around + away, (square - away.square()).clamp(min=0), total[-1]
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    # pyrefly: ignore[bad-override]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        # A CPU takes the mean and the variance, a card the mean and the inverse deviation.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, mean, inverse, False, ctx.eps, [False, True, True]
        )
        scale = weight * inverse
        by_variance, by_mean = -scale / count * summed(torch.stack([of_weight, of_bias]))
        of_x = F.batch_norm(x, mean, variance, by_variance, by_mean, eps=ctx.eps)
        of_x.addcmul_(gradient, scale.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype))
        return of_x, of_weight, of_bias, None, None


def synchronise_batch_norms(module: nn.Module) -> None:
    """Replace every batch norm in a module by one over all processes, with the same weights under the same names."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            shared = SyncBatchNorm(child.num_features, child.eps, child.momentum)
            shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, shared.train(child.training))
        else:
            synchronise_batch_norms(child)


def leave_uncompiled(network: nn.Module) -> None:
    """Keep the shared batch norms of a network out of its compilation, which would begin anew for each of them."""
    for module in network.modules():
        if isinstance(module, SyncBatchNorm):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
