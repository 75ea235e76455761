"""The state of one unit: which slots it has, how they begin, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.devices import check_state_is_here
from optbench_llm.engine.limits import bounded
from optbench_llm.engine.phases import Phases, Stored, arithmetic_dtype
from optbench_llm.engine.rounding import COMPENSATION
from optbench_llm.engine.storage import Storage
from optbench_llm.rules.rule import Rule, Slot


def slots_of(rule: type[Rule], view: Tensor, h: Any) -> tuple[Slot, ...]:
    """The slots of a unit: the rule's, and what the rounding of its parameter keeps."""
    slots = rule.slots_for(tuple(view.shape), h)
    return (*slots, COMPENSATION) if rounding_of(view, h) == "kahan" else slots


def rounding_of(p: Tensor, h: Any) -> str:
    """How new values are written into a parameter; bf16 is the only dtype with a choice."""
    return getattr(h, "rounding", "nearest") if p.dtype == torch.bfloat16 else "nearest"


def stored_slots(
    state: dict[str, Any], slots: Sequence[Slot], phases: Phases, suffix: str
) -> Stored:
    """The tensors of each slot of a unit in an optimizer's state."""
    return tuple(
        tuple(state[slot.name + part + suffix] for part in storage.suffixes)
        for slot, storage in zip(slots, phases.storages, strict=True)
    )


def check_slots(
    spec: str,
    state: dict[str, Any],
    view: Tensor,
    slots: Sequence[Slot],
    phases: Phases,
    suffix: str,
) -> None:
    """Raise ValueError for a slot of another shape: code for any length would go beyond it.

    And for one on another device than the parameter.
    """
    for slot, storage in zip(slots, phases.storages, strict=True):
        if slot.name + suffix not in state:
            continue
        expected = storage.zeros(torch.empty(slot.shape_for(tuple(view.shape)), device="meta"))
        for part, like in zip(storage.suffixes, expected, strict=True):
            name = slot.name + part + suffix
            check_state_is_here(spec, name, state[name], view)
            if state[name].shape != like.shape:
                raise ValueError(
                    f"optimizer {spec!r}: slot {name!r} of a parameter of shape"
                    f" {tuple(view.shape)} has the shape {tuple(state[name].shape)}, expected"
                    f" {tuple(like.shape)}; a parameter that has got another size needs new state:"
                    " optimizer.state.pop(parameter)"
                )


def forget_initial(state: dict[str, Any], slots: Sequence[Slot], suffix: str) -> None:
    """Let the slots of a unit that do not begin with zeros be missing."""
    for slot in slots:
        if slot.initial is not None:
            state.pop(slot.name + suffix, None)


def make_missing_slots(
    state: dict[str, Any],
    view: Tensor,
    g: Tensor,
    slots: Sequence[Slot],
    phases: Phases,
    h: Any,
    suffix: str,
) -> None:
    """Begin the slots of a unit: all at first, later what a changed hyperparameter asks for."""
    dtype = arithmetic_dtype(view)
    for slot, storage in zip(slots, phases.storages, strict=True):
        if slot.name + suffix in state:
            continue
        like = view
        if slot.shape != "full":
            like = torch.empty(slot.shape_for(tuple(view.shape)), dtype=dtype, device=view.device)
        if slot.initial is None:
            parts = storage.zeros(like)
        else:
            value = torch.empty_like(like, dtype=dtype)
            start = slot.initial(view.to(dtype), bounded(g.to(dtype)), h)
            parts = storage.encode(value.copy_(start))
        for part, tensor in zip(storage.suffixes, parts, strict=True):
            state[slot.name + part + suffix] = tensor


@cache
def bytes_of(storage: Storage, shape: tuple[int, ...]) -> int:
    """Bytes of a slot of this shape."""
    parts = storage.encode(torch.empty(shape, device="meta"))
    return sum(part.numel() * part.element_size() for part in parts)
