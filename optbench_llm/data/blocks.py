"""Blocks of tokens as a torch data set, and the collator that batches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from optbench_llm.data.tokens import TokenTable

IGNORED = -100
MULTIPLE = 8


class Blocks(torch.utils.data.Dataset):
    """Items ``input_ids``, ``labels``, ``attention_mask``: int64 tensors of one length each.

    Labels are -100 where nothing is learned. Equal records, settings and tokenizer give equal
    blocks in equal order.
    """

    def __init__(self, table: TokenTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table.offsets) - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        index %= len(self)
        start, end = self._table.offsets[index : index + 2]
        input_ids = torch.from_numpy(self._table.ids[start:end].astype(np.int64))
        learned = torch.from_numpy(self._table.learned[start:end].astype(bool))
        return {
            "input_ids": input_ids,
            "labels": input_ids.masked_fill(~learned, IGNORED),
            "attention_mask": torch.ones_like(input_ids),
        }

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each block."""
        return np.diff(self._table.offsets)

    @property
    def tokens(self) -> int:
        """Tokens in all blocks together."""
        return len(self._table.ids)

    @property
    def learned_tokens(self) -> int:
        """Tokens that count in the loss, in all blocks together."""
        return int(self._table.learned.sum())

    @cached_property
    def digest(self) -> str:
        """Hex hash of all blocks in order."""
        hasher = sha256()
        for array in (self._table.ids, self._table.learned, self._table.offsets):
            hasher.update(array.tobytes())
        return hasher.hexdigest()


@dataclass(frozen=True)
class Collator:
    """Pads to the longest block of the batch, up to a multiple of 8."""

    pad_id: int

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch the items: three int64 tensors of shape (items, length)."""
        longest = max(len(item["input_ids"]) for item in items)
        length = -(-longest // MULTIPLE) * MULTIPLE
        fill = {"input_ids": self.pad_id, "labels": IGNORED, "attention_mask": 0}
        batch = {
            name: torch.full((len(items), length), value, dtype=torch.long, device="cpu")
            for name, value in fill.items()
        }
        for row, item in enumerate(items):
            for name, padded in batch.items():
                values = torch.as_tensor(item[name], dtype=torch.long, device="cpu")
                padded[row, : len(values)] = values
        return batch


def make_collator(tokenizer_or_pad_id: Any) -> Collator:
    """A collator for a tokenizer, or for the id to pad with.

    Where the tokenizer has no pad token, its end token fills up: masked, and never learned.

    Raises:
        ValueError: the tokenizer has neither.
    """
    if isinstance(tokenizer_or_pad_id, int):
        return Collator(tokenizer_or_pad_id)
    tokenizer = tokenizer_or_pad_id
    for pad_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if pad_id is not None:
            return Collator(pad_id)
    raise ValueError("the tokenizer has neither a pad token nor an end token: set one of them")
