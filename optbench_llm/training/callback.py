"""What a comparison must know of a run: losses, time, memory, and whether it diverged."""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from optbench_llm.devices import synchronize
from optbench_llm.engine import RuleOptimizer
from optbench_llm.state_bytes import state_bytes
from optbench_llm.training.memory import peak_memory_bytes, reset_peak_memory
from optbench_llm.training.optimizer_clock import OptimizerClock, unwrapped

logger = logging.getLogger(__name__)


class OptBenchCallback(TrainerCallback, ExportableState):
    """Measures a run and stops it once its loss is no longer finite.

    Works under any ``Trainer`` for times, memory and the finiteness of logged losses. The loss of
    every step, tokens and the hash of the batches need :class:`OptBenchMixin`, which adds this
    callback by itself. On a GPU values are read when the Trainer logs, saves or evaluates, so that
    no other step waits.

    Under a plain ``Trainer`` it sets ``logging_nan_inf_filter`` to False, and says so: with the
    filter on, the logged losses of a diverged run stay finite.

    ``gets_every_loss`` says that the mixin is there; ``steps_unseen`` counts the steps before the
    first of ``losses``, done by a run that was not measured.

    All that is measured is saved in checkpoints: after a resume it covers the whole run.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.tokens = 0
        self.batches_hash = ""
        self.diverged_step: int | None = None
        self.diverged_reason: str | None = None
        self.first_step_ms: float | None = None
        self.optimizer_step_ms: list[float] = []
        self.compile_s = 0.0
        self.train_wall_s = 0.0
        self.eval_wall_s = 0.0
        self.passes: list[float] = []
        self.extra_passes = 0.0
        self.initial_eval_loss: float | None = None
        self.state_bytes = 0
        self.peak_mem_bytes = 0
        self._exported = [name for name in vars(self) if not name.startswith("_")]
        self.gets_every_loss = False
        self.steps_unseen = 0
        self._optimizer: Any = None
        self._compile_s_before = 0.0
        self._device = torch.device("cpu")
        self._reads_at_once = True
        self._clock = OptimizerClock(self._device)
        self._sees_steps = True
        self._mark = time.perf_counter()
        self._micro_losses: list[Tensor] = []
        self._micro_inputs: list[Tensor] = []
        self._step_tokens: Tensor | int = 0
        self._step_extra_passes = 0.0
        self._checked = 0
        self._finite_at: int | None = None
        self._overflow_told = False
        self._unmeasured_told = False
        self._pending: list[tuple[Tensor, list[Tensor], Tensor | int]] = []

    def state(self) -> dict[str, Any]:
        """All measurements so far, for ``trainer_state.json``."""
        if self._optimizer is not None:
            self._read_pending()
            self._collect()
        return {"args": {}, "attributes": {name: getattr(self, name) for name in self._exported}}

    @property
    def median_step_ms(self) -> float | None:
        """Median time of an optimizer step, the first of each session left out."""
        return statistics.median(self.optimizer_step_ms) if self.optimizer_step_ms else None

    @property
    def present_loss(self) -> float:
        """Loss of the step that is under way, as far as its micro-batches go."""
        return float(_total(self._micro_losses))

    def record_micro_batch(
        self, input_ids: Tensor | None, loss: Tensor, tokens: Tensor | int
    ) -> None:
        """Take in what one forward and backward pass trained on; called by the mixin.

        ``loss`` is this pass's share of the step's loss, so that shares of a step add up;
        ``tokens`` counts the positions it was computed at.
        """
        # Compiled models may write the next loss into the same memory.
        self._micro_losses.append(loss.clone())
        if input_ids is not None:
            self._micro_inputs.append(input_ids)
        self._step_tokens = self._step_tokens + tokens

    def record_extra_passes(self, passes: float) -> None:
        """Take in what programs did for the step, in passes over its batch; called by the mixin."""
        self._step_extra_passes = passes

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Start afresh, or from what the checkpoint saved."""
        saved: Any = state.stateful_callbacks
        fresh = type(self)().state()
        entry = saved.get(type(self).__name__, fresh) if state.global_step else fresh
        entry = entry[0] if isinstance(entry, list) else entry
        for name, value in entry["attributes"].items():
            setattr(self, name, value)
        # A checkpoint of a plain Trainer has no entry, and saving looks for one.
        saved[type(self).__name__] = entry
        self._optimizer = unwrapped(optimizer)
        if isinstance(self._optimizer, RuleOptimizer) and self._optimizer.expected_steps is None:
            # All of them, also on a resume: it must run as the interrupted run did.
            self._optimizer.expected_steps = state.max_steps
        self._compile_s_before = self.compile_s
        self._device = next(model.parameters()).device
        self._reads_at_once = self._device.type == "cpu"
        self._clock = OptimizerClock(self._device)
        # DeepSpeed steps inside backward, where no callback sees it.
        self._sees_steps = getattr(args, "deepspeed_plugin", None) is None
        self._pending = []
        self._checked = len(self.losses)
        self._finite_at, self._overflow_told = None, False
        self.steps_unseen = state.global_step - len(self.losses)
        if args.logging_nan_inf_filter and not self.gets_every_loss:
            args.logging_nan_inf_filter = False
            logger.warning(
                "logging_nan_inf_filter is set to False: it would hide from OptBenchCallback that"
                " the run has diverged"
            )
        reset_peak_memory(self._device)
        self._mark = self._now()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget the passes of a step that was never finished."""
        self._micro_losses, self._micro_inputs, self._step_tokens = [], [], 0
        self._step_extra_passes = 0.0

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock: gradients are there and clipped."""
        self._clock.start()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Stop the clock; measure the state once it is there and again at the last step."""
        first = self._clock.stop()
        if first or state.global_step + 1 >= state.max_steps:
            self.state_bytes = state_bytes(self._optimizer)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Close the step; on the CPU, and where the Trainer reads, saves or ends, read its loss."""
        if self._micro_losses:
            self._pending.append(
                (_total(self._micro_losses), self._micro_inputs, self._step_tokens)
            )
            self.passes.append(1 + self._step_extra_passes)
            self.extra_passes += self._step_extra_passes
        elif self.gets_every_loss and not self._unmeasured_told:
            self._unmeasured_told = True
            logger.warning(
                "the losses of this run are not measured: the trainer's class overrides"
                " training_step without calling super().training_step"
            )
        pauses = control.should_log or control.should_save or control.should_evaluate
        if self._reads_at_once or pauses or control.should_training_stop:
            self._check_losses(control)
            # Otherwise what is still under way would count as the pause's time, or not at all.
            self._advance("train_wall_s", until=self._now())
        else:
            self._advance("train_wall_s", until=time.perf_counter())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Read what waits on the GPU; under a plain Trainer check the logged loss."""
        self._check_losses(control)
        logged = (logs or {}).get("loss")
        if not self.losses and logged is not None and not math.isfinite(logged):
            self._diverge(control, state.global_step, f"logged loss is {logged}")

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Count evaluation apart."""
        self._advance("eval_wall_s", until=self._now())

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Leave the time of writing a checkpoint out, and look at the state that was written."""
        self._warn_of_overflow(state.global_step)
        self._mark = self._now()

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Keep a diverged run from being saved or evaluated at the end of its epoch."""
        if control.should_save or control.should_evaluate:
            self._check_losses(control)
        if self.diverged_reason is not None:
            control.should_save = control.should_evaluate = False

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Read what is left and look at the weights: the last step may have broken them."""
        self._check_losses(control)
        self._collect()
        self._warn_of_overflow(state.global_step)
        self._optimizer = None
        broken = _first_not_finite(model) if self.diverged_reason is None else None
        if broken is not None:
            self._diverge(control, state.global_step, f"weight {broken!r} is not finite")

    def _warn_of_overflow(self, step: int) -> None:
        """An infinity in the state can stop its element without a trace in the loss.

        Once: it stays there. A look at the whole state is too dear for every step.
        """
        if self._overflow_told or not isinstance(self._optimizer, RuleOptimizer):
            return
        try:
            self._optimizer.check_finite()
            self._finite_at = step
        except FloatingPointError as error:
            self._overflow_told = True
            before = self._finite_at
            known = "" if before is None else f". After step {before} all of it was finite"
            logger.warning("%s%s", error, known)

    def _collect(self) -> None:
        """Bring times and memory up to date."""
        first_ms, step_ms = self._clock.read()
        if self._sees_steps:
            if self.first_step_ms is None:
                self.first_step_ms = first_ms
            self.optimizer_step_ms += step_ms
        self.compile_s = self._compile_s_before + getattr(self._optimizer, "compile_s", 0.0)
        self.peak_mem_bytes = max(self.peak_mem_bytes, peak_memory_bytes(self._device))

    def _read_pending(self) -> None:
        for loss, inputs, tokens in self._pending:
            self.losses.append(float(loss))
            self.tokens += int(tokens)
            for input_ids in inputs:
                self.batches_hash = _chained(self.batches_hash, input_ids)
        self._pending = []

    def _check_losses(self, control: TrainerControl) -> None:
        self._read_pending()
        for index, loss in enumerate(self.losses[self._checked :], start=self._checked):
            if not math.isfinite(loss) and self.diverged_reason is None:
                self._diverge(control, self.steps_unseen + index + 1, f"loss is {loss}")
        self._checked = len(self.losses)

    def _diverge(self, control: TrainerControl, step: int, what: str) -> None:
        self.diverged_step = step
        self.diverged_reason = f"{what} at step {step}"
        control.should_training_stop = True
        # A broken checkpoint would push a good one out.
        control.should_save = control.should_evaluate = False

    def _advance(self, name: str, until: float) -> None:
        setattr(self, name, getattr(self, name) + until - self._mark)
        self._mark = until

    def _now(self) -> float:
        """The time at which the device has done all it was given."""
        synchronize(self._device)
        return time.perf_counter()


def _total(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _chained(digest: str, input_ids: Tensor) -> str:
    content = input_ids.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(bytes.fromhex(digest) + content, digest_size=16).hexdigest()


def _first_not_finite(model: torch.nn.Module) -> str | None:
    """Name of a trainable weight with NaN or infinite entries."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(
            parameter.detach().sum(dtype=torch.float32)
        ):
            return name
    return None
