"""A state that overflowed is reported with optimizer, slot, parameter and step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import optbench_llm as ob
from optbench_llm.engine.finite import check_finite
from optbench_llm.engine.limits import bounded, largest_gradient


def step(spec: str, gradient: float, times: int = 3):
    p = nn.Parameter(torch.ones(64, 128))
    optimizer = ob.create_optimizer([p], spec, engine="eager")
    for _ in range(times):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("spec", ["adamw", "adamw@bf16", "adamw@int8"])
def test_an_overflow_is_reported(spec):
    """A gradient that is no number is not hidden."""
    optimizer = step(spec, math.inf, 1)
    with pytest.raises(FloatingPointError, match=rf"{spec}.*'exp_avg_sq' of parameter 0.*step 1:"):
        check_finite(spec, optimizer.param_groups, optimizer.state)


@pytest.mark.parametrize("gradient", [1e3, 3e38])
@pytest.mark.parametrize("spec", ["adamw", "adamw@bf16", "adamw@int8", "lion@int8"])
def test_a_finite_state_is_not(spec, gradient):
    """Nor one that has no slots yet; a huge gradient leaves the state finite."""
    for times in (0, 3):
        optimizer = step(spec, gradient, times)
        check_finite(spec, optimizer.param_groups, optimizer.state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordinary_gradients_are_not_touched(dtype):
    """Not a bit of them, up to the bound; what is not finite becomes NaN."""
    limit = largest_gradient(dtype)
    tiny = torch.finfo(dtype).smallest_normal / 2
    g = torch.tensor([0.0, 1.0, tiny, limit, 1e4], dtype=dtype)
    g = torch.cat([g, -g])
    assert torch.equal(bounded(g), g)
    assert torch.equal(bounded(g).signbit(), g.signbit())
    wild = torch.tensor([2 * limit, -2 * limit, math.inf, -math.inf, math.nan], dtype=dtype)
    assert bounded(wild).tolist()[:2] == [limit, -limit]
    assert bounded(wild)[2:].isnan().all()


def test_the_parameter_is_named_if_it_has_a_name():
    """torch keeps the names of named parameters."""
    model = nn.Linear(4, 4)
    optimizer = ob.create_optimizer(model.named_parameters(), "lion", engine="eager")
    model.weight.grad = torch.full_like(model.weight, float("nan"))
    optimizer.step()
    with pytest.raises(FloatingPointError, match="'exp_avg' of parameter 'weight'"):
        check_finite("lion", optimizer.param_groups, optimizer.state)
