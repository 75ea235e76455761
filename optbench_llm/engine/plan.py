"""The plan of a parameter: which views a rule gets of it, their slots, and what steps each.

It follows from a parameter's shape and dtype, from what its group holds, and from the storage that
was asked for. Nothing is allocated, so parameters may be on the meta device, or sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optbench_llm.engine.phases import Phases, arithmetic_dtype
from optbench_llm.engine.rounding import COMPENSATION
from optbench_llm.engine.scalars import settings_of, settings_of_unit
from optbench_llm.engine.storage import Storage, storage_for
from optbench_llm.engine.units import Unit, units_of
from optbench_llm.rules.rule import Rule, Slot

Groups = Sequence[dict[str, Any]]
#: What a parameter group may hold anew at each step, beside a rule's carried numbers; it changes no
#: plan.
CHANGING = ("lr", "step", "observations")


class ViewPlan(NamedTuple):
    """One view of a parameter: which, its shape, its slots, and the phases with their storages.

    Of a part of a parameter the shape is the part's.
    """

    unit: Unit
    shape: tuple[int, ...]
    slots: tuple[Slot, ...]
    phases: Phases

    @property
    def names(self) -> list[str]:
        """Of the tensors of all slots in the state."""
        return [
            slot.name + part + self.unit.suffix
            for slot, storage in zip(self.slots, self.phases.storages, strict=True)
            for part in storage.suffixes
        ]

    @property
    def state_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(
            _bytes_of(storage, slot.shape_for(self.shape))
            for slot, storage in zip(self.slots, self.phases.storages, strict=True)
        )


#: The views of a parameter, in order; none of one without elements.
Plan = tuple[ViewPlan, ...]


class GroupPlan:
    """The rule of a parameter group, its present settings ``h``, and the plans of its parameters.

    Parameters of one shape and dtype share a plan.
    """

    def __init__(self, rule: type[Rule], h: Any, storage: str) -> None:
        self.rule, self.h = rule, h
        self._storage = storage
        self._fixed = self._fixed_of(h)
        self._plans: dict[Any, Plan] = {}

    def goes_on(self, rule: type[Rule], h: Any) -> bool:
        """Take these settings, if plans are the same under them; whether they are."""
        if rule is not self.rule or self._fixed_of(h) != self._fixed:
            return False
        self.h = h
        return True

    def plan(self, p: Tensor, elements: int) -> Plan:
        """The plan of what is held of a parameter.

        Storages go by ``elements``, or by a view's own where there are several.
        """
        key = (p.shape, p.dtype, elements)
        known = self._plans.get(key)
        if known is None:
            known = self._plans[key] = self._made(p, elements)
        return known

    def state_bytes(self, p: Tensor, kept_by_program: Sequence[str]) -> int:
        """Bytes of all that a whole parameter's state will hold, of programs too."""
        slots = sum(view.state_bytes for view in self.plan(p, p.numel()))
        return slots + arithmetic_dtype(p).itemsize * p.numel() * len(kept_by_program)

    def _made(self, p: Tensor, elements: int) -> Plan:
        if not p.numel():
            return ()
        like = torch.empty(p.shape, dtype=p.dtype, device="meta")
        units = units_of(self.rule, tuple(p.shape), self.h)
        views = []
        for unit in units:
            h, view = settings_of_unit(self.h, unit), unit.view(like)
            shape, dtype = tuple(view.shape), arithmetic_dtype(p)
            rounding = _rounding_of(p, h)
            slots = self.rule.slots_for(shape, h)
            slots = (*slots, COMPENSATION) if rounding == "kahan" else slots
            own = elements if len(units) == 1 else view.numel()
            embeds = getattr(h, "embeds", False)
            storages = tuple(storage_for(s, self._storage, own, dtype, embeds) for s in slots)
            phases = _phases(self.rule, tuple(s.name for s in slots), storages, rounding)
            views.append(ViewPlan(unit, shape, slots, phases))
        return tuple(views)

    def _fixed_of(self, h: Any) -> dict[str, Any]:
        """What a group holds that may change plans."""
        fixed = dict(vars(h))
        for name in (*CHANGING, *self.rule.carry):
            fixed.pop(name, None)
        return fixed


class Planner:
    """Plans the parameters of one optimizer, anew where a group holds something else."""

    def __init__(self, rule_for: Callable[[dict[str, Any]], type[Rule]], storage: str) -> None:
        self._rule_for, self._storage = rule_for, storage
        self._known: list[GroupPlan] = []

    def groups(self, groups: Groups) -> list[GroupPlan]:
        """Those of all groups: the same objects as the last time where their plans are."""
        self._known = [self._as_now(index, group) for index, group in enumerate(groups)]
        return self._known

    def _as_now(self, index: int, group: dict[str, Any]) -> GroupPlan:
        rule, h = self._rule_for(group), settings_of(group)
        for known in self._known[index : index + 1]:
            if known.goes_on(rule, h):
                return known
        return GroupPlan(rule, h, self._storage)


def _rounding_of(p: Tensor, h: Any) -> str:
    """How new values are written into a parameter; bf16 is the only dtype with a choice."""
    return getattr(h, "rounding", "nearest") if p.dtype == torch.bfloat16 else "nearest"


@cache
def _phases(
    rule: type[Rule], names: tuple[str, ...], storages: tuple[Storage, ...], rounding: str
) -> Phases:
    """One object for all that are stepped alike."""
    return Phases(rule, names, storages, rounding)


@cache
def _bytes_of(storage: Storage, shape: tuple[int, ...]) -> int:
    """Bytes of a slot of this shape."""
    parts = storage.encode(torch.empty(shape, device="meta"))
    return sum(part.numel() * part.element_size() for part in parts)
