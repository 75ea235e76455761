"""Laws of the rules with a preconditioner for each side: their limits, and what they ignore."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from oracles.inputs import gradient, parameter
from torch import Tensor

import optbench_llm as ob

STEPS = 12
SQUARE = (5, 5)
SOAP = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-20, "precondition_frequency": 3}


def gradients(shape: tuple[int, ...], count: int = STEPS) -> list[Tensor]:
    """As many gradients of one parameter."""
    return [torch.from_numpy(gradient(shape, 0, t)) for t in range(1, count + 1)]


def walk(name: str, start: Tensor, grads: Sequence[Tensor], **h: Any) -> list[Tensor]:
    """The parameter at first and after each step."""
    p = torch.nn.Parameter(start.clone())
    groups: Any = [{"params": [p], "role": "matrix"}]
    optimizer = ob.create_optimizer(groups, name, engine="eager", weight_decay=0.0, **h)
    path = [start]
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        path.append(p.detach().clone())
    return path


def rotations(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """An orthogonal matrix for each side."""
    left, right = (torch.from_numpy(gradient((n, n), 7, 1)) for n in (rows, columns))
    return torch.linalg.qr(left)[0], torch.linalg.qr(right)[0]


def close(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 1e-9) -> bool:
    return all(
        torch.allclose(x, y, rtol=tolerance, atol=tolerance) for x, y in zip(a, b, strict=True)
    )


def test_soap_without_bases_is_adamw_after_its_first_step():
    """With both sides too long for a basis, once its first gradient has only initialised."""
    start, grads = torch.from_numpy(parameter((4, 6), 0)), gradients((4, 6))
    adamw = walk("adamw", start, grads[1:], lr=0.05, betas=(0.8, 0.9), eps=1e-20)
    assert close(walk("soap", start, grads, **SOAP, max_precond_dim=3)[1:], adamw)
    assert not close(walk("soap", start, grads, **SOAP, max_precond_dim=4)[1:], adamw, 1e-3)


def test_soap_of_diagonal_gradients_is_adamw():
    """Their eigenbasis is the identity, up to signs and order."""
    start = torch.from_numpy(parameter(SQUARE, 0))
    adam = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-12}
    for diagonal in (True, False):
        grads = [g.diag().diag() if diagonal else g for g in gradients(SQUARE)]
        adamw = walk("adamw", start, grads[1:], **adam)
        soap = walk("soap", start, grads, **adam, precondition_frequency=3)[1:]
        assert close(soap, adamw, 1e-9 if diagonal else 1e-3) == diagonal


def test_soap_turns_with_its_gradients():
    """In other orthonormal coordinates of rows and columns it takes the same path; AdamW not."""
    left, right = rotations(*SQUARE)
    start, grads = torch.from_numpy(parameter(SQUARE, 0)), gradients(SQUARE)
    for name, h, same in (("soap", SOAP, True), ("adamw", {"lr": 0.05}, False)):
        path = [left @ p @ right for p in walk(name, start, grads, **h)]
        other = walk(name, left @ start @ right, [left @ g @ right for g in grads], **h)
        assert close(path, other, 1e-7) == same


def test_shampoo_before_its_first_roots_is_adamw():
    """Up to the first step that the frequency divides, and no further."""
    start, grads = torch.from_numpy(parameter(SQUARE, 0)), gradients(SQUARE)
    h = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3}
    adamw, shampoo = (
        walk(name, start, grads, **h, **more)
        for name, more in (("adamw", {}), ("shampoo", {"precondition_frequency": 6}))
    )
    assert close(shampoo[:6], adamw[:6])
    assert not close(shampoo[6:], adamw[6:], 1e-3)


def test_shampoo_takes_the_polar_factor_of_its_first_gradient():
    """L = G G' and R = G' G make it U V'; Adam's first step lends the length, an lr an element.

    One side alone, by its root -1/2, comes to the same.
    """
    for shape, limit in ((SQUARE, 5), ((4, 6), 5), ((6, 4), 5)):
        start, (g,) = torch.from_numpy(parameter(shape, 0)), gradients(shape, 1)
        h = {"lr": 0.05, "eps": 0.0, "matrix_eps": 0.0, "precondition_frequency": 1}
        before, after = walk("shampoo", start, [g], **h, max_precond_dim=limit)
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        expected = u @ vh * (g.numel() / min(shape)) ** 0.5
        assert torch.allclose(before - after, 0.05 * expected, rtol=1e-9)


def test_shampoo_of_a_rank_one_gradient_steps_along_it():
    """Both roots only scale a gradient of rank one; Adam would take its signs."""
    u, v = torch.linspace(1, 2, 4).double(), torch.linspace(0.5, 3, 6).double()
    start, g = torch.from_numpy(parameter((4, 6), 0)), u[:, None] * v
    before, after = walk("shampoo", start, [g], lr=0.05, precondition_frequency=1)
    expected = 0.05 * g * (24**0.5 / g.norm())
    assert torch.allclose(before - after, expected, rtol=1e-6)
    assert not torch.allclose(expected, torch.full_like(expected, 0.05), rtol=0.1)


def test_shampoo_directions_turn_with_its_gradients():
    """In other orthonormal coordinates it goes the same way, only as far as Adam does there."""
    left, right = rotations(*SQUARE)
    start, grads = torch.from_numpy(parameter(SQUARE, 0)), gradients(SQUARE)
    h = {"lr": 0.05, "betas": (0.8, 0.9)}
    for name, more, same in (
        ("shampoo", {"matrix_eps": 0.0, "precondition_frequency": 2}, True),
        ("adamw", {}, False),
    ):
        path = [left @ p @ right for p in walk(name, start, grads, **h, **more)]
        other = walk(name, left @ start @ right, [left @ g @ right for g in grads], **h, **more)
        assert close(directions(path[1:]), directions(other[1:]), 1e-7) == same


def directions(path: Sequence[Tensor]) -> list[Tensor]:
    """Each step divided by its length."""
    steps = [new - old for old, new in pairwise(path)]
    return [step / step.norm() for step in steps]
