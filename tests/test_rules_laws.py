"""Laws that hold for every rule, and laws that tie rules together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracles.cases import CASES
from oracles.comparison import (
    ALL_SHAPES,
    Shape,
    make_parameter,
    set_gradients,
    take_step,
)
from oracles.inputs import gradient, values

import optbench_llm as ob
from optbench_llm.rules.rule import Rule

RULES = list(CASES)
ELEMENT = ob.list_optimizers(scope="element")
PLAIN_ELEMENT = [name for name in ELEMENT if name in CASES]
WIDER = [name for name in RULES if name not in ELEMENT]
MATRIX = Shape((6, 8))


def make(
    name: str, shapes: Any = ALL_SHAPES, dtype: torch.dtype = torch.float32, **changes: Any
) -> tuple[list[torch.nn.Parameter], Any]:
    """Parameters of the shapes and an eager optimizer with the rule's first case."""
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(shapes)]
    h = {**CASES[name][0], **changes}
    return params, ob.create_optimizer(params, name, engine="eager", **h)


def walk(name: str, shapes: Any = ALL_SHAPES, *, steps: int = 6, **changes: Any) -> list[Any]:
    """The parameters after some steps."""
    params, optimizer = make(name, shapes, **changes)
    for t in range(1, steps + 1):
        take_step(optimizer, params, shapes, t)
    return [p.detach() for p in params]


def rule_of(name: str) -> type[Rule]:
    return ob.optimizer_info(name).rule_class()


@pytest.mark.parametrize("name", RULES)
def test_zero_gradients_without_weight_decay_leave_parameters_alone(name):
    """From the start, what has no gradient signal does not move."""
    params, optimizer = make(name, weight_decay=0.0)
    before = [p.detach().clone() for p in params]
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        if optimizer.program:
            optimizer.observe()
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_an_lr_of_zero_from_the_start_moves_nothing(name):
    """Warm-up that begins at 0 costs nothing."""
    params, optimizer = make(name, lr=0.0)
    before = [p.detach().clone() for p in params]
    for t in range(1, 4):
        take_step(optimizer, params, ALL_SHAPES, t)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


KEEP_MOVING = {
    "adafactor": "its beta1 averages whole updates, lr included",
    "lars": "its lr is inside the momentum, so the momentum of earlier steps carries on",
    "adamw-schedulefree": "y still moves between z and their average",
    "sgd-schedulefree": "y still moves between z and their average",
}


@pytest.mark.parametrize("name", RULES)
def test_an_lr_of_zero_in_the_middle_moves_nothing(name):
    """A schedule that reaches 0 stops the parameters, whatever the state holds."""
    if name in KEEP_MOVING:
        pytest.skip(KEEP_MOVING[name])
    params, optimizer = make(name)
    for t in range(1, 4):
        take_step(optimizer, params, ALL_SHAPES, t)
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = 0.0
    take_step(optimizer, params, ALL_SHAPES, 4)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("name", PLAIN_ELEMENT)
def test_element_scope_commutes_with_splitting_and_permuting(name):
    """Halves stepped apart, or elements in another order, give the whole: FSDP relies on it."""
    whole = Shape((12,))
    order = torch.from_numpy(np.argsort(values((12,), 9)))

    def path(parts: list[Any]) -> torch.Tensor:
        start = make_parameter(whole, 0, torch.float32).detach()
        params = [torch.nn.Parameter(start[part].clone()) for part in parts]
        optimizer: Any = ob.create_optimizer(params, name, engine="eager", **CASES[name][0])
        for t in range(1, 7):
            g = torch.from_numpy(gradient((12,), 0, t)).float()
            for p, part in zip(params, parts, strict=True):
                p.grad = g[part].clone()
            if optimizer.program:
                optimizer.observe()
            optimizer.step()
        return torch.cat([p.detach() for p in params])

    everything = path([slice(None)])
    assert torch.equal(path([slice(0, 5), slice(5, 12)]), everything)
    assert torch.equal(path([order]), everything[order])


@pytest.mark.parametrize("name", WIDER)
def test_wider_scopes_do_not_commute_with_splitting(name):
    """A rule that claims to need the whole tensor does: rows stepped apart end elsewhere."""
    start = make_parameter(MATRIX, 0, torch.float32).detach()
    halves = [torch.nn.Parameter(start[:3].clone()), torch.nn.Parameter(start[3:].clone())]
    optimizer = ob.create_optimizer(halves, name, engine="eager", **CASES[name][0])
    for t in range(1, 7):
        g = torch.from_numpy(gradient(MATRIX.sizes, 0, t)).float()
        halves[0].grad, halves[1].grad = g[:3].clone(), g[3:].clone()
        optimizer.step()
    (whole,) = walk(name, (MATRIX,))
    assert not torch.allclose(torch.cat([p.detach() for p in halves]), whole, atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_state_is_what_the_slots_declare(name):
    """Names, shapes, bytes and signs of the state follow the slots; counters are plain numbers."""
    params, optimizer = make(name)
    for t in range(1, 4):
        take_step(optimizer, params, ALL_SHAPES, t)
    rule = rule_of(name)
    h = type("Settings", (), optimizer.param_groups[0])
    elements = 0
    for p in params:
        slots = rule.slots_for(tuple(p.shape), h)
        state = optimizer.state[p]
        assert set(state) == {"step", *rule.carry, *(slot.name for slot in slots)}
        for slot in slots:
            assert state[slot.name].shape == slot.shape_for(tuple(p.shape))
            assert not slot.positive or (state[slot.name] >= 0).all()
            elements += state[slot.name].numel()
        assert all(isinstance(state[key], (int, float)) for key in ("step", *rule.carry))
    assert optimizer.state_bytes() == 4 * elements


@pytest.mark.parametrize("name", RULES)
def test_state_keeps_its_tensors(name):
    """After the first step no state tensor is replaced, cast or resized: memory does not creep."""
    params, optimizer = make(name)
    take_step(optimizer, params, ALL_SHAPES, 1)

    def tensors() -> list[Any]:
        return [
            (key, value.data_ptr(), value.dtype, value.shape, value.stride())
            for p in params
            for key, value in optimizer.state[p].items()
            if isinstance(value, torch.Tensor)
        ]

    first = tensors()
    for t in range(2, 7):
        take_step(optimizer, params, ALL_SHAPES, t)
    assert tensors() == first


@pytest.mark.parametrize("name", RULES)
def test_two_identical_runs_are_identical(name):
    """Bit for bit."""
    assert all(map(torch.equal, walk(name), walk(name)))


@pytest.mark.parametrize("name", RULES)
def test_hyperparameters_changed_in_the_groups_take_effect(name):
    """Schedulers and sweeps write to param_groups: the next step reads them."""
    changes = {
        "lr": 0.5,
        "betas": 0.5,
        "momentum": 0.5,
        "weight_decay": 2.0,
        "alpha": 0.5,
        "rho": 0.5,
    }

    def run(key: str | None) -> torch.Tensor:
        params, optimizer = make(name, (MATRIX,))
        for t in range(1, 9):
            if t == 5 and key:
                old = optimizer.param_groups[0][key]
                new = tuple(changes[key] * b for b in old) if key == "betas" else old * changes[key]
                optimizer.param_groups[0][key] = new
            take_step(optimizer, params, (MATRIX,), t)
        return params[0].detach()

    plain = run(None)
    for key in changes.keys() & CASES[name][0].keys():
        assert not torch.allclose(run(key), plain, atol=1e-5), key


SCALE_FREE: dict[str, dict[str, Any]] = {
    "adabelief": {"eps": 0.0, "rectify": False},
    "adafactor": {"eps": (0.0, 1e-3)},
    "adagrad": {"eps": 0.0, "initial_accumulator_value": 0.0, "weight_decay": 0.0},
    "adam": {"eps": 0.0, "weight_decay": 0.0},
    "adamax": {"eps": 0.0, "weight_decay": 0.0},
    "adamp": {"eps": 0.0},
    "adamw": {"eps": 0.0},
    "adamw-schedulefree": {"eps": 0.0},
    "adan": {"eps": 0.0},
    "lamb": {"eps": 0.0},
    "lars": {"eps": 0.0, "weight_decay": 0.0},
    "lion": {},
    "nadam": {"eps": 0.0, "weight_decay": 0.0},
    "novograd": {"eps": 0.0},
    "rmsprop": {"eps": 0.0, "weight_decay": 0.0},
}
NOT_SCALE_FREE = {
    "adabound": "its bounds are step sizes in themselves",
    "adadelta": "eps is the seed of its steps and cannot be 0",
    "radam": "takes plain momentum steps before its rectification is defined",
    "sgd": "steps are proportional to the gradient",
    "sgd-schedulefree": "steps are proportional to the gradient",
    "sgdp": "steps are proportional to the gradient",
    "sophia": "divides a gradient by the square of one",
    "yogi": "the signs in its second moment compare with an initial value",
}


@pytest.mark.parametrize("name", RULES)
def test_scale_of_the_gradient_does_not_matter(name):
    """Gradients 1024 times larger give the same path bit for bit, for rules that normalise."""
    if name in NOT_SCALE_FREE:
        pytest.skip(NOT_SCALE_FREE[name])

    def run(scale: float) -> list[torch.Tensor]:
        params, optimizer = make(name, **SCALE_FREE[name])
        for t in range(1, 7):
            set_gradients(params, ALL_SHAPES, t, gradient, pauses=False)
            for p in params:
                assert p.grad is not None
                p.grad *= scale
            optimizer.step()
        return [p.detach() for p in params]

    assert all(map(torch.equal, run(1.0), run(1024.0)))
