"""What a parameter group holds beside its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optbench_llm.rules.hyperparameters import check_hyperparameters
from optbench_llm.rules.rule import LAYOUT_KEYS, Rule, Scope

#: What a group may carry besides the rule's hyperparameters: torch's, what is known of its weights,
#: and what the engine keeps there.
GROUP_KEYS = ("params", "param_names", "initial_lr", "spec", "observations", "step", *LAYOUT_KEYS)


def completed(
    group: Mapping[str, Any],
    spec: str,
    rule: type[Rule],
    defaults: Mapping[str, Any],
    first: Mapping[str, Any],
) -> dict[str, Any]:
    """A group with all hyperparameters of the rule that steps it, checked.

    ``defaults`` are those hyperparameters as the optimizer has them. Under a rule of
    ``Scope.MODEL`` the group shares the numbers of the ``first`` one.
    """
    shared = {**rule.carry, "step": 0} if rule.scope is Scope.MODEL else {}
    about = {k: v for k, v in group.items() if k in GROUP_KEYS or k in shared}
    given = {k: v for k, v in group.items() if k not in about}
    numbers = {name: first.get(name, value) for name, value in shared.items()}
    checked = check_hyperparameters(spec, {**defaults, **given}, rule)
    return {**numbers, **about, **checked, "spec": spec}
