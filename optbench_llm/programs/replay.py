"""Replaying the micro-batches of an optimizer step through the trainer that trains on them."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from optbench_llm.engine.noise import Noise, noise_key
from optbench_llm.programs.buffers import Buffer, buffers_of, put_back
from optbench_llm.programs.program import Program
from optbench_llm.programs.randomness import (
    RandomState,
    RandomStream,
    random_state,
    seed_of,
    set_random_state,
)
from optbench_llm.programs.weights import at_least_fp32

#: How far a loss that is computed again may be off, relatively: kernels of a GPU add in any order.
SAME_LOSS = 1e-3
#: What TRL's trainers write down of each loss that they compute.
NOTES_OF_LOSSES = ("_metrics", "_stored_metrics", "_total_train_tokens")
T = TypeVar("T")
TrainingStep = Callable[[nn.Module, dict[str, Any], Any], Tensor]


@dataclass
class MicroBatch:
    """What one forward and backward pass of the trainer got, and the loss it returned."""

    inputs: dict[str, Any]
    items: Any
    random_state: RandomState
    buffers: list[Buffer]
    loss: Tensor | None = None


class Replay(TrainerCallback):
    """Lets programs run the micro-batches of the present step again.

    ``training_step`` is the trainer's own, without the mixin's: forward and backward pass with all
    that a subclass does there, so that accumulation, DDP and autocast come along. Whatever programs
    do, random numbers of the run, weights, buffers, and what TRL's trainers note of their losses
    are afterwards those of a run without a program, also after a resume.

    ``passes`` counts forward and backward passes over the batch of a step.

    Raises ValueError where programs cannot run: under fp16, whose gradients are scaled, under
    DeepSpeed, which steps inside ``backward``, under accelerate's FSDP, with a trainer that makes
    its batches while it prepares them, and what :meth:`Program.check` refuses. Models that are
    sharded as they are loaded (transformers' ``DistributedConfig``, FSDP2) can be.
    """

    def __init__(
        self,
        trainer: Trainer,
        programs: Sequence[Program],
        optimizer: Any,
        training_step: TrainingStep,
    ) -> None:
        names = ", ".join(program.name for program in programs)
        if trainer.accelerator.scaler is not None:
            raise ValueError(f"program {names!r} does not run under fp16; use bf16 or fp32")
        if trainer.is_deepspeed_enabled:
            raise ValueError(
                f"program {names!r} does not run under DeepSpeed; use DDP or one process"
            )
        if trainer.is_fsdp_enabled:
            raise ValueError(
                f"program {names!r} does not run under accelerate's FSDP plugin in this version;"
                " shard the model as it is loaded (finetune --fsdp2, or DistributedConfig), or use"
                " DDP"
            )
        if type(trainer)._prepare_inputs is not Trainer._prepare_inputs:
            raise ValueError(
                f"program {names!r} must compute the loss of a batch again, and"
                f" {type(trainer).__name__} makes its batches itself (_prepare_inputs); use an"
                " optimizer without a program, such as adamw"
            )
        for program in programs:
            program.check(trainer, optimizer)
        self.trainer = trainer
        self.programs = programs
        self.passes = 0.0
        self._training_step = training_step
        self._model: nn.Module | None = None
        self._recorded: list[MicroBatch] = []
        self._put_aside: dict[int, Tensor | None] = {}
        self._found_same = not any(program.repeats_loss for program in programs)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget the micro-batches of a step that was never finished."""
        self._recorded = []

    @property
    def due(self) -> bool:
        """Whether a program runs before the step that is being prepared."""
        return any(self._due())

    @property
    def step(self) -> int:
        """Number of the step that is being prepared, from 1."""
        return self.trainer.state.global_step + 1

    @property
    def max_steps(self) -> int:
        """Steps of the whole run."""
        return self.trainer.state.max_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        batches = len(self.trainer.callback_handler.train_dataloader)  # pyright: ignore
        return math.ceil(batches / self.trainer.args.gradient_accumulation_steps)

    def _due(self) -> Iterator[Program]:
        return (p for p in self.programs if p.due(self.trainer.optimizer, self.step))

    def record(self, inputs: Any, items: Any) -> None:
        """Keep a micro-batch; the trainer may take entries out of its own.

        Raises ValueError for one that has no names.
        """
        if not isinstance(inputs, Mapping):
            raise ValueError(
                f"program {self.programs[-1].name!r} takes batches that name their inputs, and"
                f" the trainer's are of type {type(inputs).__name__}; let the data collator return"
                " a dict, or use an optimizer without a program, such as adamw"
            )
        model = self.trainer.model
        assert model is not None
        state = random_state(self._device)
        self._recorded.append(MicroBatch(dict(inputs), items, state, buffers_of(model)))

    def record_loss(self, loss: Tensor) -> None:
        """Keep the loss of the micro-batch that was recorded last."""
        self._recorded[-1].loss = loss

    def run(self, model: nn.Module, optimizer: Any) -> None:
        """Run the programs that are due over the micro-batches recorded for this step.

        Raises RuntimeError if the loss of a micro-batch is another one the second time.
        """
        self._model, self.passes = model, 0.0
        present, buffers = random_state(self._device), buffers_of(model)
        try:
            with self._notes_put_aside():
                if not self._found_same:
                    self._find_same_loss()
                for program in self._due():
                    program.before_step(self, optimizer)
        finally:
            set_random_state(present, self._device)
            put_back(buffers)
            self._model, self._recorded = None, []

    def count_pass(self, share: float = 1.0) -> None:
        """Count a pass, or a part of one, over the batch of a step."""
        self.passes += share

    @property
    def recorded_inputs(self) -> list[dict[str, Any]]:
        """The inputs of all micro-batches, as the trainer got them."""
        return [recorded.inputs for recorded in self._recorded]

    def micro_batches(self) -> Iterator[dict[str, Any]]:
        """Yield the inputs one micro-batch after the other; counts as a pass."""
        for recorded in self._in_turn(self._recorded):
            yield self.trainer._prepare_inputs(dict(recorded.inputs))
        self.count_pass()

    def repeat(self) -> None:
        """Run all micro-batches again as the trainer did; gradients add up in the parameters.

        The random numbers, and so the dropout, and the buffers are those of the first time. Counts
        as a pass.
        """
        for recorded in self._in_turn(self._recorded):
            self._train_on(recorded)
        self.count_pass()

    def losses(self) -> Iterator[Tensor]:
        """Yield the losses of all micro-batches, as :meth:`repeat` would differentiate them.

        Counts as a pass.
        """
        accelerator = self.trainer.accelerator
        found: list[Tensor] = []
        with _replaced(accelerator, "backward", lambda loss, **kwargs: found.append(loss)):
            for recorded in self._recorded:
                self._train_on(recorded)
                yield found.pop() / accelerator.gradient_accumulation_steps
        self.count_pass()

    def mean_gradients(self, params: list[Tensor], epoch: int, steps: int | None) -> list[Tensor]:
        """Mean over the gradients of the steps of an epoch, or of its first ``steps``.

        Each has as many micro-batches, and is scaled, as a step of the run. Counts as many passes.
        """
        trainer = self.trainer
        sums = [torch.zeros_like(p, dtype=at_least_fp32(p)) for p in params]
        share = trainer.current_gradient_accumulation_steps
        count, own = 0, self.own_random_stream()
        try:
            with contextlib.closing(self._steps_of_epoch(epoch)) as data:
                for batches, items in islice(data, steps):
                    trainer.current_gradient_accumulation_steps = len(batches)
                    self.clear_gradients()
                    with own:
                        for inputs in self._in_turn(batches):
                            self._training_step(self.model, inputs, items)
                    for total, p in zip(sums, params, strict=True):
                        if p.grad is not None:
                            total += p.grad
                    count += 1
        finally:
            trainer.current_gradient_accumulation_steps = share
        self.count_pass(count)
        return [total.div_(count) for total in sums]

    def _steps_of_epoch(self, epoch: int) -> Generator[tuple[list[Any], Any]]:
        """The micro-batches of step after step, with their count of items, from a fresh loader.

        Accelerate forgets the loader afterwards. All processes draw one order of the data.
        """
        trainer, accelerator = self.trainer, self.trainer.accelerator
        size = trainer.args.gradient_accumulation_steps
        known = len(accelerator._dataloaders)
        iterated = [*accelerator.gradient_state.dataloader_references]
        stream = self.shared_random_stream()
        try:
            with stream:
                data = trainer.get_train_dataloader()
                if hasattr(data, "set_epoch"):
                    data.set_epoch(epoch)  # pyright: ignore
                iterator = iter(data)
            while True:
                with stream:
                    batches, items = trainer.get_batch_samples(iterator, size, trainer.args.device)
                if not batches:
                    return
                yield batches, items
        finally:
            del accelerator._dataloaders[known:]
            accelerator.gradient_state.dataloader_references = iterated

    @property
    def model(self) -> nn.Module:
        """The model as the trainer runs it; while :meth:`run` lasts."""
        assert self._model is not None
        return self._model

    def _train_on(self, recorded: MicroBatch) -> Tensor:
        set_random_state(recorded.random_state, self._device)
        put_back(recorded.buffers)
        return self._training_step(self.model, dict(recorded.inputs), recorded.items)

    def _in_turn(self, micro_batches: Sequence[T]) -> Iterator[T]:
        """One after the other; processes exchange gradients once, at the last."""
        accelerator = self.trainer.accelerator
        for index, one in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            exchange = contextlib.nullcontext() if last else accelerator.no_sync(self._model)
            with exchange:
                yield one

    def _find_same_loss(self) -> None:
        """Compute one loss again, once in a run."""
        recorded = self._recorded[0]
        assert recorded.loss is not None
        accelerator = self.trainer.accelerator
        with self.gradients_put_aside(), accelerator.no_sync(self._model):
            again = self._train_on(recorded)
        first, second = float(recorded.loss), float(again)
        differs = not abs(first - second) <= SAME_LOSS * max(abs(first), abs(second))
        found = torch.tensor(float(differs), dtype=torch.float32, device=accelerator.device)
        if float(accelerator.reduce(found, "sum")):  # pyright: ignore
            raise RuntimeError(
                f"program {self.programs[-1].name!r} needs the loss of a batch a second time, and"
                f" it was {first:.6g} first and {second:.6g} then, under the same weights and"
                " random numbers: model or trainer keep something from pass to pass; use an"
                " optimizer without a program, such as adamw"
            )
        self._found_same = True

    def clear_gradients(self) -> None:
        """Leave no parameter of the model a gradient."""
        for parameter in self.model.parameters():
            parameter.grad = None

    @contextlib.contextmanager
    def gradients_put_aside(self) -> Iterator[None]:
        """Start without gradients; those of before come back bit for bit."""
        kept = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        self.clear_gradients()
        self._put_aside = {id(parameter): grad for parameter, grad in kept}
        try:
            yield
        finally:
            self._put_aside = {}
            for parameter, grad in kept:
                parameter.grad = grad

    def gradients_of_step(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Those that are put aside at present, zeros where there are none."""
        found = (self._put_aside[id(p)] for p in params)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]

    @property
    def under_autocast(self) -> bool:
        """Whether forward passes run in another precision than that of the weights."""
        return self.trainer.accelerator.mixed_precision != "no"

    def own_random_stream(self) -> RandomStream:
        """Random numbers of this process and step."""
        index = self.trainer.accelerator.process_index
        return RandomStream(seed_of(self.trainer.args.seed, self.step, index), self._device)

    def shared_random_stream(self) -> RandomStream:
        """Random numbers of this step that are the same in all processes."""
        return RandomStream(self._shared_seed, self._device)

    def shared_noise(self, name: str) -> Noise:
        """Random bits of this step by a name, the same in all processes and after a resume."""
        seed = self.trainer.args.seed
        return Noise(noise_key(self.step, seed), f"{name}, step {self.step}, seed {seed}")

    @property
    def _shared_seed(self) -> int:
        return seed_of(self.trainer.args.seed, self.step)

    @property
    def _device(self) -> torch.device:
        return self.trainer.accelerator.device

    @contextlib.contextmanager
    def without_autocast(self) -> Iterator[None]:
        """Run forward passes in the precision of the weights."""
        model: Any = self.trainer.accelerator.unwrap_model(self._model, keep_torch_compile=False)
        original = vars(model).get("_original_forward", model.forward)
        with _replaced(model, "forward", original):
            yield

    @contextlib.contextmanager
    def _notes_put_aside(self) -> Iterator[None]:
        present = vars(self.trainer)
        kept = {name: copy.deepcopy(present[name]) for name in NOTES_OF_LOSSES if name in present}
        try:
            yield
        finally:
            present.update(kept)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute of this name for a while."""
    own = vars(owner)
    kept = {name: own[name]} if name in own else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        own.update(kept)
