"""Checkpoints as other tools hand them over: numbers as tensors, hooks, torch's own DCP."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from marks import slow
from oracles import CASES, PROOFS
from oracles.comparison import make_optimizer, make_parameter, take_step
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import optbench_llm as ob
from optbench_llm.rules.svrg import SNAPSHOT, SNAPSHOT_GRADIENT

WAYS = {
    "by name": {},
    "whole, on the CPU": {"full_state_dict": True, "cpu_offload": True},
    "flat": {"flatten_optimizer_state_dict": True},
}


class Weights(nn.Module):
    """The parameters that a row's proof asks for, by name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.shapes = PROOFS[name].shapes
        self.optimizer_of = name
        params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(self.shapes)]
        self.all = nn.ParameterList(params)

    def optimizer(self, **changes: Any) -> Any:
        case = CASES[self.optimizer_of][0]
        params = [*self.all]
        return make_optimizer(params, self.optimizer_of, engine="eager", **{**case, **changes})

    def copied(self) -> Weights:
        """The same weights, without gradients."""
        other = Weights(self.optimizer_of)
        other.load_state_dict(self.state_dict())
        return other

    def step(self, optimizer: Any, first: int, last: int) -> None:
        for t in range(first, last + 1):
            take_step(optimizer, [*self.all], self.shapes, t)

    def equals(self, other: Weights) -> bool:
        return all(map(torch.equal, self.all, other.all))


def numbers_as_tensors(value: Any) -> Any:
    """The same with every int and float in a tensor; nothing is rounded."""
    if isinstance(value, dict):
        return {
            key: inner if key == "params" else numbers_as_tensors(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(map(numbers_as_tensors, value))
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    return torch.tensor(value) if isinstance(value, int) else value


def same(a: Any, b: Any) -> bool:
    """Whether two states hold the same, tensors compared by their elements."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_come_back_as_tensors_are_numbers(name: str) -> None:
    """The next steps are those of the original, and what was loaded stays as it was."""
    model = Weights(name)
    optimizer = model.optimizer()
    model.step(optimizer, 1, 4)
    state = numbers_as_tensors(copy.deepcopy(optimizer.state_dict()))
    given = copy.deepcopy(state)
    other = model.copied()
    loaded = other.optimizer()
    loaded.load_state_dict(state)
    assert same(loaded.state_dict(), optimizer.state_dict())
    kinds = [{type(v) for v in group.values()} for group in loaded.param_groups]
    assert all(torch.Tensor not in found for found in kinds)
    model.step(optimizer, 5, 8)
    other.step(loaded, 5, 8)
    assert model.equals(other)
    assert same(state, given)


def test_counts_in_fp32_are_whole_again() -> None:
    """torch keeps its own steps so; random bits and schedules of fits go by whole numbers."""
    model = Weights("psgd-kron")
    optimizer = model.optimizer()
    model.step(optimizer, 1, 2)
    state = copy.deepcopy(optimizer.state_dict())
    for own in state["state"].values():
        own["step"] = torch.tensor(float(own["step"]))
    state["param_groups"][0]["max_precond_dim"] = torch.tensor(float(8192))
    optimizer.load_state_dict(state)
    assert all(type(own["step"]) is int for own in optimizer.state.values())
    assert type(optimizer.param_groups[0]["max_precond_dim"]) is int


def stepped_adamw(**settings: Any) -> tuple[nn.Parameter, Any]:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer = ob.create_optimizer([p], "adamw", **settings)
    optimizer.step()
    return p, optimizer


def test_hooks_before_loading_see_the_checkpoint_and_may_change_it() -> None:
    """Even whose it is; the caller's own dict stays as it was but for what they wrote into."""
    _, optimizer = stepped_adamw()
    q, other = stepped_adamw()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["spec"] = "adam"
    seen = []

    def rename(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(given["state"][0]["step"])
        mine = copy.deepcopy(given)
        mine["param_groups"][0].update(spec="adamw", lr=0.25)
        mine["state"][0]["step"] = 7
        return mine

    handle = other.register_load_state_dict_pre_hook(rename)
    other.load_state_dict(state)
    assert seen == [1]
    assert other.state[q]["step"] == 7
    assert other.param_groups[0]["lr"] == 0.25
    handle.remove()
    with pytest.raises(ValueError, match="state of 'adam'"):
        other.load_state_dict(state)


def test_hooks_run_in_torchs_order_and_see_what_torchs_see() -> None:
    """Of two before loading the later gets what the earlier returned; after it all is there."""
    _, optimizer = stepped_adamw()
    state = optimizer.state_dict()
    q = nn.Parameter(torch.ones(3))
    other = ob.create_optimizer([q], "adamw")
    seen: list[Any] = []

    def double(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "state": {0: {**given["state"][0], "step": given["state"][0]["step"] * 2}}}

    other.register_load_state_dict_pre_hook(lambda _, given: seen.append(given["state"][0]["step"]))
    other.register_load_state_dict_pre_hook(double, prepend=True)
    other.register_load_state_dict_post_hook(lambda o: seen.append(dict(o.state[q])))
    other.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)), prepend=True)
    for saved in (1, 5):
        state["state"][0]["step"] = saved
        other.load_state_dict(state)
        step, count, loaded = seen
        seen.clear()
        assert (step, count) == (2 * saved, 1)
        assert loaded["step"] == 2 * saved
        assert torch.equal(loaded["exp_avg"], state["state"][0]["exp_avg"])


def test_hooks_around_state_dict_and_step_run_as_torchs_do() -> None:
    """What they keep in the state, under names of their own, is in nobody's way."""
    p, optimizer = stepped_adamw()
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: o.state.update(test=1))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "more": 2})
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    state = optimizer.state_dict()
    assert state["state"]["test"] == 1
    assert state["more"] == 2
    optimizer.step()
    assert seen == ["before", "after"]
    optimizer.load_state_dict(state)
    assert optimizer.state["test"] == 1
    assert optimizer.state_bytes() == 2 * 4 * p.numel()
    optimizer.check_finite()
    optimizer.step()
    optimizer.step()
    assert optimizer.state[p]["step"] == 4


def test_a_refused_checkpoint_leaves_all_as_it_was() -> None:
    """Hooks of others too: they see the next one that is loaded."""
    p, optimizer = stepped_adamw()
    before = copy.deepcopy(optimizer.state_dict())
    groups = [*before["param_groups"], {**before["param_groups"][0], "params": []}]
    with pytest.raises(ValueError, match=r"different number of parameter groups, 2, .* 1"):
        optimizer.load_state_dict({**before, "param_groups": groups})
    assert same(optimizer.state_dict(), before)
    optimizer.load_state_dict(before)
    assert optimizer.state[p]["step"] == 1


def snapshots(optimizer: Any) -> None:
    """What SVRG's program keeps: a flat checkpoint has all that the state will ever hold."""
    for p, state in optimizer.state.items():
        state |= {SNAPSHOT: p.detach().clone(), SNAPSHOT_GRADIENT: torch.ones_like(p)}


@pytest.mark.parametrize("way", ["by name", *slow("whole, on the CPU", "flat")])
@pytest.mark.parametrize("name", CASES)
def test_dcp_brings_every_row_into_a_fresh_optimizer(name: str, way: str) -> None:
    """torch steps an empty optimizer at lr 0 first; then the steps are those of the original."""
    options = StateDictOptions(**WAYS[way])
    model = Weights(name)
    optimizer = model.optimizer()
    model.step(optimizer, 1, 4)
    if optimizer.rule.kept_by_program:
        snapshots(optimizer)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other = model.copied()
    loaded = other.optimizer()
    set_optimizer_state_dict(other, loaded, state, options=options)
    assert same(loaded.state_dict(), optimizer.state_dict())
    model.step(optimizer, 5, 8)
    other.step(loaded, 5, 8)
    assert model.equals(other)


@pytest.mark.parametrize("name", CASES)
def test_asking_dcp_for_the_state_of_a_fresh_optimizer_is_no_step(name: str) -> None:
    """Every slot is there to be filled, all is 0 steps old, and the first step comes as ever."""
    model = Weights(name)
    plain_model = model.copied()
    plain, asked = plain_model.optimizer(), model.optimizer()
    with torch.no_grad():
        before = [p.clone() for p in model.all]
        # The weights that it is asked with are not those of the first step.
        for p in model.all:
            p += 1
        get_optimizer_state_dict(model, asked)
        assert {own["step"] for own in asked.state.values()} == {0}
        for p, old in zip(model.all, before, strict=True):
            p.copy_(old)
    plain_model.step(plain, 1, 1)
    names = [plain.state[p].keys() for p in plain_model.all]
    kept = set(asked.rule.kept_by_program)
    assert [asked.state[p].keys() - kept for p in model.all] == names
    plain_model.step(plain, 2, 4)
    model.step(asked, 1, 4)
    assert model.equals(plain_model)


@pytest.mark.parametrize("name", ["adamw-schedulefree", "sgd-schedulefree"])
def test_a_fresh_optimizer_that_dcp_asked_is_evaluated_where_it_is(name: str) -> None:
    """Weights that were loaded since are not moved."""
    model = Weights(name)
    optimizer = model.optimizer()
    get_optimizer_state_dict(model, optimizer)
    with torch.no_grad():
        for p in model.all:
            p += 1
    before = [p.detach().clone() for p in model.all]
    optimizer.eval()
    assert all(map(torch.equal, model.all, before))


@pytest.mark.parametrize(("lr", "gradient", "steps"), [(0.0, 0.0, 0), (0.0, 1.0, 1), (0.1, 0.0, 1)])
def test_only_an_lr_and_gradients_of_zero_ask_for_state_alone(lr, gradient, steps) -> None:
    """A warm-up that begins at 0 has counted its first step."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.full_like(p, gradient)
    optimizer = ob.create_optimizer([p], "adamw", lr=lr)
    optimizer.step()
    assert optimizer.state[p]["step"] == steps
    optimizer.step()
    assert optimizer.state[p]["step"] == (steps + 1 if steps else 1)


def test_rows_with_programs_still_refuse_gradients_of_the_batch_alone() -> None:
    """At lr 0 as well, and once there is state."""
    for gradient, first in ((1.0, False), (0.0, True)):
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.full_like(p, gradient)
        optimizer = ob.create_optimizer([p], "sam+sgd", lr=0.0)
        if first:
            optimizer.step()
        with pytest.raises(RuntimeError, match="gradients_made"):
            optimizer.step()
