"""A state that overflowed is reported with optimizer, slot, parameter and step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import optbench_llm as ob
from optbench_llm.engine.finite import check_finite


def step(spec: str, gradient: float, times: int = 3):
    p = nn.Parameter(torch.ones(64, 128))
    optimizer = ob.create_optimizer([p], spec, engine="eager")
    for _ in range(times):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("spec", ["adamw", "adamw@bf16", "adamw@int8"])
def test_an_overflow_is_reported(spec):
    """The square of 1e30 is beyond fp32."""
    optimizer = step(spec, 1e30, 1)
    with pytest.raises(FloatingPointError, match=rf"{spec}.*'exp_avg_sq' of parameter 0.*step 1:"):
        check_finite(spec, optimizer.param_groups, optimizer.state)


@pytest.mark.parametrize("spec", ["adamw", "adamw@bf16", "adamw@int8", "lion@int8"])
def test_a_finite_state_is_not(spec):
    """Nor one that has no slots yet."""
    for times in (0, 3):
        optimizer = step(spec, 1e3, times)
        check_finite(spec, optimizer.param_groups, optimizer.state)


def test_the_parameter_is_named_if_it_has_a_name():
    """torch keeps the names of named parameters."""
    model = nn.Linear(4, 4)
    optimizer = ob.create_optimizer(model.named_parameters(), "lion", engine="eager")
    model.weight.grad = torch.full_like(model.weight, float("nan"))
    optimizer.step()
    with pytest.raises(FloatingPointError, match="'exp_avg' of parameter 'weight'"):
        check_finite("lion", optimizer.param_groups, optimizer.state)
