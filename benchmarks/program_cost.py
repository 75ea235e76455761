"""What programs cost: time of a training step, as a ratio to a plain one's.

    python benchmarks/program_cost.py                        # the embedded model and GPT-2's shape
    python benchmarks/program_cost.py --model random:gpt2 --rounds 3

Every round runs each optimizer in a real Trainer for 21 steps (a period of Sophia's and more) from
the same weights on the same batches; the time of a step is the mean over all but the first. The
ratio is to AdamW's in the same round, the figure its median over the rounds. Recording is timed by
itself, as a share of a plain step. Results go to ``benchmarks/results/program_cost.json``, those of
other models stay there.
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

import torch
from transformers import TrainerCallback, set_seed

from optbench_llm.data import DataSettings, load_data, make_collator
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.models import load_model
from optbench_llm.training import OptBenchArguments, OptBenchTrainer

RESULT = Path(__file__).parent / "results" / "program_cost.json"
STEPS = 21
PLAIN = "adamw"
#: Optimizer, its settings, and the most that its step may cost of a plain one.
ROWS: tuple[tuple[str, dict[str, Any], float | None], ...] = (
    ("sam+adamw", {}, 2.1),
    ("sophia", {"k": 10}, 1.15),
    ("sophia-h", {"k": 10}, 1.15),
    ("sophia-h", {"k": 10, "hvp": "finite-difference"}, None),
    ("sophia-h", {"k": 10, "hvp": "autograd"}, None),
    ("adahessian", {"lr": 1e-4}, 3.2),
    ("adahessian", {"lr": 1e-4, "hvp": "finite-difference"}, 3.2),
    ("adahessian", {"lr": 1e-4, "hvp": "autograd"}, None),
    ("svrg+adamw", {"snapshot_period": 10, "snapshot_batches": 10}, None),
)
RECORDING_SHARE = 0.005


class StepTimes(TrainerCallback):
    """Seconds of each step, from its first micro-batch to after the optimizer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._began)


class Bench:
    """One model and its data, for any optimizer."""

    def __init__(self, model: str, batch: int, block: int) -> None:
        self.base = load_model(model)
        settings = DataSettings.model_validate({"source": "optbench:pydocs", "block_size": block})
        self.splits = load_data(settings, self.base.tokenizer)
        self.batch = batch

    def trainer(self, spec: str, settings: dict[str, Any], folder: str) -> OptBenchTrainer:
        """A trainer from the same weights, on the same batches."""
        set_seed(0)
        args = OptBenchArguments(
            output_dir=folder, optim=spec, optim_args=settings, max_steps=STEPS, save_strategy="no",
            per_device_train_batch_size=self.batch, logging_strategy="no", report_to="none",
            disable_tqdm=True, engine="compiled",
        )  # fmt: skip
        return OptBenchTrainer(
            model=copy.deepcopy(self.base.model),
            args=args,
            train_dataset=self.splits.train,
            data_collator=make_collator(self.base.tokenizer),
        )

    def run(self, spec: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Mean seconds of a step and what it took in passes."""
        times = StepTimes()
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(spec, settings, folder)
            trainer.add_callback(times)
            trainer.train()
        passes = trainer.measurements.passes
        return {
            "step_s": statistics.fmean(times.seconds[1:]),
            "passes": statistics.fmean(passes[1:]),
        }

    def recording_s(self) -> float:
        """Seconds that recording one micro-batch takes."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer("sam+adamw", {}, folder)
            trainer.create_optimizer()
            replay, count = trainer._replay, 1000
            inputs = next(iter(trainer.get_train_dataloader()))
            assert replay is not None
            began = time.perf_counter()
            for _ in range(count):
                replay.on_step_begin()
                replay.record(inputs, None)
                replay.record_loss(torch.zeros(()))
            return (time.perf_counter() - began) / count


def label(spec: str, settings: dict[str, Any]) -> str:
    """The spec with its settings."""
    return " ".join([spec, *(f"{k}={v}" for k, v in settings.items() if k != "lr")])


def measure(model: str, batch: int, block: int, rounds: int) -> dict[str, Any]:
    """Ratios of all rows on one model."""
    bench = Bench(model, batch, block)
    ratios: dict[str, list[float]] = {}
    passes: dict[str, float] = {}
    plain: list[float] = []
    for number in range(rounds):
        before = bench.run(PLAIN, {})["step_s"]
        found = {label(*row[:2]): bench.run(*row[:2]) for row in ROWS}
        # The machine may change its speed meanwhile.
        plain.append((before + bench.run(PLAIN, {})["step_s"]) / 2)
        for name, one in found.items():
            ratios.setdefault(name, []).append(one["step_s"] / plain[-1])
            passes[name] = one["passes"]
        print(
            f"{model}, round {number + 1} of {rounds}: {PLAIN} {plain[-1] * 1e3:.0f} ms", flush=True
        )
    rows = [
        {
            "optimizer": name,
            "passes_per_step": passes[name],
            "times_plain": statistics.median(ratios[name]),
            "rounds": ratios[name],
            "bound": bound,
        }
        for (*row, bound) in ROWS
        for name in [label(*row)]
    ]
    share = bench.recording_s() / statistics.median(plain)
    return {
        "model": model,
        "batch": batch,
        "block": block,
        "plain_step_s": statistics.median(plain),
        "recording_share": share,
        "recording_bound": RECORDING_SHARE,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown, each beside its bound."""
    lines = [
        "| model | optimizer | passes/step | x a plain step | bound | |",
        "|---|---|--:|--:|--:|---|",
    ]
    for one in result["models"]:
        for row in one["rows"]:
            bound, cost = row["bound"], row["times_plain"]
            verdict = "" if bound is None else "met" if cost <= bound else "**missed**"
            lines.append(
                f"| {one['model']} | {row['optimizer']} | {row['passes_per_step']:.2f} |"
                f" {cost:.2f} | {'' if bound is None else bound} | {verdict} |"
            )
        met = one["recording_share"] <= one["recording_bound"]
        lines.append(
            f"| {one['model']} | recording | | {one['recording_share']:.3%} of a step |"
            f" {one['recording_bound']:.1%} | {'met' if met else '**missed**'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the result, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="one model alone (default: both)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sizes = {"optbench:tiny-gpt2": (8, 128), "random:gpt2": (2, 128)}
    models = [options.model] if options.model else list(sizes)
    known = json.loads(RESULT.read_text())["models"] if RESULT.exists() else []
    for model in models:
        one = {
            "command": " ".join(["python", *sys.argv]),
            "environment": describe_environment(),
            **measure(model, *sizes.get(model, (2, 128)), options.rounds),
        }
        known = [other for other in known if other["model"] != model] + [one]
        RESULT.write_text(json.dumps({"models": known}, indent=2) + "\n")
    print(table({"models": known}))


if __name__ == "__main__":
    main()
