"""Compiled code of every rule: its oracle's steps, each phase made once, huge gradients borne.

What a rule is compiled to takes seconds to make and serves all tests of the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from huge_element import check_others_go_on
from marks import slow
from oracles import CASES, PROOFS
from oracles.comparison import compiled_shapes, deviation
from oracles.proof import ALL_SHAPES, Shape

import optbench_llm as ob
from optbench_llm.engine import compiled
from optbench_llm.rules import newton_schulz
from optbench_llm.rules.rule import Scope

FP32_TOLERANCE = 1e-5
#: Some rules are compiled at every run of the tests, all at a run of the slow ones too: flat, with
#: sums, of matrices.
QUICKLY_COMPILED = ("adamw", "lamb", "adafactor")
COMPILED = [*QUICKLY_COMPILED, *slow(*(name for name in CASES if name not in QUICKLY_COMPILED))]
#: Rules that must see each tensor by itself, and take vectors: small ones come in stacks.
BY_ITSELF = [
    name
    for name, proof in PROOFS.items()
    if ob.optimizer_info(name).rule_class().scope is Scope.TENSOR
    and proof.shapes is ALL_SHAPES
    and name != "novograd"
]
#: What they are compiled with: one of them steps alone too, the others together.
STACK = (Shape((7,)),) * 10


@pytest.fixture(scope="module", params=COMPILED)
def rule(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The name of a rule, and all the code that its tests have had to compile.

    Muon and Scion are without their rounding to bfloat16, which hides all but gross errors.
    """
    with pytest.MonkeyPatch.context() as patch:
        graphs: dict[Any, Any] = {}
        patch.setattr(compiled, "_FUNCTIONS", graphs)
        patch.setattr(newton_schulz, "narrow", lambda x: x)
        yield request.param, graphs


def shapes_of(name: str) -> tuple[Shape, ...]:
    return compiled_shapes(name) + (STACK if name in BY_ITSELF else ())


def test_fp32_agrees_with_the_oracle_and_compiles_once(rule):
    """20 steps of changing lrs and pauses; every phase of every layout is compiled once."""
    name, graphs = rule
    found = deviation(name, CASES[name][0], shapes=shapes_of(name), engine="compiled")
    assert found < FP32_TOLERANCE
    layouts = {(rule, phase, layouts) for (rule, *_, phase), _, layouts, *_ in graphs}
    assert len(layouts) == len(graphs) > 0
    if name in BY_ITSELF:
        assert {stacked for *_, stacked, _ in graphs} == {True, False}


def test_a_huge_gradient_element_leaves_the_others_be(rule):
    """See `huge_element`. One optimizer more of the same layouts compiles nothing."""
    name, graphs = rule
    made = len(graphs)
    check_others_go_on(name, shapes_of(name), engine="compiled")
    assert made == len(graphs)


@pytest.mark.parametrize("name", ["novograd", *slow("swats")])
def test_stacks_agree_with_the_oracle(name, monkeypatch):
    """Vectors of one length whose gradients come and go: they are stacked now and then alone."""
    graphs = {}
    monkeypatch.setattr(compiled, "_FUNCTIONS", graphs)
    assert deviation(name, CASES[name][0], shapes=STACK, engine="compiled") < FP32_TOLERANCE
    assert {stacked for *_, stacked, _ in graphs} == {True, False}
