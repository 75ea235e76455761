"""From records to tokens, with a mark on those that are learned, cut into blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from optbench_llm.data.prompts import prompt_of
from optbench_llm.data.records import Record
from optbench_llm.data.settings import DataSettings

Row = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TokenTable:
    """Blocks of one split, end to end: block ``i`` is ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: np.ndarray
    learned: np.ndarray
    offsets: np.ndarray
    untrained: int


def tokenizer_hash(tokenizer: Any) -> str:
    """Content hash of whatever decides the tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = backend.to_str()
    else:
        content = json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    specials = json.dumps([str(tokenizer.bos_token), str(tokenizer.eos_token)])
    return sha256((content + specials).encode()).hexdigest()


def tokenize(records: list[Record], settings: DataSettings, tokenizer: Any) -> TokenTable:
    """Blocks of at most ``block_size`` tokens; those with nothing to learn are dropped, counted."""
    rows = _rows(records, settings, tokenizer)
    if settings.packing:
        blocks = _packed(list(rows), settings.block_size)
    else:
        blocks = [(ids[: settings.block_size], mark[: settings.block_size]) for ids, mark in rows]
    # A causal model predicts no first token; and a batch without any learned token has loss NaN.
    kept = [(ids, mark) for ids, mark in blocks if mark[1:].any()]
    lengths = [len(ids) for ids, _ in kept]
    return TokenTable(
        ids=np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in kept)]),
        learned=np.concatenate([np.empty(0, bool), *(mark for _, mark in kept)]),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        untrained=len(blocks) - len(kept),
    )


def _rows(records: list[Record], settings: DataSettings, tokenizer: Any) -> Iterator[Row]:
    """Prompt, answer and end token of each record. They are tokenized apart, so that no token
    lies half in the prompt, and generation later sees the prompt's tokens just so."""
    if not records:
        return
    end = tokenizer.eos_token_id
    prompts = tokenizer([prompt_of(r, settings.prompt) for r in records], verbose=False)
    answers = tokenizer([r.output for r in records], add_special_tokens=False, verbose=False)
    for prompt, answer in zip(prompts["input_ids"], answers["input_ids"], strict=True):
        if prompt and prompt[-1] == end:
            prompt = prompt[:-1]  # some tokenizers end every text; the answer goes on here
        ids = np.array([*prompt, *answer, end], np.int32)
        mark = np.ones(len(ids), bool)
        if settings.mask_prompt:
            mark[: len(prompt)] = False
        yield ids, mark


def _packed(rows: list[Row], size: int) -> list[Row]:
    """Whole blocks of the rows end to end; the last, unfilled one only where it is the only one."""
    if not rows:
        return []
    ids = np.concatenate([ids for ids, _ in rows])
    mark = np.concatenate([mark for _, mark in rows])
    starts = range(0, max(len(ids) - size, 0) + 1, size)
    return [(ids[start : start + size], mark[start : start + size]) for start in starts]
