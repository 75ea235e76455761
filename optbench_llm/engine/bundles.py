"""Small units that are stepped in one call: their own would take longer than their arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.units import Unit

Units = Sequence[tuple[tuple[int, int], BoundUnit]]
#: How often state may move to other memory, since other parameters have gradients than before.
MOST_MOVES = 8


class Bundle:
    """Flat units of one kind, whose slots lie one behind the other in memory.

    Together they are one longer unit; where a rule must see each tensor by itself, all have one
    length and are the rows of a stack.

    Their state stays in tensors of its own for each, which are views of that memory. Parameters and
    gradients belong to others: they are copied for a step, the new parameters copied back.
    ``units`` are the places of its units' parameters and the units.
    """

    def __init__(self, works: Sequence[Work]) -> None:
        bounds = [work.bound for work in works]
        self.units: Units = [(work.place, work.bound) for work in works]
        self._params = [bound.p.view(-1) for bound in bounds]
        self._matrices = [i for i, bound in enumerate(bounds) if bound.p.ndim > 1]
        first = bounds[0]
        stacked = first.by_itself
        names = [name.removesuffix(first.unit.suffix) for name in first.names]
        state: dict[str, Any] = {}
        for number, name in enumerate(names):
            own = [bound.tensors[number] for bound in bounds]
            joined = torch.cat([tensor.view(-1) for tensor in own])
            sizes = [tensor.numel() for tensor in own]
            for work, old, view in zip(works, own, joined.split(sizes), strict=True):
                work.state[work.bound.names[number]] = view.view_as(old)
            state[name] = joined.view(len(own), -1) if stacked and own[0].ndim else joined
        for work in works:
            work.bound.hold(work.state)
        self._p = torch.cat(self._params)
        self._g = torch.empty_like(self._p, dtype=works[0].g.dtype)
        self._parts = self._p.split([p.numel() for p in self._params])
        shape = (len(works), -1) if stacked else (-1,)
        self._own_g = self._g.view(shape)
        plan = first.plan._replace(unit=Unit(""), shape=tuple(self._p.view(shape).shape))
        self.bound = BoundUnit(plan, self._p, self._p.view(shape), state, stacked=stacked)

    def work(self, first: Work, gradients: Sequence[Tensor]) -> Work:
        """The first work, made that of all, on their present parameters and these gradients."""
        torch.cat(self._params, out=self._p)
        vectors = [*gradients]
        for i in self._matrices:
            vectors[i] = vectors[i].view(-1)
        torch.cat(vectors, out=self._g)
        return Work(
            self.bound, self._own_g, first.h, first.scalars, first.vector, first.stages,
            first.place, first.state, self,
        )  # fmt: skip

    @property
    def places(self) -> set[Any]:
        """Where its units are: no two bundles of one optimizer have the same unit."""
        return {(place, bound.unit.suffix) for place, bound in self.units}

    def hand_back(self) -> None:
        """Let the parameters have their new values."""
        torch._foreach_copy_(self._params, self._parts)  # pyright: ignore


class Bundles:
    """Puts works into bundles as they come, and remembers these."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Bundle] = {}
        self._moves: Counter[Any] = Counter()

    def joined(self, works: Sequence[Work]) -> list[Work]:
        """The same works, small ones of one kind as one; their order is no matter."""
        kinds: dict[Any, list[Work]] = {}
        for work in works:
            kinds.setdefault(_kind(work), []).append(work)
        joined: list[Work] = []
        for kind, alike in kinds.items():
            bundle = None if kind is None or len(alike) < 2 else self._bundle(alike)
            joined += (
                alike if bundle is None else [bundle.work(alike[0], [work.g for work in alike])]
            )
        return joined

    def _bundle(self, works: Sequence[Work]) -> Bundle | None:
        key = (works[0].g.dtype, *(id(work.bound) for work in works))
        if key in self._known:
            return self._known[key]
        places = [(work.place, work.bound.unit.suffix) for work in works]
        if any(self._moves[place] >= MOST_MOVES for place in places):
            return None
        self._moves.update(places)
        # Others with the same state have lost it.
        self._known = {
            known: bundle for known, bundle in self._known.items()
            if bundle.places.isdisjoint(places)
        }  # fmt: skip
        bundle = self._known[key] = Bundle(works)
        return bundle


def _kind(work: Work) -> Any:
    """What works of one bundle share; None for one that must stay alone."""
    bound = work.bound
    if not bound.small or not work.g.is_contiguous():
        return None
    unit = bound.unit
    same_group = (work.place[0], unit.role, unit.heads, work.scalars, work.stages)
    length = bound.p.numel() if bound.by_itself else None
    return bound.phases, bound.p.dtype, work.g.dtype, same_group, length
