"""What the engine may keep of memory, and tensors that do not lie where they say."""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import optbench_llm as ob
from optbench_llm.engine import pieces
from optbench_llm.engine.compiler import Choice

pytest.importorskip("triton", reason="Triton has no wheel for this machine")

from optbench_llm.engine.triton import availability, batch
from optbench_llm.engine.triton.executor import TritonPhases
from optbench_llm.rules.rule import Scope

ENGINES = ["eager", "compiled", "triton"]


def stepped(spec: str, engine: str, steps: int = 2) -> tuple[Any, nn.Module]:
    """An optimizer after some steps, and its model, without gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    optimizer: Any = ob.create_optimizer(model, spec, engine=engine)
    for _ in range(steps):
        step(optimizer, model)
    return optimizer, model


def step(optimizer: Any, model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()


def addresses(optimizer: Any) -> list[weakref.ref[Any]]:
    """The memory of the state, which nobody else may keep."""
    tensors = [v for own in optimizer.state.values() for v in own.values() if torch.is_tensor(v)]
    return [weakref.ref(tensor) for tensor in tensors]


def offload(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state.update({k: v.clone() for k, v in state.items() if torch.is_tensor(v)})


@pytest.mark.parametrize("engine", ENGINES)
def test_state_that_is_offloaded_after_forget_memory_is_free(engine: str) -> None:
    """At once; seconds of compiling are still counted, and steps go on."""
    optimizer, model = stepped("adamw", engine)
    old, seconds = addresses(optimizer), optimizer.compile_s
    optimizer.forget_memory()
    offload(optimizer)
    gc.collect()
    assert [ref() for ref in old] == [None] * len(old)
    assert optimizer.compile_s == seconds
    step(optimizer, model)
    assert {own["step"] for own in optimizer.state.values()} == {3}


def test_state_that_moved_is_free_after_the_next_step_by_kernels() -> None:
    """Of plans that fit no more, none keeps the memory that it was made for."""
    optimizer, model = stepped("adamw", "triton")
    old = addresses(optimizer)
    offload(optimizer)
    step(optimizer, model)
    gc.collect()
    assert [ref() for ref in old] == [None] * len(old)
    assert len(optimizer._executor._plans) == 1
    assert optimizer.compile_s > 0


def test_slots_that_were_gathered_are_not_kept_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU moves the slots of matrices after the first step was planned."""

    def of_matrices(work: Any) -> bool:
        return work.bound.rule.scope is Scope.MATRIX

    monkeypatch.setattr(pieces, "is_stacked", of_matrices)
    seen: list[weakref.ref[Tensor]] = []
    planned = TritonPhases._planned

    def watched(self: TritonPhases, works: Any) -> Any:
        seen.extend(weakref.ref(t) for w in works if of_matrices(w) for t in w.bound.tensors)
        return planned(self, works)

    monkeypatch.setattr(TritonPhases, "_planned", watched)
    optimizer, _ = stepped("muon", "triton", steps=2)
    gc.collect()
    here = {id(v) for own in optimizer.state.values() for v in own.values()}
    alive = [ref() for ref in seen if ref() is not None]
    assert len(alive) < len(seen)
    assert all(id(tensor) in here for tensor in alive)


class Wrapped(Tensor):
    """A tensor that wraps another and has no address, as those of float8 training."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_map(lambda x: x.inner if isinstance(x, Wrapped) else x, (args, kwargs or {}))
        found = func(*given[0], **given[1])
        if func._schema.name.endswith("_"):
            return args[0]
        views = func.is_view or func is torch.ops.aten.detach.default
        return Wrapped(found) if views and isinstance(args[0], Wrapped) else found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["parameter", "gradient", "second gradient"])
def test_what_wraps_a_tensor_is_stepped_as_the_tensor(where: str, engine: str) -> None:
    """Kernels would write to the address 0."""
    plain, p = nn.Parameter(torch.ones(80, 8)), nn.Parameter(torch.ones(80, 8))
    if where == "parameter":
        p = nn.Parameter(Wrapped(torch.ones(80, 8)))
    paths = [ob.create_optimizer([own], "adamw", lr=0.1, engine=engine) for own in (plain, p)]
    for t in range(3):
        plain.grad = p.grad = torch.full((80, 8), 1.0 + t)
        if where == "gradient" or (where == "second gradient" and t == 2):
            p.grad = Wrapped(p.grad)
        for optimizer in paths:
            optimizer.step()
    found = p.inner if isinstance(p, Wrapped) else p.detach()
    torch.testing.assert_close(found, plain.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_whose_sign_lies_elsewhere_has_it(engine: str) -> None:
    """A view with torch's negative bit."""
    p = nn.Parameter(torch.ones(80))
    optimizer: Any = ob.create_optimizer([p], "sgd", lr=0.5, engine=engine)
    for _ in range(3):
        p.grad = torch._neg_view(torch.ones(80))  # pyright: ignore
        optimizer.step()
    assert (p > 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_dtypes_without_a_kernel_are_stepped_eagerly(dtype: torch.dtype) -> None:
    """A gradient in float64 of a parameter in fp32, and all in 8 bits."""
    found = []
    for engine in ("eager", "triton"):
        p = nn.Parameter(torch.ones(8, dtype=min(dtype, torch.float32, key=lambda d: d.itemsize)))
        p.grad_dtype = None
        p.grad = torch.ones(8, dtype=dtype)
        ob.create_optimizer([p], "sgd", lr=0.1, engine=engine).step()
        found.append(p.detach().float())
    assert torch.equal(*found)
    assert (found[0] < 1).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_autograd_refuses_a_graph_of_before_a_step(engine: str) -> None:
    """Its gradients would be of other weights."""
    model = nn.Sequential(nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 100))
    optimizer: Any = ob.create_optimizer(model, "adamw", engine=engine)
    loss = model(torch.ones(2, 100)).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_capture_by_a_cuda_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replay would be this very step."""
    model = nn.Linear(4, 4)
    optimizer: Any = ob.create_optimizer(model, "sophia", engine="eager")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for call in (optimizer.step, optimizer.observe):
        with pytest.raises(RuntimeError, match="'sophia' cannot be captured in a CUDA graph"):
            call()


def test_an_engine_is_chosen_anew_where_the_model_has_moved_to() -> None:
    """Triton's kernels serve a GPU, not the CPU that it came to."""
    model = nn.Linear(8, 8)
    optimizer: Any = ob.create_optimizer(model, "adamw")
    optimizer._engine = Choice("triton", "parameters are on cuda")
    optimizer._devices = {torch.device("cuda:0")}
    step(optimizer, model)
    assert optimizer.engine == "eager"
    assert "repay" in optimizer.engine_reason


def test_what_tritons_compiler_raises_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are no RuntimeErrors; a device that is full says nothing of Triton."""
    from triton.runtime.errors import PTXASError

    raised: Exception = PTXASError("ptxas fatal: Value 'sm_121a' is not defined")

    def fail(*given: Any) -> None:
        raise raised

    availability.launch_failure.cache_clear()
    monkeypatch.setattr(batch, "launch", fail)
    told = availability.launch_failure(torch.device("cpu"))
    availability.launch_failure.cache_clear()
    assert told is not None
    assert "sm_121a" in told
    assert "a newer Triton" in told
    raised = torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        availability.launch_failure(torch.device("cpu"))
    monkeypatch.undo()
    os.environ["TRITON_INTERPRET"] = "1"
    assert availability.launch_failure(torch.device("cpu")) is None


def test_tables_belong_to_the_streams_that_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else their memory could be another's while a launch of a second stream reads them."""
    streams: list[Any] = ["first"]
    recorded: list[Any] = []
    monkeypatch.setattr(batch, "current_stream", lambda device: streams[-1], raising=False)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(stream))
    optimizer, model = stepped("adamw", "triton")
    assert not recorded
    streams.append("second")
    step(optimizer, model)
    assert recorded == ["second"] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_leaves_channels_last_is_stepped_on(engine: str) -> None:
    """Its state comes to lie as its weights do."""
    paths = []
    for last in (True, False):
        p = nn.Parameter(torch.arange(216.0).view(3, 8, 3, 3))
        optimizer: Any = ob.create_optimizer([p], "adamw", lr=0.1, engine=engine)
        if last:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        for t in range(4):
            if t == 2:
                p.data = p.data.contiguous()
            p.grad = (torch.arange(216.0).view(3, 8, 3, 3) - 100).sin().mul(1 + t)
            optimizer.step()
        paths.append(p.detach())
    torch.testing.assert_close(*paths, rtol=0, atol=1e-5)
