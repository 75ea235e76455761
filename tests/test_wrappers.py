"""Wrapped specs against their definitions, composed around whatever optimizer stands inside."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from marks import slow
from oracles import CASES
from oracles.comparison import (
    compiled_shapes,
    has_gradient,
    lr_at,
    make_parameter,
    take_step,
)
from oracles.proof import ALL_SHAPES
from training_setup import assert_same_weights, tiny_gpt2, trainer, weights

import optbench_llm as ob
from optbench_llm.catalog import parse_spec
from optbench_llm.engine import compiled

pytestmark = pytest.mark.filterwarnings("ignore:.*looks at output channels")

STEPS = 20
LOOKAHEAD = {"lookahead_k": 3, "lookahead_alpha": 0.3}
AVERAGE = {"schedulefree_momentum": 0.8, "schedulefree_r": 0.5, "schedulefree_weight_lr_power": 1.5}
AHEAD = ["sgd", "adamp", "sophia", "adafactor", "lion", "lamb"]
#: Bases of the schedule-free wrapper, without momentum of their own.
FREE: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.3, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.1},
    "adamw": {**CASES["adamw"][0], "betas": (0.0, 0.95)},
    "lamb": {**CASES["lamb"][0], "betas": (0.0, 0.95)},
    "lars": {**CASES["lars"][0], "momentum": 0.0},
    "novograd": {**CASES["novograd"][0], "betas": (0.0, 0.9)},
    "rmsprop": {**CASES["rmsprop"][0], "momentum": 0.0},
    "adagrad": CASES["adagrad"][0],
    "adadelta": CASES["adadelta"][0],
    "adamax": {**CASES["adamax"][0], "betas": (0.0, 0.95)},
    "yogi": {**CASES["yogi"][0], "betas": (0.0, 0.9)},
    "adam": {**CASES["adam"][0], "betas": (0.0, 0.95)},
}
SPECS = [f"lookahead+{name}" for name in AHEAD] + [f"schedulefree+{name}" for name in FREE]
#: What the slower tests run.
FEW = [
    "lookahead+sgd",
    "lookahead+adamp",
    "lookahead+sophia",
    "schedulefree+sgd",
    "schedulefree+adamw",
    "schedulefree+lamb",
]


def base_settings(spec: str) -> dict[str, Any]:
    wrapper, _, base = spec.partition("@")[0].partition("+")
    return FREE[base] if wrapper == "schedulefree" else CASES[base][0]


def settings(spec: str) -> dict[str, Any]:
    return {**base_settings(spec), **(AVERAGE if spec.startswith("schedulefree") else LOOKAHEAD)}


def make(
    spec: str, dtype: torch.dtype = torch.float64, shapes: Any = ALL_SHAPES, **more: Any
) -> tuple[list[torch.nn.Parameter], Any]:
    params = [make_parameter(shape, index, dtype) for index, shape in enumerate(shapes)]
    more = {"engine": "eager", **settings(spec), **more}
    return params, ob.create_optimizer(params, spec, **more)


def paths(params: list[Any], optimizer: Any, shapes: Any = ALL_SHAPES) -> list[list[torch.Tensor]]:
    """The parameters after each step, with an lr that changes and gradients that pause."""
    lr, taken = optimizer.param_groups[0]["lr"], []
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = lr_at(lr, t)
        take_step(optimizer, params, shapes, t, pauses=True)
        taken.append([p.detach().double().clone() for p in params])
    return taken


def lookahead_paths(base: str, shapes: Any) -> list[list[torch.Tensor]]:
    """Algorithm 1 of Zhang et al.: any optimizer inside, pulled back from outside."""
    params = [make_parameter(shape, index, torch.float64) for index, shape in enumerate(shapes)]
    inner = ob.create_optimizer(params, base, engine="eager", **CASES[base][0])
    slow, steps, taken = [p.detach().clone() for p in params], [0] * len(params), []
    for t in range(1, STEPS + 1):
        inner.param_groups[0]["lr"] = lr_at(CASES[base][0]["lr"], t)
        take_step(inner, params, shapes, t, pauses=True)
        for i, p in enumerate(params):
            steps[i] += has_gradient(i, t)
            if has_gradient(i, t) and steps[i] % LOOKAHEAD["lookahead_k"] == 0:
                slow[i] += LOOKAHEAD["lookahead_alpha"] * (p.detach() - slow[i])
                p.data.copy_(slow[i])
        taken.append([p.detach().clone() for p in params])
    return taken


def schedulefree_paths(base: str, shapes: Any, at: str) -> list[list[torch.Tensor]]:
    """The paper's three sequences: any optimizer steps z, x is its average, y lies between."""
    zs = [make_parameter(shape, index, torch.float64) for index, shape in enumerate(shapes)]
    inner = ob.create_optimizer(zs, base, engine="eager", **FREE[base])
    xs, taken = [z.detach().clone() for z in zs], []
    ys, lr_max = [x.clone() for x in xs], [0.0] * len(zs)
    total, steps = [0.0] * len(zs), [0] * len(zs)
    mu = AVERAGE["schedulefree_momentum"]
    for t in range(1, STEPS + 1):
        lr = lr_at(FREE[base]["lr"], t)
        inner.param_groups[0]["lr"] = lr
        take_step(inner, zs, shapes, t, pauses=True)
        for i, z in enumerate(zs):
            if has_gradient(i, t):
                steps[i] += 1
                lr_max[i] = max(lr_max[i], lr)
                power = AVERAGE["schedulefree_weight_lr_power"]
                weight = steps[i] ** AVERAGE["schedulefree_r"] * lr_max[i] ** power
                total[i] += weight
                xs[i] = xs[i] + weight / total[i] * (z.detach() - xs[i])
                ys[i] = (1 - mu) * z.detach() + mu * xs[i]
        taken.append([point.clone() for point in (ys if at == "y" else xs)])
    return taken


def reference(spec: str, shapes: Any, at: str = "y") -> list[list[torch.Tensor]]:
    wrapper, _, base = spec.partition("+")
    if wrapper == "lookahead":
        return lookahead_paths(base, shapes)
    return schedulefree_paths(base, shapes, at)


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Every parameter at every step, relative to how far the parameter went."""
    start = theirs[0]
    for t, (at_t, others) in enumerate(zip(ours, theirs, strict=True), start=1):
        for i, (p, q) in enumerate(zip(at_t, others, strict=True)):
            reach = max(float((there[i] - start[i]).abs().max()) for there in theirs)
            assert float((p - q).abs().max()) < tolerance * reach, (t, i)


@pytest.mark.parametrize("spec", SPECS)
def test_a_wrapped_rule_is_the_wrapper_around_the_base(spec):
    """In float64 the paths agree with the definition, run around the base alone."""
    params, optimizer = make(spec)
    assert_close(paths(params, optimizer), reference(spec, ALL_SHAPES), 1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_a_wrapped_rule_in_fp32_and_in_pieces(spec, monkeypatch):
    """Cut into pieces of four elements, within fp32's rounding."""
    monkeypatch.setattr("optbench_llm.engine.pieces.PIECE_ELEMENTS", 4)
    params, optimizer = make(spec, torch.float32)
    assert_close(paths(params, optimizer), reference(spec, ALL_SHAPES), 1e-5)


@pytest.mark.parametrize("spec", [*FEW[:1], *slow(*FEW[1:])])
def test_a_wrapped_rule_compiles_once_and_agrees(spec, monkeypatch):
    """Synchronisations and averages are data, not code: one graph a shape and phase."""
    functions: dict[Any, Any] = {}
    monkeypatch.setattr(compiled, "_FUNCTIONS", functions)
    base = spec.partition("+")[2]
    shapes = compiled_shapes(base)
    params, optimizer = make(spec, torch.float32, shapes, engine="compiled")
    theirs, lr, ours = reference(spec, shapes), optimizer.param_groups[0]["lr"], []
    assert optimizer.engine == "compiled"  # asks, by compiling a line once a process
    graphs = []
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = lr_at(lr, t)
        take_step(optimizer, params, shapes, t, pauses=True)
        ours.append([p.detach().double().clone() for p in params])
        graphs.append(len(functions))
    assert_close(ours, theirs, 1e-5)
    assert 0 < graphs[9] == graphs[-1]  # by then every parameter has done all that it ever does


@pytest.mark.parametrize("base", ["sgd", "adamw", "lamb"])
def test_schedule_free_is_evaluated_at_x(base):
    """In evaluation mode the parameters are the average; going there and back is exact."""
    params, optimizer = make(f"schedulefree+{base}")
    lr, at_x = optimizer.param_groups[0]["lr"], []
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = lr_at(lr, t)
        take_step(optimizer, params, ALL_SHAPES, t, pauses=True)
        at_y = [p.detach().clone() for p in params]
        optimizer.eval()
        at_x.append([p.detach().clone() for p in params])
        optimizer.train()
        assert all(map(torch.equal, params, at_y))
    assert_close(at_x, schedulefree_paths(base, ALL_SHAPES, "x"), 1e-10)


@pytest.mark.parametrize("base", ["sgd", "adamp", "sophia"])
def test_lookahead_is_evaluated_at_its_fast_weights(base):
    """As the authors' code does unless asked: evaluation mode moves nothing."""
    params, optimizer = make(f"lookahead+{base}")
    take_step(optimizer, params, ALL_SHAPES, 1)
    before = [p.detach().clone() for p in params]
    optimizer.eval()
    assert all(map(torch.equal, params, before))
    assert not any(torch.equal(optimizer.state[p]["slow"], p) for p in params)


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [*FEW, "lookahead+adamw@bf16", "lookahead+lion@bf16"])
def test_resumed_steps_are_the_uninterrupted_ones(spec, dtype):
    """Saved after 7 steps, between two synchronisations, and loaded with weights_only=True."""
    params, optimizer = make(spec, dtype)
    for t in range(1, 8):
        take_step(optimizer, params, ALL_SHAPES, t, pauses=True)
    others, other = make(spec, dtype)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for t in range(8, 15):
        take_step(optimizer, params, ALL_SHAPES, t, pauses=True)
        take_step(other, others, ALL_SHAPES, t, pauses=True)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        for name, value in optimizer.state[p].items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(value, other.state[q][name]), name


@pytest.mark.parametrize("spec", ["lookahead+adamw", "lookahead+lion"])
@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_slow_weights_stay_exact_under_low_bit_storage(spec, storage):
    """A slow weight in 8 bits would pull the parameter onto a grid of 256 values."""
    params, optimizer = make(f"{spec}@{storage}", torch.float32)
    for t in range(1, 6):
        take_step(optimizer, params, ALL_SHAPES, t)
    for p in params:
        assert optimizer.state[p]["slow"].dtype is torch.float32
    if storage == "bf16":
        assert optimizer.state[params[0]]["exp_avg"].dtype is torch.bfloat16


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("spec", ["lookahead+adan", "schedulefree+lamb", "ranger"])
def test_wrapped_rules_are_one_object_and_survive_copies(spec, way):
    """Each time the same class, also through pickle, though no module has its name."""
    first, second = (parse_spec(spec).info for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.rule_class() is second.rule_class() is way(first.rule_class())


@pytest.mark.parametrize("base", ["muon", "soap", "adam-mini"])
def test_lookahead_carries_layouts_stages_and_companions(base):
    """GPT-2's fused weights, rules in stages, and what the companion steps are pulled back too."""
    model, other = tiny_gpt2(), tiny_gpt2()
    ours: Any = ob.create_optimizer(model, f"lookahead+{base}", lr=0.01, lookahead_k=2)
    inner: Any = ob.create_optimizer(other, base, lr=0.01)
    slow = weights(other)
    for t in range(1, 7):
        # Companions keep lookahead's own k, which is 5; here it is made the same.
        for group in ours.param_groups:
            group["lookahead_k"] = 2
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
            q.grad = p.grad.clone()
        ours.step()
        inner.step()
        if t % 2 == 0:
            for name, q in other.named_parameters():
                slow[name] += 0.5 * (q.detach() - slow[name])
                q.data.copy_(slow[name])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["lookahead+adamp", "lookahead+sophia", "schedulefree+adamw"])
def test_a_resumed_training_run_is_the_uninterrupted_one(tmp_path, spec):
    """Through a checkpoint of the Trainer, between two synchronisations, evaluations on."""
    arguments = {} if spec.startswith("schedulefree") else {"lookahead_k": 2}
    if spec.endswith("sophia"):
        arguments["k"] = 2
    run_settings = {
        "optim": spec, "optim_args": arguments, "max_steps": 8, "learning_rate": 1e-2,
        "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2,
    }  # fmt: skip
    whole = trainer(tmp_path, tiny_gpt2(dropout=0.1), **run_settings)
    whole.train()
    resumed = trainer(tmp_path, tiny_gpt2(dropout=0.1), **run_settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_weights(weights(whole.model), weights(resumed.model))
    assert whole.measurements.losses == resumed.measurements.losses


def test_schedule_free_around_a_base_trains_at_a_constant_lr(tmp_path):
    """The wrapper demands it as the ready-made rows do; Lookahead leaves the schedule alone."""
    for spec, schedule in (("schedulefree+adamw", "constant"), ("lookahead+adamw", "linear")):
        run = trainer(tmp_path, optim=spec, max_steps=4)
        run.train()
        rates = {log["learning_rate"] for log in run.state.log_history if "learning_rate" in log}
        assert (len(rates) == 1) == (schedule == "constant")


@pytest.mark.parametrize(
    ("spec", "given", "words"),
    [
        ("schedulefree+sgd", {"momentum": 0.9}, ["momentum=0.9", "schedulefree_momentum"]),
        ("schedulefree+adamw", {"betas": (0.9, 0.99)}, ["betas=(0.9, 0.99)", "betas=(0.0, 0.999)"]),
        ("schedulefree+adamw", {"schedulefree_momentum": 0.0}, ["schedulefree_momentum=0.0"]),
        ("schedulefree+adamw", {"warmup_steps": 3}, ["no hyperparameter 'warmup_steps'"]),
        ("lookahead+adamw", {"lookahead_k": 0}, ["lookahead_k=0", "an integer in [1"]),
        ("lookahead+adamw", {"lookahead_alpha": 1.5}, ["lookahead_alpha=1.5", "[0, 1]"]),
        ("lookahead+adamw", {"alpha": 0.5}, ["'alpha'", "lookahead_alpha"]),
        ("lookahead+lamb", {"betas": 0.9}, ["betas=0.9"]),
    ],
)
def test_settings_of_wrapped_rules_are_checked(spec, given, words):
    """The wrapper's by its prefix, the base's as ever, and momentum that would count twice."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ob.create_optimizer([torch.nn.Parameter(torch.ones(2))], spec, **given)
    assert all(word in str(caught.value) for word in (repr(spec), *words))
