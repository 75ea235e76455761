"""Triton's kernels, run on a CPU by Triton's own interpreter."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from engine_setup import works_of
from marks import slow
from oracles import CASES
from oracles.comparison import deviation, make_optimizer, make_parameter, shapes_of, take_step
from oracles.proof import Shape
from quick_interpreter import replace_language_once
from torch import nn

import optbench_llm as ob
from optbench_llm.engine.tracing import traced
from optbench_llm.rules.rule import Scope

pytest.importorskip("triton", reason="Triton has no wheel for this machine")

from optbench_llm.engine.triton import batch, executor
from optbench_llm.engine.triton.emitter import Inputs, emit
from optbench_llm.engine.triton.executor import TritonPhases, form_of
from optbench_llm.engine.triton.operations import Unsupported
from optbench_llm.engine.triton.templates import Form

#: One of each kind of kernel: flat, with sums, with a slot of one number, with sums over the model,
#: by channel, around matrices, and one that observes.
QUICK = ("adamw", "lamb", "novograd", "prodigy", "adamp", "ranger", "muon", "sophia")
#: Matrix products in bfloat16.
COARSE = {"muon": 0.06, "scion": 0.06}


@pytest.fixture(autouse=True)
def _quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_language_once(monkeypatch)


EVERY_CASE = [
    pytest.param(
        name, case, id=f"{name}-{number}",
        marks=() if name in QUICK and not number else pytest.mark.slow,
    )
    for name, cases in CASES.items() for number, case in enumerate(cases)
]  # fmt: skip
NAMES = [*QUICK, *slow(*(name for name in CASES if name not in QUICK))]
MATRIX = [name for name in CASES if ob.optimizer_info(name).rule_class().scope is Scope.MATRIX]


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_every_rule_steps_as_its_oracle_in_float64(name, case):
    """Tensors that start late and pause are stepped by other launches than the rest."""
    assert deviation(name, case, engine="triton") < COARSE.get(name, 1e-5)


def stepped(
    spec: str,
    engine: str,
    shapes: tuple[tuple[int, ...], ...] = ((70, 65), (7,), ()),
    dtype: torch.dtype = torch.float32,
    steps: int = 4,
) -> tuple[Any, list[nn.Parameter]]:
    """An optimizer after some steps, and its parameters."""
    name = spec.partition("@")[0]
    kinds = [Shape(sizes) for sizes in shapes if len(sizes) > 1 or shapes_of(name)[0].sizes == ()]
    params = [make_parameter(shape, i, dtype) for i, shape in enumerate(kinds)]
    optimizer = make_optimizer(params, spec, engine=engine, **CASES[name][0])
    for t in range(1, steps + 1):
        take_step(optimizer, params, kinds, t)
    return optimizer, params


@pytest.mark.parametrize("suffix", ["@bf16", "@int8"])
@pytest.mark.parametrize("name", NAMES)
def test_state_in_few_bits_is_rounded_with_eager_codes_random_bits(name, suffix):
    """Sums of another order may move a number over the edge of a code: to the next, and seldom."""
    try:
        ours, params = stepped(name + suffix, "triton")
    except ValueError as error:
        pytest.skip(str(error))
    theirs, expected = stepped(name + suffix, "eager")
    for p, q in zip(params, expected, strict=True):
        for slot, value in theirs.state[q].items():
            found = ours.state[p][slot]
            if not isinstance(value, torch.Tensor) or not value.numel():
                assert found == value
            elif value.dtype in (torch.int8, torch.uint8):
                apart = (found.int() - value.int()).abs()
                assert apart.max() <= 1
                assert (apart > 0).float().mean() <= 0.01
            elif value.dtype is torch.bfloat16:
                apart = (found != value).float().mean()
                assert apart <= max(0.02, 1.01 / value.numel())
                assert torch.allclose(found.float(), value.float(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", ["adamw", "adamw-bf16", *slow("lamb", "adamp", "adamw@int8")])
def test_weights_in_16_bits_are_written_as_by_eager_code(spec, dtype):
    """To nearest or at random, in the same places."""
    _, params = stepped(spec, "triton", dtype=dtype)
    _, expected = stepped(spec, "eager", dtype=dtype)
    for p, q in zip(params, expected, strict=True):
        assert (p != q).float().mean() <= max(0.01, 1.01 / p.numel())
        assert torch.allclose(p.float(), q.float(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("spec", ["adamw@int8", *slow("lamb", "prodigy@bf16", "swats", "adamp")])
def test_a_resumed_run_goes_on_bit_for_bit(spec):
    """From a state dict, into new memory."""
    name = spec.partition("@")[0]
    kinds = [Shape((70, 65)), Shape((7,))]
    straight, params = stepped(spec, "triton", ((70, 65), (7,)), steps=3)
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = make_optimizer(copies, spec, engine="triton", **CASES[name][0])
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for t in (4, 5):
        take_step(straight, params, kinds, t)
        take_step(resumed, copies, kinds, t)
    assert all(map(torch.equal, params, copies))


class Launches:
    """Counts launches, with their kernels, and copies to the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernels: list[Any] = []
        self.copies = 0
        launch, sent = batch.launch, batch.sent

        def counted(kernel: Any, *given: Any) -> None:
            self.kernels.append(kernel)
            launch(kernel, *given)

        def counted_copy(*given: Any) -> torch.Tensor:
            self.copies += 1
            return sent(*given)

        monkeypatch.setattr(batch, "launch", counted)
        for module in (batch, executor):
            monkeypatch.setattr(module, "sent", counted_copy)

    def clear(self) -> None:
        self.kernels.clear()
        self.copies = 0


@pytest.mark.parametrize(
    ("spec", "launches"),
    [("adamw", 1), ("lion", 1), ("lamb", 3), ("novograd", 4), ("adamw@int8", 2), ("prodigy", 3)],
)
def test_a_step_is_few_launches_and_one_copy(spec, launches, monkeypatch):
    """Of any number of tensors. Sums take two launches more, slots of a number one; small tensors
    keep out of 8 bits, in a launch of their own."""
    sizes = [(70, 65), (7,), (), (3, 5)] * 5
    params = [nn.Parameter(torch.randn(size)) for size in sizes]
    optimizer: Any = ob.create_optimizer(params, spec, engine="triton")
    counted = Launches(monkeypatch)
    for _ in range(3):
        counted.clear()
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
        assert len(counted.kernels) == launches
    assert counted.copies == 1


def test_groups_of_other_settings_share_a_launch(monkeypatch):
    """Each tensor has the numbers of its group."""
    paths = []
    counted = Launches(monkeypatch)
    for engine in ("eager", "triton"):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(50)) for _ in range(3)]
        groups = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(params)]
        optimizer = ob.create_optimizer(groups, "adamw", engine=engine)
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
        paths.append(torch.stack([p.detach() for p in params]))
    assert len(counted.kernels) == 1
    assert torch.allclose(*paths, rtol=0, atol=1e-7)


def of_bucket(like: torch.Tensor) -> torch.Tensor:
    """A view into a longer tensor that begins where no whole vector does."""
    values = torch.zeros(like.numel() + 1, dtype=like.dtype)[1:].view(like.shape)
    return values.copy_(like)


def seen_many_times(like: torch.Tensor) -> torch.Tensor:
    """One row for all, as a gradient of a sum is."""
    return like[:1].expand(like.shape)


def turned(like: torch.Tensor) -> torch.Tensor:
    """The same numbers, columns first in memory."""
    return like.t().contiguous().t()


@pytest.mark.parametrize("lay", [of_bucket, seen_many_times, turned])
@pytest.mark.parametrize("spec", ["adamw", "adamp", *slow("lamb", "lion@int8", "ranger")])
def test_gradients_may_lie_anyhow(spec, lay):
    """Unaligned, expanded, transposed: what counts is their numbers."""
    paths = []
    for change in (lay, lambda g: lay(g).contiguous()):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(70, 65))
        optimizer: Any = ob.create_optimizer([p], spec, engine="triton")
        for _ in range(2):
            p.grad = change(torch.randn(70, 65))
            optimizer.step()
        paths.append(p.detach())
    assert torch.equal(*paths)


@pytest.mark.parametrize("lay", [of_bucket, turned])
@pytest.mark.parametrize("spec", ["adamw", "adamp", *slow("lamb", "ranger", "lion@int8", "muon")])
def test_parameters_may_lie_anyhow(spec, lay):
    """As slices of a larger tensor, or transposed as GPT-2's weights are for rules of channels."""
    paths = []
    for engine in ("eager", "triton"):
        torch.manual_seed(0)
        p = nn.Parameter(lay(torch.randn(70, 65)))
        group = {"params": [p], **({"role": "matrix"} if spec == "muon" else {})}
        optimizer: Any = ob.create_optimizer([group], spec, engine=engine)
        for _ in range(2):
            p.grad = torch.randn_like(p)
            optimizer.step()
        paths.append(p.detach())
    assert torch.allclose(*paths, rtol=0, atol=2e-4 if spec == "muon" else 2e-6)


def test_gradients_that_begin_elsewhere_take_narrow_loads():
    """A kernel that was told of 16 whole bytes would fault on a GPU."""
    seen = []
    p = nn.Parameter(torch.randn(64))
    optimizer: Any = ob.create_optimizer([p], "sgd", engine="triton")
    for lay in (torch.clone, of_bucket):
        p.grad = lay(torch.randn(64))
        optimizer.step()
        [numbers] = optimizer._executor._numbers.values()
        seen.append(numbers.aligned)
    assert seen == [True, False]


def test_slots_that_have_moved_are_found_where_they_are(monkeypatch):
    """What AdaHessian observes of convolutions has no kernel; stacks, as on a GPU, move its slots
    between two updates by kernels."""
    from optbench_llm.engine import pieces

    paths = []
    for engine in ("eager", "triton"):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(4, 3, 2, 2)) for _ in range(3)]
        optimizer: Any = ob.create_optimizer(params, "adahessian", engine=engine, lr=0.1)
        for number in range(3):
            monkeypatch.setattr(pieces, "is_stacked", lambda work, late=number > 0: late)
            for call in (optimizer.observe, optimizer.step):
                for p in params:
                    p.grad = torch.randn_like(p)
                call()
        paths.append(torch.stack([p.detach() for p in params]))
    assert torch.allclose(*paths, rtol=0, atol=1e-6)


def test_a_tensor_may_have_more_than_2_to_the_31_elements():
    """Its last tiles are stepped, and nothing before them is touched."""
    count = 2**31 + 1500
    p = nn.Parameter(torch.empty(count, dtype=torch.bfloat16))
    p.grad = torch.empty_like(p)
    optimizer: Any = ob.create_optimizer(
        [p], "sgd", lr=0.5, momentum=0.0, weight_decay=0.0, engine="triton"
    )
    with torch.no_grad():
        p[-2000:], p.grad[-2000:], p[:2000] = 1.0, 2.0, 1.0
    works = works_of(optimizer)
    phases = TritonPhases()
    phases.prepare(works)
    [(own, _)] = phases._plan(works).batches
    own._tiles_of, own._count = own._tiles_of[-2:].contiguous(), 2
    phases.run("update", works)
    tile = own.tile[0] * own.tile[1]
    stepped = count - (count // tile - 1) * tile
    assert torch.equal(p[-stepped:], torch.zeros(stepped, dtype=torch.bfloat16))
    assert torch.equal(p[:2000], torch.ones(2000, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", [name for name in CASES if name not in MATRIX])
def test_every_rule_but_those_of_matrices_has_kernels(name):
    """None falls back on eager code unseen: what does is named here."""
    params = [nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(3))]
    optimizer: Any = make_optimizer(params, name, **CASES[name][0])
    for p in params:
        p.grad = torch.ones_like(p)
    works = works_of(optimizer)
    phases = TritonPhases()
    assert not phases._plan(works).others
    assert {form_of(work.bound) for work in works} <= {Form.FLAT, Form.CHANNELS}
    if optimizer.rule.observe is not None:
        works = works_of(optimizer, advance=False)
        assert not phases._plan(works).others


def test_what_has_no_kernel_is_stepped_eagerly():
    """Channels in 8 bits, and weights in float64: right, if not in one launch."""
    for spec, dtype in (("adamp@int8", torch.float32), ("adamw", torch.float64)):
        ours, params = stepped(spec, "triton", ((80, 64),), dtype)
        _, expected = stepped(spec, "eager", ((80, 64),), dtype)
        assert torch.equal(params[0], expected[0])
        assert not ours._executor._plans


def test_an_operation_without_a_kernel_is_named():
    """For who adds a rule: the error says which operation it was."""

    def rule(p: torch.Tensor, g: torch.Tensor, start: torch.Tensor) -> tuple[()]:
        p.copy_(torch.erfinv(g))
        return ()

    graph = traced(rule, [torch.zeros(5), torch.zeros(5), torch.zeros(())], {}).graph
    with pytest.raises(Unsupported, match="erfinv"):
        emit("rule_update", graph, Inputs((), (), ()), Form.FLAT)


def test_a_sum_over_the_tensor_within_a_stage_is_refused():
    """A tile would take the sum of what it sees; rules have ``measure`` for that."""

    def rule(p: torch.Tensor, g: torch.Tensor, start: torch.Tensor) -> tuple[()]:
        p.copy_(g / g.sum())
        return ()

    graph = traced(rule, [torch.zeros(5), torch.zeros(5), torch.zeros(())], {}).graph
    with pytest.raises(Unsupported, match="a sum over the tensor"):
        emit("rule_update", graph, Inputs((), (), ()), Form.FLAT)


WITHOUT_INTERPRETER = """
import torch, optbench_llm as ob
p = torch.nn.Parameter(torch.zeros(3))
p.grad = torch.zeros(3)
try:
    ob.create_optimizer([p], "adamw", engine="triton").step()
except ValueError as error:
    print(error)
"""


def test_on_a_cpu_kernels_want_the_interpreter():
    """A clear word instead of a compiler's on a machine without a GPU."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = [sys.executable, "-c", WITHOUT_INTERPRETER]
    said = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
    assert "engine 'triton' cannot step these parameters" in said
    assert "TRITON_INTERPRET=1" in said


def test_without_triton_the_engine_says_so(monkeypatch):
    """And ``auto`` goes on."""
    from optbench_llm.engine.triton import availability

    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: None)
    optimizer: Any = ob.create_optimizer([torch.zeros(3)], "adamw", engine="triton")
    with pytest.raises(ValueError, match="Triton is not installed"):
        _ = optimizer.engine
    optimizer = ob.create_optimizer([torch.zeros(3)], "adamw")
    assert optimizer.engine == "eager"


def test_a_machine_that_cannot_build_kernels_says_so(monkeypatch):
    """Triton makes a small library with a C compiler, which slim containers lack."""
    from optbench_llm.engine.triton import availability

    device = torch.device("cpu")
    availability.launch_failure.cache_clear()
    assert availability.launch_failure(device) is None

    def fail(*given: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    availability.launch_failure.cache_clear()
    monkeypatch.setattr(batch, "launch", fail)
    told = availability.launch_failure(device)
    availability.launch_failure.cache_clear()
    assert told is not None
    assert "Failed to find C compiler." in told
    assert "gcc" in told
