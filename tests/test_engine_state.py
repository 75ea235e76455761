"""State goes out and comes back bit for bit, whatever the storage, the mode and the way."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from marks import slow
from oracles import CASES
from oracles.comparison import (
    bearable,
    make_optimizer,
    make_parameter,
    shapes_of,
    take_step,
)
from oracles.proof import Shape

import optbench_llm as ob

SCHEDULE_FREE = [
    name for name in CASES if ob.optimizer_info(name).rule_class().evaluation_point is not None
]
BIG = (Shape((64, 80)), Shape((7,)), Shape((70, 64), transposed=True))
STORED = [f"{name}@{storage}" for name in CASES for storage in ("bf16", "int8")]


def make(spec: str, shapes: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    shapes = shapes_of(spec) if shapes is None else shapes
    params = [make_parameter(shape, i, dtype) for i, shape in enumerate(shapes)]
    case = CASES[spec.partition("@")[0]][0]
    return params, make_optimizer(params, spec, engine="eager", **case)


def make_or_skip(spec: str, shapes: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    try:
        return make(spec, shapes, dtype)
    except ValueError as error:
        if "storage" not in str(error):
            raise
        pytest.skip(str(error))


def through_a_file(state: Any) -> Any:
    """The way of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def assert_same(params: Any, optimizer: Any, others: Any, other: Any) -> None:
    """Parameters and all state agree in names, dtypes and every bit."""
    for p, q in zip(params, others, strict=True):
        assert p.dtype == q.dtype
        assert torch.equal(bits(p), bits(q))
        a, b = optimizer.state.get(p, {}), other.state.get(q, {})
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == b[key].dtype
                assert torch.equal(bits(value), bits(b[key])), key
            else:
                assert value == b[key]
                assert type(value) is type(b[key])


def resume(spec: str, shapes: Any, dtype: torch.dtype, params: Any, state: Any) -> Any:
    """A fresh optimizer over copies of the parameters, with a saved state."""
    others, other = make(spec, shapes, dtype)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(through_a_file(state))
    return others, other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [*CASES, *STORED])
def test_resumed_steps_are_the_uninterrupted_ones(spec, dtype):
    """Save after 5 of 10 steps, load with weights_only=True: the same bits after 10."""
    shapes = bearable(spec, BIG) if "@" in spec else shapes_of(spec)
    params, optimizer = make_or_skip(spec, shapes, dtype)
    for t in range(1, 6):
        take_step(optimizer, params, shapes, t, pauses=True)
    others, other = resume(spec, shapes, dtype, params, optimizer.state_dict())
    assert_same(params, optimizer, others, other)
    for t in range(6, 11):
        take_step(optimizer, params, shapes, t, pauses=True)
        take_step(other, others, shapes, t, pauses=True)
    assert_same(params, optimizer, others, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", SCHEDULE_FREE)
def test_schedule_free_resumes_from_evaluation_mode(spec, dtype):
    """A checkpoint holds x; loaded, train() brings back y bit for bit and the run goes on."""
    params, optimizer = make(spec, dtype=dtype)
    for t in range(1, 6):
        take_step(optimizer, params, shapes_of(spec), t)
    trained = [p.detach().clone() for p in params]
    optimizer.eval()
    assert not all(map(torch.equal, params, trained))
    others, other = resume(spec, shapes_of(spec), dtype, params, optimizer.state_dict())
    for a in (optimizer, other):
        a.train()
    assert all(map(torch.equal, params, trained))
    for t in range(6, 9):
        take_step(optimizer, params, shapes_of(spec), t)
        take_step(other, others, shapes_of(spec), t)
    assert_same(params, optimizer, others, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_evaluation_and_back_changes_nothing(name, dtype):
    """Any number of eval() and train() in any order; a step in evaluation mode is refused."""
    params, optimizer = make(name, dtype=dtype)
    for t in range(1, 4):
        take_step(optimizer, params, shapes_of(name), t)
    before, state = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
    optimizer.train()
    optimizer.eval()
    at_x = [p.detach().clone() for p in params]
    optimizer.eval()
    assert all(map(torch.equal, params, at_x))
    with pytest.raises(RuntimeError, match=r"evaluation mode.*train\(\)"):
        optimizer.step()
    optimizer.train()
    assert all(map(torch.equal, params, before))
    others, other = resume(name, shapes_of(name), dtype, before, state)
    assert_same(params, optimizer, others, other)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SCHEDULE_FREE])
def test_evaluation_mode_is_nothing_to_other_rules(name):
    """eval() and train() leave their parameters and state alone, and steps go on."""
    params, optimizer = make(name)
    take_step(optimizer, params, shapes_of(name), 1)
    before, state = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    assert all(map(torch.equal, params, before))
    assert state["state"].keys() == optimizer.state_dict()["state"].keys()
    take_step(optimizer, params, shapes_of(name), 2)


@pytest.mark.parametrize("spec", [*CASES, "lion@int8", "adamw@bf16"])
@pytest.mark.parametrize("way", [copy.deepcopy, *slow(lambda x: pickle.loads(pickle.dumps(x)))])
def test_copies_step_as_the_original_does(spec, way):
    """copy.deepcopy and pickle carry parameters, state and settings."""
    shapes = bearable(spec, BIG)
    params, optimizer = make(spec, shapes)
    for t in range(1, 4):
        take_step(optimizer, params, shapes, t)
    other = way(optimizer)
    others = other.param_groups[0]["params"]
    assert_same(params, optimizer, others, other)
    for t in range(4, 7):
        take_step(optimizer, params, shapes, t)
        take_step(other, others, shapes, t)
    assert_same(params, optimizer, others, other)


@pytest.mark.parametrize("spec", ["adamw", "lion@int8", "lamb@bf16", "adafactor", "sophia"])
def test_accelerate_prepare_changes_no_bit(spec):
    """prepare() makes a state_dict round trip, on a fresh optimizer or one in mid-run."""
    params, optimizer = make(spec, BIG, torch.bfloat16)
    others, other = make(spec, BIG, torch.bfloat16)
    for t in range(1, 9):
        if t in (1, 5):
            Accelerator(cpu=True).prepare(other)
        take_step(optimizer, params, BIG, t)
        take_step(other, others, BIG, t)
    assert_same(params, optimizer, others, other)


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_accelerate_passes_the_modes_on(name):
    """The prepared optimizer's eval() and train() reach ours."""
    params, optimizer = make(name)
    take_step(optimizer, params, shapes_of(name), 1)
    take_step(optimizer, params, shapes_of(name), 2)
    before = [p.detach().clone() for p in params]
    prepared: Any = Accelerator(cpu=True).prepare(optimizer)
    prepared.eval()
    assert not all(map(torch.equal, params, before))
    prepared.train()
    assert all(map(torch.equal, params, before))


def test_state_of_another_optimizer_or_storage_is_refused():
    """Its slots would be taken for ours, or be missing."""
    params, optimizer = make("adamw")
    take_step(optimizer, params, shapes_of("adamw"), 1)
    for spec in ("adam", "adamw@bf16"):
        _, other = make(spec)
        with pytest.raises(ValueError, match=rf"state of 'adamw', the optimizer is '{spec}'"):
            other.load_state_dict(optimizer.state_dict())


def test_loading_does_not_share_memory():
    """Two optimizers loaded from one state_dict do not step into each other's moments."""
    params, optimizer = make("adamw")
    take_step(optimizer, params, shapes_of("adamw"), 1)
    others, other = make("adamw")
    other.load_state_dict(optimizer.state_dict())
    kept = optimizer.state[params[0]]["exp_avg"].clone()
    take_step(other, others, shapes_of("adamw"), 2)
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], kept)
