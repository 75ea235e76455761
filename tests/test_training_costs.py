"""What a run cost, by a clock that only the run's own work moves on: no other machine's matter."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_setup import Sentences, common, tiny_gpt2
from transformers import GPT2LMHeadModel, Trainer

from optbench_llm.engine import RuleOptimizer
from optbench_llm.run_record import RunRecord
from optbench_llm.training import OptBenchArguments, run_training
from optbench_llm.training.memory import peak_memory_bytes

#: Seconds of a forward pass, in training and in evaluation, and of writing a checkpoint.
TRAIN_S, EVAL_S, SAVE_S = 1.0, 100.0, 1000.0
#: Seconds of each optimizer step, of which compiling takes a part of the first.
STEPS_S, COMPILE_S = (70.0, 3.0, 2.0, 12.0, 2.5, 4.0), 64.0
EVAL_BLOCKS = 16


class Clock:
    """Stands for ``time.perf_counter``."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, method: Callable[..., Any], seconds: Callable[[Any], float]) -> Any:
        """The method, which is over so many seconds later."""

        @functools.wraps(method)
        def taking(owner: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(owner, *args, **kwargs)
            self.now += seconds(owner)
            return result

        return taking


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunRecord]:
    """Runs six steps under the clock and gives the record."""
    clock = Clock()
    steps_s = iter(STEPS_S)
    monkeypatch.setattr(time, "perf_counter", clock)
    slow: tuple[tuple[Any, str, Callable[[Any], float]], ...] = (
        (GPT2LMHeadModel, "forward", lambda model: TRAIN_S if model.training else EVAL_S),
        (RuleOptimizer, "step", lambda _: next(steps_s)),
        (Trainer, "_save_checkpoint", lambda _: SAVE_S),
    )
    for owner, name, seconds in slow:
        monkeypatch.setattr(owner, name, clock.takes(getattr(owner, name), seconds))
    compiled = property(lambda _: COMPILE_S if clock.now >= STEPS_S[0] else 0.0)
    monkeypatch.setattr(RuleOptimizer, "compile_s", compiled)

    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=0, save_pretrained=lambda _: None)

    def measured(**settings: Any) -> RunRecord:
        return run_training(
            tiny_gpt2(),
            tokenizer,  # pyright: ignore
            SimpleNamespace(train=Sentences(), validation=Sentences(EVAL_BLOCKS)),  # pyright: ignore
            OptBenchArguments(
                **common(tmp_path, max_steps=6, per_device_eval_batch_size=4, **settings)
            ),
            evaluate_start=True,
        )

    return measured


def test_times_count_what_they_say_and_nothing_else(measured):
    """Steps without compiling, evaluating and saving; the optimizer's own without the first."""
    record = measured(
        save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=3,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    steps_s = 6 * 2 * TRAIN_S + sum(STEPS_S)
    assert record.train_wall_s == pytest.approx(steps_s)
    assert record.compile_s == COMPILE_S
    assert record.tokens_per_s == pytest.approx(record.tokens / (steps_s - COMPILE_S))
    # Before the first step, after the third and the sixth, and at the end.
    assert record.eval_wall_s == pytest.approx(4 * EVAL_BLOCKS / 4 * EVAL_S)
    assert record.first_step_ms == pytest.approx(1000 * STEPS_S[0])
    assert record.optimizer_step_ms == pytest.approx(1000 * statistics.median(STEPS_S[1:]))


def test_the_passes_of_a_program_are_training_and_not_the_optimizers_step(measured):
    """SAM's second pass costs tokens per second, and is no part of what its rule takes."""
    record = measured(optim="sam+sgd")
    steps_s = 6 * 2 * TRAIN_S + sum(STEPS_S)
    # Once in a run a program computes a loss again, to see that it can.
    assert record.train_wall_s == pytest.approx(steps_s + TRAIN_S)
    assert record.optimizer_step_ms == pytest.approx(1000 * statistics.median(STEPS_S[1:]))
    assert (record.extra_passes, record.curves.step_passes) == (1.0, [2.0] * 6)


def test_state_that_comes_late_is_counted(measured):
    """At the last step all that an optimizer keeps is there."""
    record = measured(optim="recording:LateState", learning_rate=0.1)
    assert record.state_bytes == 8 * record.parameters


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process can be reset on Linux")
def test_the_peak_is_of_this_run_alone(measured):
    """What came before it in the same process, as a trial before it, is not its memory."""
    large = torch.ones(2**28 // 4)
    before = peak_memory_bytes(large.device)
    del large
    assert measured(optim="sgd").peak_mem_bytes < before - 2**27
