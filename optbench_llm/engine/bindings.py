"""Which units an optimizer's parameters have, bound to their memory once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from optbench_llm.engine.bound import BoundUnit
from optbench_llm.engine.phases import Phases, arithmetic_dtype
from optbench_llm.engine.scalars import settings_of, settings_of_unit
from optbench_llm.engine.state import (
    bytes_of,
    check_slots,
    forget_initial,
    make_missing_slots,
    rounding_of,
    slots_of,
)
from optbench_llm.engine.storage import storage_for
from optbench_llm.engine.units import Unit, units_of
from optbench_llm.rules.rule import Rule, Slot


@dataclass(slots=True)
class _Place:
    """What is known of a parameter: it may be replaced, or its memory."""

    p: Tensor
    memory: tuple[Any, ...]
    units: Sequence[Unit]
    elements: int
    origin: int
    bounds: dict[int, BoundUnit] = field(default_factory=dict)


class Plan(NamedTuple):
    """A unit of a parameter, its view of it, its settings, and what it is stepped by."""

    unit: Unit
    view: Tensor
    h: Any
    slots: tuple[Slot, ...]
    phases: Phases


class Bindings:
    """The bound units of parameters, by their place in the parameter groups.

    A binding is made again when a parameter, its memory, its slots, their tensors or its rounding
    are others.
    """

    def __init__(self, spec: str, storage: str) -> None:
        self._spec, self._storage = spec, storage
        self._places: dict[tuple[int, int], _Place] = {}
        self._phases: dict[Any, Phases] = {}

    def units(
        self,
        place: tuple[int, int],
        p: Tensor,
        rule: type[Rule],
        group: dict[str, Any],
        elements: int,
        origin: int,
    ) -> Sequence[Unit]:
        """The units of what is held of the parameter at a place, from its element ``origin`` on.

        Storages go by ``elements``.
        """
        known, memory = self._places.get(place), (p.data_ptr(), p.shape, p.stride())
        if known is None or known.p is not p or known.memory != memory:
            units = units_of(rule, p, group)
            known = self._places[place] = _Place(p, memory, units, elements, origin)
        return known.units

    def forget(self, place: tuple[int, int]) -> None:
        """Hold the memory of what stood at a place no longer."""
        self._places.pop(place, None)

    def bind(
        self,
        place: tuple[int, int],
        number: int,
        state: dict[str, Any],
        rule: type[Rule],
        h: Any,
        g: Tensor,
        *,
        first: bool = False,
    ) -> BoundUnit:
        """A unit at a place, by its number; slots that the state lacks begin now.

        ``h`` are the unit's settings, ``g`` its gradient. Before the ``first`` step slots with an
        initial value begin even if they are there: parameter and gradient may be others since.
        Raises ValueError where the state is that of a parameter of another shape.
        """
        known = self._places[place]
        unit, bound = known.units[number], known.bounds.get(number)
        view = unit.view(known.p.detach()) if bound is None else bound.p
        slots = slots_of(rule, view, h)
        if first:
            forget_initial(state, slots, unit.suffix)
        if (
            bound is not None
            and bound.slots == slots
            and bound.phases.rounding == rounding_of(view, h)
            and bound.holds(state)
        ):
            return bound
        elements = view.numel() if len(known.units) > 1 else known.elements
        phases = self.phases(rule, view, slots, h, elements)
        check_slots(self._spec, state, view, slots, phases, unit.suffix)
        make_missing_slots(state, view, g, slots, phases, h, unit.suffix)
        bound = BoundUnit(rule, unit, view, slots, phases, state, known.origin)
        known.bounds[number] = bound
        return bound

    def plans(
        self, rule: type[Rule], p: Tensor, group: dict[str, Any], elements: int
    ) -> Iterator[Plan]:
        """What each unit of a parameter of a group is stepped by; nothing is bound.

        Storages go by ``elements``, or by a unit's own where there are several.
        """
        units = units_of(rule, p, group)
        of_group = settings_of(group)
        for unit in units:
            view, h = unit.view(p.detach()), settings_of_unit(of_group, unit)
            slots = slots_of(rule, view, h)
            own = view.numel() if len(units) > 1 else elements
            yield Plan(unit, view, h, slots, self.phases(rule, view, slots, h, own))

    def planned_bytes(self, rule: type[Rule], p: Tensor, group: dict[str, Any]) -> int:
        """Bytes of all slots that a parameter will have."""
        return sum(
            bytes_of(storage, slot.shape_for(tuple(plan.view.shape)))
            for plan in self.plans(rule, p, group, p.numel())
            for slot, storage in zip(plan.slots, plan.phases.storages, strict=True)
        )

    def phases(
        self, rule: type[Rule], view: Tensor, slots: tuple[Slot, ...], h: Any, elements: int
    ) -> Phases:
        """The phases of a rule for a unit with these slots; storages go by ``elements``."""
        dtype = arithmetic_dtype(view)
        embedding = getattr(h, "embeds", False)
        storages = tuple(
            storage_for(slot, self._storage, elements, dtype, embedding) for slot in slots
        )
        names = tuple(slot.name for slot in slots)
        key = (rule, names, storages, rounding_of(view, h))
        if key not in self._phases:
            self._phases[key] = Phases(*key)
        return self._phases[key]
