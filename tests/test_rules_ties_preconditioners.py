"""Laws of the rules with a preconditioner for each side: their limits, and what they ignore."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from oracles.inputs import gradient, parameter
from torch import Tensor

import optbench_llm as ob
from optbench_llm.rules.psgd_kron import fitting_steps, probe

STEPS = 12
SQUARE = (5, 5)
SIDES = ("left", "right")
RULES = ("shampoo", "soap", "psgd-kron")
SOAP = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-20, "precondition_frequency": 3}


def gradients(shape: tuple[int, ...], count: int = STEPS) -> list[Tensor]:
    """As many gradients of one parameter."""
    return [torch.from_numpy(gradient(shape, 0, t)) for t in range(1, count + 1)]


def make(name: str, start: Tensor, **h: Any) -> tuple[torch.nn.Parameter, Any]:
    """One weight matrix and its optimizer."""
    p = torch.nn.Parameter(start.clone())
    groups: Any = [{"params": [p], "role": "matrix"}]
    return p, ob.create_optimizer(groups, name, engine="eager", weight_decay=0.0, **h)


def walk(name: str, start: Tensor, grads: Sequence[Tensor], **h: Any) -> list[Tensor]:
    """The parameter at first and after each step."""
    p, optimizer = make(name, start, **h)
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


def test_psgd_whitens_noise():
    """Fitted to correlated noise, it gives every element variance 1 and undoes correlations."""
    rows, columns = (2 * torch.eye(n) + torch.from_numpy(gradient((n, n), 3, 1)) for n in (4, 3))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1000, 4, 3, dtype=torch.float64, generator=generator)
    h = {"momentum": 0.0, "preconditioner_update_probability": 1.0}
    p, optimizer = make("psgd-kron", torch.zeros(4, 3).double(), **h)
    covariances = []
    for t, n in enumerate(noise):
        optimizer.param_groups[0]["precond_lr"] = 0.1 if t < 300 else 0.01
        p.grad = rows @ n @ columns.t()
        optimizer.step()
        state = optimizer.state[p]
        left, right = (state[f"{side}_factor"].t() @ state[f"{side}_factor"] for side in SIDES)
        root = torch.kron(left @ rows, right @ columns)
        covariances.append(root @ root.t() - torch.eye(12))
    assert covariances[0].abs().max() > 10
    assert torch.stack(covariances[500:]).mean(0).abs().max() < 0.2


def test_psgd_minds_the_product_of_its_factors_alone():
    """Scale moved from one factor to the other changes no step; scale added to one does."""
    start, grads = torch.from_numpy(parameter((4, 6), 0)), gradients((4, 6))

    def path(left: float, right: float) -> list[Tensor]:
        p, optimizer = make("psgd-kron", start, lr=0.05, precond_lr=0.3)
        result = []
        for t, g in enumerate(grads):
            p.grad = g.clone()
            optimizer.step()
            result.append(p.detach().clone())
            if t == 3:
                optimizer.state[p]["left_factor"] *= left
                optimizer.state[p]["right_factor"] *= right
        return result

    plain = path(1.0, 1.0)
    assert close(path(8.0, 1 / 8), plain)
    assert not close(path(0.5, 1.0), plain, 1e-3)


def test_psgd_learns_nothing_from_zeros():
    """A weight without a gradient signal keeps its first factors, however long it waits."""
    p, optimizer = make("psgd-kron", torch.ones(4, 6))
    for _ in range(50):
        p.grad = torch.zeros(4, 6)
        optimizer.step()
    for side, n in zip(SIDES, (4, 6), strict=True):
        assert torch.equal(optimizer.state[p][f"{side}_factor"], torch.eye(n))


def test_psgd_fits_at_every_step_first_and_seldom_later():
    """500 steps one after another, then gaps that grow to 34 by step 4,000."""
    steps = sorted(fitting_steps(None, 8192))
    assert steps[:501] == list(range(1, 502))
    gaps = [later - earlier for earlier, later in pairwise(steps[500:])]
    assert gaps == sorted(gaps)
    assert gaps[0] == 2
    assert {later - earlier for earlier, later in pairwise(steps) if earlier > 4000} == {34}
    assert sorted(fitting_steps(0.4, 12)) == [3, 6, 9, 12]


def test_psgd_probes_are_normal_and_uncorrelated():
    """96 positions over 4,096 steps: moments and correlations stay within chance of a normal's."""
    steps = range(1, 4097)
    probes = torch.stack([probe(torch.zeros(8, 12).double(), t).flatten() for t in steps])
    assert abs(probes.mean()) < 0.01
    assert abs((probes**2).mean() - 1) < 0.01
    assert abs((probes**4).mean() - 3) < 0.1
    covariance = probes.t() @ probes / len(probes) - torch.eye(96)
    assert covariance.abs().max() < 5 / 64
    assert (probes[1:] * probes[:-1]).mean(0).abs().max() < 5 / 64


@pytest.mark.parametrize("name", RULES)
def test_a_late_first_gradient_is_stepped_along(name):
    """A weight that sees zeros at first (one of LoRA's two) then moves, and stays finite."""
    start = torch.from_numpy(parameter((4, 6), 0)).float()
    zeros = [torch.zeros(4, 6)] * 12
    path = walk(name, start, [*zeros, *(g.float() for g in gradients((4, 6)))])
    assert torch.equal(path[12], start)
    assert path[-1].isfinite().all()
    assert ((path[-1] - start).abs() > 1e-4).all()


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_ends_in_the_parameter(name):
    """There a run is seen to have diverged; a factorisation that raises would only be an error."""
    grads = [g.float() for g in gradients((4, 6))]
    grads[4][1, 2] = float("nan")
    path = walk(name, torch.from_numpy(parameter((4, 6), 0)).float(), grads)
    assert path[4].isfinite().all()
    assert path[-1].isnan().any()


@pytest.mark.parametrize("name", RULES)
def test_no_side_of_a_vocabulary_gets_a_square_matrix(name):
    """A side beyond ``max_precond_dim`` costs at most a vector."""
    rule = ob.optimizer_info(name).rule_class()
    h = type("Settings", (), {**rule.settings(), "precond_init_scale": 1.0})
    for shape in ((50257, 768), (768, 50257)):
        sizes = [slot.shape_for(shape) for slot in rule.slots_for(shape, h)]
        assert (768, 768) in sizes
        assert (50257, 50257) not in sizes
