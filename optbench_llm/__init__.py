"""optbench_llm: any optimizer, by name, in any Hugging Face Trainer, compared in a fair table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import optbench_llm`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'optbench_llm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
