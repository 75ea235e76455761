"""The compiled path: one graph a phase and layout, made once, whatever changes between steps."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from marks import slow
from oracles import CASES
from oracles.comparison import Shape, lr_at, make_parameter, take_step
from torch import nn

import optbench_llm as ob
from optbench_llm.engine import bound, compiled, shortcuts
from optbench_llm.engine import graphs as graphs_of_engine
from optbench_llm.rules.adamp import AdamP

SHAPES = (Shape((5, 8)), Shape((7,)))


@pytest.fixture(autouse=True)
def _nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_FUNCTIONS", {})


def graphs() -> int:
    """How many graphs the test has compiled."""
    return len(compiled._FUNCTIONS)


def make(spec: str, shapes: Any = SHAPES, engine: str = "compiled") -> Any:
    params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
    case = CASES[spec.partition("@")[0]][0]
    return params, ob.create_optimizer(params, spec, engine=engine, **case)


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("lamb", 2),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("adamw", 1), ("sophia", 2), ("adabelief", 1))
        ),
    ],
)
def test_nothing_recompiles_after_the_first_step(name, phases):
    """lr, step counts, pauses and other changed hyperparameters are data, not code."""
    params, optimizer = make(name)
    take_step(optimizer, params, SHAPES, 1)
    assert graphs() == phases
    compile_s = optimizer.compile_s
    assert compile_s > 0
    for t in range(2, 12):
        group = optimizer.param_groups[0]
        group["lr"] = lr_at(0.1, t)
        group["weight_decay"] = 0.01 * t
        group["betas"] = (0.8 + 0.01 * t, 0.95)
        take_step(optimizer, params, SHAPES, t, pauses=True)
    assert graphs() == phases
    assert optimizer.compile_s == compile_s


@pytest.mark.parametrize("spec", ["lamb", *slow("adamp", "prodigy", "adafactor", "lamb@int8")])
def test_all_graphs_of_a_first_step_are_compiled_together(spec, monkeypatch):
    """Before the first of them runs: the C++ compiler works on one while the next is traced."""
    known = []

    def execute(self, *call):
        known.append(graphs())
        return run(self, *call)

    run = compiled.CompiledPhases._execute
    monkeypatch.setattr(compiled.CompiledPhases, "_execute", execute)
    shapes = (Shape((64, 80)), Shape((6, 9), transposed=True), *(Shape((7,)),) * 3)
    params, optimizer = make(spec, shapes)
    take_step(optimizer, params, shapes, 1)
    assert known[0] == known[-1] == graphs() > 1


def test_a_schedule_recompiles_nothing():
    """A scheduler that writes tensors or floats into the group's lr."""
    params, optimizer = make("lion")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    take_step(optimizer, params, SHAPES, 1)
    before = graphs()
    for t in range(2, 8):
        schedule.step()
        take_step(optimizer, params, SHAPES, t)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    take_step(optimizer, params, SHAPES, 8)
    assert graphs() == before


def test_rules_of_flat_pieces_share_a_graph_among_all_lengths():
    """However many shapes a model has; a single element alone is a case of its own."""
    shapes = (*(Shape((n,)) for n in range(2, 14)), Shape((5, 8)), Shape((2, 3, 4)), Shape(()))
    params, optimizer = make("sgd", shapes)
    take_step(optimizer, params, shapes, 1)
    assert graphs() == 2


@pytest.mark.slow
def test_rules_of_rows_compile_once_for_each_shape():
    """A model of many layers compiles as often as it has distinct shapes."""
    shapes = (Shape((5, 8)),) * 12 + (Shape((6, 4)),) * 12
    params, optimizer = make("adafactor", shapes)
    take_step(optimizer, params, shapes, 1)
    first = graphs()
    assert first == len({key[0][-1] for key in compiled._FUNCTIONS}) * 2
    take_step(optimizer, params, shapes, 2)
    assert graphs() == first


def test_optimizers_of_one_rule_share_their_graphs():
    """The second row of a leaderboard that runs a rule compiles nothing."""
    for lr in (0.1, 0.2):
        params, optimizer = make("lamb")
        optimizer.param_groups[0]["lr"] = lr
        take_step(optimizer, params, SHAPES, 1)
        assert (optimizer.compile_s > 0) == (lr == 0.1)
    assert graphs() == 2


@pytest.mark.parametrize("name", ["lion@int8", *slow("adamw", "lamb", "lion@bf16", "adamw@bf16")])
def test_a_length_that_was_not_compiled_for_steps_as_eager_code_does(name):
    """Code for any length has no guards: short, odd and long parameters must all come out right."""
    for n in (2, 3, 15, 255, 256, 257, 4096, 4097, 100_003, 2**17):
        shapes = (Shape((n,)),)
        params, optimizer = make(name, shapes)
        others, other = make(name, shapes, engine="eager")
        for t in range(1, 3):
            take_step(optimizer, params, shapes, t)
            take_step(other, others, shapes, t)
        assert (params[0] - others[0]).abs().max() < 1e-4, n


@pytest.mark.parametrize("name", ["lamb", *slow("lion@int8")])
def test_gradients_may_lie_anyhow_in_memory(name):
    """One number seen many times, every other one of a longer vector, a transposed matrix."""
    grads = [
        torch.full((1,), 0.5).expand(513),
        torch.linspace(-1, 1, 1026)[::2],
        torch.full((1, 1), 0.5).expand(64, 80),
        torch.linspace(-1, 1, 64 * 80).view(80, 64).t(),
    ]
    paths = []
    for dense in (False, True):
        params = [nn.Parameter(torch.ones(g.shape)) for g in grads]
        optimizer = ob.create_optimizer(params, name, lr=0.1, engine="compiled")
        for p, g in zip(params, grads, strict=True):
            p.grad = g.contiguous() if dense else g
        optimizer.step()
        paths.append(params)
    for anyhow, expected in zip(*paths, strict=True):
        assert not torch.equal(expected, torch.ones(expected.shape))
        assert torch.equal(anyhow, expected)


# Four graphs for two shapes.
@pytest.mark.slow
def test_8_bit_matrices_of_odd_sizes_step_as_eager_code_does():
    """Their codes end within a block, in one call with the matrix."""
    shapes = (Shape((65, 67)), Shape((64, 80)))
    paths = []
    for engine in ("eager", "compiled"):
        params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(shapes)]
        group = {"params": params, "role": "matrix"}
        optimizer: Any = ob.create_optimizer([group], "adam-mini@int8", lr=0.01, engine=engine)
        for t in range(1, 4):
            take_step(optimizer, params, shapes, t)
        assert {optimizer.state[p]["exp_avg"].dtype for p in params} == {torch.int8}
        paths.append(params)
    for eager, ours in zip(*paths, strict=True):
        assert (eager - ours).abs().max() < 1e-4


def test_new_memory_under_a_parameter_is_stepped():
    """What the engine keeps of a parameter must not outlive its memory or its state."""
    params, optimizer = make("adamw")
    take_step(optimizer, params, SHAPES, 1)
    before = params[0].detach().clone()
    params[0].data = before.clone()
    optimizer.state[params[0]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"].clone()
    take_step(optimizer, params, SHAPES, 2)
    assert (params[0] != before).all()


def test_a_resumed_compiled_run_is_the_uninterrupted_one():
    """Loading a state recompiles nothing and changes no bit."""
    params, optimizer = make("adamw")
    for t in range(1, 4):
        take_step(optimizer, params, SHAPES, t)
    others, other = make("adamw")
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(optimizer.state_dict())
    take_step(other, others, SHAPES, 4)
    before = graphs()
    other.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    for t in range(4, 8):
        take_step(optimizer, params, SHAPES, t)
        take_step(other, others, SHAPES, t)
    assert graphs() == before
    assert all(map(torch.equal, params, others))


@pytest.mark.parametrize("spec", ["adamw@int8", *slow("adamw@bf16")])
def test_storage_compiles_into_the_step(spec):
    """One graph decodes, steps and encodes; compiled and eager state agree in nearly every code."""
    shapes = (Shape((64, 80)),)
    params, optimizer = make(spec, shapes)
    others, other = make(spec, shapes, engine="eager")
    for t in range(1, 6):
        take_step(optimizer, params, shapes, t)
        take_step(other, others, shapes, t)
    assert graphs() == 1
    a, b = optimizer.state[params[0]]["exp_avg"], other.state[others[0]]["exp_avg"]
    assert a.dtype == b.dtype == (torch.int8 if "int8" in spec else torch.bfloat16)
    assert (a.float() != b.float()).float().mean() < 0.01
    assert (params[0] - others[0]).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("elements", "steps", "engine"),
    [(10_000, None, "eager"), (400_000, None, "compiled"), (400_000, 30, "eager")],
)
def test_auto_compiles_where_the_work_repays_it_and_says_why(elements, steps, engine):
    """By elements times steps; a run of unknown length counts as 1,000 steps."""
    optimizer: Any = ob.create_optimizer([torch.zeros(elements)], "lion")
    optimizer.expected_steps = steps
    assert optimizer.engine == engine
    assert f"{elements:,} elements x {steps or 1000:,} steps" in optimizer.engine_reason


@pytest.mark.parametrize("spec", slow("adamp@int8", "ranger@int8"))
def test_matrices_of_any_layout_are_stored_in_8_bits(spec):
    """A rule of rows gets GPT-2's weights transposed, and codes lie by rows all the same."""
    paths = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(80, 64).t())
        optimizer: Any = ob.create_optimizer([p], spec, engine=engine, lr=0.01)
        for _ in range(3):
            p.grad = torch.randn_like(p)
            optimizer.step()
        paths.append(p.detach())
    assert torch.allclose(*paths, rtol=0, atol=1e-3)


def test_a_users_word_on_vector_instructions_holds():
    """Inductor's trials of them are left out only where nobody said anything."""
    from torch._inductor import config

    layouts = [graphs_of_engine.Layout.of(torch.ones(8))]
    assert graphs_of_engine._options(layouts)["cpp.vec_isa_ok"] is True
    with config.patch({"cpp.vec_isa_ok": False}):
        assert "cpp.vec_isa_ok" not in graphs_of_engine._options(layouts)


def test_after_a_shortcut_all_matrices_share_code(monkeypatch):
    """It needs no channels, so matrices that lie in memory in any order are vectors to it."""
    monkeypatch.setattr(shortcuts, "FROM_ELEMENTS", 1)
    monkeypatch.setattr(AdamP, "shortcut", staticmethod(lambda *_: True))
    shapes = (Shape((6, 9)), Shape((5, 80), transposed=True), Shape((2, 3, 4)))
    params, optimizer = make("adamp", shapes)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert graphs() == 2


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
def test_large_matrices_are_stepped_in_cuts_of_rows(monkeypatch, transposed):
    """Cut or not, a rule of rows takes the same steps: sums are added up over the cuts."""
    shapes, paths = (Shape((50, 40), transposed=transposed),), []
    monkeypatch.setattr(bound, "CUT_FROM_ELEMENTS", 100)
    monkeypatch.setattr(bound, "CUT_ELEMENTS", 600)
    for engine in ("eager", "compiled"):
        params, optimizer = make("sgdp", shapes, engine=engine)
        for t in range(1, 6):
            take_step(optimizer, params, shapes, t)
        paths.append(params[0])
    assert {key[2][0].shape[0] for key in compiled._FUNCTIONS} == {15, 5}
    assert torch.allclose(*paths, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["adamw@int8", "lamb@int8"])
def test_large_units_in_8_bits_are_stepped_in_cuts(monkeypatch, spec):
    """Cut or not, the same numbers are rounded by the same random bits, by one graph."""
    shapes = (Shape((50 * 256 + 9,)),)
    paths, states, inputs = [], [], []
    for size in (10**9, 12 * 256):
        monkeypatch.setattr(bound, "CUT_ELEMENTS", size)
        monkeypatch.setattr(compiled, "_FUNCTIONS", {})
        params, optimizer = make(spec, shapes)
        for t in range(1, 6):
            take_step(optimizer, params, shapes, t)
        inputs.append({key[0][-1]: len(key[2]) for key in compiled._FUNCTIONS})
        assert len(compiled._FUNCTIONS) == len(inputs[-1])
        paths.append(params[0])
        states.append(optimizer.state[params[0]])
    whole, cut = inputs
    assert cut == {phase: count + 1 for phase, count in whole.items()}
    assert torch.allclose(*paths, rtol=0, atol=1e-6)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(*(state[name] for state in states))


def test_a_library_that_a_killed_process_left_empty_is_made_anew(tmp_path):
    """A kill while the linker works must not fail every later run on this machine."""
    step = (
        "import torch, optbench_llm as ob; p = torch.nn.Parameter(torch.ones(5, 8)); "
        "p.grad = torch.ones(5, 8); ob.create_optimizer([p], 'adamw', engine='compiled', lr=0.1)"
        ".step(); print(p.sum().item())"
    )
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    def stepped() -> str:
        command = [sys.executable, "-c", step]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = stepped()
    # Those of the trial whether anything compiles, and of the step; the others are never loaded.
    libraries = [*tmp_path.rglob("*.main.so")]
    assert len(libraries) == 2
    for library in libraries:
        library.write_bytes(b"")
    assert stepped() == first
    assert all(library.stat().st_size for library in libraries)
