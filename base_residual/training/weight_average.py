"""The running mean of a network's weights: steps at a high learning rate lead around a good place more than into it."""

from __future__ import annotations

import copy

from torch.optim.swa_utils import get_ema_multi_avg_fn

from base_residual.models.network import DepthNet


class WeightAverage:
    """Hold a copy of a network, in evaluation mode, whose weights and statistics are a mean over the last steps.

    Late steps weigh most, by an exponential (after Polyak and Juditsky, SIAM J. Control and Optimization 30(4), 1992,
    whose mean is over all steps). PyTorch's AveragedModel copies the weights at its first update and counts updates by
    itself: it would begin anew in every run that is resumed.

    Args:
        model: the network in training, on its device.
        span: steps that the mean reaches back.
    """

    def __init__(self, model: DepthNet, span: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._keep = 1 - 1 / max(span, 1)
        mean, latest = self.model.state_dict(), model.state_dict()
        names = [name for name, tensor in mean.items() if tensor.is_floating_point()]
        self._mean, self._latest = [mean[name] for name in names], [latest[name] for name in names]

    def update(self, steps: int) -> None:
        """Take in the weights after step number `steps`, from 1; early on, the mean spans the steps so far."""
        average = get_ema_multi_avg_fn(min(self._keep, steps / (steps + 9)))
        average(self._mean, self._latest, None)
