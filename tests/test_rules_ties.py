"""Laws that tie rules to one another, and to geometry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import CASES
from oracles.comparison import ALL_SHAPES, Shape, constant_lr, make_parameter, run_rule
from oracles.inputs import gradient, parameter
from torch import nn

import optbench_llm as ob

VECTORS = (Shape(()), Shape((7,)))
ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}
SGD = {"lr": 0.05, "momentum": 0.8}


def final(
    name: str, shapes: Any = ALL_SHAPES, dtype: torch.dtype = torch.float64, **h: Any
) -> list[torch.Tensor]:
    """The parameters after 20 steps; hyperparameters that are not given keep their defaults."""
    paths = run_rule(name, h, shapes, dtype, "eager", schedule=constant_lr)
    return [torch.as_tensor(path[-1]) for path in paths]


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(a, b, strict=True))


def test_adam_without_weight_decay_is_adamw_without():
    """The two differ in their decay alone, bit for bit in fp32."""
    adam, adamw = (
        final(name, dtype=torch.float32, **ADAM, weight_decay=0.0) for name in ("adam", "adamw")
    )
    assert all(map(torch.equal, adam, adamw))


def test_coupled_and_decoupled_weight_decay_differ():
    """Else the law above would hold for a rule that forgets its decay."""
    assert not close(
        final("adam", **ADAM, weight_decay=0.1), final("adamw", **ADAM, weight_decay=0.1)
    )


def test_adamp_on_vectors_is_adamw():
    """Vectors and scalars are never projected; the decay is decoupled."""
    ours = final("adamp", VECTORS, **ADAM, weight_decay=0.1, delta=5.0)
    assert close(ours, final("adamw", VECTORS, **ADAM, weight_decay=0.1))


def test_sgdp_on_vectors_is_sgd():
    """Without weight decay and dampening."""
    ours = final("sgdp", VECTORS, **SGD, weight_decay=0.0, delta=5.0)
    assert close(ours, final("sgd", VECTORS, **SGD, weight_decay=0.0))


@pytest.mark.parametrize(("name", "h"), [("adamp", ADAM), ("sgdp", SGD)])
def test_a_delta_near_zero_never_projects(name, h):
    """Then AdamP is AdamW and SGDP is SGD on matrices too."""
    base = {"adamp": "adamw", "sgdp": "sgd"}[name]
    assert close(
        final(name, **h, weight_decay=0.0, delta=1e-12), final(base, **h, weight_decay=0.0)
    )


@pytest.mark.parametrize(("name", "h"), [("adamp", ADAM), ("sgdp", SGD)])
def test_a_projected_step_is_orthogonal_to_each_channel(name, h):
    """With a large delta every step is: channels keep their norms to first order."""
    p = make_parameter(Shape((5, 8)), 0, torch.float64)
    optimizer = ob.create_optimizer([p], name, delta=100.0, weight_decay=0.0, **{**h, "eps": 1e-20})
    before = p.detach().clone()
    p.grad = torch.from_numpy(gradient((5, 8), 0, 1))
    optimizer.step()
    step = p.detach() - before
    assert (step * before).sum(1).abs().max() < 1e-12 * step.abs().max()


def test_lion_with_equal_betas_is_sophia_without_curvature():
    """Both then move by the sign of the same momentum."""
    p, q = (make_parameter(Shape((5, 8)), 0, torch.float64) for _ in range(2))
    lion = ob.create_optimizer([p], "lion", lr=0.05, betas=(0.9, 0.9), weight_decay=0.1)
    sophia: Any = ob.create_optimizer([q], "sophia", lr=0.05, betas=(0.9, 0.9), weight_decay=0.1)
    for t in range(1, 7):
        q.grad = torch.zeros_like(q)
        sophia.observe()
        p.grad = torch.from_numpy(gradient((5, 8), 0, t))
        q.grad = p.grad.clone()
        lion.step()
        sophia.step()
    assert torch.allclose(p, q, rtol=1e-12)


def test_lamb_moves_every_tensor_by_lr_times_its_norm():
    """The trust ratio makes the step's length a fixed fraction of the tensor's."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        params = [make_parameter(shape, i, dtype) for i, shape in enumerate(ALL_SHAPES)]
        optimizer = ob.create_optimizer(params, "lamb", **{**CASES["lamb"][0], "lr": 0.03})
        for t in range(1, 4):
            before = [p.detach().clone() for p in params]
            for i, (p, shape) in enumerate(zip(params, ALL_SHAPES, strict=True)):
                p.grad = torch.from_numpy(gradient(shape.sizes, i, t)).to(dtype)
            optimizer.step()
            for p, old in zip(params, before, strict=True):
                expected = 0.03 * old.norm()
                assert abs((p - old).norm() - expected) < tolerance * expected


def test_lars_first_step_is_the_trust_coefficient_times_the_norm():
    """Without weight decay and eps, whatever the gradient's size."""
    p = make_parameter(Shape((5, 8)), 0, torch.float64)
    optimizer = ob.create_optimizer([p], "lars", lr=0.5, trust_coefficient=0.02, eps=0.0)
    before = p.detach().clone()
    p.grad = torch.from_numpy(gradient((5, 8), 0, 1)) * 1e4
    optimizer.step()
    assert torch.isclose((p - before).norm(), 0.5 * 0.02 * before.norm(), rtol=1e-12)


def test_schedule_free_sgd_evaluates_at_the_mean_of_its_base_sequence():
    """With a constant lr every z counts the same."""
    p = make_parameter(Shape((5, 8)), 0, torch.float64)
    optimizer: Any = ob.create_optimizer([p], "sgd-schedulefree", lr=0.1)
    bases = []
    for t in range(1, 9):
        p.grad = torch.from_numpy(gradient((5, 8), 0, t))
        optimizer.step()
        bases.append(optimizer.state[p]["z"].clone())
    optimizer.eval()
    assert torch.allclose(p, torch.stack(bases).mean(0), rtol=1e-12)


def test_adabound_with_wide_bounds_is_adam():
    """A final rate that is far off and barely approached leaves Adam's steps unclipped."""
    start = torch.from_numpy(parameter((5, 8), 0))
    h = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-12}
    adabound = final("adabound", (Shape((5, 8)),), **h, gamma=1e-9, final_lr=0.05)[0]
    adam = final("adam", (Shape((5, 8)),), **h)[0]
    assert (adabound - adam).abs().max() < 1e-6 * (adam - start).abs().max()


def test_adafactor_does_not_mind_a_transposed_weight():
    """Rows and columns play the same part, so transformers' Conv1D needs no turning."""
    weight, g = torch.from_numpy(parameter((5, 8), 0)), torch.from_numpy(gradient((5, 8), 0, 1))
    p, q = nn.Parameter(weight.clone()), nn.Parameter(weight.t().contiguous())
    optimizers = [ob.create_optimizer([x], "adafactor", lr=0.1) for x in (p, q)]
    for _ in range(3):
        p.grad, q.grad = g.clone(), g.t().contiguous()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(p.t(), q, rtol=1e-12)


def test_adafactor_of_a_rank_one_square_is_exact():
    """Where the squared gradient has rank one, the factored second moment is the true one."""
    row, column = torch.linspace(1, 2, 5).double(), torch.linspace(0.5, 3, 8).double()
    p = nn.Parameter(torch.zeros(5, 8, dtype=torch.float64))
    optimizer = ob.create_optimizer(
        [p], "adafactor", lr=0.1, scale_parameter=False, relative_step=False, clip_threshold=2.0
    )
    p.grad = row[:, None] * column
    optimizer.step()
    assert torch.allclose(p, torch.full_like(p, -0.1), rtol=1e-12)


def test_adam_without_memory_steps_by_the_sign():
    """Betas of 0 leave nothing of a gradient that was a hundred thousand times larger."""
    p = nn.Parameter(torch.zeros(3))
    optimizer = ob.create_optimizer([p], "adam", lr=0.1, betas=(0.0, 0.0), eps=0.0)
    for g, expected in ((1.0, -0.1), (1e-5, -0.2), (-1e-10, -0.1)):
        p.grad = torch.full((3,), g)
        optimizer.step()
        assert torch.allclose(p, torch.full((3,), expected))
