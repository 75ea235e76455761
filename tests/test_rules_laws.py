"""Laws that hold for every rule, and laws that tie rules together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from huge_element import check_others_go_on
from marks import slow
from oracles import CASES, PROOFS
from oracles.comparison import (
    bearable,
    make_optimizer,
    make_parameter,
    set_gradients,
    take_step,
)
from oracles.inputs import gradient, values
from oracles.proof import Shape

import optbench_llm as ob
from optbench_llm.rules.rule import Rule, Scope

RULES = list(CASES)
ELEMENT = ob.list_optimizers(scope="element")
PLAIN_ELEMENT = [name for name in ELEMENT if name in CASES]
WIDER = [name for name in RULES if name not in ELEMENT]
MATRIX = Shape((6, 8))


@pytest.fixture(autouse=True)
def _excused(request):
    """A rule's proof may name a law that does not hold for it, with the reason."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name in PROOFS and request.node.originalname in PROOFS[name].exceptions:
        pytest.skip(PROOFS[name].exceptions[request.node.originalname])


def test_exceptions_name_laws_that_exist():
    """A misspelt exception would excuse nothing, a stale one would hide that the law now holds."""
    for name, proof in PROOFS.items():
        assert all(callable(globals().get(law)) for law in proof.exceptions), name


def make(
    name: str, shapes: Any = None, dtype: torch.dtype = torch.float32, **changes: Any
) -> tuple[list[torch.nn.Parameter], Any]:
    """Parameters of the shapes and an eager optimizer with the rule's first case."""
    shapes = PROOFS[name].shapes if shapes is None else shapes
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(shapes)]
    return params, make_optimizer(params, name, engine="eager", **{**CASES[name][0], **changes})


def walk(name: str, shapes: Any = None, *, steps: int = 6, **changes: Any) -> list[Any]:
    """The parameters after some steps."""
    params, optimizer = make(name, shapes, **changes)
    for t in range(1, steps + 1):
        take_step(optimizer, params, shapes or PROOFS[name].shapes, t)
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
        if optimizer.rule.observe:
            optimizer.observe()
        optimizer.gradients_made()
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_an_lr_of_zero_from_the_start_moves_nothing(name):
    """Warm-up that begins at 0 costs nothing."""
    params, optimizer = make(name, lr=0.0)
    before = [p.detach().clone() for p in params]
    for t in range(1, 4):
        take_step(optimizer, params, PROOFS[name].shapes, t)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_an_lr_of_zero_in_the_middle_moves_nothing(name):
    """A schedule that reaches 0 stops the parameters, whatever the state holds."""
    params, optimizer = make(name)
    for t in range(1, 4):
        take_step(optimizer, params, PROOFS[name].shapes, t)
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_step(optimizer, params, PROOFS[name].shapes, 4)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_ends_in_the_parameter(name):
    """There a run is seen to have diverged; torch's sign of NaN is 0, which would hide it."""
    shapes = PROOFS[name].shapes
    params, optimizer = make(name)
    for t in range(1, 7):
        set_gradients(params, shapes, t, gradient, pauses=False)
        if t == 4:
            for p in params:
                assert p.grad is not None
                p.grad[(0,) * p.ndim] = float("nan")
        if optimizer.rule.observe:
            optimizer.observe()
        optimizer.gradients_made()
        optimizer.step()
    assert all(p.isnan().any() for p in params)


@pytest.mark.parametrize("suffix", ["", *slow("@int8", "@bf16")])
@pytest.mark.parametrize("name", RULES)
def test_a_huge_gradient_element_leaves_the_others_be(name, suffix):
    """See `huge_element`; ``test_rules_compiled.py`` says it of compiled code."""
    sizes = ((4097,), (64, 80)) if suffix == "@int8" else ((7,), (6, 8))
    shapes = bearable(name, [Shape(size) for size in sizes])
    try:
        check_others_go_on(name, shapes, suffix)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", RULES)
def test_gradients_that_are_all_huge_leave_weights_finite(name):
    """The largest there are, at the first step or later: no sum of theirs is infinite."""
    shapes = PROOFS[name].shapes
    for at in (1, 3):
        params, optimizer = make(name)
        for t in range(1, 7):
            feeds = [optimizer.observe] if optimizer.rule.observe else []
            for feed in (*feeds, optimizer.step):
                set_gradients(params, shapes, t, gradient, pauses=False)
                for p in params:
                    if t == at:
                        p.grad = torch.full_like(p, torch.finfo(p.dtype).max)
                optimizer.gradients_made()
                feed()
        optimizer.check_finite()
        assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("name", PLAIN_ELEMENT)
def test_element_scope_commutes_with_splitting_and_permuting(name):
    """Halves stepped apart, or elements in another order, give the whole: FSDP relies on it."""
    whole = Shape((12,))
    order = torch.from_numpy(np.argsort(values((12,), 9)))

    def path(parts: list[Any]) -> torch.Tensor:
        start = make_parameter(whole, 0, torch.float32).detach()
        params = [torch.nn.Parameter(start[part].clone()) for part in parts]
        optimizer: Any = make_optimizer(params, name, engine="eager", **CASES[name][0])
        for t in range(1, 7):
            g = torch.from_numpy(gradient((12,), 0, t)).float()
            for p, part in zip(params, parts, strict=True):
                p.grad = g[part].clone()
            if optimizer.rule.observe:
                optimizer.observe()
            optimizer.gradients_made()
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
    optimizer = make_optimizer(halves, name, engine="eager", **CASES[name][0])
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
        take_step(optimizer, params, PROOFS[name].shapes, t)
    rule = rule_of(name)
    h = type("Settings", (), {**optimizer.param_groups[0], "role": PROOFS[name].role, "heads": 0})
    carried = () if rule.scope is Scope.MODEL else tuple(rule.carry)
    elements = 0
    for p in params:
        slots = rule.slots_for(tuple(p.shape), h)
        state = optimizer.state[p]
        assert set(state) == {"step", *carried, *(slot.name for slot in slots)}
        for slot in slots:
            assert state[slot.name].shape == slot.shape_for(tuple(p.shape))
            assert not slot.positive or (state[slot.name] >= 0).all()
            elements += state[slot.name].numel()
        assert all(isinstance(state[key], (int, float)) for key in ("step", *carried))
    assert all(type(optimizer.param_groups[0][key]) is float for key in rule.carry if not carried)
    assert optimizer.state_bytes() == 4 * elements
    kept = len(rule.kept_by_program) * sum(p.numel() for p in params)
    assert optimizer.planned_state_bytes() == 4 * (elements + kept)


@pytest.mark.parametrize("name", RULES)
def test_state_keeps_its_tensors(name):
    """After the first step no state tensor is replaced, cast or resized: memory does not creep."""
    params, optimizer = make(name)
    take_step(optimizer, params, PROOFS[name].shapes, 1)

    def tensors() -> list[Any]:
        return [
            (key, value.data_ptr(), value.dtype, value.shape, value.stride())
            for p in params
            for key, value in optimizer.state[p].items()
            if isinstance(value, torch.Tensor)
        ]

    first = tensors()
    for t in range(2, 7):
        take_step(optimizer, params, PROOFS[name].shapes, t)
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
    for key in changes.keys() & CASES[name][0].keys() - set(PROOFS[name].unfelt):
        assert not torch.allclose(run(key), plain, atol=1e-5), key


@pytest.mark.parametrize("name", RULES)
def test_scale_of_the_gradient_does_not_matter(name):
    """Gradients 1024 times larger give the same path bit for bit, for rules that normalise."""
    changes = PROOFS[name].scale_free
    if isinstance(changes, str):
        pytest.skip(changes)

    def run(scale: float) -> list[torch.Tensor]:
        params, optimizer = make(name, **changes)
        for t in range(1, 7):
            set_gradients(params, PROOFS[name].shapes, t, gradient, pauses=False)
            for p in params:
                assert p.grad is not None
                p.grad *= scale
            optimizer.gradients_made()
            optimizer.step()
        return [p.detach() for p in params]

    assert all(map(torch.equal, run(1.0), run(1024.0)))


@pytest.mark.parametrize("name", RULES)
def test_signs_do_not_matter(name):
    """The mirrored problem, parameters and gradients negated, takes the mirrored path."""
    shapes = PROOFS[name].shapes

    def run(sign: float) -> list[torch.Tensor]:
        params, optimizer = make(name)
        with torch.no_grad():
            for p in params:
                p *= sign
        for t in range(1, 7):
            set_gradients(params, shapes, t, gradient, pauses=False)
            for p in params:
                assert p.grad is not None
                p.grad *= sign
            if optimizer.rule.observe:
                optimizer.observe()
            optimizer.gradients_made()
            optimizer.step()
        return [p.detach() for p in params]

    for p, mirrored in zip(run(1.0), run(-1.0), strict=True):
        assert torch.allclose(p, -mirrored, rtol=1e-6, atol=1e-6)


def quadratic(p: torch.Tensor) -> torch.Tensor:
    """An ill-conditioned bowl, condition 100, its minimum 0 at 0."""
    return (torch.logspace(-2, 0, p.numel()) * p.reshape(-1) ** 2).sum() / 2


def rosenbrock(p: torch.Tensor) -> torch.Tensor:
    """The chained valley, its minimum 0 at 1."""
    x = p.reshape(-1)
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("problem", [quadratic, *slow(rosenbrock)])
@pytest.mark.parametrize("name", RULES)
def test_the_loss_descends(name, problem):
    """At some lr within three decades of the declared one, 100 steps at least halve the loss."""

    def final(lr: float) -> float:
        p = torch.nn.Parameter(make_parameter(MATRIX, 0, torch.float32).detach() / 2)
        optimizer = make_optimizer([p], name, engine="eager", lr=lr)
        for _ in range(100):
            optimizer.zero_grad()
            problem(p).backward()
            if optimizer.rule.observe:
                optimizer.observe()
            optimizer.gradients_made()
            optimizer.step()
        if hasattr(optimizer, "eval"):
            optimizer.eval()
        return float(problem(p.detach()))

    start = float(problem(make_parameter(MATRIX, 0, torch.float32).detach() / 2))
    declared = ob.optimizer_info(name).lr
    assert any(final(declared * 10.0**power) < start / 2 for power in (0, 1, 2, -1, 3, -2, -3))
