"""What compiled steps spare: calls of small units, and looking up what is as it was."""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from marks import slow
from oracles.comparison import Shape, make_parameter, take_step
from torch import Tensor

import optbench_llm as ob
from optbench_llm.engine import bound, bundles, compiled, repeat

VECTORS = tuple(Shape((n,)) for n in (7, 128, 5, 128, 40, 2))
SHAPES = (*VECTORS, Shape((60, 200)), Shape((3, 4)), Shape(()))
STEPS = 8
#: Of elements; of the model, with numbers that are carried; with a count in every parameter's
#: state; with a second gradient; with the matrix in 8 bits, rounded at random; of tensors, with a
#: number among the slots; of the model with such a number.
SPECS = [
    "adamw",
    "novograd",
    *slow("prodigy", "adamw-schedulefree", "sophia", "adamw@int8", "swats"),
]
#: Those whose rule knows sums.
WITH_SUMS = ("prodigy", "novograd", "swats")


def make(spec: str, engine: str = "compiled", **settings: Any) -> tuple[list[Any], Any]:
    params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(SHAPES)]
    lr = 1.0 if spec == "prodigy" else 0.01
    return params, ob.create_optimizer(params, spec, lr=lr, engine=engine, **settings)


def run(spec: str, *, pauses: bool, engine: str = "compiled") -> tuple[list[Any], Any]:
    params, made = make(spec, engine)
    for t in range(1, STEPS + 1):
        take_step(made, params, SHAPES, t, pauses)
    return params, made


def calls_of(step: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How often compiled code is called."""
    called: list[str] = []
    call = compiled.CompiledPhases._execute

    def counted(self: Any, phase: str, *rest: Any) -> Any:
        called.append(phase)
        return call(self, phase, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(compiled.CompiledPhases, "_execute", counted)
        step()
    return len(called)


def same_tensors(one: Any, other: Any) -> bool:
    """Whether two states have the same entries."""
    assert one.keys() == other.keys()
    return all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


def assert_same(found: tuple[list[Any], Any], expected: tuple[list[Any], Any]) -> None:
    """Parameters and states, to the bit."""
    for p, other in zip(found[0], expected[0], strict=True):
        assert torch.equal(p, other)
        assert same_tensors(found[1].state[p], expected[1].state[other])


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_small_units_step_in_bundles_as_they_do_alone(spec, pauses, monkeypatch):
    """Not a bit differs, but where their sums are added up in another order."""
    together = run(spec, pauses=pauses)
    monkeypatch.setattr(bound, "SMALL_ELEMENTS", 0)
    alone = run(spec, pauses=pauses)
    if spec not in WITH_SUMS:
        assert_same(together, alone)
    for _, made in (together, alone):
        made.eval()
    for p, other in zip(together[0], alone[0], strict=True):
        torch.testing.assert_close(p, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_repeated_step_is_as_one_that_looks_everything_up(spec, engine, monkeypatch):
    """For every kind of rule, and all of them do repeat."""
    found = run(spec, pauses=False, engine=engine)
    known = found[1]._stepper._repeat
    assert known is not None
    monkeypatch.setattr(repeat.Repeat, "fits", lambda works: False)
    expected = run(spec, pauses=False, engine=engine)
    assert_same(found, expected)
    take_step(found[1], found[0], SHAPES, STEPS + 1)
    assert found[1]._stepper._repeat is known


def test_small_units_share_a_call(monkeypatch):
    """All vectors and the small matrix are one, the large matrix and the number one each."""
    params, made = run("adamw", pauses=False)
    assert calls_of(made.step, monkeypatch) == 3
    monkeypatch.setattr(bound, "SMALL_ELEMENTS", 0)
    params, made = run("adamw", pauses=False)
    assert calls_of(made.step, monkeypatch) == len(params)


def test_small_tensors_of_one_length_share_a_call(monkeypatch):
    """Where a rule must see each by itself: all but the 128s are measured and stepped alone."""
    params, made = run("lamb", pauses=False)
    assert calls_of(made.step, monkeypatch) == 2 * (len(params) - 1)


@pytest.mark.parametrize("spec", ["novograd", *slow("lamb", "adamp", "cautious-lion", "swats")])
def test_stacks_of_any_size_share_a_graph(spec, monkeypatch):
    """Code for any size has no guards: few and many, short and long ones must come out right."""
    monkeypatch.setattr(compiled, "_FUNCTIONS", {})
    for count, length in ((2, 2), (3, 17), (17, 3), (2, 4096), (5, 1000), (70, 768), (130, 2)):
        shapes = (Shape((length,)),) * count
        found = []
        for engine in ("compiled", "eager"):
            params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
            made: Any = ob.create_optimizer(params, spec, lr=0.01, engine=engine)
            for t in range(1, 4):
                take_step(made, params, shapes, t)
            found.append((params, made))
        for p, other in zip(found[0][0], found[1][0], strict=True):
            torch.testing.assert_close(p, other, rtol=1e-5, atol=1e-7)
            for name, value in found[0][1].state[p].items():
                torch.testing.assert_close(
                    value, found[1][1].state[other][name], rtol=1e-5, atol=1e-7
                )
    assert len(compiled._FUNCTIONS) == 2


def test_no_gradient_is_kept():
    """Of a small parameter it may be a view of what holds those of the whole model."""
    params, _ = run("adamw", pauses=False)
    kept = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = None
    assert [ref() for ref in kept] == [None] * len(params)


def test_groups_and_numbers_of_steps_are_kept_apart(monkeypatch):
    """Each bundle has one lr and one count of steps."""
    params, _ = make("adamw")
    groups = [{"params": params[:3], "lr": 0.1}, {"params": params[3:6], "lr": 0.001}]
    made: Any = ob.create_optimizer(groups, "adamw", engine="compiled")
    for p in params:
        p.grad = torch.ones_like(p)
    params[0].grad = None
    made.step()
    params[0].grad = torch.ones_like(params[0])
    assert calls_of(made.step, monkeypatch) == 3
    assert [made.state[p]["step"] for p in params[:6]] == [1, 2, 2, 2, 2, 2]


def test_state_in_bundles_is_saved_and_goes_on():
    """Every parameter's own, of its size; another optimizer goes on bit for bit."""
    params, made = run("adamw", pauses=False)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for index, p in enumerate(params):
        assert saved["state"][index]["exp_avg"].shape == p.shape
    others, other = make("adamw")
    for p, old in zip(others, params, strict=True):
        p.data.copy_(old.data)
    other.load_state_dict(saved)
    for t in range(STEPS + 1, STEPS + 4):
        take_step(made, params, SHAPES, t)
        take_step(other, others, SHAPES, t)
    assert_same((params, made), (others, other))


def test_what_comes_and_goes_stops_moving(monkeypatch):
    """Where gradients alternate, state would move at each step: such units soon stay alone."""
    made: list[bundles.Bundle] = []

    class Counted(bundles.Bundle):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(bundles, "Bundle", Counted)
    params, stepped = make("adamw")
    for t in range(40):
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if i % 2 == t % 2 or i == 3 else None
        stepped.step()
    assert 2 <= len(made) <= 2 * bundles.MOST_MOVES


def replace_memory(params: list[Any], made: Any) -> None:
    params[1].data = params[1].data.clone()


def replace_state(params: list[Any], made: Any) -> None:
    made.state[params[0]]["exp_avg"] = torch.full_like(params[0], 0.5)


def replace_states(params: list[Any], made: Any) -> None:
    kept = {p: dict(made.state[p]) for p in params}
    made.state.clear()
    made.state.update(kept)
    made.state[params[2]]["step"] = 3


def change_count(params: list[Any], made: Any) -> None:
    made.state[params[2]]["step"] = 7


def change_carried_number(params: list[Any], made: Any) -> None:
    made.state[params[2]]["weight_sum"] = 5.0


def add_parameter(params: list[Any], made: Any) -> None:
    params.append(torch.nn.Parameter(torch.ones(9)))
    made.param_groups[0]["params"].append(params[-1])


def load_own_state(params: list[Any], made: Any) -> None:
    made.load_state_dict(made.state_dict())


def change_settings(params: list[Any], made: Any) -> None:
    made.param_groups[0].update(weight_decay=0.5, momentum=0.9)


def add_group(params: list[Any], made: Any) -> None:
    p = torch.nn.Parameter(torch.ones(9))
    made.add_param_group({"params": [p], "lr": 0.1})
    params.append(p)


def replace_parameter(params: list[Any], made: Any) -> None:
    params[4] = made.param_groups[0]["params"][4] = torch.nn.Parameter(torch.ones(40))


def forget_count(params: list[Any], made: Any) -> None:
    del made.state[params[2]]["step"]


def forget_state(params: list[Any], made: Any) -> None:
    made.state[params[2]].clear()


CHANGES = [
    replace_memory, replace_state, replace_states, change_count, add_parameter, load_own_state,
    change_settings, change_carried_number, add_group, replace_parameter, forget_count,
    forget_state,
]  # fmt: skip


SPEC_OF = {change_settings: "sgd", change_carried_number: "adamw-schedulefree", forget_state: "sgd"}


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_steps_is_noticed(change, engine, monkeypatch):
    """A step that would repeat the one before is as one that looks everything up."""

    def changed() -> tuple[list[Any], Any]:
        params, made = make(SPEC_OF.get(change, "adamw"), engine)
        for t in range(1, 7):
            if t == 4:
                change(params, made)
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, 0.1 * t - 0.05 * i)
            made.step()
        return params, made

    found = changed()
    assert found[1]._stepper._repeat is not None
    monkeypatch.setattr(repeat.Repeat, "fits", lambda works: False)
    expected = changed()
    assert expected[1]._stepper._repeat is None
    assert_same(found, expected)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_parameter_turned_in_its_memory_is_noticed(engine):
    """At the same address, with gradients that lie as before."""
    p = torch.nn.Parameter(torch.arange(64.0).view(8, 8))
    made: Any = ob.create_optimizer([p], "sgd", lr=0.5, engine=engine)
    g = torch.arange(64.0).view(8, 8) ** 2
    for _ in range(2):
        p.grad = g.clone()
        made.step()
    p.data = p.data.t()
    expected = p.detach() - 0.5 * g
    p.grad = g.clone()
    made.step()
    assert torch.equal(p, expected)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_parameter_that_was_empty_is_stepped_once_it_is_not(engine):
    """As one is that is given memory late."""
    first, late = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.empty(0))
    made: Any = ob.create_optimizer([first, late], "sgd", lr=0.5, engine=engine)
    for _ in range(3):
        first.grad = torch.ones(5)
        made.step()
    late.data = torch.ones(5)
    late.grad, first.grad = torch.ones(5), torch.ones(5)
    made.step()
    assert torch.equal(late, torch.full((5,), 0.5))


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("sizes", [(5000, 9000), (100, 200)])
def test_a_parameter_of_another_size_needs_new_state(engine, sizes):
    """Code for any length would write beyond its slots."""
    params = [torch.nn.Parameter(torch.ones(sizes[0])) for _ in range(2)]
    made: Any = ob.create_optimizer(params, "adamw", engine=engine)
    for p in params:
        p.grad = torch.ones_like(p)
    made.step()
    params[0].grad, params[0].data = None, torch.ones(sizes[1])
    params[0].grad = torch.ones(sizes[1])
    words = rf"'adamw': slot 'exp_avg'.*\({sizes[1]},\).*\({sizes[0]},\).*state.pop\(parameter\)"
    with pytest.raises(ValueError, match=words):
        made.step()
    made.state.pop(params[0])
    made.step()
    assert (params[0] < 1).all()


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_other_memory_under_a_slot_is_stepped(engine):
    """Where only the memory of its tensor was exchanged."""
    params, made = make("adamw", engine)
    for t in range(1, 4):
        take_step(made, params, SHAPES, t, pauses=False)
    for index in (0, 6):
        made.state[params[index]]["exp_avg"].data = torch.full(params[index].shape, 0.5)
    take_step(made, params, SHAPES, 4, pauses=False)
    for index in (0, 6):
        expected = 0.9 * 0.5 + 0.1 * params[index].grad
        torch.testing.assert_close(made.state[params[index]]["exp_avg"], expected)


@pytest.mark.parametrize("engine", ["eager", *slow("compiled")])
def test_another_rounding_is_noticed(engine):
    """Of bf16 parameters, in the middle of a run."""
    found = []
    for rounding in ("stochastic", "nearest"):
        p = torch.nn.Parameter(torch.ones(512, dtype=torch.bfloat16))
        made: Any = ob.create_optimizer([p], "adamw-bf16", lr=1e-3, engine=engine)
        for t in range(6):
            if t == 3:
                made.param_groups[0]["rounding"] = rounding
                p.data.fill_(1.0)
            p.grad = torch.ones_like(p)
            made.step()
        found.append(p.detach().unique().numel())
    # To nearest all 512 elements move alike.
    assert found[0] > 1
    assert found[1] == 1


def test_gradients_of_another_dtype_are_noticed():
    """Small parameters of one bundle, whose gradients come in bf16 first."""
    params = [torch.nn.Parameter(torch.zeros(8)) for _ in range(2)]
    made: Any = ob.create_optimizer(params, "sgd", lr=1.0, engine="compiled")
    for dtype in (torch.bfloat16, torch.bfloat16, torch.float32):
        for p in params:
            p.grad = None
            p.grad_dtype = dtype
            p.data.zero_()
            p.grad = torch.full((8,), 1 + 2**-12, dtype=dtype)
        made.step()
    assert all(torch.equal(p, torch.full((8,), -1 - 2**-12)) for p in params)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_other_gradients_are_noticed(engine, monkeypatch):
    """None for once, lying anyhow in memory, and one that is refused."""

    def stepped() -> tuple[list[Any], Any]:
        params, made = make("adamw", engine)
        matrices = params[6:8]
        for t in range(1, 9):
            for p in params:
                p.grad = torch.full_like(p, 0.1 * t)
            if t == 3:
                params[0].grad = None
            if t == 5:
                for p in matrices:
                    p.grad = torch.linspace(-1, 1, p.numel()).view(p.shape[::-1]).t()
            if t == 7:
                params[2].grad = torch.full((1,), 0.5).expand(5)
            made.step()
        return params, made

    found = stepped()
    monkeypatch.setattr(repeat.Repeat, "fits", lambda works: False)
    assert_same(found, stepped())
    params, made = found
    assert made._stepper._repeat is not None
    params[0].grad = torch.ones(7).to_sparse()
    before = params[1].clone()
    with pytest.raises(RuntimeError, match="dense real gradients"):
        made.step()
    assert torch.equal(params[1], before)
