"""Load data for a tokenizer: from the cache where it was tokenized before."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save
from torch.utils.data import Subset

from optbench_llm.cache import cache_dir, read_checked, write_checked
from optbench_llm.data import cuts, tokens
from optbench_llm.data.blocks import Blocks
from optbench_llm.data.cuts import Lengths, count_cuts
from optbench_llm.data.fingerprint import fingerprint_of, read_records, summarise
from optbench_llm.data.report import RecordReport
from optbench_llm.data.settings import DataSettings
from optbench_llm.data.split import RecordSplits, split_records
from optbench_llm.data.tokens import TokenTable, tokenize, tokenizer_hash


@dataclass(frozen=True)
class DataSplits:
    """The blocks of each split, the data's fingerprint, and what became of the records."""

    train: Blocks
    validation: Blocks | Subset
    test: Blocks | Subset
    fingerprint: str
    report: RecordReport

    def with_eval_blocks(self, blocks: int | None) -> DataSplits:
        """These splits with the first ``blocks`` of what a run is evaluated on; None keeps all.

        Of the validation split and of the test split alike.
        """
        first = {
            name: Subset(split, range(blocks))
            for name, split in (("validation", self.validation), ("test", self.test))
            if blocks is not None and blocks < len(split)
        }
        return replace(self, **first) if first else self


def load_data(settings: DataSettings, tokenizer: Any) -> DataSplits:
    """Read, split and tokenize records; the same settings and tokenizer give the same blocks.

    Raises:
        ValueError: the data is missing, malformed, empty, or too much of it is bad; or the
            tokenizer cannot do what the settings ask.
    """
    _check_tokenizer(settings, tokenizer)
    summary = summarise(settings)
    fingerprint = fingerprint_of(summary, settings)
    key = sha256(f"{_maker_version()}{fingerprint}{tokenizer_hash(tokenizer)}".encode()).hexdigest()
    stored = cache_dir() / "tokens" / key
    tables = _read_tables(stored)
    if tables is None:
        splits = split_records(read_records(settings), settings)
        tables = {
            name: tokenize(records, settings, tokenizer)
            for name, records in splits._asdict().items()
        }
        _write_tables(stored, tables)
    blocks = {name: Blocks(table) for name, table in tables.items()}
    report = replace(
        summary.report,
        untrained=sum(table.untrained for table in tables.values()),
        cuts=count_cuts(
            [table.lengths for table in tables.values()],
            settings.block_size,
            settings.packing,
            max_size=tokenizer.model_max_length,
        ),
    )
    _check_blocks(blocks, report, settings)
    return DataSplits(**blocks, fingerprint=fingerprint, report=report)


def check_enough_blocks(splits: DataSplits, processes: int) -> None:
    """Raise ValueError where not every one of ``processes`` would have a block to train on."""
    if len(splits.train) < processes:
        raise ValueError(
            f"{splits.report}: the train split has {len(splits.train)} blocks, fewer than the "
            f"{processes} processes that share them; use fewer processes, or give more records"
        )


def _check_tokenizer(settings: DataSettings, tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token, which closes every "
            "answer: set eos_token in its tokenizer_config.json"
        )
    limit = tokenizer.model_max_length
    if settings.block_size > limit:
        raise ValueError(
            f"block_size={settings.block_size} is more than the {limit} tokens that "
            f"{tokenizer.name_or_path!r} is made for: choose {limit} or less"
        )


def _check_blocks(blocks: dict[str, Blocks], report: RecordReport, settings: DataSettings) -> None:
    wanted = {
        "train": True,
        "validation": settings.validation_fraction > 0,
        "test": settings.test_fraction > 0,
    }
    for name, split in blocks.items():
        if wanted[name] and len(split) == 0:
            raise ValueError(
                f"{report}: no block is left in the {name} split; "
                f"choose a block_size above {settings.block_size}, or give more records"
            )


@cache
def _maker_version() -> str:
    """Changes with the code that makes tables: those of another version are made anew."""
    return "".join(inspect.getsource(module) for module in (cuts, tokens))


def _read_tables(path: Path) -> dict[str, TokenTable] | None:
    content = read_checked(path)
    if content is None:
        return None
    arrays = load(content)
    return {
        name: TokenTable(
            ids=arrays[f"{name}.ids"],
            learned=arrays[f"{name}.learned"],
            offsets=arrays[f"{name}.offsets"],
            untrained=int(arrays[f"{name}.untrained"]),
            lengths=Lengths(*(arrays[f"{name}.lengths.{field.name}"] for field in fields(Lengths))),
        )
        for name in RecordSplits._fields
    }


def _write_tables(path: Path, tables: dict[str, TokenTable]) -> None:
    arrays = {}
    for name, table in tables.items():
        arrays[f"{name}.ids"] = table.ids
        arrays[f"{name}.learned"] = table.learned
        arrays[f"{name}.offsets"] = table.offsets
        arrays[f"{name}.untrained"] = np.array(table.untrained)
        for kind, lengths in vars(table.lengths).items():
            arrays[f"{name}.lengths.{kind}"] = lengths
    write_checked(path, save(arrays))
