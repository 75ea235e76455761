"""optbench_llm: any optimizer, by name, in any Hugging Face Trainer, compared in a fair table."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from optbench_llm.lazy import lazily

__version__ = "0.1.0"

_HOMES = {
    "list_optimizers": "optbench_llm.catalog",
    "optimizer_info": "optbench_llm.catalog",
    "OptimizerInfo": "optbench_llm.catalog",
    "create_optimizer": "optbench_llm.create",
    "OptBenchArguments": "optbench_llm.training",
    "OptBenchCallback": "optbench_llm.training",
    "OptBenchMixin": "optbench_llm.training",
    "OptBenchTrainer": "optbench_llm.training",
    "attach": "optbench_llm.training",
}
__all__ = [
    "OptBenchArguments",
    "OptBenchCallback",
    "OptBenchMixin",
    "OptBenchTrainer",
    "OptimizerInfo",
    "__version__",
    "attach",
    "create_optimizer",
    "list_optimizers",
    "optimizer_info",
]

if TYPE_CHECKING:
    from optbench_llm.catalog import OptimizerInfo, list_optimizers, optimizer_info
    from optbench_llm.create import create_optimizer
    from optbench_llm.training import (
        OptBenchArguments,
        OptBenchCallback,
        OptBenchMixin,
        OptBenchTrainer,
        attach,
    )

# bitsandbytes, which transformers and torch's providers load, tells everyone that an optional 4-bit
# kernel is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# `import optbench_llm` must not cost torch.
__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
