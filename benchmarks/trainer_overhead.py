"""What OptBenchTrainer costs over the stock Trainer, both with torch's AdamW.

    python benchmarks/trainer_overhead.py

Trains the same model on the same batches with both, in one process, in repetitions whose order
turns round. The figure is the median over repetitions of the ratio of their median step times.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from optbench_llm.data import DataSettings, load_data, make_collator
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.models import load_model
from optbench_llm.training import OptBenchArguments, OptBenchTrainer

RESULT = Path(__file__).parent / "results" / "trainer_overhead.json"
LR, WEIGHT_DECAY = 1e-4, 0.01
WARM_UP_STEPS = 3


class StepTimes(TrainerCallback):
    """Time from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.marks.append(time.perf_counter())

    def median_ms(self) -> float:
        ends = self.marks[WARM_UP_STEPS:]
        return statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False)) * 1e3


def step_ms(kind: str, loaded: Any, splits: Any, common: dict[str, Any]) -> float:
    if kind == "stock":
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
    pairs: dict[str, list[float]] = {"stock": [], "optbench": []}
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder, "max_steps": steps, "per_device_train_batch_size": batch_size,
            "learning_rate": LR, "weight_decay": WEIGHT_DECAY, "logging_steps": 10,
            "save_strategy": "no", "disable_tqdm": False, "use_cpu": True, "report_to": "none",
        }  # fmt: skip
        for repetition in range(repetitions):
            order = list(pairs) if repetition % 2 == 0 else list(pairs)[::-1]
            for kind in order:
                pairs[kind].append(step_ms(kind, loaded, splits, common))
    ratios = [ours / stock for ours, stock in zip(pairs["optbench"], pairs["stock"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
        "ratio_of_fastest": min(pairs["optbench"]) / min(pairs["stock"]),
        "stock_step_ms": pairs["stock"],
        "optbench_step_ms": pairs["optbench"],
        "model": "optbench:tiny-gpt2",
        "data": "optbench:pydocs",
        "steps": steps,
        "batch_size": batch_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    result = measure(options.repetitions, options.steps, options.batch_size)
    command = " ".join(["python", "benchmarks/trainer_overhead.py", *sys.argv[1:]])
    result = {"command": command, **result, "environment": describe_environment()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"ratio {result['ratio']:.4f}, fastest {result['ratio_of_fastest']:.4f}")


if __name__ == "__main__":
    main()
