"""Muon: steps that move a kernel as far in every direction that its gradient has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95  # of the running mean of gradients
SIZE = 0.2  # root mean square of a step in learning rates, which is that of AdamW's (Liu et al., 2025)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5 in the iteration (Jordan et al., 2024)
ITERATIONS = 5
BLOCK = 64  # rows that are made orthogonal together


class Muon(torch.optim.AdamW):
    """Muon for kernels, AdamW for everything else.

    A kernel, taken as a matrix with a row for each output, moves along the running mean of its gradients, in which all
    singular values have been brought near to 1: what is learned from few recordings then moves as far as what all of
    them agree on (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024). The step is scaled
    to the size of AdamW's, so that both have one learning rate and weight decay (Liu et al., arXiv:2502.16982, 2025).
    PyTorch's own takes matrices alone, and rounds to bfloat16, which few processors compute fast.

    Args:
        kernels: (outputs, ...) with two dimensions or more.
        others: all other parameters.
        lr: learning rate.
        weight_decay: as in AdamW.
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float, weight_decay: float
    ) -> None:
        groups = [{"params": list(kernels), "kernels": True}, {"params": list(others), "kernels": False}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step; the gradients of kernels are gone afterwards. With `found_inf` set to 1, nothing changes."""
        for group in self.param_groups:
            if group["kernels"]:
                self._move(group)
        super().step()

    def _move(self, group: dict[str, Any]) -> None:
        """Move a group's kernels, and take their gradients away, so that AdamW leaves them alone."""
        moved = [(kernel, kernel.grad) for kernel in group["params"] if kernel.grad is not None]
        if not moved:
            return
        fault = getattr(self, "found_inf", torch.zeros((), device=moved[0][0].device))
        taken = 1 - fault
        for kernel, gradient in moved:
            state = self.state[kernel]
            if not state:  # by the names of AdamW, which looks for steps when it is loaded
                state |= {"step": torch.zeros_like(taken), "exp_avg": torch.zeros_like(kernel)}
            state["step"] += taken
            state["exp_avg"].lerp_(gradient.masked_fill_(fault > 0, 0), (1 - MOMENTUM) * taken)
            gradient.lerp_(state["exp_avg"], MOMENTUM)
        directions = orthogonal([gradient.flatten(1) for _, gradient in moved])
        for (kernel, _), direction in zip(moved, directions, strict=True):
            size = SIZE * max(direction.shape) ** 0.5
            kernel.mul_(1 - group["lr"] * group["weight_decay"] * taken)
            kernel.sub_(direction.view_as(kernel).mul_(group["lr"] * size * taken))
            kernel.grad = None


def orthogonal(matrices: list[Tensor]) -> list[Tensor]:
    """Bring the singular values of matrices (N, M) near to 1, between 0.7 and 1.2 or so, and leave their directions.

    It is Muon's Newton-Schulz iteration, as a polynomial of Gram matrices, which are smaller: all that it multiplies is
    symmetric and commutes. Matrices with more than `BLOCK` rows, or columns if these are fewer, are taken in blocks of
    so many, because the cost grows with their cube. All blocks go through the iteration together.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    blocks = [block for rows in wide for block in rows.split(BLOCK)]
    gram = blocks[0].new_zeros(len(blocks), BLOCK, BLOCK)
    for square, block in zip(gram, blocks, strict=True):
        square[: len(block), : len(block)] = block @ block.T
    size = gram.diagonal(dim1=1, dim2=2).sum(dim=1).sqrt()[:, None, None] + 1e-7
    gram = gram / size.square()
    first, third, fifth = COEFFICIENTS
    factor = torch.eye(BLOCK, dtype=gram.dtype, device=gram.device).expand_as(gram)
    for _ in range(ITERATIONS):
        now = factor @ gram @ factor
        factor = torch.baddbmm(first * factor, torch.baddbmm(third * now, now, now, alpha=fifth), factor)
    scaled = iter(factor / size)
    whole = (
        torch.cat([next(scaled)[: len(block), : len(block)] @ block for block in rows.split(BLOCK)]) for rows in wide
    )
    return [rows if rows.shape == matrix.shape else rows.T for rows, matrix in zip(whole, matrices, strict=True)]
