"""Sophia-G's curvature: the Gauss-Newton-Bartlett estimate (Liu et al. 2023, arXiv:2305.14342)."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Trainer

from optbench_llm.programs.labels import LABELS, trained_positions
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
        count = _count_trained(replay)
        # DDP averages gradients over processes; the mean runs over the tokens of all of them.
        accelerator = replay.trainer.accelerator
        share = accelerator.num_processes / count
        with replay.gradients_put_aside(), replay.own_random_stream():
            for inputs in replay.micro_batches():
                logits = _logits(replay, inputs)[_trained(replay.trainer, inputs)].float()
                drawn = draw_labels(logits.detach())
                loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
                accelerator.backward(loss * share)
            optimizer.observe(scale=count)


def draw_labels(logits: Tensor) -> Tensor:
    """One label for each row of ``(n, classes)`` logits, drawn from their softmax."""
    return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)


def _count_trained(replay: Replay) -> int:
    """Trained tokens of the step, over all micro-batches and processes."""
    accelerator = replay.trainer.accelerator
    counts = [_trained(replay.trainer, inputs).sum() for inputs in replay.recorded_inputs]
    count = torch.stack(counts).sum().to(accelerator.device)
    return int(accelerator.reduce(count, "sum"))  # pyright: ignore


def _trained(trainer: Trainer, inputs: dict[str, Any]) -> Tensor:
    """Mask of the positions of the logits that the loss is computed at.

    Raises ValueError for inputs without labels, or with some that are no tensor: their loss is not
    that of labels.
    """
    if not any(isinstance(inputs.get(name), Tensor) for name in LABELS):
        raise ValueError(
            f"program 'sophia-g' draws labels in the place of the batch's, and the inputs of"
            f" {type(trainer).__name__} have none in a tensor ({', '.join(inputs)}); use sophia-h,"
            " whose curvature is that of any loss"
        )
    return trained_positions(trainer, inputs)


def _logits(replay: Replay, inputs: dict[str, Any]) -> Tensor:
    """Forward pass with gradients; ``(..., vocabulary)``.

    It is the trainer's own, or the model's without labels where the trainer's loss makes no logits
    (TRL's chunked one).

    Raises ValueError for a model whose output has no logits.
    """
    trainer, model = replay.trainer, replay.model
    with trainer.compute_loss_context_manager(), warnings.catch_warnings():
        # TRL means to drop return_outputs, which transformers' own trainers keep.
        warnings.filterwarnings("ignore", "`return_outputs", FutureWarning)
        _, outputs = trainer.compute_loss(model, dict(inputs), return_outputs=True)
        logits = _logits_of(outputs)
        if logits is None or not logits.requires_grad:
            logits = _logits_of(model(**{k: v for k, v in inputs.items() if k not in LABELS}))
    if logits is None:
        raise ValueError(
            f"program 'sophia-g' needs the model's logits, and the output of"
            f" {type(model).__name__} has none; use sophia-h, whose curvature is that of any loss"
        )
    return logits


def _logits_of(outputs: Any) -> Tensor | None:
    return outputs.get("logits") if isinstance(outputs, dict) else None
