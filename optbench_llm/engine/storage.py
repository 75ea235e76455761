"""How a slot lies in memory: the same rule keeps its state in 32, 16 or 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from optbench_llm.rules.rule import STORAGES, Rule, Scope, Slot

BLOCK = 256
#: Smaller tensors gain nothing from 8 bits and are often the delicate ones (norms, biases).
SMALLEST_INT8 = 4096


class Storage(Protocol):
    """Encodes a slot into one or more tensors, and back.

    ``suffixes`` name the tensors of a slot in the optimizer's state: the slot's name plus suffix.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def encode(self, value: Tensor) -> tuple[Tensor, ...]:
        """Tensors that hold ``value``."""
        ...

    def decode(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """The value again, in the shape and the dtype of ``like``."""
        ...

    def cut(self, parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """Views of the parts that hold elements ``start`` to ``stop`` of the flat value."""
        ...


@dataclass(frozen=True)
class Plain:
    """One tensor of the slot's own shape, in a floating dtype."""

    dtype: torch.dtype
    suffixes: ClassVar[tuple[str, ...]] = ("",)

    def encode(self, value: Tensor) -> tuple[Tensor, ...]:
        """Cast to the storage's dtype."""
        return (value.to(self.dtype),)

    def decode(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """Cast to the dtype of the arithmetic."""
        return parts[0].to(like.dtype)

    def cut(self, parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """A flat view."""
        return (parts[0].view(-1)[start:stop],)


@dataclass(frozen=True)
class Blockwise:
    """int8 codes in blocks of 256, linear in the block's largest magnitude, one fp32 scale each.

    Blocks as in Dettmers et al. (arXiv:2110.02861); their codes are not linear.
    """

    suffixes: ClassVar[tuple[str, ...]] = ("", "_scale")

    def encode(self, value: Tensor) -> tuple[Tensor, ...]:
        """Codes of the value's flat size, and the scales, one a block."""
        flat = value.reshape(-1).float()
        blocks = pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
        scale = blocks.abs().amax(1, keepdim=True)
        unit = blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)
        codes = (unit * 127).round().to(torch.int8)
        return codes.view(-1)[: flat.numel()], scale.view(-1)

    def decode(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """Codes times scales."""
        codes, scale = parts
        blocks = (
            pad(codes.view(-1), (0, -codes.numel() % BLOCK)).view(-1, BLOCK).to(like.dtype) / 127
        )
        return (blocks * scale[:, None]).view(-1)[: codes.numel()].view(like.shape)

    def cut(self, parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """Flat views; ``start`` must be a multiple of the block."""
        assert start % BLOCK == 0
        codes, scale = parts
        return codes[start:stop], scale[start // BLOCK : -(-stop // BLOCK)]


def check_storage(storage: str, optimizer: str, rule: type[Rule], h: Any) -> None:
    """Raise ValueError where a rule's slots cannot lie in this storage, or none of them would."""
    if storage not in STORAGES:
        raise ValueError(
            f"optimizer {optimizer!r}: unknown storage {storage!r}, expected one of "
            + ", ".join(STORAGES)
        )
    if storage == "fp32":
        return
    name = optimizer.partition("@")[0]
    used = (*rule.slots_for((2, 2), h), *rule.slots_for((2,), h))
    if not any(_bears_rounding(slot) for slot in used):
        raise ValueError(
            f"optimizer {optimizer!r}: its whole state needs full precision, storage {storage!r}"
            f" would change nothing. Use {name}."
        )
    flat = rule.scope is not Scope.MATRIX and not (rule.by_channel or rule.by_layout)
    if storage == "int8" and not flat:
        raise ValueError(
            f"optimizer {optimizer!r}: storage 'int8' is for rules that see flat pieces of a"
            f" tensor; this one needs whole rows or matrices. Use {name}@bf16."
        )


def storage_for(slot: Slot, storage: str, p: Tensor, dtype: torch.dtype) -> Storage:
    """The storage of one slot of one parameter: low-bit only where the slot bears rounding."""
    if slot.storage == "bf16":
        return Plain(torch.bfloat16)
    if storage == "fp32" or not _bears_rounding(slot):
        return Plain(dtype)
    if storage == "bf16":
        return Plain(torch.bfloat16)
    return Plain(dtype) if p.numel() < SMALLEST_INT8 else Blockwise()


def _bears_rounding(slot: Slot) -> bool:
    """Whether the slot may lie in 16 or 8 bits.

    Second moments and the like (``positive``) may not: a step moves them by 0.1 %, less than half a
    unit of bf16's last place, so that rounded to nearest they would never shrink again.
    """
    return slot.shape == "full" and not slot.delicate and not slot.positive
