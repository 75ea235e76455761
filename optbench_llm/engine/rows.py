"""Tensors of one shape as the rows of one: a view where they lie so in memory, else a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from optbench_llm.engine.bound import Work, memory_order


def rows_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """Tensors of one shape and dtype as one, without a copy.

    None where they do not lie alike, in this order and at equal distances in one memory.
    """
    first, second, *_ = tensors
    start, stride, memory = first.storage_offset(), first.stride(), _memory(first)
    distance = second.storage_offset() - start
    if distance <= 0:
        return None
    for i, tensor in enumerate(tensors):
        alike = tensor.stride() == stride and _memory(tensor) == memory
        if not alike or tensor.storage_offset() != start + i * distance:
            return None
    return first.as_strided((len(tensors), *first.shape), (distance, *stride))


def as_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape and dtype as one: a view, or a copy where they do not lie as rows do.

    A copy's dimensions are in the order in memory that the first of them has.
    """
    rows = rows_of(tensors)
    return _copied(tensors) if rows is None else rows


def give_back(rows: Tensor, tensors: Sequence[Tensor]) -> None:
    """Let tensors have what was written to :func:`as_rows` of them."""
    if _memory(rows) != _memory(tensors[0]):
        torch._foreach_copy_(tensors, rows.unbind())  # pyright: ignore


def gather_slots(works: Sequence[Work]) -> None:
    """Let the slots of units of one kind lie one behind the other, so that no step copies them.

    They stay tensors of their own in the state. Slots that share their memory with others stay
    where they are: the others would keep all of it in use.
    """
    moved = False
    for number in range(len(works[0].bound.tensors)):
        own = [work.bound.tensors[number] for work in works]
        if rows_of(own) is not None or not _fill_their_memory(own):
            continue
        for work, row in zip(works, _copied(own).unbind(), strict=True):
            work.state[work.bound.names[number]] = row
        moved = True
    if moved:
        for work in works:
            work.bound.hold(work.state)


def _fill_their_memory(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing else can lie in the memory of these tensors."""
    filled: Counter[int] = Counter()
    for tensor in tensors:
        filled[_memory(tensor)] += tensor.numel() * tensor.element_size()
    return all(tensor.untyped_storage().nbytes() == filled[_memory(tensor)] for tensor in tensors)


def _copied(tensors: Sequence[Tensor]) -> Tensor:
    order = memory_order(tensors[0])
    copy = torch.stack([tensor.permute(order) for tensor in tensors])
    return copy.permute(0, *(1 + order.index(dim) for dim in range(len(order))))


def _memory(tensor: Tensor) -> int:
    """What tells one memory from another; those of a meta tensor have no address."""
    return tensor.untyped_storage()._cdata
