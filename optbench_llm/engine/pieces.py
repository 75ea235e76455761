"""How a unit is cut for one eager call of a rule: whole, in flat ranges, or between rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.phases import Stored, arithmetic_dtype
from optbench_llm.engine.stacks import run_stacked
from optbench_llm.engine.storage import BLOCK, Plain
from optbench_llm.rules.rule import Scope

#: Elements of an eager piece on a CPU. The temporaries of a rule then stay in the cache; fresh
#: whole-tensor temporaries cost a page fault per 4 KiB and make the step many times slower. Larger
#: pieces would wake torch's threads for every operation of a rule, which costs more than it gains.
PIECE_ELEMENTS = 2**15
#: On an accelerator, where each operation on each piece is a launch: whole tensors, but temporaries
#: of 128 MiB at most.
LAUNCH_ELEMENTS = 2**25
#: Of so many elements at most, whose operations take a GPU less time than their launches, also what
#: a rule could see in pieces is stacked. Stacks of larger ones would cost copies, and gain nothing.
SMALL_LAUNCH_ELEMENTS = 2**18
assert PIECE_ELEMENTS % BLOCK == LAUNCH_ELEMENTS % BLOCK == 0

Piece = tuple[Tensor, Tensor, Stored]
Sums = Sequence[Tensor | None]


class EagerPhases:
    """Runs phases in pieces, as :class:`CompiledPhases` runs them as compiled code.

    On an accelerator matrices, and small tensors, of one kind are stepped together.
    """

    compile_s = 0.0

    def prepare(self, works: Sequence[Work]) -> None:
        """Nothing has to be made before a step."""

    def run(self, phase: str, works: Sequence[Work], sums: Sums | None = None) -> list[Any]:
        """Run one phase of every unit; what ``measure`` returns for each, in order."""
        sums = [None] * len(works) if sums is None else sums
        together = [i for i, work in enumerate(works) if is_stacked(work)]
        found = run_stacked(phase, [works[i] for i in together], [sums[i] for i in together])
        results = dict(zip(together, found, strict=True))
        return [
            results[i] if i in results else run_in_pieces(phase, work, own)
            for i, (work, own) in enumerate(zip(works, sums, strict=True))
        ]


def is_stacked(work: Work) -> bool:
    """Whether a unit is stepped together with others of its kind: matrices, and what is small.

    On a CPU none is: it would gain nothing, and temporaries as large as a stack leave the cache.
    """
    bound = work.bound
    small = bound.p.numel() <= SMALL_LAUNCH_ELEMENTS
    return bound.device_type != "cpu" and (small or bound.rule.scope is Scope.MATRIX)


def run_in_pieces(phase: str, work: Work, sums: Tensor | None, start: int = 0) -> Tensor | None:
    """Run a phase over all pieces of a unit; what ``measure`` returns is added up.

    A flat unit may ``start`` at one of its elements.
    """
    function, origin = work.bound.phases.stage(phase), work.bound.origin
    rest = (sums,) if phase == "update" else ()
    total: Tensor | None = None
    if phase == "measure":
        # Made before the temporaries of pieces: between them it would keep their memory in use.
        p = work.bound.p
        total = p.new_zeros(len(work.bound.rule.measures), dtype=arithmetic_dtype(p))
    for p, g, stored in pieces(work.bound, work.g, start):
        result = function(p, g, stored, work.scalars, *rest, origin + start)
        start += p.numel()
        if total is not None:
            total += result
    return total


def piece_elements(device: torch.device) -> int:
    """How many elements a piece has at most."""
    return PIECE_ELEMENTS if device.type == "cpu" else LAUNCH_ELEMENTS


def pieces(bound: BoundUnit, g: Tensor, start: int = 0) -> Iterator[Piece]:
    """Bounded pieces of parameter, gradient and slots; whole where the rule sees matrices."""
    if bound.rule.scope is Scope.MATRIX:
        return iter(((bound.p, g, bound.stored),))
    size = piece_elements(bound.p.device)
    if bound.flat:
        return _flat_pieces(bound, g, size, start)
    return _row_pieces(bound, g, size)


def _flat_pieces(bound: BoundUnit, g: Tensor, size: int, first: int) -> Iterator[Piece]:
    p, g = bound.p.view(-1), g.reshape(-1)
    for start in range(first, p.numel(), size):
        stop = min(start + size, p.numel())
        stored = tuple(
            storage.cut(parts, start, stop)
            if slot.shape == "full"
            else _shared(parts, last=stop == p.numel())
            for slot, storage, parts in zip(
                bound.slots, bound.phases.storages, bound.stored, strict=True
            )
        )
        yield p[start:stop], g[start:stop], stored


def _row_pieces(bound: BoundUnit, g: Tensor, size: int) -> Iterator[Piece]:
    p = bound.p
    divisible = all(isinstance(storage, Plain) for storage in bound.phases.storages)
    if p.ndim == 0 or not divisible:
        yield p, g, bound.stored
        return
    step = max(1, size // p[0].numel())
    for start in range(0, p.shape[0], step):
        rows = slice(start, start + step)
        stored = tuple(
            tuple(part[rows] for part in parts)
            if slot.shape == "full"
            else _shared(parts, last=start + step >= p.shape[0])
            for slot, parts in zip(bound.slots, bound.stored, strict=True)
        )
        yield p[rows], g[rows], stored


def _shared(parts: Sequence[Tensor], *, last: bool) -> Sequence[Tensor]:
    """State of the whole tensor: every piece reads the old value, the last one writes the new."""
    return parts if last else tuple(part.clone() for part in parts)
