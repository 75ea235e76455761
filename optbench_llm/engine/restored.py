"""Parameter groups that come back with a state: whether they fit, and what they change."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

Group = dict[str, Any]


def check_groups(spec: str, groups: Sequence[Group], saved: Sequence[Group]) -> None:
    """Raise ValueError unless saved groups hold as many parameters, of the same roles.

    Parameters go by their order, so that those of other groups would get each other's state.
    """
    own, found = ([len(group["params"]) for group in both] for both in (groups, saved))
    if sum(own) != sum(found):
        raise ValueError(
            f"this is the state of {sum(found)} parameters, optimizer {spec!r} has {sum(own)}"
        )
    remedy = (
        "it was written with groups of your own, or by a version that divided models otherwise"
        " (earlier ones made one group of what had equal settings, such as weight_decay=0.0), and"
        " cannot be put in order; go on from the weights alone, with a new optimizer"
    )
    if len(own) != len(found):
        raise ValueError(
            f"the loaded state has a different number of parameter groups, {len(found)}, than"
            f" optimizer {spec!r}, {len(own)}: {remedy}"
        )
    if own != found:
        raise ValueError(
            f"this state has its parameters in groups of {_listed(found)}, optimizer {spec!r} in"
            f" groups of {_listed(own)}: {remedy}"
        )
    for index, (group, other) in enumerate(zip(groups, saved, strict=True)):
        if group.get("role") != other.get("role"):
            raise ValueError(
                f"this state's group {index} has the role {other.get('role')!r}, optimizer"
                f" {spec!r} has {group.get('role')!r} there: {remedy}"
            )


def warn_of_other_settings(
    spec: str,
    groups: Sequence[Group],
    saved: Sequence[Group],
    names: Sequence[Iterable[str]],
) -> None:
    """Warn where saved groups replace hyperparameters that the optimizer was made with by others.

    As everywhere in torch the saved ones count. ``names`` are the hyperparameters of each group.
    Learning rates are compared before any schedule, and where there is one.
    """
    changes: dict[str, list[int]] = {}
    for index, (group, other, own_names) in enumerate(zip(groups, saved, names, strict=True)):
        pairs = {n: (group[n], other[n]) for n in own_names if n in group and n in other}
        pairs.pop("lr", None)
        if "initial_lr" in other:
            pairs["lr"] = group.get("initial_lr", group["lr"]), other["initial_lr"]
        for name, (own, loaded) in pairs.items():
            if _plain(own) != _plain(loaded):
                change = f"{name}={_plain(loaded)!r} in place of {_plain(own)!r}"
                changes.setdefault(change, []).append(index)
    if changes:
        told = "; ".join(
            f"{change} (group {_listed(indices)})" for change, indices in changes.items()
        )
        warnings.warn(
            f"optimizer {spec!r} goes on with the hyperparameters of the loaded state: {told}; to"
            " use those that it was made with, set them in optimizer.param_groups after loading",
            stacklevel=3,
        )


def _plain(value: Any) -> Any:
    """A hyperparameter as it was given, whatever a checkpoint made of it."""
    if isinstance(value, Tensor):
        return value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
