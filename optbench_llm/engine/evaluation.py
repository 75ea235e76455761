"""The point where a rule's model is evaluated and saved, where that is not the one it trains at."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optbench_llm.engine.bindings import Held
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.plan import GroupPlan
from optbench_llm.engine.resharding import TRAIN_POINT
from optbench_llm.engine.scalars import settings_of_unit
from optbench_llm.engine.sharding import local
from optbench_llm.engine.state import stored_slots
from optbench_llm.rules.rule import Rule

State = dict[str, Any]


def has_evaluation_point(rule: type[Rule], state: State) -> bool:
    """Whether a parameter with this state is evaluated elsewhere; before its first step none is."""
    return rule.evaluation_point is not None and bool(state.get("step"))


def keep_train_point(p: Tensor, state: State) -> None:
    """Put aside what this process holds of a parameter."""
    state[TRAIN_POINT] = local(p.detach()).clone()


def return_to_train_point(p: Tensor, state: State) -> None:
    """Put it back exactly as it was, if it is there."""
    if TRAIN_POINT in state:
        local(p.detach()).copy_(state.pop(TRAIN_POINT))


def move_to_evaluation_point(held: Held, group: GroupPlan) -> None:
    """Move what this process holds of a parameter to where it is evaluated."""
    point = group.rule.evaluation_point
    assert point is not None
    for plan in group.plan(held.p, held.elements):
        view = plan.unit.view(held.p.detach())
        exact = view.to(arithmetic_dtype(held.p))
        slots = plan.phases.load(exact, stored_slots(held.state, plan))
        view.copy_(point(exact, slots, settings_of_unit(group.h, plan.unit)))
