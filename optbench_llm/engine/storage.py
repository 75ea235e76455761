"""How a slot lies in memory: the same rule keeps its state in 32, 16 or 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from optbench_llm.engine.blockwise import (
    SCALE,
    TINY,
    decode_positive,
    decode_signed,
    encode_positive,
    encode_signed,
)
from optbench_llm.engine.noise import Noise
from optbench_llm.engine.rounding import bf16_stochastic
from optbench_llm.rules.rule import STORAGES, Rule, Slot

BLOCK = 256
#: Smaller tensors gain nothing from 8 bits and are often the delicate ones (norms, biases).
SMALLEST_INT8 = 4096


class Storage(Protocol):
    """Encodes a slot into one or more tensors, and back.

    ``suffixes`` name the tensors of a slot in the optimizer's state: the slot's name plus suffix.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @property
    def stochastic(self) -> bool:
        """Whether encoding wants random bits."""
        ...

    def zeros(self, like: Tensor) -> tuple[Tensor, ...]:
        """What ``encode`` makes of a tensor of zeros like this one."""
        ...

    def encode(self, value: Tensor, noise: Noise | None = None) -> tuple[Tensor, ...]:
        """Tensors that hold ``value``; without noise rounded to nearest."""
        ...

    def decode(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """The value again, in the shape and the dtype of ``like``."""
        ...

    def cut(self, parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """Views of the parts that hold elements ``start`` to ``stop`` of the flat value."""
        ...


@dataclass(frozen=True)
class Plain:
    """One tensor of the slot's own shape, in a floating dtype.

    ``stochastic`` is for bf16 alone: slow averages, which to nearest would never move.
    """

    dtype: torch.dtype
    stochastic: bool = False
    suffixes: ClassVar[tuple[str, ...]] = ("",)

    def __post_init__(self) -> None:
        assert not self.stochastic or self.dtype is torch.bfloat16

    def zeros(self, like: Tensor) -> tuple[Tensor, ...]:
        """A tensor of zeros in the storage's dtype."""
        return (torch.zeros_like(like, dtype=self.dtype),)

    def encode(self, value: Tensor, noise: Noise | None = None) -> tuple[Tensor, ...]:
        """Round and cast to the storage's dtype."""
        if self.stochastic and noise is not None:
            value = bf16_stochastic(value.float(), noise)
        return (value.to(self.dtype),)

    def decode(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """Cast to the dtype of the arithmetic."""
        return parts[0].to(like.dtype)

    def cut(self, parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """A flat view."""
        return (parts[0].view(-1)[start:stop],)


@dataclass(frozen=True)
class Blockwise:
    """8-bit codes in blocks of 256 elements of the flat value, one fp32 scale each.

    ``positive`` slots have codes of their own, stochastic since their averages are slow.
    """

    positive: bool = False
    suffixes: ClassVar[tuple[str, ...]] = ("", SCALE)

    @property
    def stochastic(self) -> bool:
        """A step moves momenta by more than the distance of codes, second moments by less."""
        return self.positive

    def zeros(self, like: Tensor) -> tuple[Tensor, ...]:
        """Codes of 0, which are 0, and the least scale for each block."""
        count, blocks = like.numel(), -(-like.numel() // BLOCK)
        dtype = torch.uint8 if self.positive else torch.int8
        scale = torch.full((blocks,), TINY, dtype=torch.float32, device=like.device)
        return torch.zeros(count, dtype=dtype, device=like.device), scale

    def encode(self, value: Tensor, noise: Noise | None = None) -> tuple[Tensor, ...]:
        """Flat codes, and the scales, one a block."""
        if _in_blocks(value):
            codes, scale = self._encode(value.float(), noise)
            return codes.reshape(-1), scale
        # A copy whatever the layout: inductor may find another one than was traced.
        flat = value.float().clone(memory_format=torch.contiguous_format).view(-1)
        whole = flat.numel() // BLOCK * BLOCK
        parts = [
            self._encode(blocks, noise and noise.from_position(start))
            for start, blocks in ((0, flat[:whole].view(-1, BLOCK)), (whole, flat[None, whole:]))
            if blocks.numel()
        ]
        codes, scales = zip(*parts, strict=True)
        return torch.cat([c.view(-1) for c in codes]), torch.cat(scales)

    def decode(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """The numbers of the codes."""
        codes, scale = parts[0], parts[1].to(like.dtype)
        decode = decode_positive if self.positive else decode_signed
        if _in_blocks(codes):
            return decode(codes, scale)
        whole = codes.numel() // BLOCK
        flat = decode(codes[: whole * BLOCK].view(-1, BLOCK), scale[:whole]).view(-1)
        if codes.numel() > flat.numel():
            last = decode(codes[None, flat.numel() :], scale[whole:])
            flat = torch.cat([flat, last.view(-1)])
        return flat.view(like.shape)

    def cut(self, parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """Flat views; ``start`` must be a multiple of the block."""
        assert start % BLOCK == 0
        codes, scale = parts
        return codes[start:stop], scale[start // BLOCK : -(-stop // BLOCK)]

    def _encode(self, blocks: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        return encode_positive(blocks, noise) if self.positive else encode_signed(blocks)


def _in_blocks(value: Tensor) -> bool:
    """Whether a value, of any number of rows, has one block in each."""
    return value.ndim == 2 and value.shape[1] == BLOCK


def check_storage(
    storage: str, optimizer: str, rule: type[Rule], settings: Mapping[str, Any]
) -> None:
    """Raise ValueError where a rule's slots cannot lie in this storage, or none of them would.

    They are those of a matrix under these hyperparameters.
    """
    if storage not in STORAGES:
        raise ValueError(
            f"optimizer {optimizer!r}: unknown storage {storage!r}, expected one of "
            + ", ".join(STORAGES)
        )
    if storage == "fp32":
        return
    slots = rule.slots_for((2, 2), SimpleNamespace(**settings, role="matrix", heads=0))
    if not any(_bears_rounding(slot) for slot in slots):
        name = optimizer.partition("@")[0]
        raise ValueError(
            f"optimizer {optimizer!r}: storage {storage!r} would change nothing. {_needs(slots)}."
            f" Use {name}."
        )


def storage_for(
    slot: Slot, storage: str, elements: int, dtype: torch.dtype, embedding: bool = False
) -> Storage:
    """The storage of one slot of one parameter: low-bit only where the slot bears rounding.

    Parameters of few ``elements`` and an ``embedding`` keep out of 8 bits.
    """
    if slot.storage == "bf16":
        return Plain(torch.bfloat16)
    if storage == "fp32" or not _bears_rounding(slot):
        return Plain(dtype)
    if storage == "bf16":
        return Plain(torch.bfloat16, stochastic=True)
    if embedding or elements < SMALLEST_INT8:
        return Plain(dtype)
    return Blockwise(slot.positive)


def _needs(slots: tuple[Slot, ...]) -> str:
    """Why these slots stay as they are."""
    if not slots:
        return "It keeps no state"
    delicate = ", ".join(slot.name for slot in slots if slot.delicate)
    factors = ", ".join(slot.name for slot in slots if slot.shape != "full" and not slot.delicate)
    reasons = [
        f"{delicate} would lose its small steps to rounding or pile up its errors" * bool(delicate),
        f"{factors} is small beside the parameter" * bool(factors),
    ]
    return "All its state needs full precision: " + "; ".join(filter(None, reasons))


def _bears_rounding(slot: Slot) -> bool:
    """Whether the slot may lie in 16 or 8 bits."""
    return slot.shape == "full" and not slot.delicate
