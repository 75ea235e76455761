"""Laws that tie the variants to what the published runs would have been under another name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles.comparison import ALL_SHAPES, constant_lr, run_rule

import optbench_llm as ob

ADAM = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.0}


def final(name: str, **h: Any) -> list[torch.Tensor]:
    """The parameters after 20 steps in float64."""
    paths = run_rule(name, h, ALL_SHAPES, torch.float64, "eager", schedule=constant_lr)
    return [torch.as_tensor(path[-1]) for path in paths]


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(a, b, strict=True))


def test_lmflows_lars_without_decay_and_momentum_is_sgd():
    """What the published run had: nothing is scaled."""
    settings = {"lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
    sgd = final("sgd", **settings)
    assert close(final("lars-lmflow", **settings), sgd)
    assert not close(final("lars", **settings), sgd)
    assert not close(final("lars-lmflow", **{**settings, "weight_decay": 0.1}), sgd)


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("lars-lmflow", {"lr": 0.01, "momentum": 0.0, "trust_coefficient": 0.01, "eps": 1e-8}),
        ("nadam-lmflow", {"lr": 2e-3, "betas": (0.9, 0.999), "momentum_decay": 4e-3}),
        ("sophia-lmflow", {"lr": 1e-4, "beta1": 0.965, "rho": 0.04, "weight_decay": 0.1}),
    ],
)
def test_defaults_are_those_of_lmflows_classes(name, defaults):
    """Of its code's signatures; the text beside them names others."""
    ours = ob.optimizer_info(name).defaults
    assert {key: ours[key] for key in defaults} == defaults


def test_lmflows_sophia_without_momentum_is_sgd_at_lr_over_rho():
    """No curvature divides and nothing is clipped."""
    sgd = final("sgd", lr=0.05, momentum=0.0)
    ours = {"lr": 0.002, "rho": 0.04, "weight_decay": 0.0}
    assert close(final("sophia-lmflow", **ours, beta1=0.0), sgd)
    assert not close(final("sophia-lmflow", **ours, beta1=0.8), sgd)


def test_lmflows_nadam_is_adam_under_a_warm_up_of_its_own():
    """Where all corrections are 1, and there is no momentum decay, the two are one."""
    adam = final("adam", lr=0.01, **{**ADAM, "betas": (0.0, 0.0)})
    settings = {"lr": 0.01, "momentum_decay": 0.0}
    assert close(final("nadam-lmflow", **settings, **{**ADAM, "betas": (0.0, 0.0)}), adam)
    assert not close(final("nadam-lmflow", **settings, **ADAM), final("adam", lr=0.01, **ADAM))


def test_a_delta_below_every_cosine_projects_nothing():
    """So AdamP and SGDP run as they did on flattened parameters: as Adam and SGD."""
    flat = {"delta": 1e-30, "weight_decay": 0.0}
    assert close(
        final("adamp", lr=0.05, betas=(0.8, 0.95), eps=1e-6, **flat), final("adam", lr=0.05, **ADAM)
    )
    assert close(final("sgdp", lr=0.05, momentum=0.0, **flat), final("sgd", lr=0.05, momentum=0.0))
    assert not close(
        final("adamp", lr=0.05, **{**ADAM, "delta": 5.0}), final("adam", lr=0.05, **ADAM)
    )
