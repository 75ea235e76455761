"""What the engine plans of parameters, when it plans anew, and whether memory is as planned."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optbench_llm as ob
from optbench_llm import engine
from optbench_llm.engine import bundles
from optbench_llm.engine.bundles import Bundle
from optbench_llm.engine.memory import Memory
from optbench_llm.rules.svrg import SNAPSHOT


def stepped(spec: str, params: list[Any], **settings: Any) -> Any:
    """An optimizer after one step."""
    made: Any = ob.create_optimizer(params, spec, **{"engine": "eager", **settings})
    step(made, params)
    return made


def step(made: Any, params: list[Any]) -> None:
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, 0.1 * (i + 1))
    made.step()


def views_of(made: Any) -> list[Any]:
    """The bound views of the first parameter."""
    return [*made._stepper._bindings._known[0, 0].values()]


@pytest.fixture
def params() -> list[Any]:
    return [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(5))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_programs_keep_is_planned_in_the_dtype_of_the_arithmetic(dtype: torch.dtype) -> None:
    """As it is begun for a checkpoint to be loaded into: 64 bits for a parameter of 64."""
    p = nn.Parameter(torch.ones(3, 4, dtype=dtype))
    made: Any = ob.create_optimizer([p], "svrg+adamw", lr=0.0, engine="eager")
    p.grad = torch.zeros_like(p)
    made.step()
    assert made.state[p][SNAPSHOT].dtype == torch.promote_types(dtype, torch.float32)
    assert made.planned_state_bytes() == made.state_bytes()


def test_parameters_of_one_shape_share_a_plan(params: list[Any]) -> None:
    made = stepped("adamw", [*params, nn.Parameter(torch.zeros(3, 4))])
    (plans,) = made._planner.groups(made.param_groups)
    first, other, like = (plans.plan(p, p.numel()) for p in made.param_groups[0]["params"])
    assert like is first
    assert other is not first


def test_a_schedule_changes_no_plan(params: list[Any]) -> None:
    made = stepped("adamw", params)
    before = made._planner.groups(made.param_groups)[0]
    made.param_groups[0]["lr"] = torch.tensor(0.25)
    after = made._planner.groups(made.param_groups)[0]
    assert after is before
    assert after.h.lr == 0.25


def test_a_hyperparameter_of_every_step_costs_no_view(params: list[Any]) -> None:
    """As OneCycleLR has momentum: planned anew, but to the same plan."""
    made = stepped("adamw", params)
    bound, plans = views_of(made), made._planner.groups(made.param_groups)[0]
    made.param_groups[0]["betas"] = (0.8, 0.99)
    step(made, params)
    assert views_of(made) == bound
    assert made._planner.groups(made.param_groups)[0] is not plans


def test_a_hyperparameter_that_changes_slots_changes_the_plan(params: list[Any]) -> None:
    made = stepped("sgd", params, momentum=0.0)
    (before,) = views_of(made)
    made.param_groups[0]["momentum"] = 0.9
    step(made, params)
    (after,) = views_of(made)
    assert (before.names, after.names) == ([], ["momentum_buffer"])


#: With room behind it, so that other shapes and strides lie within its memory.
MATRIX = torch.arange(96.0)[:48].view(6, 8)


def same(p: Any, state: dict[str, Any]) -> None:
    p.data.mul_(2)
    state["slot"].add_(1)
    state["step"] = 7


def move(p: Any, state: dict[str, Any]) -> None:
    p.data = p.data.clone()


def lie_otherwise(p: Any, state: dict[str, Any]) -> None:
    p.data = p.data.as_strided(p.shape, (1, p.shape[0]), p.storage_offset())


def get_other_strides(p: Any, state: dict[str, Any]) -> None:
    p.data = p.data.as_strided(p.shape, (8, 2), p.storage_offset())


def get_another_shape(p: Any, state: dict[str, Any]) -> None:
    p.data = p.data.as_strided((p.shape[1], p.shape[0]), p.stride(), p.storage_offset())


def replace_slot(p: Any, state: dict[str, Any]) -> None:
    state["slot"] = state["slot"].view(state["slot"].shape)


def move_slot(p: Any, state: dict[str, Any]) -> None:
    state["slot"].data = state["slot"].clone()


def lose_slot(p: Any, state: dict[str, Any]) -> None:
    del state["slot"]


CHANGES = [
    move, lie_otherwise, get_other_strides, get_another_shape, replace_slot, move_slot, lose_slot,
]  # fmt: skip


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("change", [same, *CHANGES])
@pytest.mark.parametrize("which", range(3))
def test_memory_holds_until_something_moves(
    which: int, change: Callable[[Any, dict[str, Any]], None], joined: bool
) -> None:
    """Alone and as one of many: values may change, where and how a tensor lies may not."""
    params = [nn.Parameter(MATRIX), nn.Parameter(MATRIX[:4, :3]), nn.Parameter(MATRIX[:, :3])]
    states: list[dict[str, Any]] = [{"slot": torch.zeros(3), "step": 1} for _ in params]
    memories = [Memory([p], [(s, "slot")]) for p, s in zip(params, states, strict=True)]
    memory = Memory.joined(memories) if joined else memories[which]
    assert memory.holds()
    change(params[which], states[which])
    assert memory.holds() == (change is same)


@pytest.mark.parametrize("change", [move, lie_otherwise, replace_slot])
def test_a_view_whose_memory_moved_is_bound_anew(
    change: Callable[[Any, dict[str, Any]], None], params: list[Any]
) -> None:
    made = stepped("sgd", params, momentum=0.9)
    state = made.state[params[0]]
    aliased = {"slot": state["momentum_buffer"]}
    change(params[0], aliased)
    state["momentum_buffer"] = aliased["slot"]
    (before,) = views_of(made)
    step(made, params)
    (after,) = views_of(made)
    assert after is not before
    assert after.p.data_ptr() == params[0].data_ptr()
    assert after.p.stride() == params[0].stride()
    assert after.tensors[0] is state["momentum_buffer"]


def test_a_view_is_of_one_parameter_and_one_state(params: list[Any]) -> None:
    """Another tensor in its place, as one that is sharded anew has, or a state of its own."""
    (bound,) = views_of(stepped("adamw", params))
    assert bound.fits(bound.plan, bound.param, bound.state)
    assert not bound.fits(bound.plan, bound.param.detach(), bound.state)
    assert not bound.fits(bound.plan, bound.param, dict(bound.state))


def test_views_of_one_parameter_choose_their_storage_by_their_own_size() -> None:
    """A fused weight of 6,000 elements in three parts: each is too small for 8 bits."""
    bytes_of = []
    for parts in ((), [(role, 10, 0) for role in ("query", "key", "value")]):
        p = nn.Parameter(torch.ones(30, 200))
        group = {"params": [p], "role": "matrix", **({"parts": parts} if parts else {})}
        made: Any = ob.create_optimizer([group], "muon@int8", engine="eager")
        bytes_of.append(
            [view.state_bytes for view in made._planner.groups([group])[0].plan(p, 6000)]
        )
    assert bytes_of == [[6000 + 4 * 24], [4 * 2000] * 3]


def test_a_bundle_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its views stay bound although their state has moved, also where a step looks for them."""
    made_of: list[Any] = []
    monkeypatch.setattr(bundles, "Bundle", lambda works: made_of.append(works) or Bundle(works))
    vectors = [nn.Parameter(torch.ones(n)) for n in (5, 7)]
    made: Any = ob.create_optimizer(vectors, "sgd", lr=0.1, momentum=0.9, engine="compiled")
    for _ in range(4):
        step(made, vectors)
        made._stepper._repeat = None
    assert len(made_of) == 1


#: The path of a step as the docstring has it: on a CPU, and how it ends on a GPU.
ON_CPU, ON_GPU = (
    re.findall(r"^    (?:\w+\.)?(\w+) +(\S+\.py)  ", text, re.MULTILINE)
    for text in (engine.__doc__ or "").split("On a GPU the path ends otherwise")
)


@pytest.mark.parametrize("name", ["eager", "triton"])
def test_the_walk_of_the_engines_docstring_is_the_path_of_a_step(
    name: str, params: list[Any]
) -> None:
    """At most eight names, called in that order; the kernel itself has no file."""
    walk = ON_CPU
    if name == "triton":
        pytest.importorskip("triton", reason="Triton has no wheel for this machine")
        walk = [*ON_CPU[: ON_CPU.index(ON_GPU[0])], *ON_GPU[:-1]]
    assert 6 <= len(walk) <= 8
    folder = Path(engine.__file__).parent
    expected = [(str((folder / file).resolve()), name) for name, file in walk]
    made = stepped("adamw", params, engine=name)
    made._stepper.forget_memory()
    called: list[tuple[str, str]] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        call = (frame.f_code.co_filename, frame.f_code.co_name)
        if event == "call" and call in expected and call not in called:
            called.append(call)

    sys.setprofile(profile)
    try:
        step(made, params)
    finally:
        sys.setprofile(None)
    assert called == expected


def test_a_plan_needs_no_memory() -> None:
    """It is the same for a parameter on the meta device, as a large model is looked at."""
    plans = []
    for device in ("cpu", "meta"):
        like: list[Tensor] = [nn.Parameter(torch.empty(300, 40, device=device))]
        made: Any = ob.create_optimizer(like, "adamw@int8", engine="eager")
        (group,) = made._planner.groups(made.param_groups)
        plans.append(group.plan(like[0], like[0].numel()))
    assert plans[0] == plans[1]
    assert [view.state_bytes for view in plans[0]] == [2 * (12_000 + 4 * 47)]
