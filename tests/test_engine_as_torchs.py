"""What torch's own optimizers take and do, ours take and do as well."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from marks import slow
from oracles import CASES, PROOFS
from oracles.comparison import make_optimizer, make_parameter, shapes_of, take_step
from torch import nn
from torch.optim import lr_scheduler

import optbench_llm as ob
from optbench_llm.create import effective_hyperparameters

BY_LAYOUT = [name for name in CASES if ob.optimizer_info(name).rule_class().by_layout]


def steps(spec: str, prepare: Any = None, *, count: int = 3, **changes: Any) -> list[torch.Tensor]:
    """The parameters after some steps; ``prepare`` sees the optimizer before each."""
    shapes = shapes_of(spec)
    params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
    case = CASES[spec.partition("@")[0]][0]
    optimizer = make_optimizer(params, spec, **{"engine": "eager", **case, **changes})
    for t in range(1, count + 1):
        if prepare is not None:
            prepare(optimizer, t)
        take_step(optimizer, params, shapes, t)
    return [p.detach() for p in params]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def meta_by_default() -> Any:
    return torch.device("meta")


class DefaultDtype:
    """Another default dtype for a while."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.old = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: Any) -> None:
        torch.set_default_dtype(self.old)


DEFAULTS: dict[str, Callable[[], Any]] = {
    "meta": meta_by_default,
    "float64": lambda: DefaultDtype(torch.float64),
    "bfloat16": lambda: DefaultDtype(torch.bfloat16),
}


@pytest.mark.parametrize("default", ["meta", "bfloat16", *slow("float64")])
@pytest.mark.parametrize("name", CASES)
def test_defaults_for_new_tensors_are_nothing_to_a_step(name: str, default: str) -> None:
    """torch.set_default_device and set_default_dtype: the same bits, and the same on the way."""
    expected = steps(name)
    with DEFAULTS[default]():
        assert equal(steps(name), expected)


@pytest.mark.slow
@pytest.mark.parametrize("default", ["meta", "float64"])
@pytest.mark.parametrize("spec", ["swats", "lion@int8"])
def test_defaults_for_new_tensors_are_nothing_to_compiled_steps(
    spec: str, default: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is compiled under another default is the same code; slow, since it compiles."""
    from optbench_llm.engine import compiled

    expected = steps(spec, engine="compiled")
    monkeypatch.setattr(compiled, "_FUNCTIONS", {})
    with DEFAULTS[default]():
        assert equal(steps(spec, engine="compiled"), expected)


@pytest.mark.parametrize("shape", [(), *slow((1,))])
@pytest.mark.parametrize("name", CASES)
def test_an_lr_in_a_tensor_steps_as_its_number_does(name: str, shape: tuple[int, ...]) -> None:
    """Given to the constructor; whoever fills it in place is followed."""
    lr = torch.full(shape, 2.0**-7, dtype=torch.float64)

    def halve(optimizer: Any, t: int) -> None:
        for group in optimizer.param_groups:
            if group["lr"] is not lr or t == 3:
                group["lr"] = 2.0 ** -(7 + (t == 3))

    def fill(optimizer: Any, t: int) -> None:
        lr.fill_(2.0 ** -(7 + (t == 3)))
        assert optimizer.param_groups[0]["lr"] is lr

    assert equal(steps(name, fill, lr=lr), steps(name, halve, lr=2.0**-7))


def adamw(lr: Any = 1e-3, **settings: Any) -> Any:
    return ob.create_optimizer([nn.Parameter(torch.ones(3))], "adamw", lr=lr, **settings)


def test_numbers_in_tensors_and_arrays_are_numbers() -> None:
    """For every hyperparameter, in groups too; only lr may be filled in place later."""
    betas = (torch.tensor(0.5, dtype=torch.float64), np.float32(0.75))
    optimizer = adamw(betas=betas, weight_decay=torch.tensor([0.25]), eps=np.array(0.5))
    lr = torch.tensor(0.125)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": lr, "betas": betas})
    for group in optimizer.param_groups:
        assert group["betas"] == (0.5, 0.75)
        assert {type(beta) for beta in group["betas"]} == {float}
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    assert optimizer.param_groups[1]["lr"] is lr
    assert effective_hyperparameters(optimizer)[1]["lr"] == 0.125


@pytest.mark.parametrize("lr", [torch.tensor(-1.0), torch.ones(2), torch.tensor(float("nan"))])
def test_a_tensor_out_of_range_is_refused(lr: torch.Tensor) -> None:
    """As its number is; one of several elements is no number."""
    with pytest.raises(ValueError, match=r"adamw.*lr=tensor.*expected a number in \[0, inf\)"):
        adamw(lr)


def test_a_tensor_lr_goes_through_a_checkpoint() -> None:
    """Into an optimizer that has one too it comes as a tensor, else as a number; nothing shared."""
    lr = torch.tensor(0.125)
    buffer = io.BytesIO()
    torch.save(adamw(lr).state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    own = torch.tensor(0.5)
    with_tensor, with_number = adamw(own), adamw(0.5)
    for optimizer in (with_tensor, with_number):
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == 0.125
    assert type(with_number.param_groups[0]["lr"]) is float
    with_tensor.param_groups[0]["lr"].fill_(0.0)
    assert state["param_groups"][0]["lr"] == lr == 0.125
    with_tensor.load_state_dict(with_number.state_dict())
    assert isinstance(with_tensor.param_groups[0]["lr"], torch.Tensor)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.5),
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "multi-step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.5),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=4),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.5, 2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.5, 8),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, 0.5, 3),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_torch_moves_ours_as_it_moves_torchs(name: str, kind: Any) -> None:
    """AdamW of torch and ours, lr and betas from one schedule each; the paths agree."""
    paths, settings = [], []
    for ours in (True, False):
        p = nn.Parameter(torch.linspace(-1, 1, 7))
        more = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
        optimizer = (
            ob.create_optimizer([p], "adamw", lr=kind(0.125), engine="eager", **more)
            if ours
            else torch.optim.AdamW([p], lr=kind(0.125), foreach=False, **more)
        )
        schedule = SCHEDULES[name](optimizer)
        for t in range(8):
            p.grad = torch.linspace(1, 2, 7) * (t + 1)
            optimizer.step()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                schedule.step(*((1.0,) if name == "plateau" else ()))
            group = optimizer.param_groups[0]
            settings.append((ours, t, float(group["lr"]), group["betas"]))
        paths.append(p.detach())
    by_ours = [row[1:] for row in settings if row[0]]
    assert by_ours == [row[1:] for row in settings if not row[0]]
    assert len({row[1:] for row in by_ours}) > 1
    torch.testing.assert_close(*paths)


@pytest.mark.parametrize("name", CASES)
def test_named_parameters_step_as_bare_ones_do(name: str) -> None:
    """(name, parameter) as torch 2.6 takes them; the names stay in the group."""
    shapes, results = shapes_of(name), []
    for named in (False, True):
        params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
        role = PROOFS[name].role
        matrices = [(f"weight{i}", p) for i, p in enumerate(params) if p.ndim > 1 or role is None]
        vectors = [(f"bias{i}", p) for i, p in enumerate(params) if p.ndim < 2 and role]
        groups: list[dict[str, Any]] = [
            {"params": iter(own if named else [p for _, p in own]), "role": role or "vector"}
            for own, role in ((matrices, role), (vectors, "vector"))
            if own
        ]
        given: Any = groups if role else groups[0]["params"]
        optimizer = ob.create_optimizer(given, name, engine="eager", **CASES[name][0])
        names = [group.get("param_names") for group in optimizer.param_groups]
        assert names[0] == ([key for key, _ in matrices] if named else None)
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        for t in range(1, 4):
            take_step(optimizer, params, shapes, t)
        results.append([p.detach() for p in params])
    assert equal(*results)


@pytest.mark.parametrize("name", ["adamw", *BY_LAYOUT])
@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ([1], TypeError, "can only optimize Tensors"),
        ([("name", "x")], TypeError, "can only optimize Tensors"),
        ({nn.Parameter(torch.ones(2, 2))}, TypeError, "ordered collections"),
        ([torch.ones(2, 2, requires_grad=True) * 2], ValueError, "non-leaf"),
        ([("a", torch.ones(2, 2)), torch.ones(2, 2)], ValueError, "names are missing"),
    ],
)
def test_what_is_no_parameter_is_refused_in_torchs_words(name, params, error, words) -> None:
    """By rules that look at shapes too; the optimizer is then as it was."""
    first = nn.Parameter(torch.ones(2, 2))
    optimizer = ob.create_optimizer([{"params": first, "role": "matrix"}], name)
    with pytest.raises(error, match=words):
        optimizer.add_param_group({"params": params, "role": "matrix"})
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([first])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": first, "role": "matrix"})
    if name != "adamw":
        with pytest.raises(ValueError, match="has a parameter of shape"):
            optimizer.add_param_group({"params": nn.Parameter(torch.ones(2)), "role": "matrix"})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("params", [[], iter(())])
def test_an_optimizer_of_nothing_is_refused(params: Any) -> None:
    """Whoever passes an exhausted iterator hears of it."""
    with pytest.raises(ValueError, match="empty parameter list"):
        ob.create_optimizer(params, "adamw")


@pytest.mark.parametrize("flag", ["foreach", "fused", "maximize", "capturable", "differentiable"])
def test_flags_of_torchs_own_are_refused_by_name(flag: str) -> None:
    """Nothing is silently dropped."""
    with pytest.raises(ValueError, match=rf"adamw.*no hyperparameter '{flag}'"):
        adamw(**{flag: True})


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_a_closure_is_called_with_gradients_and_its_loss_comes_back(lr: float) -> None:
    """At an lr of 0 as well, and where gradients are switched off around the step."""
    p = nn.Parameter(torch.ones(3))
    optimizer = ob.create_optimizer([p], "adamw", lr=lr)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) == 3.0
    assert optimizer.state[p]["step"] == 1


def test_a_grad_scaler_skips_what_overflowed() -> None:
    """And steps by the gradient without its scale else."""
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer, alone = (ob.create_optimizer([x], "sgd", lr=0.5) for x in (p, q))
    scaler.scale((p * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, torch.ones(3))
    assert not optimizer.state
    optimizer.zero_grad()
    scaler.scale((p * p).sum()).backward()
    (q * q).sum().backward()
    scaler.step(optimizer)
    alone.step()
    assert torch.equal(p, q)
