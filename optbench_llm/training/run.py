"""One measured run: train a model on prepared data and return its record."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from optbench_llm.data import make_collator
from optbench_llm.providers import canonical_spec
from optbench_llm.run_record import Curves, RunRecord
from optbench_llm.training.arguments import OptBenchArguments
from optbench_llm.training.evaluation import SplitLoss, mean_token_loss, split_loss
from optbench_llm.training.mixin import OptBenchTrainer
from optbench_llm.training.optimizer_clock import unwrapped
from optbench_llm.training.sharded import is_sharded

if TYPE_CHECKING:
    from optbench_llm.data import DataSplits

OnStep = Callable[[int, float], None]


def run_training(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: DataSplits,
    args: OptBenchArguments,
    *,
    resume_from: str | Path | None = None,
    on_step: OnStep | None = None,
    evaluate: bool = True,
    evaluate_start: bool = False,
    evaluate_test: bool = False,
    expected_steps: int | None = None,
    callbacks: Iterable[TrainerCallback] = (),
) -> RunRecord:
    """Train on ``splits.train``, evaluate on ``splits.validation``, and ``splits.test`` if asked.

    An empty test split is not evaluated. ``expected_steps`` are what the optimizer's engine counts
    on, where the process runs more than these (see :class:`OptBenchMixin`).
    ``on_step(step, loss)`` is called after every optimizer step (on a GPU when the trainer logs).
    A run that diverges returns with status ``diverged`` and its reason; exceptions propagate.
    The model is left where it is to be evaluated and saved, in plain form, so that the caller may
    save it or train it again.
    """
    reporter = _Reporter(on_step, splits.validation if evaluate_start else None)
    trainer = OptBenchTrainer(
        model=model,
        args=args,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        processing_class=tokenizer,
        data_collator=make_collator(tokenizer),
        callbacks=[*callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.expected_steps = expected_steps
    reporter.trainer = trainer
    trainer.add_callback(reporter)
    with _plain_afterwards(model):
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        test = splits.test if evaluate_test and len(splits.test) else None
        return _record(trainer, splits.validation if evaluate else None, test)


@contextlib.contextmanager
def _plain_afterwards(model: nn.Module) -> Iterator[None]:
    """Take off what accelerate puts around a model's forward for mixed precision."""
    before = dict(vars(model))
    try:
        yield
    finally:
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            vars(model).pop(name, None)
            if name in before:
                vars(model)[name] = before[name]


class _Reporter(TrainerCallback):
    """Passes losses on, and evaluates before the first step where that was asked for."""

    def __init__(self, on_step: OnStep | None, start_split: object | None) -> None:
        self.trainer: OptBenchTrainer
        self._on_step = on_step
        self._start_split = start_split
        self._reported = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._reported = state.global_step
        if self._start_split is not None and state.global_step == 0:
            measured = self.trainer.measurements
            measured.initial_eval_loss = mean_token_loss(self.trainer, self._start_split)
            measured.on_evaluate()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._report()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self._report()

    def _report(self) -> None:
        measured = self.trainer.measurements
        unseen = measured.steps_unseen
        while self._on_step is not None and self._reported < unseen + len(measured.losses):
            self._reported += 1
            self._on_step(self._reported, measured.losses[self._reported - unseen - 1])


def _record(trainer: OptBenchTrainer, validation: object, test: object) -> RunRecord:
    measured = trainer.measurements
    reason = measured.diverged_reason
    eval_loss: float | None = None
    on_test: SplitLoss | None = None
    started = time.perf_counter()
    if reason is None and validation is not None:
        eval_loss = mean_token_loss(trainer, validation)
        if not math.isfinite(eval_loss):
            reason = f"validation loss is {eval_loss} after step {trainer.state.global_step}"
    if reason is None and test is not None:
        on_test = split_loss(trainer, test)
        if not math.isfinite(on_test.mean):
            reason = f"test loss is {on_test.mean} after step {trainer.state.global_step}"
    eval_wall_s = measured.eval_wall_s + time.perf_counter() - started
    losses = measured.losses
    hyperparameters = trainer.effective_hyperparameters or []
    optimizer: Any = unwrapped(trainer.optimizer)
    assert trainer.choice is not None
    # Not the model's: FSDP2 shows a tied weight twice while it is put together.
    parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    state_bytes = measured.state_bytes
    if is_sharded(optimizer):
        own = torch.tensor(state_bytes, dtype=torch.int64, device=trainer.args.device)
        state_bytes = int(trainer.accelerator.reduce(own, "sum"))  # pyright: ignore
    steps_wall_s = measured.train_wall_s - measured.compile_s
    return RunRecord(
        status="done" if reason is None else "diverged",
        reason=reason,
        optimizer=canonical_spec(trainer.choice.spec),
        train_loss=math.fsum(losses) / len(losses) if losses else None,
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        eval_loss=eval_loss,
        test_loss=None if on_test is None else on_test.mean,
        initial_eval_loss=measured.initial_eval_loss,
        # The companion's groups, with an lr of their own, come last.
        lr=hyperparameters[0]["lr"],
        steps=trainer.state.global_step,
        tokens=measured.tokens,
        tokens_per_s=measured.tokens / steps_wall_s if steps_wall_s > 0 else None,
        optimizer_step_ms=measured.median_step_ms,
        first_step_ms=measured.first_step_ms,
        compile_s=measured.compile_s,
        extra_passes=measured.extra_passes / max(1, trainer.state.global_step),
        state_bytes=state_bytes,
        state_bytes_per_param=state_bytes / parameters,
        peak_mem_bytes=measured.peak_mem_bytes,
        train_wall_s=measured.train_wall_s,
        eval_wall_s=eval_wall_s,
        batches_hash=measured.batches_hash,
        hyperparameters=hyperparameters,
        engine=getattr(optimizer, "engine", "foreign"),
        seed=trainer.args.seed,
        parameters=parameters,
        curves=Curves(
            losses=[*losses],
            step_passes=[*measured.passes] if measured.extra_passes else None,
            test_losses=None if on_test is None else _six_digits(on_test.block_losses),
            test_tokens=None if on_test is None else on_test.block_tokens,
        ),
    )


def _six_digits(losses: list[float] | None) -> list[float] | None:
    """Enough for how records vary, in half the bytes of a store."""
    return None if losses is None else [float(f"{loss:.6g}") for loss in losses]
