"""Replaying the micro-batches of an optimizer step through the trainer that trains on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.trainer_utils import unwrap_peft_model

from optbench_llm.programs.program import Program

IGNORED_LABEL = -100


class Replay(TrainerCallback):
    """Lets a program run the micro-batches of the present step again.

    The trainer's own ``compute_loss`` and ``accelerator.backward`` do the work, so accumulation,
    DDP and autocast come along. Two promises hold for whatever a program does:

    - the gradients of the step are put aside and come back bit for bit (before clipping);
    - random numbers drawn inside come from a stream of their own, seeded by (seed, step, process):
      dropout and data of the run are those of a run without the program, also after a resume.

    Raises ValueError where neither can be had: under fp16, whose gradients are scaled, and under
    DeepSpeed, which steps inside ``backward``.
    """

    def __init__(self, trainer: Trainer, program: Program) -> None:
        if trainer.accelerator.scaler is not None:
            raise ValueError(f"program {program.name!r} does not run under fp16; use bf16 or fp32")
        if trainer.is_deepspeed_enabled:
            raise ValueError(
                f"program {program.name!r} does not run under DeepSpeed; use DDP or one process"
            )
        self.trainer = trainer
        self.program = program
        self._model: nn.Module | None = None
        self._recorded: list[dict[str, Any]] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget the micro-batches of a step that was never finished."""
        self._recorded = []

    @property
    def due(self) -> bool:
        """Whether the program runs before the step that is being prepared."""
        return self.program.due(self.trainer.optimizer, self._step)

    @property
    def _step(self) -> int:
        return self.trainer.state.global_step + 1

    def record(self, inputs: Any) -> None:
        """Keep a micro-batch; ``compute_loss`` may take entries out of the trainer's own."""
        self._recorded.append(dict(inputs))

    def run(self, model: nn.Module, optimizer: Any) -> None:
        """Run the program over the micro-batches recorded for this step."""
        self._model = model
        with _gradients_put_aside(model), self._own_random_stream():
            self.program.before_step(self, optimizer)
        self._model, self._recorded = None, []

    def micro_batches(self) -> Iterator[dict[str, Any]]:
        """Yield the inputs one micro-batch after the other; processes exchange gradients once."""
        accelerator = self.trainer.accelerator
        for index, recorded in enumerate(self._recorded):
            last = index == len(self._recorded) - 1
            exchange = contextlib.nullcontext() if last else accelerator.no_sync(self._model)
            with exchange:
                yield self.trainer._prepare_inputs(dict(recorded))

    def logits(self, inputs: dict[str, Any]) -> Tensor:
        """Forward pass with gradients; ``(..., vocabulary)``.

        Raises ValueError for a model whose output has no logits.
        """
        trainer = self.trainer
        with trainer.compute_loss_context_manager():
            _, outputs = trainer.compute_loss(self._model, dict(inputs), return_outputs=True)  # pyright: ignore
        logits = outputs.get("logits") if isinstance(outputs, dict) else None
        if logits is None:
            raise ValueError(
                f"program {self.program.name!r} needs the model's logits, and the output of"
                f" {type(self._model).__name__} has none"
            )
        return logits

    def trained(self, inputs: dict[str, Any]) -> Tensor:
        """Mask of the positions of the logits that the loss is computed at."""
        return trained_positions(self.trainer, inputs)

    def count_trained(self) -> int:
        """Trained tokens of this step, over all micro-batches and processes."""
        accelerator = self.trainer.accelerator
        count = sum(self.trained(inputs).sum() for inputs in self._recorded)
        assert isinstance(count, Tensor)
        return int(accelerator.reduce(count.to(accelerator.device), "sum"))  # pyright: ignore

    def backward(self, summed_loss: Tensor, count: int) -> None:
        """Backpropagate a loss summed over this process's tokens as its share of the mean."""
        # DDP averages gradients over processes; the mean runs over the tokens of all of them.
        accelerator = self.trainer.accelerator
        accelerator.backward(summed_loss * accelerator.num_processes / count)

    @contextlib.contextmanager
    def _own_random_stream(self) -> Iterator[None]:
        device = self.trainer.accelerator.device
        forked = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=forked):
            key = (self.trainer.args.seed, self._step, self.trainer.accelerator.process_index)
            torch.manual_seed(_mixed(key))
            yield


def trained_positions(trainer: Trainer, inputs: Mapping[str, Any]) -> Tensor:
    """Mask over the logits' positions: those whose label, shifted as the loss does, counts."""
    if "shift_labels" in inputs:
        return inputs["shift_labels"] != IGNORED_LABEL
    mask = inputs["labels"] != IGNORED_LABEL
    if not _shifts_labels(_base_model(trainer)):
        return mask
    return nn.functional.pad(mask[..., 1:], (0, 1), value=False)


def _base_model(trainer: Trainer) -> Any:
    unwrapped = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)  # pyright: ignore
    return unwrap_peft_model(unwrapped)


def _shifts_labels(model: Any) -> bool:
    """Whether the model's loss compares the logits at a position with the label after it."""
    if not isinstance(model, PreTrainedModel) or model.loss_function is not ForCausalLMLoss:
        return False
    # A class that transformers knows no loss for gets this one, used or not; GPT-2 is among them.
    named = "_loss_function" in vars(model) or model.loss_type in LOSS_MAPPING
    # Encoder-decoder models shift the decoder's input instead.
    return (named or model.can_generate()) and not model.config.is_encoder_decoder


def _mixed(key: tuple[int, ...]) -> int:
    """One 63-bit seed from several numbers, the same on every machine."""
    seed = 0
    for number in key:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return seed


@contextlib.contextmanager
def _gradients_put_aside(model: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in kept:
            parameter.grad = grad
