"""The seams to transformers: arguments, mixin and Trainer, callback, `attach`, one measured run."""

from __future__ import annotations

import logging

# transformers imports bitsandbytes, which tells everyone that an optional 4-bit kernel is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from optbench_llm.training.arguments import OptBenchArguments  # noqa: E402
from optbench_llm.training.attach import attach  # noqa: E402
from optbench_llm.training.callback import OptBenchCallback  # noqa: E402
from optbench_llm.training.mixin import OptBenchMixin, OptBenchTrainer  # noqa: E402
from optbench_llm.training.record import RunRecord  # noqa: E402
from optbench_llm.training.run import run_training  # noqa: E402

__all__ = [
    "OptBenchArguments",
    "OptBenchCallback",
    "OptBenchMixin",
    "OptBenchTrainer",
    "RunRecord",
    "attach",
    "run_training",
]
