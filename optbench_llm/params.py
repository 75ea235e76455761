"""Parameter groups: which parameters decay, and how their weights are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def param_groups(
    model: nn.Module, weight_decay: float | None, *, by_layout: bool = False
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: those that decay, then those that do not.

    Biases, norms and everything else below two dimensions do not decay. Tied weights appear once.
    ``weight_decay`` None leaves the optimizer's own default to the decaying group. ``by_layout``
    keeps transformers' Conv1D weights, stored (in, out), in a group of their own, marked
    ``conv1d``, for optimizers that must know a weight's output channels.

    Raises ValueError for a model without trainable parameters.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p, conv1d in _trainable(model):
        decays = p.ndim >= 2 and not name.endswith("bias")
        groups.setdefault((decays, conv1d and by_layout), []).append(p)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    result = []
    for (decays, conv1d), params in sorted(groups.items(), reverse=True):
        group: dict[str, Any] = {"params": params}
        if not decays:
            group["weight_decay"] = 0.0
        elif weight_decay is not None:
            group["weight_decay"] = weight_decay
        result.append({**group, "conv1d": True} if conv1d else group)
    return result


def _trainable(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    from transformers.pytorch_utils import Conv1D

    seen = set()
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(prefix, recurse=False):
            if p.requires_grad and p not in seen:
                seen.add(p)
                yield name, p, isinstance(module, Conv1D) and name.endswith("weight")
