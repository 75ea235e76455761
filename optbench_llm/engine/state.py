"""The state of one view of a parameter: how its slots begin, and where they lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.devices import check_state_is_here
from optbench_llm.engine.limits import bounded
from optbench_llm.engine.phases import Stored, arithmetic_dtype
from optbench_llm.engine.plan import ViewPlan


def stored_slots(state: dict[str, Any], plan: ViewPlan) -> Stored:
    """The tensors of each slot of a view in an optimizer's state."""
    return tuple(
        tuple(state[slot.name + part + plan.unit.suffix] for part in storage.suffixes)
        for slot, storage in zip(plan.slots, plan.phases.storages, strict=True)
    )


def check_slots(spec: str, state: dict[str, Any], view: Tensor, plan: ViewPlan) -> None:
    """Raise ValueError for a slot of another shape: code for any length would go beyond it.

    And for one on another device than the parameter, of which ``view`` is a view.
    """
    suffix = plan.unit.suffix
    for slot, storage in zip(plan.slots, plan.phases.storages, strict=True):
        if slot.name + suffix not in state:
            continue
        expected = storage.zeros(torch.empty(slot.shape_for(plan.shape), device="meta"))
        for part, like in zip(storage.suffixes, expected, strict=True):
            name = slot.name + part + suffix
            check_state_is_here(spec, name, state[name], view)
            if state[name].shape != like.shape:
                raise ValueError(
                    f"optimizer {spec!r}: slot {name!r} of a parameter of shape"
                    f" {plan.shape} has the shape {tuple(state[name].shape)}, expected"
                    f" {tuple(like.shape)}; a parameter that has got another size needs new state:"
                    " optimizer.state.pop(parameter)"
                )


def forget_initial(state: dict[str, Any], plan: ViewPlan) -> None:
    """Let the slots of a view that do not begin with zeros be missing."""
    for slot in plan.slots:
        if slot.initial is not None:
            state.pop(slot.name + plan.unit.suffix, None)


def make_missing_slots(
    state: dict[str, Any], view: Tensor, g: Tensor, plan: ViewPlan, h: Any
) -> None:
    """Begin the slots of a view: all at first, later what a changed hyperparameter asks for.

    Those that are there come to lie as the parameter does where it is contiguous.
    """
    dtype, suffix = arithmetic_dtype(view), plan.unit.suffix
    for slot, storage in zip(plan.slots, plan.phases.storages, strict=True):
        if slot.name + suffix in state:
            own = state[slot.name + suffix]
            if own.shape == view.shape and view.is_contiguous() and not own.is_contiguous():
                # The parameter's memory format has changed: channels_last no longer.
                state[slot.name + suffix] = own.contiguous()
            continue
        like = view
        if slot.shape != "full":
            like = torch.empty(slot.shape_for(plan.shape), dtype=dtype, device=view.device)
        if slot.initial is None:
            parts = storage.zeros(like)
        else:
            value = torch.empty_like(like, dtype=dtype)
            start = slot.initial(view.to(dtype), bounded(g.to(dtype)), h)
            parts = storage.encode(value.copy_(start))
        for part, tensor in zip(storage.suffixes, parts, strict=True):
            state[slot.name + part + suffix] = tensor
