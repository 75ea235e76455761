"""Whether an optimizer's state still holds numbers: NaN and infinities, by slot and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.blockwise import SCALE


def check_finite(
    spec: str, param_groups: Iterable[Mapping[str, Any]], state: Mapping[Tensor, Mapping[str, Any]]
) -> None:
    """Raise FloatingPointError where a slot holds NaN or an infinity.

    One pass over the state, so not for every step: 8-bit slots are told by their scales, a
    256th of them, others by all their elements.
    The message names optimizer, slot, parameter and step, and what to try.
    """
    found = [
        (name, _name_of(group, index, position), own.get("step"), _extremes(value))
        for index, group in enumerate(param_groups)
        for position, p in enumerate(group["params"])
        for own in (state.get(p, {}),)
        for name, value in own.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ]
    bad = [entry for entry in found if not entry[3].isfinite().all()]
    if not bad:
        return
    _, parameter, step, _ = bad[0]
    names = (name.removesuffix(SCALE) for name, owner, *_ in bad if owner == parameter)
    slots = ", ".join(map(repr, dict.fromkeys(names)))
    raise FloatingPointError(
        f"optimizer {spec!r}: slot {slots} of {parameter} is no longer finite after step"
        f" {step}: a gradient was NaN or infinite, or a weight's square beyond fp32's range."
        " Clip gradients (max_grad_norm), lower the lr, or look at the loss before that step"
    )


def _extremes(value: Tensor) -> Tensor:
    """Smallest and largest element; NaN where any is NaN."""
    return torch.stack(value.aminmax())


def _name_of(group: Mapping[str, Any], index: int, position: int) -> str:
    names = group.get("param_names")
    if names:
        return f"parameter {names[position]!r}"
    return f"parameter {position} of group {index}"
