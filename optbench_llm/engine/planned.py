"""What a parameter's state will be, before there is any."""

from __future__ import annotations

import torch
from torch import Tensor

from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.plan import Plan


def planned_slots(plan: Plan, held: Tensor) -> dict[str, Tensor]:
    """The tensors of all slots as they are begun, by their names in the state, on the meta device.

    ``plan`` is that of what is ``held`` of a parameter.
    """
    found: dict[str, Tensor] = {}
    for own in plan:
        view = own.unit.view(held)
        shape, dtype = tuple(view.shape), arithmetic_dtype(view)
        for slot, storage in zip(own.slots, own.phases.storages, strict=True):
            like = torch.empty_like(view, device="meta")
            if slot.shape != "full":
                like = torch.empty(slot.shape_for(shape), dtype=dtype, device="meta")
            for part, tensor in zip(storage.suffixes, storage.zeros(like), strict=True):
                found[slot.name + part + own.unit.suffix] = tensor
    return found
