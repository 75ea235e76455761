"""What the engine refuses, before anything has moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from optbench_llm.rules.rule import MATRIX_ROLES, ROLES, Rule


def check_role(optimizer: str, group: dict[str, Any]) -> None:
    """Raise ValueError unless a group says what its parameters are."""
    if "role" not in group:
        raise ValueError(
            f"optimizer {optimizer!r} must know what each parameter is: pass the model, or"
            " groups that say it, such as {'params': [...], 'role': 'matrix'}"
        )
    role = group["role"]
    if role not in ROLES:
        raise ValueError(
            f"optimizer {optimizer!r}: a group has the role {role!r}, expected one of"
            f" {', '.join(sorted(ROLES))}"
        )


def check_shapes(optimizer: str, rule: type[Rule], group: dict[str, Any]) -> None:
    """Raise ValueError unless a group's parameters can be what it says.

    ``rule`` is the one that steps this group.
    """
    role = group["role"]
    for p in group["params"]:
        shape = tuple(p.shape)
        if role in MATRIX_ROLES and p.ndim < 2:
            raise ValueError(
                f"optimizer {optimizer!r}: a group of role {role!r} has a parameter of"
                f" shape {shape}; give it a group of role 'bias', 'norm' or 'vector'"
            )
        if rule.by_layout and p.ndim > 2 and not p.is_contiguous():
            raise ValueError(
                f"optimizer {optimizer!r} steps a weight of shape {shape} as a matrix, which it"
                " is not in this memory format; use"
                " model.to(memory_format=torch.contiguous_format)"
            )


def check_gradients(optimizer: str, groups: Sequence[dict[str, Any]]) -> None:
    """Raise RuntimeError for gradients that no rule can take."""
    for group in groups:
        for p in group["params"]:
            g = p.grad
            if g is not None and (g.is_sparse or g.is_complex()):
                kind = "sparse" if g.is_sparse else "complex"
                raise RuntimeError(
                    f"optimizer {optimizer!r} takes dense real gradients, this one of shape"
                    f" {tuple(p.shape)} is {kind}"
                    + ("; use nn.Embedding(sparse=False)" if g.is_sparse else "")
                )
            if isinstance(p, DTensor) and g is not None and g.placements != p.placements:
                raise RuntimeError(
                    f"optimizer {optimizer!r}: the gradient of a parameter of shape"
                    f" {tuple(p.shape)} lies over processes as {g.placements}, expected"
                    f" {p.placements} as the parameter does"
                )


def check_not_captured(optimizer: str) -> None:
    """Raise RuntimeError within the capture of a CUDA graph.

    It would repeat this step for ever: with its lr, its count and addresses of this moment.
    """
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"optimizer {optimizer!r} cannot be captured in a CUDA graph, which would repeat the"
            " numbers and the addresses of one step; capture forward and backward alone, and call"
            " optimizer.step() after each replay"
        )


def lacks_estimate(rule: type[Rule], groups: Sequence[dict[str, Any]]) -> bool:
    """Whether a rule needs a curvature estimate and was never fed one."""
    return rule.observe is not None and not groups[0].get("observations")


def _has_gradients(group: dict[str, Any]) -> bool:
    return any(p.grad is not None for p in group["params"])


def check_ready(
    optimizer: str,
    rule: type[Rule],
    groups: Sequence[dict[str, Any]],
    training: bool,
    gradients_made: bool,
) -> None:
    """Raise RuntimeError for a step in evaluation mode, or without what a program is to give."""
    if not training:
        raise RuntimeError(
            f"optimizer {optimizer!r} is in evaluation mode; call optimizer.train() before step"
        )
    if lacks_estimate(rule, groups) and any(_has_gradients(group) for group in groups):
        raise RuntimeError(
            f"optimizer {optimizer!r} needs a curvature estimate that was never fed: train with"
            " OptBenchTrainer or attach(trainer, ...), or call optimizer.observe() yourself"
            " with the gradients of the estimate"
        )
    if rule.replaces_gradients and not gradients_made:
        raise RuntimeError(
            f"optimizer {optimizer!r} does not step with the gradients of the batch alone, and no"
            f" program ({', '.join(rule.programs)}) has made others: train with OptBenchTrainer or"
            " attach(trainer, ...), or make them yourself and call optimizer.gradients_made()"
        )
