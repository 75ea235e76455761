"""What comes back from a checkpoint: whose state it is, and its numbers as Python's own.

Tools that save or move optimizers, torch.distributed.checkpoint among them, may return numbers as
tensors of one element, and step an optimizer at lr 0 to have its state made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.resharding import Layout, own_part
from optbench_llm.engine.restored import check_groups, warn_of_other_settings
from optbench_llm.engine.scalars import NOT_SETTINGS, settings_of
from optbench_llm.engine.sharding import any_process, local
from optbench_llm.rules.hyperparameters import FILLED_IN_PLACE, plain
from optbench_llm.rules.rule import Rule

Group = dict[str, Any]
#: Counts, in the state of parameters and in parameter groups.
COUNTS = ("step", "observations")


def asks_for_state(groups: Sequence[Group], states: Mapping[Any, Any]) -> bool:
    """Whether a step is to begin state and no more: there is none, lr is 0, and so are gradients.

    Processes that hold parts of parameters must all ask, and get one answer.
    """
    if any(states.values()) or any(settings_of(group).lr != 0 for group in groups):
        return False
    with_gradients = [p for group in groups for p in group["params"] if p.grad is not None]
    own = any(p.grad.is_sparse or local(p.grad).count_nonzero() for p in with_gradients)
    return bool(with_gradients) and not any_process(own, with_gradients)


def restored(
    spec: str,
    given: dict[str, Any],
    groups: Sequence[Group],
    rules: Sequence[type[Rule]],
    layouts: Sequence[Layout],
) -> tuple[dict[Any, Any], list[Group]]:
    """What an optimizer takes from a checkpoint: its state by parameter, and its groups.

    ``rules`` are those of its groups, ``layouts`` those of all parameters. Warns where groups come
    with other hyperparameters.

    Raises:
        ValueError: This is the state of another optimizer, storage or model, or of other groups.
    """
    saved = given["param_groups"]
    check_origin(spec, saved, groups)
    state = own_state(given, groups, rules, layouts)
    warn_of_other_settings(spec, groups, saved, [rule.settings() for rule in rules])
    return state, [group_in_numbers(*pair) for pair in zip(saved, groups, strict=True)]


def check_origin(spec: str, saved: Sequence[Group], own: Sequence[Group]) -> None:
    """Raise ValueError for saved groups of another optimizer or storage, or of other parameters."""
    for group in saved:
        if group.get("spec") != spec:
            found = repr(group["spec"]) if "spec" in group else "a foreign optimizer"
            raise ValueError(f"this is the state of {found}, the optimizer is {spec!r}")
    check_groups(spec, own, saved)


def own_state(
    saved: dict[str, Any],
    groups: Sequence[Group],
    rules: Sequence[type[Rule]],
    layouts: Sequence[Layout],
) -> dict[Any, Any]:
    """What this process keeps of a checkpoint's state, by parameter; ints and floats are Python's.

    ``rules`` are those of the groups, ``layouts`` those of all parameters. What else hooks of users
    have put into the state stays, as torch leaves it.
    """
    states = {**saved["state"]}
    indices = (index for group in saved["param_groups"] for index in group["params"])
    own = ((p, rule) for group, rule in zip(groups, rules, strict=True) for p in group["params"])
    found: dict[Any, Any] = {}
    for index, (p, rule), layout in zip(indices, own, layouts, strict=True):
        if index in states:
            state = _in_numbers(states.pop(index), rule)
            found[p] = own_part(layout, state, p, f"parameter {index}")
    return {**found, **states}


def _in_numbers(state: dict[str, Any], rule: type[Rule]) -> dict[str, Any]:
    return {
        name: _number(name, value) if name in COUNTS or name in rule.carry else value
        for name, value in state.items()
    }


def group_in_numbers(saved: Group, own: Group) -> dict[str, Any]:
    """A saved group in which ints and floats are Python's, whole ones where ``own`` has whole ones.

    The lr is a tensor where that of ``own`` is one.
    """
    group = {
        name: value if name in NOT_SETTINGS else _number(name, value, own.get(name))
        for name, value in saved.items()
    }
    for name in FILLED_IN_PLACE:
        if isinstance(own.get(name), Tensor) and name in group:
            group[name] = torch.full_like(own[name], group[name])
    return group


def _number(name: str, value: Any, own: Any = None) -> Any:
    found = plain(value)
    whole = name in COUNTS or (isinstance(own, int) and not isinstance(own, bool))
    return int(found) if whole and isinstance(found, float) and found.is_integer() else found
