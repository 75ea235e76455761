"""The seams to transformers: a mixin for any Trainer class, and the Trainer with it."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from optbench_llm.create import create_optimizer, effective_hyperparameters
from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.checks import lacks_estimate
from optbench_llm.programs import Replay, count_trained, create_program
from optbench_llm.providers import tell_of_loaded_settings
from optbench_llm.training.arguments import OptBenchArguments
from optbench_llm.training.callback import OptBenchCallback
from optbench_llm.training.checkpoints import check_whole
from optbench_llm.training.choice import Attached, OptimizerChoice, check_flattened
from optbench_llm.training.hf_provider import check_taken, hf_arguments
from optbench_llm.training.hooks import (
    other_optimizer,
    overriding_class,
    warn_of_changes,
    warn_of_left_out,
)
from optbench_llm.training.optimizer_clock import unwrapped
from optbench_llm.training.sharded import (
    check_saved,
    checkpoints_of_sharded_state,
    is_sharded,
    load_sharded,
    load_sharded_weights,
    save_sharded,
)

logger = logging.getLogger(__name__)


# To a type checker the mixin is a Trainer; at run time it stands before any Trainer class.
_Trainer = Trainer if TYPE_CHECKING else object


class OptBenchMixin(_Trainer):
    """Gives a Trainer class any optimizer by name: ``class MyTrainer(OptBenchMixin, SFTTrainer)``.

    The optimizer comes from :class:`OptBenchArguments` or from :func:`attach`; with other arguments
    and nothing attached the Trainer makes its own. Losses, times and memory are measured by an
    :class:`OptBenchCallback`. Schedule-free models are evaluated and saved at x, trained at y, and
    left at x when ``train`` returns.

    ``effective_hyperparameters`` holds one dict for each parameter group, once there is an
    optimizer. ``expected_steps`` are the steps that the engine's choice counts on, those of the run
    unless somebody sets it: compiled code may serve several.
    """

    # Class attributes, since `attach` turns a finished trainer into one of these.
    effective_hyperparameters: list[dict[str, Any]] | None = None
    expected_steps: int | None = None
    _attached: Attached | None = None
    _made: tuple[OptimizerChoice, torch.optim.Optimizer] | None = None
    _replay: Replay | None = None
    _saving = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with checkpoints_of_sharded_state(args, kwargs):
            super().__init__(*args, **kwargs)
        if (asked := self._asked()) is not None:
            asked.validate_for(self)
            warn_of_left_out(self, OptBenchMixin, asked)
        self.measure()

    def choose_optimizer(self, attached: Attached) -> None:
        """Use this optimizer, completed by the arguments, in the place of the one they name."""
        self._attached = attached
        warn_of_left_out(self, OptBenchMixin, OptimizerChoice.from_attach(self.args, attached))

    @property
    def choice(self) -> OptimizerChoice | None:
        """The optimizer with its settings: as it was made, or before that as it is asked for."""
        if self._made is not None and self.optimizer is not None:
            return self._made[0]
        return self._asked()

    def _asked(self) -> OptimizerChoice | None:
        """What is asked for by the arguments as they are now: a search changes them."""
        if self._attached is not None:
            return OptimizerChoice.from_attach(self.args, self._attached)
        if isinstance(self.args, OptBenchArguments):
            return OptimizerChoice.from_arguments(self.args)
        return None

    def measure(self) -> None:
        """Add the measuring callback unless the trainer has one."""
        if not any(isinstance(c, OptBenchCallback) for c in self.callback_handler.callbacks):
            self.add_callback(OptBenchCallback())
        self.measurements.gets_every_loss = True
        if not any(isinstance(c, _AtTrainBegin) for c in self.callback_handler.callbacks):
            self.add_callback(_AtTrainBegin(self._look_at_optimizer))

    @property
    def measurements(self) -> OptBenchCallback:
        """The callback that measures this trainer; a resume may have replaced it."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, OptBenchCallback):
                return callback
        raise ValueError("the trainer's OptBenchCallback was removed; its mixin needs it")

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the chosen optimizer over ``model`` (FSDP passes its own), once.

        Raises ValueError for settings that cannot be, also where the arguments were changed since
        they were made.
        """
        asked = self._asked()
        if asked is None:
            # Many classes override this without an argument.
            optimizer = super().create_optimizer(*(() if model is None else (model,)))
        elif self.optimizer is None:
            optimizer = self.optimizer = self._make(asked, model)
            self._made = asked, optimizer
            self._record_hyperparameters()
        else:
            optimizer = self.optimizer
            if self._made is not None:
                warn_of_changes(self._made[0], asked)
        self._prepare_program(unwrapped(optimizer))
        check_saved(self.args, optimizer)
        return optimizer

    def _make(self, choice: OptimizerChoice, model: nn.Module | None) -> torch.optim.Optimizer:
        choice.validate(self.args)
        if self.is_deepspeed_enabled:
            check_flattened(choice.spec)
        if choice.provider == "hf":
            with hf_arguments(self, choice):
                made = Trainer.create_optimizer(self, model)
            check_taken(made, choice)
            tell_of_loaded_settings(choice.spec, made)
            return made
        target = self.model if model is None else model
        assert target is not None
        own = overriding_class(self, "get_decay_parameter_names")
        return create_optimizer(
            target,
            choice.spec,
            choice.lr,
            engine=choice.engine,
            decays=None if own is None else self.get_decay_parameter_names(target),
            **choice.hyperparameters,
        )

    def _record_hyperparameters(self) -> None:
        choice = self.choice
        assert choice is not None
        assert self.optimizer is not None
        optimizer = unwrapped(self.optimizer)
        self.effective_hyperparameters = effective_hyperparameters(optimizer)
        for index, (group, values) in enumerate(
            zip(optimizer.param_groups, self.effective_hyperparameters, strict=True)
        ):
            logger.info(
                "optimizer %s, group %d of %d tensors: %s",
                choice.spec,
                index,
                len(group["params"]),
                ", ".join(f"{name}={value!r}" for name, value in values.items()),
            )

    def _look_at_optimizer(self) -> None:
        """Record what will step, now that a checkpoint may have been loaded.

        Raises ValueError where that is not the optimizer that was chosen.
        """
        # DeepSpeed steps flattened copies, in groups of its own.
        if self.choice is None or self.is_deepspeed_enabled:
            return
        optimizer = unwrapped(self.optimizer)
        if self._made is None or unwrapped(self._made[1]) is not optimizer:
            raise ValueError(other_optimizer(self, self.choice, optimizer))
        if self.effective_hyperparameters != effective_hyperparameters(optimizer):
            self._record_hyperparameters()

    def _prepare_program(self, optimizer: torch.optim.Optimizer) -> None:
        if self._replay is not None:
            self.remove_callback(self._replay)
            self._replay = None
        programs = [create_program(name) for name in getattr(optimizer, "programs", ())]
        if programs:
            self._replay = Replay(self, programs, optimizer, super().training_step)
            self.add_callback(self._replay)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Make the learning rate schedule, constant where the optimizer's method demands it.

        The optimizer gets to know how long the run is, before anybody asks for its engine.
        """
        if isinstance(inner := unwrapped(self.optimizer), RuleOptimizer):
            inner.expected_steps = self.expected_steps or num_training_steps
        given = (num_training_steps, *(() if optimizer is None else (optimizer,)))
        if self.choice is None or self.lr_scheduler is not None:
            return super().create_scheduler(*given)
        asked = self.args.lr_scheduler_type
        self.args.lr_scheduler_type = self.choice.scheduler_type(self.args)
        try:
            return super().create_scheduler(*given)
        finally:
            self.args.lr_scheduler_type = asked

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Run forward and backward, measure, and let a program that is due run before the step."""
        replay = self._replay
        if replay is not None and replay.due:
            replay.record(inputs, num_items_in_batch)
        else:
            replay = None
        # Read first: compute_loss may take entries out.
        input_ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
        tokens = count_trained(self, inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if replay is not None:
            replay.record_loss(loss)
        measurements = self.measurements
        measurements.record_micro_batch(input_ids, *self._over_processes(loss, tokens))
        if replay is not None and self.accelerator.sync_gradients:
            optimizer = unwrapped(self.optimizer)
            # A broken model has nothing to teach a program; the loss ends the run as diverged.
            if math.isfinite(measurements.present_loss):
                replay.run(model, optimizer)
                measurements.record_extra_passes(replay.passes)
            elif lacks_estimate(optimizer.rule, optimizer.param_groups):
                # Broken from the start: there is no step that it could take.
                optimizer.zero_grad()
            optimizer.gradients_made()
        return loss

    def _over_processes(self, loss: Tensor, tokens: Tensor | int) -> tuple[Any, Any]:
        """Mean loss and sum of tokens; without float64, which not every device has."""
        if self.args.world_size == 1:
            return loss, tokens
        dtype = torch.promote_types(loss.dtype, torch.float32)
        both = torch.stack([loss.to(dtype), torch.as_tensor(tokens, device=loss.device).to(dtype)])
        # fp32 holds the tokens of one process exactly, and may not hold their sum.
        gathered: Any = self.accelerator.gather(both)
        losses, counts = gathered.view(-1, 2).unbind(1)
        return losses.mean(), counts.long().sum()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; afterwards the model stands where it is to be evaluated and saved."""
        output = super().train(*args, **kwargs)
        self._move_to_evaluation_point()
        return output

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model as it is to be evaluated."""
        with self._saved_at_evaluation_point():
            super().save_model(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._saved_at_evaluation_point():
            super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if is_sharded(self.optimizer):
            save_sharded(self, output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and is_sharded(self.optimizer):
            load_sharded(self, checkpoint)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        scales_loss = self.accelerator.scaler is not None
        check_whole(Path(resume_from_checkpoint), scales_loss=scales_loss)
        target = self.model if model is None else model
        if not load_sharded_weights(target, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # Later moves to the evaluation point must not overwrite the loaded weights.
        self._move_to_evaluation_point()
        super()._load_best_model()

    @contextlib.contextmanager
    def _saved_at_evaluation_point(self) -> Iterator[None]:
        # A checkpoint saves its model through save_model, and its optimizer after that: both must
        # be saved at one point.
        outermost = not self._saving
        self._saving = True
        self._move_to_evaluation_point()
        try:
            yield
        finally:
            if outermost:
                self._saving = False
                if self.is_in_train:
                    _switch(self.optimizer, "train")

    def _move_to_evaluation_point(self) -> None:
        _switch(self.optimizer, "eval")


class _AtTrainBegin(TrainerCallback):
    """Calls a function once a run has its optimizer, its schedule and their loaded state."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Call it."""
        self._call()


def _switch(optimizer: Any, mode: str) -> None:
    """Call ``train`` or ``eval`` of an optimizer that trains and evaluates at different points."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


class OptBenchTrainer(OptBenchMixin, Trainer):
    """``transformers.Trainer`` that takes any optimizer by name in :class:`OptBenchArguments`."""

    args: TrainingArguments
