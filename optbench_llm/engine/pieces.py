"""How a unit is cut for one call of a rule: whole, in flat ranges, or between rows."""

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
    """One unit in one step: detached parameter and gradient, slots, the step's scalars and stages.

    ``scalars`` hold the numbers by name and, for compiled code, as a vector.
    """

    rule: type[Rule]
    p: Tensor
    g: Tensor
    slots: tuple[Slot, ...]
    phases: Phases
    stored: Stored
    h: Any
    scalars: tuple[Any, ...]
    stages: tuple[str, ...]

    @property
    def before(self) -> tuple[str, ...]:
        """The stages that come before the update."""
        return self.stages[: self._update]

    @property
    def after(self) -> tuple[str, ...]:
        """The stages that come after it."""
        return self.stages[self._update + 1 :]

    @property
    def updates(self) -> bool:
        """Whether this step moves the parameter."""
        return "update" in self.stages

    @property
    def _update(self) -> int:
        return self.stages.index("update") if self.updates else len(self.stages)


def whole(work: Work) -> Piece:
    """The whole unit as one piece."""
    return next(_cut(work, max(1, work.p.numel())))


def pieces(work: Work) -> Iterator[Piece]:
    """Bounded pieces of parameter, gradient and slots; whole where the rule sees matrices."""
    return _cut(work, PIECE_ELEMENTS)


def _cut(work: Work, size: int) -> Iterator[Piece]:
    if work.rule.scope is Scope.MATRIX:
        return iter(((work.p, work.g, work.stored),))
    by_rows = (work.rule.by_channel or work.rule.by_layout) and work.p.ndim > 1
    if by_rows or not work.p.is_contiguous():
        return _row_pieces(work, size)
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


def _row_pieces(work: Work, size: int) -> Iterator[Piece]:
    p, g = work.p, work.g
    divisible = all(isinstance(storage, Plain) for storage in work.phases.storages)
    if p.ndim == 0 or not divisible:
        yield p, g, work.stored
        return
    step = max(1, size // p[0].numel())
    for start in range(0, p.shape[0], step):
        rows = slice(start, start + step)
        stored = tuple(
            tuple(part[rows] for part in parts)
            if slot.shape == "full"
            else _shared(parts, last=start + step >= p.shape[0])
            for slot, parts in zip(work.slots, work.stored, strict=True)
        )
        yield p[rows], g[rows], stored


def _shared(parts: Sequence[Tensor], *, last: bool) -> Sequence[Tensor]:
    """State of the whole tensor: every piece reads the old value, the last one writes the new."""
    return parts if last else tuple(part.clone() for part in parts)
