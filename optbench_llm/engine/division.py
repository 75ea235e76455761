"""Who steps which parameter, and where its state lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bindings import Held
from optbench_llm.engine.memory import in_memory
from optbench_llm.engine.plan import GroupPlan, Planner
from optbench_llm.engine.planned import planned_slots
from optbench_llm.engine.resharding import TRAIN_POINT, Layout
from optbench_llm.engine.sharding import (
    Owned,
    Owners,
    Place,
    Sharding,
    Spread,
    gathered,
    local,
    scattered,
    sharding_of,
    steps_in_parts,
    turns,
)
from optbench_llm.engine.storage import Storage
from optbench_llm.rules.rule import Rule, Scope

Groups = list[dict[str, Any]]
States = MutableMapping[Tensor, dict[str, Any]]


class Division:
    """Divides the parameters of one optimizer over processes; an owner stays the owner."""

    def __init__(self, spec: str, planner: Planner, kept_by_program: Sequence[str]) -> None:
        self._spec, self._planner = spec, planner
        self._kept_in_parts = (TRAIN_POINT, *kept_by_program)
        self._owners = Owners()
        self._known: dict[Place, tuple[Tensor, Sharding | None, bool]] = {}

    def divide(
        self, groups: Groups, states: States, takes_part: Callable[[type[Rule], Tensor], Any]
    ) -> tuple[list[Held], list[Spread], list[Owned]]:
        """Who steps which of the parameters that take part.

        First what this process steps as it lies, then all of which each process steps a part, and
        all that one process steps whole; the same ones on every process.
        """
        here: list[Held] = []
        spread: list[Spread] = []
        whole: list[tuple[Place, Tensor, Sharding]] = []
        for index, plans in enumerate(self._planner.groups(groups)):
            rule = plans.rule
            for position, p in enumerate(groups[index]["params"]):
                if p.numel() == 0 or not takes_part(rule, p):
                    continue
                place = (index, position)
                sharding, in_parts = self._cut(place, p, plans)
                if sharding is None:
                    here.append(Held(place, local(p), _gradient(p), states[p], p.numel()))
                elif in_parts:
                    spread.append(Spread(place, p, sharding, rule))
                    if sharding.sizes[sharding.rank]:
                        elements = p.numel() if sharding.blockwise else 0
                        own = local(p), _gradient(p), states[p]
                        here.append(Held(place, *own, elements, sharding.origin))
                else:
                    whole.append((place, p, sharding))
        return here, spread, self._owners.assign(whole)

    def _cut(self, place: Place, p: Tensor, plans: GroupPlan) -> tuple[Sharding | None, bool]:
        """How a parameter is sharded, and whether each process steps its part."""
        known = self._known.get(place)
        if known is None or known[0] is not p:
            sharding, in_parts = sharding_of(self._spec, p), False
            if sharding is not None:
                rule = plans.rule
                in_parts = steps_in_parts(rule, plans.plan(p, p.numel()), p)
                if not in_parts and rule.scope is Scope.MODEL:
                    raise RuntimeError(
                        f"optimizer {self._spec!r} measures the whole model by whole matrices, and"
                        " no process has those of sharded parameters (FSDP2); use DDP"
                    )
            known = self._known[place] = (p, sharding, in_parts)
        return known[1], known[2]

    def in_turns(
        self, owned: Sequence[Owned], states: States, *, gradients: bool
    ) -> Iterator[list[Held]]:
        """Whole parameters that this process is to step, turn by turn; then all get their parts."""
        for turn in turns(owned):
            like = local(turn[0].p)
            own = [entry for entry in turn if entry.here]
            wholes = gathered(turn, [local(entry.p) for entry in turn])
            of_loss: Sequence[Tensor | None] = [None] * len(own)
            if gradients:
                of_loss = gathered(
                    turn, [local(entry.p.grad) for entry in turn if entry.p.grad is not None]
                )
            yield [
                Held(entry.place, p, g, states[entry.p], p.numel())
                for entry, p, g in zip(own, wholes, of_loss, strict=True)
            ]
            for entry, part in zip(turn, scattered(turn, wholes, like), strict=True):
                local(entry.p).copy_(part)

    def layouts(self, groups: Groups) -> list[Layout]:
        """Where the state of each parameter lies, in the order of the groups."""
        layouts: list[Layout] = []
        whole: list[tuple[int, Place, Tensor, Sharding]] = []
        for index, plans in enumerate(self._planner.groups(groups)):
            for position, p in enumerate(groups[index]["params"]):
                place = (index, position)
                sharding, in_parts = self._cut(place, p, plans)
                elements, held = p.numel(), local(p.detach())
                if sharding is not None and not in_parts:
                    whole.append((len(layouts), place, p, sharding))
                    held = torch.empty(p.shape, dtype=p.dtype, device="meta")
                elif sharding is not None and not sharding.blockwise:
                    elements = 0
                storages = _storages_by_slot(p, plans, elements)
                # An empty part has the slots of the whole, without elements.
                plan = plans.plan(held if held.numel() else p, elements)
                slots = planned_slots(plan, held)
                device = local(p.detach()).device
                layouts.append(Layout(sharding, None, storages, slots, self._kept_in_parts, device))
        owned = self._owners.assign([entry[1:] for entry in whole])
        for (number, *_), entry in zip(whole, owned, strict=True):
            layouts[number] = replace(layouts[number], owner=entry.owner)
        return layouts


def _storages_by_slot(p: Tensor, plans: GroupPlan, elements: int) -> dict[str, Storage]:
    """The storages of the slots in a parameter's shape; none where it has several views."""
    plan = plans.plan(p, elements)
    if len(plan) != 1 or plan[0].unit.turned or plan[0].unit.flattened:
        return {}
    return {
        slot.name: storage
        for slot, storage in zip(plan[0].slots, plan[0].phases.storages, strict=True)
        if slot.shape == "full"
    }


def _gradient(p: Tensor) -> Tensor | None:
    return None if p.grad is None else in_memory([local(p.grad)])[0]
