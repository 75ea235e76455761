"""What one step of the engine does and refuses, whatever the rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import CASES
from oracles.comparison import (
    constant_lr,
    make_optimizer,
    make_parameter,
    run_rule,
    set_gradients,
    shapes_of,
    take_step,
)
from oracles.inputs import gradient
from oracles.proof import ALL_SHAPES, Shape
from torch import nn

import optbench_llm as ob

RULES = list(CASES)
TO_NEAREST = [name for name in RULES if "rounding" not in CASES[name][0]]
#: Rules with steps that move nothing, and which those are.
MAY_STAY = {
    "adopt": "its first step only initialises",
    "rprop": "an element stays where its gradient's sign has changed",
    "soap": "its first step only initialises",
}


def make(name: str, shapes: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    shapes = shapes_of(name) if shapes is None else shapes
    params = [make_parameter(shape, i, dtype) for i, shape in enumerate(shapes)]
    return params, make_optimizer(params, name, engine="eager", **CASES[name][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_gradients_are_never_written(name, dtype):
    """Logging, clipping and programs read p.grad after the step: bit for bit as it was."""
    params, optimizer = make(name, dtype=dtype)
    for t in range(1, 4):
        take_step(optimizer, params, shapes_of(name), t)
        seen = [p.grad for p in params]
        set_gradients(params, shapes_of(name), t, gradient, pauses=False)
        assert all(torch.equal(p.grad, old) for p, old in zip(params, seen, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_pauses_count_steps_per_parameter(name):
    """A parameter whose gradient is None keeps value and state, and its own count of steps."""
    params, optimizer = make(name)
    moved = [False] * len(params)
    for t in range(1, 9):
        before = [p.detach().clone() for p in params]
        set_gradients(params, shapes_of(name), t, gradient)
        if optimizer.rule.observe:
            optimizer.observe()
        missing = [p.grad is None for p in params]
        optimizer.gradients_made()
        optimizer.step()
        for index, (p, old) in enumerate(zip(params, before, strict=True)):
            stays = torch.equal(p, old)
            assert stays == missing[index] or (stays and name in MAY_STAY)
            moved[index] |= not stays
    assert all(moved)
    counts = [optimizer.state[p]["step"] for p in params]
    expected = [
        sum((t + 2 * index) % 5 != 3 for t in range(1, 9)) for index in range(len(shapes_of(name)))
    ]
    assert counts == expected


@pytest.mark.parametrize("name", TO_NEAREST)
def test_bf16_parameters_follow_fp32_ones(name):
    """State and arithmetic are fp32; only the parameter itself is rounded, once a step."""
    params, optimizer = make(name, dtype=torch.bfloat16)
    others, other = make(name)
    for t in range(1, 4):
        for p, q in zip(params, others, strict=True):
            q.data.copy_(p.data)
            for key, value in optimizer.state.get(p, {}).items():
                other.state[q][key] = value.clone() if torch.is_tensor(value) else value
        set_gradients(params, shapes_of(name), t, gradient, pauses=False)
        for p, q in zip(params, others, strict=True):
            assert p.grad is not None
            q.grad = p.grad.float()
        for one in (optimizer, other):
            if one.rule.observe:
                one.observe()
            one.gradients_made()
            one.step()
        for p, q in zip(params, others, strict=True):
            assert p.dtype is torch.bfloat16
            assert torch.equal(p, q.bfloat16())
            for key, value in optimizer.state[p].items():
                assert not torch.is_tensor(value) or value.dtype is torch.float32, key
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other.state[q][key]))


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_empty_parameters_are_stepped_over(engine):
    """FSDP hands out empty shards; they get no state and no compilation."""
    empty, full = nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.ones(3))
    optimizer: Any = ob.create_optimizer([empty, full], "adamw", engine=engine, lr=0.1)
    for p in (empty, full):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert empty not in optimizer.state
    assert (full < 1).all()
    optimizer.load_state_dict(optimizer.state_dict())


def test_sparse_gradients_are_refused():
    """With the way out in the message."""
    embedding = nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    optimizer = ob.create_optimizer(embedding.parameters(), "adamw")
    with pytest.raises(RuntimeError, match=r"'adamw' takes dense.*\(10, 4\) is sparse.*sparse=Fal"):
        optimizer.step()


def test_complex_gradients_are_refused():
    """No rule of the catalog is defined for them."""
    p = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"'lion' takes dense real.*\(3,\) is complex"):
        ob.create_optimizer([p], "lion").step()


def test_closure_is_called_with_gradients_enabled():
    """step(closure) evaluates it once and returns its loss."""
    p = nn.Parameter(torch.ones(3))
    optimizer = ob.create_optimizer([p], "sgd", lr=0.1)
    calls = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert torch.allclose(p, torch.full((3,), 0.8))


def test_sophia_refuses_to_step_without_a_curvature_estimate():
    """An estimate that was never fed is how published Sophia rows went wrong."""
    params, optimizer = make("sophia")
    set_gradients(params, ALL_SHAPES, 1, gradient, pauses=False)
    with pytest.raises(RuntimeError, match=r"'sophia' needs a curvature estimate.*observe\(\)"):
        optimizer.step()
    optimizer.observe(scale=2.0)
    optimizer.step()
    state = optimizer.state_dict()
    _, other = make("sophia")
    other.load_state_dict(state)
    other.step()


def test_observe_belongs_to_rules_with_a_curvature_slot():
    """Others say so instead of ignoring it."""
    _, optimizer = make("adamw")
    with pytest.raises(RuntimeError, match="'adamw' takes in no second gradient"):
        optimizer.observe()


def test_observing_counts_no_step_and_moves_no_parameter():
    """The curvature estimate is an exponential average of scaled squares, nothing else."""
    params, optimizer = make("sophia", (Shape((5, 8)),))
    p, h = params[0], CASES["sophia"][0]
    before = p.detach().clone()
    p.grad = torch.from_numpy(gradient((5, 8), 0, 1)).float()
    for _ in range(2):
        optimizer.observe(scale=4.0)
    weight = 1 - h["betas"][1]
    expected = 4.0 * p.grad**2 * (weight + weight * (1 - weight))
    assert torch.allclose(optimizer.state[p]["hessian"], expected, rtol=1e-6)
    assert torch.equal(p, before)
    assert optimizer.state[p]["step"] == 0


def test_groups_keep_their_own_settings():
    """Two groups step as two optimizers would, bit for bit."""
    shapes = (Shape((5, 8)), Shape((7,)))
    first = {**CASES["adamw"][0], "weight_decay": 0.0}
    second = {**CASES["adamw"][0], "lr": 0.2, "betas": (0.5, 0.6)}

    def params() -> list[nn.Parameter]:
        return [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]

    together, apart = params(), params()
    both = ob.create_optimizer(
        [{"params": [together[0]], **first}, {"params": [together[1]], **second}], "adamw"
    )
    one = ob.create_optimizer([apart[0]], "adamw", **first)
    two = ob.create_optimizer([apart[1]], "adamw", **second)
    for t in range(1, 5):
        for group in (together, apart):
            set_gradients(group, shapes, t, gradient, pauses=False)
        for optimizer in (both, one, two):
            optimizer.step()
    assert all(map(torch.equal, together, apart))


def test_a_group_added_in_mid_run_is_stepped_and_checked():
    """Unfreezing layers later works; a wrong setting in the new group is named."""
    params, optimizer = make("lamb", (Shape((5, 8)), Shape((7,))))
    take_step(optimizer, params, (Shape((5, 8)), Shape((7,))), 1)
    late = make_parameter(Shape((4, 4)), 5, torch.float32)
    with pytest.raises(ValueError, match="'lamb' has no hyperparameter 'weight_dekay'"):
        optimizer.add_param_group({"params": [late], "weight_dekay": 0.1})
    optimizer.add_param_group({"params": [late], "lr": 0.5})
    before = late.detach().clone()
    late.grad = torch.ones_like(late)
    optimizer.step()
    assert not torch.equal(late, before)
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_can_be_raised_from_zero_in_mid_run(name):
    """The slot that it needs is made then, and earlier state is kept."""
    params, optimizer = make(name, (Shape((5, 8)),))
    optimizer.param_groups[0]["momentum"] = 0.0
    take_step(optimizer, params, (Shape((5, 8)),), 1)
    assert "momentum_buffer" not in optimizer.state[params[0]]
    optimizer.param_groups[0]["momentum"] = 0.9
    take_step(optimizer, params, (Shape((5, 8)),), 2)
    assert optimizer.state[params[0]]["step"] == 2
    assert optimizer.state[params[0]]["momentum_buffer"].abs().max() > 0


SCHEDULERS = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=21),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_drive_adamw_as_they_drive_torch(kind):
    """Also the one that cycles betas, and one resumed from its state in the middle."""
    shapes, h = (Shape((5, 8)),), CASES["adamw"][0]
    p, q = (make_parameter(shapes[0], 0, torch.float64) for _ in range(2))
    ours = ob.create_optimizer([p], "adamw", **h)
    theirs = torch.optim.AdamW([q], **h)
    schedules = [SCHEDULERS[kind](o) for o in (ours, theirs)]
    for t in range(1, 21):
        p.grad = torch.from_numpy(gradient((5, 8), 0, t))
        q.grad = p.grad.clone()
        for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert torch.allclose(p, q, rtol=1e-12)


def test_adabound_knows_the_first_lr_through_a_warm_up():
    """Its final rate follows lr over the schedule's peak, though the first lr is 0."""
    p = make_parameter(Shape((5, 8)), 0, torch.float64)
    optimizer = ob.create_optimizer([p], "adabound", lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, t / 4))
    for t in range(1, 9):
        p.grad = torch.from_numpy(gradient((5, 8), 0, t))
        optimizer.step()
        schedule.step()
    assert optimizer.state[p]["base_lr"] == 0.1


def test_an_lr_tensor_in_a_group_is_read():
    """Some schedulers keep lr as a tensor."""
    shapes, h = (Shape((5, 8)),), CASES["lion"][0]
    (expected,) = run_rule("lion", h, shapes, torch.float32, "eager", schedule=constant_lr)
    (found,) = run_rule(
        "lion", h, shapes, torch.float32, "eager", schedule=lambda lr, t: torch.tensor(lr).double()
    )
    assert (expected == found).all()


def test_engine_is_chosen_by_size():
    """Small models do not wait for a compiler; the choice can be forced, a wrong one is named."""
    p = nn.Parameter(torch.zeros(4))
    assert ob.create_optimizer([p], "adamw").engine == "eager"
    assert ob.create_optimizer([p], "adamw", engine="compiled").engine == "compiled"
    large = nn.Parameter(torch.empty(16_000_000))
    assert ob.create_optimizer([large], "adamw").engine == "compiled"
    with pytest.raises(ValueError, match="engine 'fast', expected one of auto, eager, compiled"):
        ob.create_optimizer([p], "adamw", engine="fast")
