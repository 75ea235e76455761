"""The seams to transformers: arguments, mixin and Trainer, callback, `attach`, one measured run."""

from __future__ import annotations

from optbench_llm.run_record import RunRecord
from optbench_llm.training.arguments import OptBenchArguments
from optbench_llm.training.attach import attach
from optbench_llm.training.callback import OptBenchCallback
from optbench_llm.training.mixin import OptBenchMixin, OptBenchTrainer
from optbench_llm.training.run import run_training

__all__ = [
    "OptBenchArguments",
    "OptBenchCallback",
    "OptBenchMixin",
    "OptBenchTrainer",
    "RunRecord",
    "attach",
    "run_training",
]
