"""Loss on a split, weighted by tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from optbench_llm.programs.labels import IGNORED_LABEL, trained_positions


@torch.no_grad()
def mean_token_loss(trainer: Trainer, dataset: object) -> float:
    """Mean loss over all trained tokens of ``dataset``, with the model as it is to be evaluated.

    ``Trainer.evaluate`` averages the means of its batches, so that its loss depends on the batch
    size wherever sequences differ in length; this one does not. It draws no random numbers of the
    run.
    """
    model: Any = trainer.model_wrapped
    optimizer: Any = trainer.optimizer
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    model.eval()
    losses: list[Tensor] = []
    counts: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):  # starting a data loader draws a number
        for batch in trainer.get_eval_dataloader(dataset):  # pyright: ignore
            inputs = trainer._prepare_inputs(batch)
            _ignore_repeated(trainer, inputs)
            counts.append(trained_positions(trainer, inputs).sum())
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs)
            assert isinstance(loss, Tensor)
            losses.append(loss)
    # Not every device has float64; all processes have equally many batches.
    means, tokens = (
        trainer.accelerator.gather(torch.stack(own)).cpu().double()  # pyright: ignore
        for own in (losses, counts)
    )
    # The mean of no tokens is NaN.
    return float(torch.where(tokens > 0, means * tokens, 0.0).sum() / tokens.sum())


def _ignore_repeated(trainer: Trainer, inputs: dict[str, Any]) -> None:
    """Mask the rows that accelerate repeats so that all processes get equally many batches."""
    state = trainer.accelerator.gradient_state
    if trainer.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return
    rows = len(inputs["labels"])
    real = max(0, state.remainder - trainer.args.process_index * rows)
    for name in ("labels", "shift_labels"):
        if name in inputs:
            inputs[name][real:] = IGNORED_LABEL
