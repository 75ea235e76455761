"""What OptBenchTrainer costs over the stock Trainer, both with torch's AdamW.

    python benchmarks/trainer_overhead.py

Trains the same model on the same batches with both, in one process, in repetitions whose order
rotates. A ratio is the median over repetitions of the ratio of their median step times: of wall
time, and of the thread's processor time, which other work on the machine disturbs less. One thread
by default, so that the processor time is all that a step takes. The stock Trainer stands twice in
each repetition: its ratio to itself is the noise. glibc is told to keep memory, since page faults
alone make one run 10 % slower than the next.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from optbench_llm.data import DataSettings, load_data, make_collator
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.models import load_model
from optbench_llm.training import OptBenchArguments, OptBenchTrainer

RESULT = Path(__file__).parent / "results" / "trainer_overhead.json"
LR, WEIGHT_DECAY = 1e-4, 0.01
WARM_UP_STEPS = 3


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
KINDS = ("stock", "optbench", "stock_again")
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


class StepTimes(TrainerCallback):
    """Time from the end of one step to the end of the next, by each clock."""

    def __init__(self) -> None:
        self.marks: dict[str, list[float]] = {name: [] for name in CLOCKS}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        for name, clock in CLOCKS.items():
            self.marks[name].append(clock())

    def median_ms(self) -> dict[str, float]:
        return {
            name: statistics.median(b - a for a, b in pairwise(marks[WARM_UP_STEPS:])) * 1e3
            for name, marks in self.marks.items()
        }


def step_ms(kind: str, loaded: Any, splits: Any, common: dict[str, Any]) -> dict[str, float]:
    if kind != "optbench":
        args, cls = TrainingArguments(optim="adamw_torch", **common), Trainer
    else:
        args, cls = OptBenchArguments(optim="torch:AdamW", **common), OptBenchTrainer
    times = StepTimes()
    cls(
        model=copy.deepcopy(loaded.model),
        args=args,
        train_dataset=splits.train,
        data_collator=make_collator(loaded.tokenizer),
        callbacks=[times],
    ).train()
    return times.median_ms()


def measure(repetitions: int, steps: int, batch_size: int) -> dict[str, Any]:
    loaded = load_model("optbench:tiny-gpt2")
    splits = load_data(DataSettings(source="optbench:pydocs"), loaded.tokenizer)
    times: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder, "max_steps": steps, "per_device_train_batch_size": batch_size,
            "learning_rate": LR, "weight_decay": WEIGHT_DECAY, "logging_steps": 10,
            "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "report_to": "none",
        }  # fmt: skip
        for repetition in range(repetitions):
            shift = repetition % len(KINDS)
            for kind in KINDS[shift:] + KINDS[:shift]:
                times[kind].append(step_ms(kind, loaded, splits, common))
    return {
        **{clock: compare(clock, times) for clock in CLOCKS},
        "model": "optbench:tiny-gpt2",
        "data": "optbench:pydocs",
        "steps": steps,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
    }


def compare(clock: str, times: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    stock, ours, again = ([entry[clock] for entry in times[kind]] for kind in KINDS)
    ratios = [b / a for a, b in zip(stock, ours, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
        "noise": statistics.median(b / a for a, b in zip(stock, again, strict=True)),
        "stock_step_ms": stock,
        "optbench_step_ms": ours,
        "stock_again_step_ms": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not KEEP_MEMORY.items() <= os.environ.items():
        # glibc reads these when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    result = measure(options.repetitions, options.steps, options.batch_size)
    command = " ".join(["python", "benchmarks/trainer_overhead.py", *sys.argv[1:]])
    result = {"command": command, **result, "environment": describe_environment()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for clock in CLOCKS:
        found = result[clock]
        print(f"{clock}: ratio {found['ratio']:.4f}, noise {found['noise']:.4f}")


if __name__ == "__main__":
    main()
