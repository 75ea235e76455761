"""The views of parameters, bound to memory once and kept while all is as planned."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from optbench_llm.engine.bound import BoundUnit
from optbench_llm.engine.plan import ViewPlan
from optbench_llm.engine.state import check_slots, forget_initial, make_missing_slots


class Held(NamedTuple):
    """A parameter that this process steps, or its part of one, with its gradient if it has one.

    ``elements`` is the size by which storages are chosen, that of the whole parameter, 0 for what
    can have no blocks. ``origin`` is the position of a part's first element in the parameter.
    """

    place: tuple[int, int]
    p: Tensor
    g: Tensor | None
    state: dict[str, Any]
    elements: int
    origin: int = 0


class Bindings:
    """The bound units of parameters, by their place in the parameter groups.

    One is made again when its plan, the parameter, its memory, its state or the tensors of its
    slots are others.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._known: dict[tuple[int, int], dict[str, BoundUnit]] = {}

    def forget(self, place: tuple[int, int]) -> None:
        """Hold the memory of what stood at a place no longer."""
        self._known.pop(place, None)

    def bind(self, held: Held, plan: ViewPlan, g: Tensor, h: Any, *, first: bool) -> BoundUnit:
        """One view of what is held of a parameter; slots that its state lacks begin now.

        ``g`` is its gradient, ``h`` are its settings. Before the ``first`` step slots with an
        initial value begin even if they are there: parameter and gradient may be others since.
        Raises ValueError where the state is that of a parameter of another shape.
        """
        if first:
            forget_initial(held.state, plan)
        known, suffix = self._known.setdefault(held.place, {}), plan.unit.suffix
        bound = known.get(suffix)
        if bound is None or not bound.fits(plan, held.p, held.state):
            view = plan.unit.view(held.p.detach())
            check_slots(self._spec, held.state, view, plan)
            make_missing_slots(held.state, view, g, plan, h)
            bound = BoundUnit(plan, held.p, view, held.state, held.origin)
            known[suffix] = bound
        return bound
