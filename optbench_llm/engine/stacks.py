"""Matrices of one kind stepped together: an operation of their rule is one launch for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bound import Work
from optbench_llm.engine.noise import NOISE
from optbench_llm.engine.phases import Stored
from optbench_llm.engine.rows import as_rows, gather_slots, give_back

#: Elements of the largest tensor of a stack at most: a rule's temporaries are as large.
STACK_ELEMENTS = 2**25


def run_stacked(
    phase: str, works: Sequence[Work], sums: Sequence[Tensor | None] | None = None
) -> list[Any]:
    """Run one phase of every unit; what ``measure`` returns for each, in order.

    Units of one kind are stacked, and ``torch.vmap`` runs the phase once for all of a stack.
    """
    sums = [None] * len(works) if sums is None else sums
    results: list[Any] = [None] * len(works)
    for places in _stacks(works):
        run = _run_stack if len(places) > 1 else _run_alone
        found = run(phase, [works[i] for i in places], [sums[i] for i in places])
        if found is not None:
            for i, result in zip(places, found, strict=True):
                results[i] = result
    return results


def of_stack(body: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """A phase of one unit, made that of every row of a stack.

    All rows share the scalars, but for those that are a vector with a number for each row.
    """

    def of_row(*given: Any) -> tuple[Tensor, ...]:
        # vmap takes nothing that returns None.
        result = body(*given)
        return () if result is None else (result,)

    def run(p: Tensor, g: Tensor, stored: Stored, c: Any, *rest: Any) -> Tensor | None:
        *sums, start = rest
        of_rows = type(c)(*(0 if isinstance(x, Tensor) and x.ndim else None for x in c))
        by_row = (0, 0, 0, of_rows, *(None if one is None else 0 for one in sums), None)
        found = torch.vmap(of_row, in_dims=by_row)(p, g, stored, c, *sums, start)
        # What does not depend on the row comes out seen many times: code takes whole tensors.
        return next((one.contiguous() for one in found), None)

    return run


def _stacks(works: Sequence[Work]) -> Iterator[list[int]]:
    """The places of the works of each stack."""
    kinds: dict[Any, list[int]] = {}
    for i, work in enumerate(works):
        kinds.setdefault(_kind(work), []).append(i)
    for places in kinds.values():
        bound = works[places[0]].bound
        count = max(1, STACK_ELEMENTS // max(t.numel() for t in (bound.p, *bound.tensors)))
        yield from (places[i : i + count] for i in range(0, len(places), count))


def _kind(work: Work) -> Any:
    """What the works of a stack share: all but values and the key of their random bits."""
    bound, scalars = work.bound, work.scalars
    if hasattr(scalars, NOISE):
        scalars = scalars._replace(noise=0)
    layouts = [(t.shape, t.dtype) for t in (bound.p, work.g, *bound.tensors)]
    return (bound.phases, bound.p.device, bound.origin, type(scalars), scalars, *layouts)


def _run_alone(
    phase: str, works: Sequence[Work], sums: Sequence[Tensor | None]
) -> Sequence[Tensor] | None:
    """Run a phase of one unit as it lies."""
    (work,), bound = works, works[0].bound
    rest = sums if phase == "update" else ()
    found = bound.phases.stage(phase)(
        bound.p, work.g, bound.stored, work.scalars, *rest, bound.origin
    )
    return None if found is None else [found]


def _run_stack(
    phase: str, works: Sequence[Work], sums: Sequence[Tensor | None]
) -> Sequence[Tensor] | None:
    """Run a phase of units of one kind at once."""
    gather_slots(works)
    bound = works[0].bound
    params = [work.bound.p for work in works]
    parts = [[*own] for own in zip(*(work.bound.tensors for work in works), strict=True)]
    p, g, *slots = map(as_rows, (params, [work.g for work in works], *parts))
    rest = iter(slots)
    stored = [[next(rest) for _ in storage.suffixes] for storage in bound.phases.storages]
    known = [one for one in sums if one is not None]
    own_sums = [torch.stack(known) if known else None] if phase == "update" else []
    run = of_stack(bound.phases.stage(phase))
    found = run(p, g, stored, _scalars(works), *own_sums, bound.origin)
    for rows, tensors in zip((p, *slots), (params, *parts), strict=True):
        give_back(rows, tensors)
    return None if found is None else found.unbind()


def _scalars(works: Sequence[Work]) -> Any:
    """The scalars of a stack; the keys of random bits become a vector on its device."""
    scalars, p = works[0].scalars, works[0].bound.p
    if not hasattr(scalars, NOISE):
        return scalars
    keys = torch.zeros(len(works), dtype=torch.int32, device=p.device)
    # Numbers go along with the launch; a copy from the host's memory would wait for the device.
    numbers = [int(work.scalars.noise) for work in works]
    torch._foreach_add_(keys.unbind(), numbers)  # pyright: ignore
    return scalars._replace(noise=keys)
