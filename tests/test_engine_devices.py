"""Parameters on an accelerator: steps that neither wait for it nor take it many small launches.

No accelerator is needed: the meta device has no numbers, so that whatever reads one raises.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from marks import slow
from oracles import CASES
from oracles.comparison import make_optimizer, shapes_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel

import optbench_llm as ob
from optbench_llm.engine import stepping
from optbench_llm.engine.bound import is_dense
from optbench_llm.engine.compiler import choose_engine
from optbench_llm.engine.devices import check_devices
from optbench_llm.engine.pieces import LAUNCH_ELEMENTS, PIECE_ELEMENTS, piece_elements
from optbench_llm.rules.rule import Scope

LARGE = 10**9
#: Operations that make memory and write nothing to it.
NO_KERNEL = {torch.ops.aten.empty.memory_format, torch.ops.aten.detach.default}
#: They read their sums over the model, once a step.
READ_SUMS = {"prodigy", "swats"}


#: Of GPT-2's 148 tensors; 2,516 to 11,132 where each of them is stepped by itself.
GPT2_LAUNCHES = {
    "adafactor": 300,
    "adam-mini": 230,
    "adamw": 180,
    "came": 350,
    "muon": 310,
    "psgd-kron": 650,
    "scion": 275,
    "shampoo": 320,
    "soap": 240,
}
#: Factorisations of a step that makes them, of both sides of three shapes; a GPU's eigh waits.
FACTORISED = {
    ("shampoo", 10): "_linalg_eigh",
    ("soap", 11): "linalg_qr",
    ("soap", 1): "_linalg_eigh",
}


class Launches(TorchDispatchMode):
    """Counts operations on the meta device, and those that take a tensor of the host's to it.

    ``by_name`` counts each operation. Refuses float64 there: MPS lacks it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.sent = 0
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        made = [a for a in tree_leaves(found) if isinstance(a, torch.Tensor) and a.is_meta]
        for out in made:
            assert out.dtype != torch.float64, f"{func} makes float64"
        if made:
            self.sent += any(a.device.type == "cpu" for a in given)
            self.count += not func.is_view and func not in NO_KERNEL
        if func is torch.ops.aten._foreach_copy_.default:
            self.count += launches_of_copies(*args)
        self.by_name[func._schema.name.removeprefix("aten::")] += 1
        return found


def launches_of_copies(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> int:
    """One, or one for each tensor where any is a part of a fused weight, with gaps in memory."""
    alike = all(
        target.stride() == source.stride() and is_dense(target)
        for target, source in zip(targets, sources, strict=True)
    )
    return 1 if alike else len(targets)


def launches(
    spec: str, shape: tuple[int, ...] | None = None, kernels: list[str] | None = None
) -> Launches:
    """What the third step of an optimizer does on another device than the CPU.

    With ``kernels``, which are to be those of Triton in that step, else eagerly.
    """
    engine = "eager" if kernels is None else "triton"
    name = spec.partition("@")[0]
    shapes = [s.sizes for s in shapes_of(name)] if shape is None else [shape]
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    optimizer: Any = make_optimizer(params, spec, engine=engine, **CASES[name][0])
    for _ in range(3):
        for p in params:
            p.grad = torch.empty_like(p)
        if kernels is not None:
            kernels.clear()
        with Launches() as mode:
            if optimizer.rule.observe:
                optimizer.observe()
            optimizer.gradients_made()
            optimizer.step()
    assert optimizer.engine == engine
    return mode


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The launches of Triton's kernels on the meta device, where none runs, by their names."""
    pytest.importorskip("triton", reason="Triton has no wheel for this machine")
    from optbench_llm.engine import compiler
    from optbench_llm.engine.triton import batch, executor

    seen: list[str] = []

    def sent(array: Any, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    def launch(kernel: Any, device: torch.device, *given: Any) -> None:
        seen.append(kernel.__name__)

    monkeypatch.setattr(compiler, "triton_failure", lambda devices, bf16: None)
    monkeypatch.setattr(batch, "launch", launch)
    for module in (batch, executor):
        monkeypatch.setattr(module, "sent", sent)
    return seen


@pytest.mark.parametrize("elements", [10, LARGE])
def test_what_is_not_on_a_cpu_is_stepped_eagerly(elements):
    """Where Triton has no kernels, whatever the size; a warning says why."""
    params = [torch.empty(8), torch.empty(elements, device="meta")]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        engine, reason = choose_engine("auto", params, None)
    assert engine == "eager"
    assert len(seen) == 1
    for message in (reason, *(str(warning.message) for warning in seen)):
        assert "g++" not in message
    assert "no kernels for meta" in str(seen[0].message)
    assert "no kernels for meta" in reason


def test_compiled_code_for_another_device_is_refused():
    """At the first step, with the way out, not by an assertion of the compiler's."""
    p = nn.Parameter(torch.empty(64, device="meta"))
    optimizer: Any = ob.create_optimizer([p], "adamw", engine="compiled")
    p.grad = torch.empty_like(p)
    with pytest.raises(ValueError, match=r"no kernels for meta.*'auto' or 'eager'"):
        optimizer.step()


def test_pieces_are_small_on_a_cpu_alone():
    """There they stay in the cache; elsewhere each of them is a launch for each operation."""
    assert piece_elements(torch.device("cpu")) == PIECE_ELEMENTS
    for device in ("cuda:1", "mps", "xpu", "meta"):
        assert piece_elements(torch.device(device)) == LAUNCH_ELEMENTS


@pytest.mark.parametrize("spec", ["adamw", "lamb", "adamp", *slow("adamw@int8", "lion@bf16")])
def test_launches_do_not_grow_with_the_tensor(spec):
    """A matrix of 2**24 elements is one piece, one of 2**26 is two."""
    small = launches(spec, (2**10, 2**10)).count
    assert launches(spec, (2**12, 2**12)).count == small
    assert small < launches(spec, (2**13, 2**13)).count <= 2 * small + 8


def test_adamw_takes_few_launches():
    """17 operations on a tensor of 4 states; it was 66,000 on GPT-2's 148 in pieces."""
    assert launches("adamw", (512, 512)).count <= 17


def gpt2() -> nn.Module:
    """GPT-2's tensors, all of them small."""
    shape = {"n_layer": 12, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 24}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    with torch.device("meta"):
        return GPT2LMHeadModel(config)


def steps_of_gpt2(name: str, count: int) -> Launches:
    """What the last of some steps of GPT-2 does on another device than the CPU."""
    model = gpt2()
    optimizer: Any = ob.create_optimizer(model, name, engine="eager")
    mode = Launches()
    for _ in range(count):
        for p in model.parameters():
            p.grad = torch.empty_like(p)
        mode = Launches()
        with mode:
            optimizer.step()
    return mode


@pytest.mark.parametrize("name", GPT2_LAUNCHES)
def test_tensors_of_one_shape_share_their_launches(name):
    """An operation on all of a kind is one launch, and kinds are few."""
    assert steps_of_gpt2(name, 3).count <= GPT2_LAUNCHES[name]


@pytest.mark.parametrize(("name", "t"), FACTORISED)
def test_matrices_of_one_shape_are_factorised_together(name, t):
    """Two sides of three shapes."""
    mode = steps_of_gpt2(name, t)
    assert mode.by_name[FACTORISED[name, t]] == 6
    assert steps_of_gpt2(name, t + 1).by_name[FACTORISED[name, t]] == 0


@pytest.mark.parametrize("name", [name for name in CASES if name not in READ_SUMS])
@pytest.mark.parametrize("suffix", ["", *slow("@bf16", "@int8")])
def test_no_step_waits_for_the_device(name, suffix):
    """Nothing is read, no number is sent, nothing is on two devices, nothing is in float64."""
    try:
        mode = launches(name + suffix, None if not suffix else (64, 80))
        assert mode.count > 0
        assert mode.sent == 0
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", sorted(READ_SUMS))
def test_sums_over_the_model_are_read_and_answered_at_once(name, monkeypatch):
    """All parameters' sums come in one copy, and what they come to goes out in one."""
    reads = []

    def read(sums: Any) -> torch.Tensor:
        reads.append(len(sums))
        return torch.ones(sums[0].shape, dtype=torch.float64)

    monkeypatch.setattr(stepping, "_total", read)
    mode = launches(name)
    assert reads == [len(shapes_of(name))] * 3
    assert mode.sent == 1


@pytest.mark.parametrize("name", [name for name in CASES if name not in READ_SUMS])
@pytest.mark.parametrize("suffix", ["", *slow("@bf16", "@int8")])
def test_a_step_is_as_many_launches_as_its_rule_has_stages(name, suffix, kernels):
    """One copy brings all numbers; beside the kernels of a rule nothing runs. Sums are added up by
    one more, a slot of one number is written by one. Kinds of tensors, here vectors and matrices of
    each layout, are launches of their own where the rule or the storage tells them apart."""
    try:
        mode = launches(name + suffix, None if not suffix else (64, 80), kernels)
    except ValueError as error:
        pytest.skip(str(error))
    rule: Any = ob.optimizer_info(name).rule_class()
    if rule.scope is Scope.MATRIX:
        return
    eagerly = rule.by_channel and suffix == "@int8"
    assert mode.sent == (not eagerly) * (2 if rule.observe else 1)
    # What AdaHessian observes of convolutions, means over a kernel's positions, is no channel's.
    convolved = name == "adahessian" and not suffix
    assert (mode.count > mode.sent) == (eagerly or convolved)
    updates = [kernel for kernel in kernels if kernel.endswith("_update")]
    kinds = len({max(1, len(s.sizes)) for s in shapes_of(name)}) if rule.by_channel else 1
    assert len(updates) == (0 if eagerly else 1 if suffix else kinds)
    stages = (2 if rule.measures else 0) + (name == "novograd") + bool(rule.observe)
    assert len(kernels) == len(updates) * (1 + stages) - convolved


@pytest.mark.parametrize("name", sorted(READ_SUMS))
def test_kernels_of_sums_over_the_model_wait_once(name, kernels, monkeypatch):
    """The sums of all tensors are read at once; what they come to goes out in a second copy."""
    reads = []

    def read(sums: Any) -> torch.Tensor:
        reads.append(len(sums))
        return torch.ones(sums[0].shape, dtype=torch.float64)

    monkeypatch.setattr(stepping, "_total", read)
    mode = launches(name, None, kernels)
    assert reads == [len(shapes_of(name))] * 3
    assert mode.sent == mode.count == 2
    assert len(kernels) == (4 if name == "swats" else 3)


def three_steps(spec: str, params: list[nn.Parameter]) -> Any:
    """An optimizer that has taken steps; on the CPU gradients are the same each time."""
    optimizer: Any = make_optimizer(params, spec, engine="eager", **CASES[spec][0])
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            g = torch.empty_like(p)
            p.grad = g if p.is_meta else torch.randn(p.shape, generator=generator)
        if optimizer.rule.observe:
            optimizer.observe()
        optimizer.gradients_made()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", CASES)
def test_parameters_on_two_devices_are_stepped_each_on_its_own(name, monkeypatch):
    """As device_map places them: those on one as if alone, but for sums over the model.

    Those of the meta device, that has no numbers, are left out of these.
    """
    total = stepping._total
    monkeypatch.setattr(stepping, "_total", lambda sums: total([s for s in sums if not s.is_meta]))
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(shape.sizes, generator=generator) for shape in shapes_of(name)]
    alone = [nn.Parameter(w.clone()) for w in weights]
    beside = [nn.Parameter(w.clone()) for w in weights]
    three_steps(name, alone)
    elsewhere = [nn.Parameter(torch.empty_like(w, device="meta")) for w in weights]
    optimizer = three_steps(name, [*beside, *elsewhere])
    assert all(map(torch.equal, beside, alone))
    for p in (*beside, *elsewhere):
        tensors = [v for v in optimizer.state[p].values() if isinstance(v, Tensor)]
        assert all(tensor.device == p.device for tensor in tensors)


@pytest.mark.parametrize("spec", ["adamw", "adamw-bf16", "adamw@int8", "lamb@bf16", "muon"])
def test_loaded_state_goes_to_the_device_of_its_parameter(spec):
    """In its own dtype, not the parameter's."""
    model = nn.Sequential(nn.Linear(64, 80, dtype=torch.bfloat16))
    optimizer: Any = ob.create_optimizer(model, spec, engine="eager")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    other: Any = ob.create_optimizer(copy.deepcopy(model).to("meta"), spec, engine="eager")
    other.load_state_dict(optimizer.state_dict())
    for own, moved in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert own.keys() == moved.keys()
        tensors = [(own[k], v) for k, v in moved.items() if isinstance(v, Tensor)]
        assert tensors
        assert all(v.is_meta and v.dtype == old.dtype for old, v in tensors)


def test_a_parameter_that_left_its_state_behind_is_told_of():
    """By device; loading the state again takes it along."""
    p = nn.Parameter(torch.empty(8, 4, device="meta"))
    optimizer: Any = ob.create_optimizer([p], "adamw-schedulefree")
    p.grad = torch.empty_like(p)
    optimizer.step()
    here = {k: torch.zeros_like(v, device="cpu") for k, v in optimizer.state[p].items()
            if isinstance(v, Tensor)}  # fmt: skip
    optimizer.state[p] |= here
    said = r"slot '\w+' of a parameter of shape \(8, 4\) is on 'cpu', .* on 'meta'.*load_state_dict"
    for call in (optimizer.step, optimizer.eval):
        with pytest.raises(ValueError, match=said):
            call()
        optimizer.train()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert optimizer.state[p]["step"] == 2


def test_a_gradient_on_another_device_is_refused():
    """Torch lets a parameter move away from its gradient; here stand-ins have their devices."""
    g = SimpleNamespace(device=torch.device("cuda:1"))
    p = SimpleNamespace(grad=g, device=torch.device("cuda:0"), shape=(3, 4), is_meta=False)
    with pytest.raises(ValueError, match=r"'x'.*\(3, 4\) is on 'cuda:1', .* 'cuda:0'"):
        check_devices("x", [{"params": [p]}])
    g.device = p.device
    check_devices("x", [{"params": [p]}])


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


@pytest.mark.parametrize("way", ["cpu_offload", "device_map"])
def test_weights_that_accelerate_offloads_are_refused(way: str, tmp_path: Path) -> None:
    """Hooks give copies to the forward pass, whose gradients reach nobody."""
    model: Any = small_model()
    if way == "cpu_offload":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        places: Any = {"0": "cpu", "1": "cpu", "2": "disk"}
        dispatch_model(model, places, "cpu", offload_dir=str(tmp_path), force_hooks=True)
    optimizer = ob.create_optimizer(model, "adamw")
    model(torch.ones(2, 4)).sum().backward()
    before = [p.detach().clone() for p in model.parameters() if not p.is_meta]
    with pytest.raises(ValueError, match=r"on the 'meta' device.*cpu_offload.*CPUOffloadPolicy"):
        optimizer.step()
    assert all(map(torch.equal, (p for p in model.parameters() if not p.is_meta), before))


def test_a_step_that_changes_nothing_is_told_of_once():
    """As when accelerate offloads a model whose optimizer is made."""
    model: Any = small_model()
    optimizer = ob.create_optimizer(model, "adamw")
    cpu_offload(model, execution_device=torch.device("cpu"))
    model(torch.ones(2, 4)).sum().backward()
    with pytest.warns(UserWarning, match="'adamw': no parameter has a gradient"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
