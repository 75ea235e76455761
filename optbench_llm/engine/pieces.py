"""How a parameter is cut for one call of a rule: whole, in flat ranges, or between channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from optbench_llm.engine.phases import Phases, Stored
from optbench_llm.engine.storage import BLOCK, Plain
from optbench_llm.rules.rule import Rule, Scope, Slot

#: Elements of an eager piece. The temporaries of a rule then stay in the cache; fresh whole-tensor
#: temporaries cost a page fault per 4 KiB and make the step many times slower. Larger pieces would
#: wake torch's threads for every operation of a rule, which costs more than it gains.
PIECE_ELEMENTS = 2**15
assert PIECE_ELEMENTS % BLOCK == 0

Piece = tuple[Tensor, Tensor, Stored]


@dataclass
class Work:
    """One parameter in one step: detached parameter and gradient, slots and the step's scalars."""

    p: Tensor
    g: Tensor
    slots: tuple[Slot, ...]
    phases: Phases
    stored: Stored
    scalars: tuple[Any, ...]
    conv1d: bool


def stored_slots(state: dict[str, Any], slots: Sequence[Slot], phases: Phases) -> Stored:
    """The tensors of each slot in an optimizer's state."""
    return tuple(
        tuple(state[slot.name + suffix] for suffix in storage.suffixes)
        for slot, storage in zip(slots, phases.storages, strict=True)
    )


def whole(rule: type[Rule], work: Work) -> Piece:
    """The whole parameter as one piece."""
    return next(_cut(rule, work, max(1, work.p.numel())))


def pieces(rule: type[Rule], work: Work) -> Iterator[Piece]:
    """Bounded pieces of parameter, gradient and slots; whole where the rule sees matrices."""
    return _cut(rule, work, PIECE_ELEMENTS)


def _cut(rule: type[Rule], work: Work, size: int) -> Iterator[Piece]:
    by_rows = rule.scope is Scope.MATRIX or (rule.by_channel and work.p.ndim > 1)
    if by_rows or not work.p.is_contiguous():
        return _row_pieces(rule, work, size)
    return _flat_pieces(work, size)


def _flat_pieces(work: Work, size: int) -> Iterator[Piece]:
    p, g = work.p.view(-1), work.g.reshape(-1)
    for start in range(0, p.numel(), size):
        stop = min(start + size, p.numel())
        stored = tuple(
            storage.cut(parts, start, stop)
            if slot.shape == "full"
            else _shared(parts, last=stop == p.numel())
            for slot, storage, parts in zip(
                work.slots, work.phases.storages, work.stored, strict=True
            )
        )
        yield p[start:stop], g[start:stop], stored


def _row_pieces(rule: type[Rule], work: Work, size: int) -> Iterator[Piece]:
    p, g = _oriented(work.p, work.conv1d), _oriented(work.g, work.conv1d)
    divisible = all(isinstance(storage, Plain) for storage in work.phases.storages)
    if rule.scope is Scope.MATRIX or p.ndim == 0 or not divisible:
        yield p, g, tuple(_whole_slots(work))
        return
    step = max(1, size // p[0].numel())
    for start in range(0, p.shape[0], step):
        rows = slice(start, start + step)
        stored = tuple(
            tuple(_oriented(part, work.conv1d)[rows] for part in parts)
            if slot.shape == "full"
            else _shared(parts, last=start + step >= p.shape[0])
            for slot, parts in zip(work.slots, work.stored, strict=True)
        )
        yield p[rows], g[rows], stored


def _whole_slots(work: Work) -> Iterator[Sequence[Tensor]]:
    for slot, parts in zip(work.slots, work.stored, strict=True):
        turned = work.conv1d and slot.shape == "full" and len(parts) == 1
        yield tuple(_oriented(part, True) for part in parts) if turned else parts


def _oriented(tensor: Tensor, conv1d: bool) -> Tensor:
    """The (out, in) matrix of a weight; transformers' Conv1D keeps it as (in, out)."""
    return tensor.t() if conv1d and tensor.ndim == 2 else tensor


def _shared(parts: Sequence[Tensor], *, last: bool) -> Sequence[Tensor]:
    """State of the whole tensor: every piece reads the old value, the last one writes the new."""
    return parts if last else tuple(part.clone() for part in parts)
