"""Instruction data in Alpaca's format: read, checked, split, tokenized, cached."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Blocks": "blocks",
    "Collator": "blocks",
    "DataSettings": "settings",
    "DataSplits": "load",
    "Record": "records",
    "RecordReport": "records",
    "data_fingerprint": "fingerprint",
    "load_data": "load",
    "make_collator": "blocks",
}
__all__ = [
    "Blocks",
    "Collator",
    "DataSettings",
    "DataSplits",
    "Record",
    "RecordReport",
    "data_fingerprint",
    "load_data",
    "make_collator",
]

if TYPE_CHECKING:
    from optbench_llm.data.blocks import Blocks, Collator, make_collator
    from optbench_llm.data.fingerprint import data_fingerprint
    from optbench_llm.data.load import DataSplits, load_data
    from optbench_llm.data.records import Record, RecordReport
    from optbench_llm.data.settings import DataSettings


def __getattr__(name: str) -> Any:
    """Import a public name on first use: settings and fingerprints must not cost torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
