"""Loss on a split, weighted by tokens, and of each of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.loss.loss_utils import ForCausalLMLoss

from optbench_llm.programs.labels import (
    IGNORED_LABEL,
    base_model,
    shifts_labels,
    trained_positions,
)

#: Of the logits that are looked at together, in fp32: 64 MiB.
_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class SplitLoss:
    """Mean loss over all trained tokens of a split.

    ``block_losses`` are the means of its blocks, in its order, and ``block_tokens`` the trained
    tokens of each: the weights with which they come to ``mean``.
    """

    mean: float
    block_losses: list[float] | None = None
    block_tokens: list[int] | None = None


def mean_token_loss(trainer: Trainer, dataset: object) -> float:
    """Mean loss over all trained tokens of ``dataset``, with the model as it is to be evaluated.

    ``Trainer.evaluate`` averages the means of its batches, so that its loss depends on the batch
    size wherever sequences differ in length; this one does not. It draws no random numbers of the
    run.
    """
    return split_loss(trainer, dataset).mean


def split_loss(trainer: Trainer, dataset: object) -> SplitLoss:
    """What :func:`mean_token_loss` returns, and from the same pass the loss of each block.

    Those come from the logits that a model hands to transformers' loss for causal models. They are
    None where it hands over none or not those of single blocks: with a loss of the model's or the
    trainer's own (label smoothing, ``compute_loss_func``, fused kernels), for compiled models,
    under ``nn.DataParallel``, and where a collator joins blocks or ``dataset`` has no length.
    """
    if not shifts_labels(trainer) or trainer.args.n_gpu > 1 or trainer.args.torch_compile:
        return _evaluate(trainer, dataset, None)
    blocks = _Blocks()
    model = base_model(trainer)
    own = vars(model).get("_loss_function")
    model.loss_function = blocks.loss
    try:
        return _evaluate(trainer, dataset, blocks)
    finally:
        del model._loss_function
        if own is not None:
            model.loss_function = own


@torch.no_grad()
def _evaluate(trainer: Trainer, dataset: Any, blocks: _Blocks | None) -> SplitLoss:
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
            positions = trained_positions(trainer, inputs)
            counts.append(positions.sum())
            if blocks is not None:
                blocks.positions = positions
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
    mean = float(torch.where(tokens > 0, means * tokens, 0.0).sum() / tokens.sum())
    if blocks is None or not hasattr(dataset, "__len__") or len(blocks.batches) != len(losses):
        return SplitLoss(mean)
    found = blocks.of_all_processes(trainer, len(dataset))
    return SplitLoss(mean) if found is None else SplitLoss(mean, *found)


class _Blocks:
    """Takes down the losses of single rows while a model computes that of a batch."""

    def __init__(self) -> None:
        self.positions = torch.empty(0)
        # Of each batch of this process: the sum of each row's losses, and its trained tokens.
        self.batches: list[Tensor] = []

    def loss(self, logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Stands for transformers' loss for causal models; its mean is over trained tokens."""
        positions = self.positions.to(logits.device)
        given = (kwargs.get(name) for name in ("shift_labels", "num_items_in_batch"))
        if any(value is not None for value in given) or logits.shape[:-1] != positions.shape:
            return ForCausalLMLoss(logits, labels, *args, **kwargs)
        at = positions.nonzero(as_tuple=True)
        of_tokens = _token_losses(logits, labels.to(logits.device), at)
        sums = torch.zeros(len(logits), dtype=torch.float32, device=logits.device)
        sums.index_add_(0, at[0], of_tokens)
        self.batches.append(torch.stack([sums, positions.sum(1).to(sums.dtype)], dim=1))
        return of_tokens.mean()

    def of_all_processes(
        self, trainer: Trainer, blocks: int
    ) -> tuple[list[float], list[int]] | None:
        """Mean loss and tokens of each of so many blocks, in order.

        Each round of batches holds one of each process, in the order of processes. None where the
        rows are not those blocks.
        """
        rows = max(map(len, self.batches))
        # Only a last round is shorter, in all processes alike.
        padded = [nn.functional.pad(b, (0, 0, 0, rows - len(b)), value=-1) for b in self.batches]
        every: Any = trainer.accelerator.gather(torch.stack(padded)[None])  # pyright: ignore
        sums, tokens = every.cpu().double().transpose(0, 1).reshape(-1, 2).unbind(1)
        sums, tokens = sums[tokens >= 0], tokens[tokens >= 0]
        if trainer.args.world_size > 1:
            # Rows that accelerate repeats come last.
            sums, tokens = sums[:blocks], tokens[:blocks]
        if len(sums) != blocks:
            return None
        return (sums / tokens).tolist(), tokens.long().tolist()


def _token_losses(logits: Tensor, labels: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    """Cross entropy in fp32 of the tokens after these positions, never of many at once."""
    step = max(1, _LOGITS_AT_ONCE // logits.shape[-1])
    losses = [
        nn.functional.cross_entropy(
            logits[row, column].float(), labels[row, column + 1], reduction="none"
        )
        for row, column in zip(*(index.split(step) for index in at), strict=True)
    ]
    return torch.cat(losses)


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
