"""Parameter groups go by what parameters are, so that a state comes back under other settings."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import optbench_llm as ob

OURS = [name for name in ob.list_optimizers("*") if ob.optimizer_info(name).provider is None]
FOREIGN = ["torch:AdamW", "torch:SGD", "pytorch_optimizer:Muon"]
STEPPED = ("adamw", "lion@int8", "muon", "torch:AdamW")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))


def make(spec: str, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ob.create_optimizer(model(), spec, **settings)


def stepped(spec: str, **settings: Any) -> Any:
    optimizer = make(spec, **settings)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def shapes(optimizer: Any) -> list[list[torch.Size]]:
    return [[p.shape for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("spec", [*OURS, *FOREIGN])
def test_groups_do_not_depend_on_values(spec):
    """Those that decay and those that do not stay apart, also where both decay by 0."""
    if spec in FOREIGN:
        settings: list[dict[str, Any]] = [{"weight_decay": value} for value in (0.0, 0.1)]
    else:
        names = ob.optimizer_info(spec).rule_class().settings()
        own = [name for name in names if name.endswith("weight_decay")]
        settings = [dict.fromkeys(own, value) for value in (0.0, 0.1)]
        if any(name.startswith("companion_") for name in own):
            # The companion's settings equal to the rule's own.
            shared = [name for name in ("lr", "betas") if name in names]
            settings.append({f"companion_{name}": names[name] for name in shared})
    default = shapes(make(spec))
    assert len(default) > 1
    assert all(shapes(make(spec, **given)) == default for given in settings)


@pytest.mark.parametrize("spec", STEPPED)
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.1), (0.1, 0.0)])
def test_a_state_comes_back_under_another_weight_decay(spec, before, after):
    """The state's counts, as everywhere in torch, and a warning names both."""
    saved = stepped(spec, weight_decay=before)
    other = make(spec, weight_decay=after)
    told = rf"'{spec}'.*weight_decay={before} in place of {after} \(group [01](, 1)?\)"
    with pytest.warns(UserWarning, match=told):
        other.load_state_dict(saved.state_dict())
    decays = [group["weight_decay"] for group in other.param_groups]
    assert decays == [group["weight_decay"] for group in saved.param_groups]
    for one, two in zip(saved.param_groups, other.param_groups, strict=True):
        for p, q in zip(one["params"], two["params"], strict=True):
            assert saved.state[p].keys() == other.state[q].keys()


@pytest.mark.parametrize("spec", STEPPED)
def test_nothing_is_said_of_the_same_settings(spec):
    """Nor of learning rates that a schedule has moved, nor of tuples that came back as lists."""
    saved, other = stepped(spec), make(spec)
    torch.optim.lr_scheduler.StepLR(saved, 1, 0.5).step()
    state = copy.deepcopy(saved.state_dict())
    for group in state["param_groups"]:
        group.update({k: list(v) for k, v in group.items() if k == "betas"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(state)


def test_another_learning_rate_before_the_schedule_is_told():
    """A schedule goes on from the rate that the state began with."""
    saved = stepped("lion", lr=1e-3)
    torch.optim.lr_scheduler.StepLR(saved, 1, 0.5).step()
    with pytest.warns(UserWarning, match=r"lr=0\.001 in place of 0\.01 "):
        make("lion", lr=1e-2).load_state_dict(saved.state_dict())


def test_a_state_in_other_groups_is_refused_as_such():
    """By order a state would reach other parameters; the message does not call the model another.

    Earlier versions wrote one group where settings were equal.
    """
    state = stepped("lion").state_dict()
    first, second = state["param_groups"]
    one = {**state, "param_groups": [{**first, "params": first["params"] + second["params"]}]}
    with pytest.raises(ValueError, match=r"number of .* groups, 1, .*'lion', 2: .*earlier"):
        make("lion").load_state_dict(one)


def test_a_state_of_other_roles_is_refused():
    """What Muon stepped as a matrix is not what its companion goes on with."""
    state = copy.deepcopy(stepped("muon").state_dict())
    index = next(i for i, g in enumerate(state["param_groups"]) if g["role"] == "embedding")
    state["param_groups"][index]["role"] = "head"
    optimizer = make("muon")
    with pytest.raises(ValueError, match=rf"group {index} has the role 'head', .* 'embedding'"):
        optimizer.load_state_dict(state)
    assert not optimizer.state
