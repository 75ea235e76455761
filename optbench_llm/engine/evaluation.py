"""The point where a rule's model is evaluated and saved, where that is not the one it trains at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from optbench_llm.engine.bindings import Held
from optbench_llm.engine.division import Division, Groups, States
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.plan import GroupPlan
from optbench_llm.engine.resharding import TRAIN_POINT
from optbench_llm.engine.scalars import settings_of_unit
from optbench_llm.engine.sharding import Owned, Spread, local
from optbench_llm.engine.state import check_slots, stored_slots
from optbench_llm.rules.rule import Rule


def has_evaluation_point(rule: type[Rule], state: dict[str, Any]) -> bool:
    """Whether a parameter with this state is evaluated elsewhere; before its first step none is."""
    return rule.evaluation_point is not None and bool(state.get("step"))


def move_to_evaluation_points(
    spec: str,
    division: Division,
    here: Sequence[Held],
    spread: Sequence[Spread],
    owned: Sequence[Owned],
    groups: Groups,
    states: States,
    plans: Sequence[GroupPlan],
) -> None:
    """Move parameters to where they are evaluated; where they are trained is put aside."""
    # Of a sharded parameter also where this process has nothing of it.
    for index, position in dict.fromkeys(entry.place for entry in (*here, *spread, *owned)):
        p = groups[index]["params"][position]
        states[p][TRAIN_POINT] = local(p.detach()).clone()
    for held in chain([here], division.in_turns(owned, states, gradients=False)):
        for entry in held:
            _move(spec, entry, plans[entry.place[0]])


def _move(spec: str, held: Held, group: GroupPlan) -> None:
    """Move what this process holds of a parameter."""
    point = group.rule.evaluation_point
    assert point is not None
    for plan in group.plan(held.p, held.elements):
        view = plan.unit.view(held.p.detach())
        check_slots(spec, held.state, view, plan)
        exact = view.to(arithmetic_dtype(held.p))
        slots = plan.phases.load(exact, stored_slots(held.state, plan))
        view.copy_(point(exact, slots, settings_of_unit(group.h, plan.unit)))


def return_to_train_points(params: Iterable[Tensor], states: States) -> None:
    """Put back what was put aside, exactly as it was."""
    for p in params:
        if TRAIN_POINT in states.get(p, ()):
            local(p.detach()).copy_(states[p].pop(TRAIN_POINT))
