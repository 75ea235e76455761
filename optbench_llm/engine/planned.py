"""What a parameter's state will be, before there is any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optbench_llm.engine.phases import arithmetic_dtype

if TYPE_CHECKING:
    from optbench_llm.engine.bindings import Plan


def planned_slots(plans: Iterable[Plan]) -> dict[str, Tensor]:
    """The tensors of all slots as they are begun, by their names in the state, on the meta device.

    ``plans`` are those of all units of one parameter.
    """
    found: dict[str, Tensor] = {}
    for plan in plans:
        shape, dtype = tuple(plan.view.shape), arithmetic_dtype(plan.view)
        for slot, storage in zip(plan.slots, plan.phases.storages, strict=True):
            like = torch.empty_like(plan.view, device="meta")
            if slot.shape != "full":
                like = torch.empty(slot.shape_for(shape), dtype=dtype, device="meta")
            for part, tensor in zip(storage.suffixes, storage.zeros(like), strict=True):
                found[slot.name + part + plan.unit.suffix] = tensor
    return found
