"""A warm place for trials: all is loaded once, and each trial runs as if it were the first."""

from __future__ import annotations

import copy
import gc
import math
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from optbench_llm.data import DataSettings, check_enough_blocks, load_data, make_collator
from optbench_llm.devices import device_name, free_cached_memory, synchronize
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.tracking import check_trackers, tracked
from optbench_llm.models import load_model
from optbench_llm.postponed import is_bitsandbytes_used
from optbench_llm.run_record import RunRecord
from optbench_llm.training import OptBenchArguments, OptBenchTrainer
from optbench_llm.training.evaluation import mean_token_loss
from optbench_llm.training.run import run_training

# transformers' "constant" knows no warm-up.
_SCHEDULERS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
# Of the allocators, of cuBLAS and its siblings, of cuDNN, and of XPU's runtime.
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "alloc_failed",
    "allocation_failed", "out_of_device_memory", "out_of_host_memory",
)  # fmt: skip


class Workbench:
    """Loads what all trials of a recipe share and runs them one after another.

    A trial's losses are bit-identical whether it is the first here or the tenth: each begins from a
    copy of the untouched model, fresh random seeds and fresh process-wide state.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        """Load model and data.

        Raises:
            ValueError: they cannot be loaded, or are not those that the trials were planned with.
        """
        if setup.get("tracking"):
            check_trackers(setup["tracking"]["to"])
        torch.set_num_threads(setup["threads"])
        transformers_logging.disable_progress_bar()
        self._setup = setup
        planned = setup["inputs"]
        self._base = load_model(setup["model"])
        _check_unchanged("model", setup["model"], self._base.fingerprint, planned["model"])
        settings = DataSettings.model_validate(setup["data"])
        splits = load_data(settings, self._base.tokenizer)
        self._splits = splits.with_eval_blocks(setup["training"]["max_eval_blocks"])
        _check_unchanged("data", settings.source, self._splits.fingerprint, planned["data"])
        check_enough_blocks(splits, setup["processes"])
        # Trials collect garbage often; what is loaded now stays, and need not be looked at again.
        gc.collect()
        gc.freeze()

    def facts(self) -> dict[str, Any]:
        """What the parent should know of this worker (see `executor.Facts`).

        Raises:
            ValueError: it was given a GPU that torch does not find.
        """
        untouched_eval_loss, untouched_test_loss = self._untouched_losses()
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device_type = accelerator.type if accelerator else "cpu"
        if self._setup.get("has_gpu") and device_type == "cpu":
            raise ValueError("trials here are given a GPU, and torch finds none")
        return {
            "device": device_name(),
            "device_type": device_type,
            "threads": self._setup["threads"],
            "processes": self._setup["processes"],
            "steps": self._steps(),
            "data": self._splits.report.page,
            "untouched_eval_loss": untouched_eval_loss,
            "untouched_test_loss": untouched_test_loss,
            "machine": describe_environment(),
        }

    def run(self, trial: dict[str, Any], on_step: Callable[[int, float], None]) -> RunRecord:
        """Run one trial, evaluated on the validation and the test split where there are such.

        A trial has ``spec``, ``hyperparameters``, ``lr``, ``seed``, ``schedule``, ``weight_decay``,
        ``max_steps`` (None: those that all trials take), ``engine``, and ``planned_steps``: the
        optimizer steps of all trials that compiled code would serve, by which ``auto`` decides.

        Raises whatever the optimizer or the training raises; this workbench is then spent.
        """
        _reset_process_state(trial["seed"])
        model = copy.deepcopy(self._base.model)
        with (
            tempfile.TemporaryDirectory(dir=self._setup["scratch"]) as folder,
            tracked(self._setup.get("tracking"), trial) as tracking,
        ):
            args = training_arguments(
                self._setup["training"], trial, folder, self._setup["processes"], tracking
            )
            record = run_training(
                model,
                self._base.tokenizer,
                self._splits,
                args,
                on_step=on_step,
                evaluate=len(self._splits.validation) > 0,
                evaluate_test=True,
                expected_steps=trial["planned_steps"],
            )
            # What the device has yet to do may fail, and would fail the next trial.
            synchronize(args.device)
        return record

    def _steps(self) -> int:
        """Optimizer steps of a trial that has no number of its own."""
        training = self._setup["training"]
        if training["max_steps"]:
            return training["max_steps"]
        batches = math.ceil(len(self._splits.train) / training["batch_size"])
        per_epoch = math.ceil(batches / training["gradient_accumulation_steps"])
        return math.ceil(training["num_train_epochs"] * per_epoch)

    def _untouched_losses(self) -> tuple[float | None, float | None]:
        """Of the model as it was loaded, on the validation and on the test split."""
        splits = (self._splits.validation, self._splits.test)
        if not self._setup["untouched"] or not any(map(len, splits)):
            return None, None
        with tempfile.TemporaryDirectory(dir=self._setup["scratch"]) as folder:
            args = OptBenchArguments(
                output_dir=folder,
                per_device_eval_batch_size=self._setup["training"]["eval_batch_size"],
                bf16=self._setup["training"]["precision"] == "bf16",
                report_to="none",
            )
            model = copy.deepcopy(self._base.model)
            trainer = OptBenchTrainer(
                model=model,
                args=args,
                data_collator=make_collator(self._base.tokenizer),
            )
            # As training does it, for the precision that trials are evaluated in.
            trainer.model_wrapped = trainer.accelerator.prepare_model(model, evaluation_mode=True)
            validation, test = (mean_token_loss(trainer, s) if len(s) else None for s in splits)
            return validation, test


def training_arguments(
    training: dict[str, Any],
    trial: dict[str, Any],
    folder: str,
    processes: int = 1,
    tracking: dict[str, Any] | None = None,
) -> OptBenchArguments:
    """The Trainer's arguments for a trial, which writes to ``folder``.

    ``training`` is what all trials share (see `TrainingSettings`), ``trial`` as `Workbench.run`
    takes it: its schedule, weight decay and steps take the place of the shared ones. ``tracking``
    are the arguments that `tracked` gives.
    """
    return OptBenchArguments(
        output_dir=folder,
        optim=trial["spec"],
        optim_args=trial["hyperparameters"],
        learning_rate=trial["lr"],
        weight_decay=trial["weight_decay"],
        engine=trial["engine"],
        lr_scheduler_type=_SCHEDULERS[trial["schedule"]],
        warmup_steps=training["warmup_steps"],
        max_steps=trial["max_steps"] or training["max_steps"] or -1,
        num_train_epochs=training["num_train_epochs"] or 3.0,
        per_device_train_batch_size=training["batch_size"] // processes,
        per_device_eval_batch_size=training["eval_batch_size"],
        gradient_accumulation_steps=training["gradient_accumulation_steps"],
        max_grad_norm=training["max_grad_norm"],
        bf16=training["precision"] == "bf16",
        seed=trial["seed"],
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        **(tracking or {"report_to": "none"}),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in any of the ways of torch's libraries."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _OUT_OF_MEMORY)


def _check_unchanged(kind: str, name: str, loaded: str, planned: str) -> None:
    """A trial's id promises the content that was planned with, and no other."""
    if loaded != planned:
        raise ValueError(
            f"{kind} {name!r}: changed since the plan was made; start the leaderboard again"
        )


def _reset_process_state(seed: int) -> None:
    """Undo what an earlier trial left in this process; its process group is used again.

    That takes a trial that succeeded: after any other this process ends.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    if is_bitsandbytes_used():
        # It remembers every module whose embedding it was told to keep in 32 bits.
        sys.modules["bitsandbytes"].optim.GlobalOptimManager._instance = None
    gc.collect()
    free_cached_memory()
    set_seed(seed)
