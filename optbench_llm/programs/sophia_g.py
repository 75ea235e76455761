"""Sophia-G's curvature: the Gauss-Newton-Bartlett estimate (Liu et al. 2023, arXiv:2305.14342)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optbench_llm.programs.program import Program, setting
from optbench_llm.programs.replay import Replay


class SophiaG(Program):
    r"""Diagonal of the Gauss-Newton matrix from labels that the model draws itself (Algorithm 2).

    .. math::
        \hat y_n &\sim \operatorname{softmax}(f_\theta(x_n)) \\
        \hat g &= \nabla \tfrac1N \sum_n \mathrm{CE}(f_\theta(x_n), \hat y_n) \\
        \hat h &= N \, \hat g \odot \hat g

    over the N trained tokens of a step (labels that are not -100). Every ``k`` steps, from the
    first on (Algorithm 3: t mod k = 1), :math:`\hat g` is fed to ``optimizer.observe(scale=N)``.
    One such estimate costs one more forward and backward pass.
    """

    name: ClassVar[str] = "sophia-g"
    #: It draws labels of its own, under a dropout of its own.
    repeats_loss: ClassVar[bool] = False

    def due(self, optimizer: Any, step: int) -> bool:
        """Every ``k`` steps, from the first on."""
        return (step - 1) % setting(optimizer, "k") == 0

    def before_step(self, replay: Replay, optimizer: Any) -> None:
        """Draw labels, backpropagate their mean loss, feed the gradient to the optimizer."""
        count = replay.count_trained()
        with replay.gradients_put_aside(), replay.own_random_stream():
            for inputs in replay.micro_batches():
                logits = replay.logits(inputs)[replay.trained(inputs)].float()
                drawn = draw_labels(logits.detach())
                replay.backward(nn.functional.cross_entropy(logits, drawn, reduction="sum"), count)
            optimizer.observe(scale=count)


def draw_labels(logits: Tensor) -> Tensor:
    """One label for each row of ``(n, classes)`` logits, drawn from their softmax."""
    return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)
