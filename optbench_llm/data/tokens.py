"""From records to tokens, with a mark on those that are learned, cut into blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from optbench_llm.data.cuts import Lengths
from optbench_llm.data.prompts import prompts_of
from optbench_llm.data.records import Record
from optbench_llm.data.settings import DataSettings

Block = tuple[np.ndarray, np.ndarray]


class Row(NamedTuple):
    """The tokens of one record, of which the first ``prompt`` are no answer."""

    ids: np.ndarray
    prompt: int

    def mark(self, settings: DataSettings) -> np.ndarray:
        """Which of them are learned."""
        mark = np.ones(len(self.ids), bool)
        if settings.mask_prompt:
            mark[: self.prompt] = False
        return mark


@dataclass(frozen=True)
class TokenTable:
    """Blocks of one split, end to end: block ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

    ``lengths`` are those of its records before they were cut or packed.
    """

    ids: np.ndarray
    learned: np.ndarray
    offsets: np.ndarray
    untrained: int
    lengths: Lengths


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
    rows = list(_rows(records, settings, tokenizer))
    whole = np.array([len(row.ids) for row in rows], np.int64)
    size = settings.block_size
    if settings.packing:
        blocks = _packed([(row.ids, row.mark(settings)) for row in rows], size)
    else:
        _leave_out_oldest_turns(rows, records, settings, tokenizer)
        blocks = [(row.ids[:size], row.mark(settings)[:size]) for row in rows]
    # A causal model predicts no first token; and a batch without any learned token has loss NaN.
    kept = [(ids, mark) for ids, mark in blocks if mark[1:].any()]
    lengths = [len(ids) for ids, _ in kept]
    return TokenTable(
        ids=np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in kept)]),
        learned=np.concatenate([np.empty(0, bool), *(mark for _, mark in kept)]),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        untrained=len(blocks) - len(kept),
        lengths=Lengths(
            prompts=np.array([row.prompt for row in rows], np.int64),
            records=np.array([len(row.ids) for row in rows], np.int64),
            whole=whole,
        ),
    )


def _rows(records: list[Record], settings: DataSettings, tokenizer: Any) -> Iterator[Row]:
    """Prompt, answer and end token of each record; earlier turns, so ended, are prompt.

    They are tokenized apart, so that no token lies half in the prompt, and generation later sees
    the prompt's tokens just so. What the tokenizer puts in front of a text stands there once.
    """
    if not records:
        return
    end = tokenizer.eos_token_id
    prompts = [prompts_of(record, settings.prompt) for record in records]
    answers = [[*(answer for _, answer in record.history), record.output] for record in records]
    first = iter(_ids(tokenizer, [texts[0] for texts in prompts], special=True))
    later = iter(_ids(tokenizer, [text for texts in prompts for text in texts[1:]], special=False))
    ended = iter(_ids(tokenizer, [text for texts in answers for text in texts], special=False))
    for record in records:
        prompt = next(first)
        if prompt and prompt[-1] == end:
            prompt = prompt[:-1]  # some tokenizers end every text; the answer goes on here
        for _ in record.history:
            prompt = [*prompt, *next(ended), end, *next(later)]
        yield Row(np.array([*prompt, *next(ended), end], np.int32), len(prompt))


def _leave_out_oldest_turns(
    rows: list[Row], records: list[Record], settings: DataSettings, tokenizer: Any
) -> None:
    """Of records longer than a block, so that what is cut is not the answer."""
    shorter = dict(enumerate(records))
    while shorter:
        shorter = {
            index: record._replace(history=record.history[1:])
            for index, record in shorter.items()
            if record.history and len(rows[index].ids) > settings.block_size
        }
        again = _rows(list(shorter.values()), settings, tokenizer)
        for index, row in zip(shorter, again, strict=True):
            rows[index] = row


def _ids(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]


def _packed(rows: list[Block], size: int) -> list[Block]:
    """Whole blocks of the rows end to end; the last, unfilled one only where it is the only one."""
    if not rows:
        return []
    ids = np.concatenate([ids for ids, _ in rows])
    mark = np.concatenate([mark for _, mark in rows])
    starts = range(0, max(len(ids) - size, 0) + 1, size)
    return [(ids[start : start + size], mark[start : start + size]) for start in starts]
