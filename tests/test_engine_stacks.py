"""Units of one kind stepped together, as on an accelerator: the same steps by far fewer launches.

Here on the CPU, where every unit would be stepped by itself.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from marks import slow
from oracles import CASES, PROOFS
from oracles.comparison import (
    deviation,
    distance,
    run_rule,
)
from oracles.inputs import gradient, parameter
from oracles.proof import Shape
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import optbench_llm as ob
from optbench_llm.engine import pieces, stacks
from optbench_llm.engine.rows import as_rows, rows_of
from optbench_llm.rules import newton_schulz, products

MATRIX = ob.list_optimizers(scope="matrix")
OTHERS = [name for name in CASES if name not in MATRIX]
EVERY_CASE = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name in MATRIX
    for number, case in enumerate(CASES[name])
]
#: Large enough for 8 bits.
LARGE = (Shape((64, 80)),) * 3 + (Shape((72, 80), transposed=True),) * 2


@pytest.fixture(autouse=True)
def _loops_raise() -> Iterator[None]:
    """Where vmap knows no operation for a stack it would run a loop over its rows."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


class _ProductsOfStacks(TorchDispatchMode):
    """Multiplies two matrices as a stack of one: MKL has other code for that on Intel's."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default:
            a, b = args
            return torch.bmm(a[None], b[None])[0]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _exact_products(monkeypatch) -> Iterator[None]:
    """Products of one matrix and of stacks of them by one library, in the state's precision."""
    monkeypatch.setattr(products, "is_amd", lambda: False)
    monkeypatch.setattr(newton_schulz, "cpu_has_bfloat16", lambda: False)
    with _ProductsOfStacks():
        yield


def stack_all(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Let all be stepped as on an accelerator; counts the stacks by their rows, as they are run."""
    counts: Counter[int] = Counter()
    run = stacks._run_stack

    def counted(phase: str, works: Any, sums: Any) -> Any:
        counts[len(works)] += 1
        return run(phase, works, sums)

    monkeypatch.setattr(stacks, "_run_stack", counted)
    monkeypatch.setattr(pieces, "is_stacked", lambda work: True)
    return counts


def thrice(name: str) -> list[Shape]:
    return [shape for shape in PROOFS[name].shapes for _ in range(3)]


def worst(paths: Any, references: Any, shapes: Any) -> float:
    return max(
        distance(path, reference, parameter(shape.sizes, i))
        for i, (path, reference, shape) in enumerate(zip(paths, references, shapes, strict=True))
    )


@pytest.mark.usefixtures("_exact_products")
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *EVERY_CASE,
        *(pytest.param(name, CASES[name][0], id=name, marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_a_stack_steps_as_its_units_would_by_themselves(name, case, monkeypatch):
    """While gradients come and go, so that units of one shape are at different steps.

    A library may add up a product of stacks in another order. In float64 that is next to nothing;
    in fp32 Newton-Schulz steps, which push small singular values up, make it ten times larger.
    """
    shapes = thrice(name)
    fp32 = 1e-5 if name in ("muon", "scion") else 1e-6
    dtypes = {torch.float64: 1e-12, torch.float32: fp32}
    alone = {dtype: run_rule(name, case, shapes, dtype, "eager") for dtype in dtypes}
    counts = stack_all(monkeypatch)
    for dtype, tolerance in dtypes.items():
        together = run_rule(name, case, shapes, dtype, "eager")
        assert worst(together, alone[dtype], shapes) <= tolerance
    assert {2, 3} <= counts.keys()


@pytest.mark.usefixtures("_exact_products")
@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_stacks_agree_with_the_oracle(name, case, monkeypatch):
    stack_all(monkeypatch)
    assert deviation(name, case, shapes=thrice(name)) <= 1e-5


@pytest.mark.parametrize("name", ["adafactor", "soap", "adamw-bf16", *slow(*CASES)])
@pytest.mark.parametrize("storage", ["", "@bf16", "@int8"])
def test_random_bits_of_a_stack_are_those_of_each_unit(name, storage, monkeypatch):
    """Exactly: of slots in 16 and 8 bits, and of bf16 parameters where the rule rounds so."""
    settings = {**CASES[name][0], **({"rounding": "stochastic"} if name == "adamw-bf16" else {})}
    try:
        alone = run_rule(name + storage, settings, LARGE, torch.bfloat16, "eager")
    except ValueError as error:
        pytest.skip(str(error))
    counts = stack_all(monkeypatch)
    together = run_rule(name + storage, settings, LARGE, torch.bfloat16, "eager")
    assert worst(together, alone, LARGE) == 0
    assert {2, 3} <= counts.keys()


def test_an_operation_without_a_rule_for_stacks_raises_here():
    """What the fixture of this file is for."""

    def of_row(x: torch.Tensor) -> torch.Tensor:
        return x.histc(2)

    with pytest.raises(RuntimeError, match="fallback"):
        torch.vmap(of_row)(torch.ones(2, 3))


class Model(nn.Module):
    """Six matrices of one shape, two of another, and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.ModuleList([nn.Linear(8, 8) for _ in range(6)])
        self.wide = nn.ModuleList([nn.Linear(8, 24) for _ in range(2)])


def soap(model: nn.Module) -> Any:
    """SOAP, which fits its bases every other step."""
    return ob.create_optimizer(
        model, "soap", lr=0.01, precondition_frequency=2, engine="eager", weight_decay=0.1
    )


def made() -> tuple[Model, Any]:
    torch.manual_seed(0)
    model = Model()
    return model, soap(model)


def step(model: nn.Module, optimizer: Any, t: int, without: tuple[int, ...] = ()) -> None:
    """Step t; matrices ``without`` a gradient pause."""
    for i, p in enumerate(model.parameters()):
        new = None if i in without else torch.from_numpy(gradient(tuple(p.shape), i, t)).float()
        p.grad = new
    optimizer.step()


def moments(model: Model, optimizer: Any) -> list[torch.Tensor]:
    """The momenta of the matrices of one shape."""
    return [optimizer.state[layer.weight]["exp_avg"] for layer in model.same]


def lies_as_rows(tensors: list[torch.Tensor]) -> bool:
    return rows_of(tensors) is not None


def test_slots_of_one_kind_lie_one_behind_the_other(monkeypatch):
    """They keep their tensors from then on: the next step copies none of them."""
    stack_all(monkeypatch)
    model, optimizer = made()
    step(model, optimizer, 1)
    first = moments(model, optimizer)
    assert lies_as_rows(first)
    step(model, optimizer, 2)
    assert all(a is b for a, b in zip(moments(model, optimizer), first, strict=True))


def states_alike(a: Any, b: Any) -> bool:
    """Whether two state dicts hold the same numbers."""
    return all(
        torch.equal(value, b["state"][i][name]) if torch.is_tensor(value) else
        value == b["state"][i][name]
        for i, own in a["state"].items()
        for name, value in own.items()
    )  # fmt: skip


PAUSES: dict[int, tuple[int, ...]] = {2: (0, 4), 3: (2,), 5: (0, 2, 4, 6, 8, 10)}


def test_slots_that_share_memory_with_paused_ones_stay_where_they_are(monkeypatch):
    """Gradients come and go; memory that is half in use would pile up."""
    stack_all(monkeypatch)
    model, optimizer = made()
    step(model, optimizer, 1)
    first = moments(model, optimizer)
    for t, without in PAUSES.items():
        step(model, optimizer, t, without)
    assert all(a is b for a, b in zip(moments(model, optimizer), first, strict=True))


def _copied(model: Model, optimizer: Any) -> tuple[Model, Any]:
    model, optimizer = copy.deepcopy((model, optimizer))
    return model, optimizer


def _pickled(model: Model, optimizer: Any) -> tuple[Model, Any]:
    return pickle.loads(pickle.dumps((model, optimizer)))


def _resumed(model: Model, optimizer: Any) -> tuple[Model, Any]:
    """A new process with the state from a file."""
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    model, optimizer = made()
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    return model, optimizer


def _loaded(model: Model, optimizer: Any) -> tuple[Model, Any]:
    """Its own state once more, in other memory."""
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return model, optimizer


def _one_slot_set(model: Model, optimizer: Any) -> tuple[Model, Any]:
    """One tensor of the state replaced by hand."""
    state = optimizer.state[model.same[3].weight]
    state["exp_avg"] = state["exp_avg"].clone()
    return model, optimizer


def _parameter_moved(model: Model, optimizer: Any) -> tuple[Model, Any]:
    """Another memory and layout of one parameter."""
    weight = model.same[2].weight
    weight.data = weight.data.t().contiguous().t()
    return model, optimizer


@pytest.mark.parametrize(
    "become", [_copied, _pickled, _resumed, _loaded, _one_slot_set, _parameter_moved]
)
def test_steps_go_on_as_if_nothing_had_been(become, monkeypatch):
    """Bit for bit, while gradients come and go, and what was copied from stays as it was."""
    stack_all(monkeypatch)
    plain, own = made()
    for t in range(1, 8):
        step(plain, own, t, PAUSES.get(t, ()))
    model, optimizer = made()
    for t in range(1, 5):
        step(model, optimizer, t, PAUSES.get(t, ()))
    before = copy.deepcopy(optimizer.state_dict())
    old = optimizer
    model, optimizer = become(model, optimizer)
    for t in range(5, 8):
        step(model, optimizer, t, PAUSES.get(t, ()))
    assert all(map(torch.equal, plain.parameters(), model.parameters()))
    assert states_alike(optimizer.state_dict(), own.state_dict())
    assert optimizer is old or states_alike(old.state_dict(), before)


def test_a_group_added_later_is_stepped_with_the_first(monkeypatch):
    counts = stack_all(monkeypatch)
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(8, 8)) for _ in range(4)]
    optimizer: Any = ob.create_optimizer([{"params": params[:2], "role": "matrix"}], "muon")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.add_param_group({"params": params[2:], "role": "matrix"})
    counts.clear()
    optimizer.step()
    assert counts == {4: 1}
    assert lies_as_rows([optimizer.state[p]["momentum_buffer"] for p in params])


@pytest.mark.parametrize(
    ("elements", "matrices"), [(576 * 2, [6, 2]), (64 * 6, [6]), (64 * 3, [3, 3])]
)
def test_a_stack_is_no_larger_than_its_bound(elements, matrices, monkeypatch):
    """Of its largest tensor: matrices of 24 x 8 have slots of 24 x 24."""
    counts = stack_all(monkeypatch)
    plain, own = made()
    step(plain, own, 1)
    step(plain, own, 2)
    monkeypatch.setattr(stacks, "STACK_ELEMENTS", elements)
    counts.clear()
    model, optimizer = made()
    step(model, optimizer, 1)
    biases = [6, 2]
    assert counts == Counter([*matrices, *biases])
    step(model, optimizer, 2)
    assert all(map(torch.equal, plain.same.parameters(), model.same.parameters()))


MEMORY = torch.arange(24.0)


@pytest.mark.parametrize(
    ("tensors", "view"),
    [
        (MEMORY.view(4, 2, 3).unbind(), True),
        (MEMORY.view(4, 2, 3).unbind()[1::2], True),
        (MEMORY.view(6, 4).t().view(2, 2, 6).unbind(), True),
        (MEMORY.view(4, 2, 3).unbind()[::-1], False),
        ([MEMORY.view(4, 6)] * 2, False),
        ([*MEMORY.view(4, 2, 3).unbind()[:2], MEMORY.view(4, 2, 3)[3]], False),
        ([MEMORY[:6].view(2, 3), MEMORY[6:12].view(3, 2).t()], False),
        ([MEMORY[:6].view(2, 3), MEMORY[6:12].clone().view(2, 3)], False),
    ],
)
def test_rows_are_a_view_where_they_lie_at_equal_distances(tensors, view):
    """Whether or not, they are the same numbers."""
    rows = rows_of(tensors)
    assert (rows is not None) == view
    assert torch.equal(as_rows(tensors), torch.stack([*tensors]))


class Calls(TorchDispatchMode):
    """Counts calls of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def test_matrices_of_one_tensor_are_stepped_where_they_are(monkeypatch):
    """Experts in one parameter: neither they nor their gradients nor slots are copied."""
    stack_all(monkeypatch)
    p = nn.Parameter(torch.ones(4, 6, 8))
    group = {"params": [p], "role": "matrix", "stacked": True}
    optimizer = ob.create_optimizer([group], "muon", engine="eager")
    p.grad = torch.randn(4, 6, 8)
    optimizer.step()
    with Calls() as mode:
        optimizer.step()
    assert mode.counts["baddbmm"] == 10
    assert not mode.counts.keys() & {"stack", "cat", "_foreach_copy_"}
