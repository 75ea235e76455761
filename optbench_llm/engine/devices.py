"""Where parameters, gradients and state lie: what cannot be stepped, or would be in vain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def check_devices(optimizer: str, groups: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError for weights that are elsewhere, and gradients apart from their parameter.

    accelerate's offloading leaves parameters without memory, on the meta device, and trains copies
    that it drops: without an error nothing would be learnt, and nobody told. Where gradients are on
    the meta device too, a step is tried out.
    """
    for group in groups:
        for p in group["params"]:
            g = p.grad
            if g is None and p.is_meta and p.requires_grad:
                raise ValueError(
                    f"optimizer {optimizer!r}: a parameter of shape {tuple(p.shape)} is on the"
                    " 'meta' device, without memory, and no gradient reaches it; weights that"
                    " accelerate offloads (cpu_offload, disk_offload, a device_map with 'cpu' or"
                    " 'disk') cannot be trained: load the model without, and shard it instead"
                    " (FSDP2, with CPUOffloadPolicy if need be); fill an empty model with"
                    " model.to_empty(device=...) before the optimizer is made"
                )
            if g is not None and g.device != p.device:
                raise ValueError(
                    f"optimizer {optimizer!r}: the gradient of a parameter of shape"
                    f" {tuple(p.shape)} is on {str(g.device)!r}, the parameter on"
                    f" {str(p.device)!r}; move a model before the backward pass, or drop its"
                    " gradients (zero_grad) when it moves"
                )


def check_state_is_here(optimizer: str, name: str, tensor: Tensor, view: Tensor) -> None:
    """Raise ValueError for a slot's tensor on another device than its parameter, ``view``."""
    if tensor.device != view.device:
        raise ValueError(
            f"optimizer {optimizer!r}: slot {name!r} of a parameter of shape {tuple(view.shape)} is"
            f" on {str(tensor.device)!r}, the parameter on {str(view.device)!r}: it has moved since"
            " the state began; optimizer.load_state_dict(optimizer.state_dict()) moves the state"
            " after it, or make the optimizer after model.to(...)"
        )
