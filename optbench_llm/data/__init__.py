"""Instruction data in Alpaca's format: read, checked, split, tokenized, cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optbench_llm.lazy import lazily

_HOMES = {
    "Blocks": "optbench_llm.data.blocks",
    "Collator": "optbench_llm.data.blocks",
    "DataSettings": "optbench_llm.data.settings",
    "DataSplits": "optbench_llm.data.load",
    "Record": "optbench_llm.data.records",
    "RecordReport": "optbench_llm.data.report",
    "check_enough_blocks": "optbench_llm.data.load",
    "data_fingerprint": "optbench_llm.data.fingerprint",
    "load_data": "optbench_llm.data.load",
    "make_collator": "optbench_llm.data.blocks",
}
__all__ = [
    "Blocks",
    "Collator",
    "DataSettings",
    "DataSplits",
    "Record",
    "RecordReport",
    "check_enough_blocks",
    "data_fingerprint",
    "load_data",
    "make_collator",
]

if TYPE_CHECKING:
    from optbench_llm.data.blocks import Blocks, Collator, make_collator
    from optbench_llm.data.fingerprint import data_fingerprint
    from optbench_llm.data.load import DataSplits, check_enough_blocks, load_data
    from optbench_llm.data.records import Record
    from optbench_llm.data.report import RecordReport
    from optbench_llm.data.settings import DataSettings

# Settings and fingerprints must not cost torch.
__getattr__ = lazily(__name__, _HOMES)
