"""create_optimizer: settings that are checked, defaults that are declared, providers that run."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import optbench_llm as ob
from optbench_llm.create import effective_hyperparameters, validate_hyperparameters

OURS = [name for name in ob.list_optimizers() if ob.optimizer_info(name).rule]


def parameter(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(sizes or (4,)))


def group(name: str, **settings: Any) -> dict[str, Any]:
    """One group of one small parameter, with its role where the rule must know it."""
    if not ob.optimizer_info(name).rule_class().by_layout:
        return {"params": [parameter()], **settings}
    return {"params": [parameter(2, 2)], "role": "matrix", **settings}


@pytest.mark.parametrize("name", OURS)
def test_defaults_are_in_range_and_effective(name):
    """A rule accepts its own defaults, and without settings they are what the groups hold."""
    info = ob.optimizer_info(name)
    assert validate_hyperparameters(name, info.defaults) == info.defaults
    optimizer = ob.create_optimizer([group(name)], name)
    (effective,) = effective_hyperparameters(optimizer)
    own = {key: value for key, value in info.defaults.items() if not key.startswith("companion_")}
    assert {key: effective[key] for key in own} == own
    assert effective["elements"] == 4


@pytest.mark.parametrize("name", OURS)
def test_an_unknown_hyperparameter_is_named_with_the_accepted_ones(name):
    """Nothing is silently dropped, in the call or in a group."""
    accepted = ", ".join(ob.optimizer_info(name).defaults)
    words = rf"'{name}' has no hyperparameter 'weight_dekay'.*'weight_decay'.*{accepted}"
    with pytest.raises(ValueError, match=words):
        ob.create_optimizer([group(name)], name, weight_dekay=0.1)
    with pytest.raises(ValueError, match=words):
        ob.create_optimizer([group(name, weight_dekay=0.1)], name)
    with pytest.raises(ValueError, match=words):
        validate_hyperparameters(name, {"weight_dekay": 0.1})


@pytest.mark.parametrize("name", ["muon", "adam-mini"])
def test_a_rule_that_must_know_the_layout_refuses_bare_parameters(name):
    """It would take embeddings for matrices; groups that say what they hold will do."""
    with pytest.raises(ValueError, match=rf"'{name}' must know what each.*model.*'role': 'matrix'"):
        ob.create_optimizer([parameter(2, 2)], name)
    assert ob.create_optimizer([group(name)], name).param_groups[0]["role"] == "matrix"
    with pytest.raises(ValueError, match=rf"'{name}': a group of role 'matrix'.*shape \(4,\)"):
        ob.create_optimizer([{"params": [parameter()], "role": "matrix"}], name)


@pytest.mark.parametrize("name", OURS)
def test_a_value_out_of_range_is_named_with_its_range(name):
    """Every hyperparameter of every rule refuses some value, and says what it expects."""
    for key in ob.optimizer_info(name).defaults:
        with pytest.raises(ValueError, match=rf"'{name}': {key}='wrong' is out of range, expec"):
            ob.create_optimizer([group(name)], name, **{key: "wrong"})
        with pytest.raises(ValueError, match=rf"'{name}': {key}=nan is out of range"):
            ob.create_optimizer([group(name)], name, **{key: float("nan")})


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("adamw", "lr", -1e-3, r"a number in \[0, inf\)"),
        ("adamw", "betas", (0.9, 1.0), r"2 values, each a number in \[0, 1\)"),
        ("adamw", "betas", (0.9,), "2 values"),
        ("adamw", "betas", 0.9, "2 values"),
        ("adan", "betas", (0.9, 0.9), "3 values"),
        ("adamw-schedulefree", "betas", (0.0, 0.9), r"2 values, each a number in \(0, 1\)"),
        ("sgd-schedulefree", "momentum", 0.0, r"a number in \(0, 1\)"),
        ("sgd", "nesterov", 1, "one of False, True"),
        ("sophia", "k", 0, r"an integer in \[1, inf\)"),
        ("sophia", "k", 2.5, "an integer"),
        ("lamb", "clamp_value", 0.0, r"None or a number in \(0, inf\)"),
        ("adafactor", "eps", 1e-3, "2 values"),
    ],
)
def test_ranges_are_those_of_the_papers(name, key, value, expected):
    """The edge that each allows or forbids."""
    with pytest.raises(ValueError, match=rf"'{name}': {key}=.*expected {expected}"):
        ob.create_optimizer([parameter()], name, **{key: value})


def test_lists_are_taken_as_tuples():
    """betas from YAML or a command line come as lists."""
    optimizer = ob.create_optimizer([parameter()], "adan", betas=[0.9, 0.8, 0.7])
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.8, 0.7)


def test_lr_may_be_given_by_position():
    """As in every torch optimizer; None means the declared one."""
    assert ob.create_optimizer([parameter()], "lion", 0.5).param_groups[0]["lr"] == 0.5
    assert ob.create_optimizer([parameter()], "lion").param_groups[0]["lr"] == 1e-4


def test_an_unknown_optimizer_lists_the_nearest():
    """At creation as in the catalog."""
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamz'\. Nearest: adam"):
        ob.create_optimizer([parameter()], "adamz")


@pytest.mark.parametrize(
    "make", [lambda p: [p], lambda p: iter([p]), lambda p: [("w", p)], lambda p: [{"params": [p]}]]
)
def test_parameters_come_as_any_iterable_that_torch_takes(make):
    """Tensors, an iterator, names with tensors, or groups."""
    p = parameter()
    optimizer = ob.create_optimizer(make(p), "sgd", lr=0.5)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(p, torch.full_like(p, 0.5))


def test_a_model_is_split_into_what_decays_and_what_does_not():
    """For our rules and for providers alike."""
    model = nn.Linear(3, 2)
    for spec in ("adamw", "torch:AdamW", "bnb:AdamW", "lion-8bit"):
        optimizer = ob.create_optimizer(model, spec, weight_decay=0.1)
        decays = {p.ndim: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert decays == {2: 0.1, 1: 0.0}, spec


def test_effective_hyperparameters_are_plain_values():
    """What is logged and stored is JSON-able, without parameters and bookkeeping."""
    optimizer = ob.create_optimizer(nn.Linear(3, 2), "adamw", lr=0.1)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    first, second = effective_hyperparameters(optimizer)
    assert (first["elements"], second["elements"]) == (6, 2)
    assert first["lr"] == 0.25
    assert isinstance(first["lr"], float)
    assert not {"params", "param_names", "spec", "observations"} & first.keys()


@pytest.mark.parametrize("provider", ["torch:AdamW", "torch:adamw", "torch.optim:AdamW"])
def test_torch_optimizers_run_as_rows_of_their_own(provider):
    """The class itself, whatever the case of its name; an unknown argument is named."""
    optimizer = ob.create_optimizer([parameter()], provider, lr=0.1, weight_decay=0.2)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
    with pytest.raises(ValueError, match=r"no hyperparameter 'weight_dekay'.*'weight_decay'"):
        ob.create_optimizer([parameter()], provider, weight_dekay=0.2)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torch:AdamV", r"provider 'torch' has no optimizer 'AdamV'\. Nearest: Adam"),
        ("torch:Module", "provider 'torch' has no optimizer 'Module'"),
        ("no_such_package:AdamW", r"cannot import 'no_such_package'.*Install it.*torch:"),
        ("hf:adafactor", "made inside a Trainer"),
    ],
)
def test_what_a_provider_lacks_is_said(spec, words):
    """With the nearest right thing or the next step."""
    with pytest.raises(ValueError, match=words):
        ob.create_optimizer([parameter()], spec)


def test_lion_8bit_steps_with_8_bit_state():
    """bitsandbytes' own Lion: codes of one byte, and the steps of Lion within their rounding."""
    torch.manual_seed(0)
    p, q = parameter(64, 256), parameter(64, 256)
    ours: Any = ob.create_optimizer([q], "lion", lr=0.01)
    theirs: Any = ob.create_optimizer([p], "lion-8bit", lr=0.01)
    lasting = torch.randn_like(p)
    for _ in range(5):
        p.grad = lasting + 0.1 * torch.randn_like(p)
        q.grad = p.grad.clone()
        theirs.step()
        ours.step()
    state = theirs.state[p]
    assert state["state1"].dtype is torch.uint8
    assert state["state1"].numel() == p.numel()
    assert (p - q).abs().mean() < 0.05 * (q - 1).abs().mean()


def test_lion_8bit_keeps_embeddings_in_32_bits():
    """As transformers' Trainer does, and without reaching into another model's optimizer."""
    for model, dtype in (
        (nn.Embedding(32, 256), torch.float32),
        (nn.Linear(256, 32, bias=False), torch.uint8),
    ):
        optimizer: Any = ob.create_optimizer(model, "lion-8bit")
        (p,) = model.parameters()
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.state[p]["state1"].dtype is dtype


@pytest.mark.parametrize("spec", ["adamw", "lion@int8", "torch:AdamW"])
def test_weights_of_16_bits_that_lose_small_steps_are_named(spec):
    """With what rounds right; fp32 weights, adapters' among them, need no word."""
    with pytest.warns(UserWarning, match=r"in bfloat16, where steps below 0.002 of .*'adamw-bf16'"):
        ob.create_optimizer(nn.Linear(4, 4).bfloat16(), spec, lr=1e-5)
    with pytest.warns(UserWarning, match=r"in float16, where steps below 0.00024 of .*bf16=True$"):
        ob.create_optimizer(nn.Linear(4, 4).half(), spec, lr=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ob.create_optimizer(nn.Linear(4, 4), spec, lr=1e-5)
        ob.create_optimizer(nn.Linear(4, 4).bfloat16(), "adamw-bf16", lr=1e-5)
