"""Laws that tie wrapped rules to their bases and to the rules that are built the same way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import CASES, PROOFS
from oracles.comparison import constant_lr, make_parameter, run_rule, take_step
from oracles.proof import ALL_SHAPES, Shape

import optbench_llm as ob
from optbench_llm.catalog import parse_spec

pytestmark = pytest.mark.filterwarnings("ignore:.*looks at output channels")

ADAM = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
SGD = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
LAMB = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
BASES = [("adamw", ADAM), ("sgd", SGD), ("adamp", ADAM), ("lamb", LAMB), ("adafactor", {"lr": 0.1})]
AVERAGE = {"schedulefree_momentum": 0.8, "schedulefree_r": 0.5, "schedulefree_weight_lr_power": 1.5}
OWN_AVERAGE = {"r": 0.5, "weight_lr_power": 1.5}


def final(
    spec: str, dtype: torch.dtype = torch.float64, evaluate: bool = False, **h: Any
) -> list[torch.Tensor]:
    """The parameters after 20 steps; hyperparameters that are not given keep their defaults."""
    paths = run_rule(spec, h, ALL_SHAPES, dtype, "eager", schedule=constant_lr, evaluate=evaluate)
    return [torch.as_tensor(path[-1]) for path in paths]


def close(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-10, atol=1e-10) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("base", "h"), BASES, ids=[base for base, _ in BASES])
def test_lookahead_with_alpha_1_is_its_base(base, h):
    """The slow weights then are the fast ones, bit for bit in fp32; with alpha 1/2 they are not."""
    alone = final(base, torch.float32, **h)
    for k in (1, 5):
        settings = {**h, "lookahead_k": k, "lookahead_alpha": 1.0}
        assert all(map(torch.equal, final(f"lookahead+{base}", torch.float32, **settings), alone))
    assert not close(final(f"lookahead+{base}", torch.float32, **h), alone)


@pytest.mark.parametrize("name", CASES)
def test_lookahead_with_alpha_1_is_every_base_that_it_can_wrap(name):
    """Whatever the scope, the stages, the companion; those with an average are refused."""
    rule, proof = ob.optimizer_info(name).rule_class(), PROOFS[name]
    if rule.evaluation_point is not None:
        with pytest.raises(ValueError, match="evaluated at an average"):
            ob.optimizer_info(f"lookahead+{name}")
        return
    if "lookahead_k" in rule.defaults:
        with pytest.raises(ValueError, match=r"twice|already"):
            ob.optimizer_info(f"lookahead+{name}")
        return

    def walk(spec: str, **more: Any) -> list[torch.Tensor]:
        params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(proof.shapes)]
        groups: Any = params
        if proof.role:
            roles = [proof.role if p.ndim > 1 else "vector" for p in params]
            groups = [{"params": [p], "role": role} for p, role in zip(params, roles, strict=True)]
        optimizer = ob.create_optimizer(groups, spec, engine="eager", **CASES[name][0], **more)
        for t in range(1, 7):
            take_step(optimizer, params, proof.shapes, t)
        return [p.detach() for p in params]

    alone = walk(name)
    ahead = walk(f"lookahead+{name}", lookahead_k=2, lookahead_alpha=1.0)
    assert all(map(torch.equal, ahead, alone))
    behind = walk(f"lookahead+{name}", lookahead_k=2, lookahead_alpha=0.5)
    assert not all(map(torch.equal, behind, alone))


def test_lookahead_before_its_first_synchronisation_is_its_base():
    """With a k beyond the last step nothing is ever pulled back."""
    far = {"lookahead_k": 21, "lookahead_alpha": 0.1}
    assert all(
        map(
            torch.equal,
            final("lookahead+adamw", torch.float32, **ADAM, **far),
            final("adamw", torch.float32, **ADAM),
        )
    )


def test_lookahead_with_alpha_0_goes_back_to_the_start():
    """Slow weights that never move are where every k-th step ends."""
    shapes = (Shape((5, 8)),)
    h = {**ADAM, "lookahead_k": 4, "lookahead_alpha": 0.0}
    (path,) = run_rule("lookahead+adamw", h, shapes, torch.float64, "eager", pauses=False)
    assert (path[3] == path[7]).all()
    assert (path[3] == path[19]).all()
    assert not (path[3] == path[4]).any()


def test_the_row_lookahead_looks_ahead_of_adam():
    """The row and the spec are one rule."""
    assert all(
        map(
            torch.equal,
            final("lookahead", torch.float32, **ADAM),
            final("lookahead+adam", torch.float32, **ADAM),
        )
    )


def test_ranger_without_centralization_is_lookahead_radam():
    """Their RAdams differ in the weight decay alone; with centralization matrices part ways."""
    h: dict[str, Any] = {**ADAM, "weight_decay": 0.0, "lookahead_k": 6, "lookahead_alpha": 0.5}
    radam = final("lookahead+radam", **h)
    assert close(final("ranger", **h, use_gc=False), radam)
    centralized = final("ranger", **h, use_gc=True)
    vectors = [i for i, shape in enumerate(ALL_SHAPES) if len(shape.sizes) < 2]
    assert close([centralized[i] for i in vectors], [radam[i] for i in vectors])
    assert not any(
        close([centralized[i]], [radam[i]]) for i in range(len(ALL_SHAPES)) if i not in vectors
    )


def test_ranger_keeps_the_mean_of_every_channel_before_its_rectification():
    """A step is then momentum of gradients whose mean is 0."""
    h = {"lr": 0.1, "betas": (0.9, 0.6), "use_gc": True}
    shapes = (Shape((5, 8)),)
    (path,) = run_rule("ranger", h, shapes, torch.float64, "eager", pauses=False)
    means = path.mean(2)
    assert abs(means - means[0]).max() < 1e-12
    (free,) = run_rule("ranger", {**h, "use_gc": False}, shapes, torch.float64, "eager")
    assert abs(free.mean(2) - means[0]).max() > 1e-2


@pytest.mark.parametrize("evaluate", [False, True], ids=["y", "x"])
@pytest.mark.parametrize(
    ("base", "whole", "h", "own"),
    [
        ("sgd", "sgd-schedulefree", {"lr": 0.3}, {"momentum": 0.8}),
        (
            "adamw",
            "adamw-schedulefree",
            {"lr": 0.1, "eps": 1e-3},
            {"betas": (0.8, 0.95)},
        ),
    ],
)
def test_schedule_free_around_a_base_is_the_authors_own_combination(base, whole, h, own, evaluate):
    """Without weight decay, which theirs takes at y and the wrapper at z."""
    betas = {"betas": (0.0, 0.95)} if "betas" in own else {}
    wrapped = {**h, **betas, **AVERAGE}
    combined = {**h, **own, **OWN_AVERAGE}
    ours = final(f"schedulefree+{base}", evaluate=evaluate, weight_decay=0.0, **wrapped)
    assert close(ours, final(whole, evaluate=evaluate, weight_decay=0.0, **combined))
    decayed = final(f"schedulefree+{base}", evaluate=evaluate, weight_decay=0.1, **wrapped)
    assert not close(decayed, final(whole, evaluate=evaluate, weight_decay=0.1, **combined))


def test_schedule_free_adam_remembers_no_more_than_the_authors_combination():
    """Without momentum the first moment is the gradient: its slot is left out."""
    info = parse_spec("schedulefree+adamw").info
    assert info is not None
    h = type("Settings", (), info.defaults)
    slots = [slot.name for slot in info.rule_class().slots_for((5, 8), h)]
    assert slots == ["exp_avg_sq", "z"]


def test_ranger_refuses_to_do_without_eps():
    """A column is centralized to 0, and 0 / 0 would follow; with eps it stays where it is."""
    column = torch.nn.Parameter(torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"eps=0\.0 is out of range"):
        ob.create_optimizer([column], "ranger", eps=0.0)
    optimizer = ob.create_optimizer([column], "ranger", eps=1e-30)
    for t in range(1, 10):
        column.grad = torch.full((4, 1), float(t))
        optimizer.step()
    assert torch.equal(column, torch.ones(4, 1))
