"""The compiled path: one graph a shape and phase, made once, whatever changes from step to step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import CASES
from oracles.comparison import Shape, lr_at, make_parameter, take_step
from torch._dynamo.utils import counters

import optbench_llm as ob

SHAPES = (Shape((5, 8)), Shape((7,)))


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def make(spec: str, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    params = [make_parameter(shape, i, dtype) for i, shape in enumerate(shapes)]
    case = CASES[spec.partition("@")[0]][0]
    return params, ob.create_optimizer(params, spec, engine="compiled", **case)


@pytest.mark.parametrize(
    ("name", "phases"), [("adamw", 1), ("lamb", 2), ("sophia", 2), ("adabelief", 1)]
)
def test_nothing_recompiles_after_the_first_step(name, phases):
    """lr, step counts, pauses and other changed hyperparameters are data, not code."""
    params, optimizer = make(name)
    assert optimizer.engine == "compiled"  # asks, by compiling a line once a process
    before = graphs()
    take_step(optimizer, params, SHAPES, 1)
    assert graphs() - before == phases * len(SHAPES)
    compile_s = optimizer.compile_s
    assert compile_s > 0
    for t in range(2, 12):
        group = optimizer.param_groups[0]
        group["lr"] = lr_at(0.1, t)
        group["weight_decay"] = 0.01 * t
        group["betas"] = (0.8 + 0.01 * t, 0.95)
        take_step(optimizer, params, SHAPES, t, pauses=True)
    assert graphs() - before == phases * len(SHAPES)
    assert optimizer.compile_s == compile_s


def test_a_schedule_recompiles_nothing():
    """A scheduler that writes tensors or floats into the group's lr."""
    params, optimizer = make("lion")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    take_step(optimizer, params, SHAPES, 1)
    before = graphs()
    for t in range(2, 8):
        schedule.step()
        take_step(optimizer, params, SHAPES, t)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    take_step(optimizer, params, SHAPES, 8)
    assert graphs() == before


def test_parameters_of_one_shape_share_a_graph():
    """A model of many layers compiles as often as it has distinct shapes."""
    shapes = (Shape((5, 8)),) * 12 + (Shape((7,)),) * 12
    params, optimizer = make("adamw", shapes)
    before = graphs()
    take_step(optimizer, params, shapes, 1)
    assert graphs() - before == 2


def test_many_shapes_do_not_fall_back_to_eager():
    """Dynamo gives up on a function that recompiles often; ours has one for each shape."""
    shapes = tuple(Shape((n,)) for n in range(2, 14))
    params, optimizer = make("sgd", shapes)
    before = graphs()
    take_step(optimizer, params, shapes, 1)
    assert graphs() - before == len(shapes)
    assert not counters["graph_break"]


def test_a_resumed_compiled_run_is_the_uninterrupted_one():
    """Loading a state recompiles nothing and changes no bit."""
    params, optimizer = make("adamw")
    for t in range(1, 4):
        take_step(optimizer, params, SHAPES, t)
    others, other = make("adamw")
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(optimizer.state_dict())
    take_step(other, others, SHAPES, 4)
    before = graphs()
    other.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    for t in range(4, 8):
        take_step(optimizer, params, SHAPES, t)
        take_step(other, others, SHAPES, t)
    assert graphs() == before
    assert all(map(torch.equal, params, others))


@pytest.mark.parametrize("spec", ["adamw@int8", "adamw@bf16"])
def test_storage_compiles_into_the_step(spec):
    """One graph decodes, steps and encodes; compiled and eager state agree in nearly every code."""
    shapes = (Shape((64, 80)),)
    params, optimizer = make(spec, shapes)
    others = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
    other: Any = ob.create_optimizer(others, spec, engine="eager", **CASES["adamw"][0])
    before = graphs()
    for t in range(1, 6):
        take_step(optimizer, params, shapes, t)
        take_step(other, others, shapes, t)
    assert graphs() - before == 1
    a, b = optimizer.state[params[0]]["exp_avg"], other.state[others[0]]["exp_avg"]
    assert a.dtype == b.dtype == (torch.int8 if "int8" in spec else torch.bfloat16)
    assert (a.float() != b.float()).float().mean() < 0.01
    assert (params[0] - others[0]).abs().max() < 1e-3
