"""How many bytes an optimizer keeps for a model, to the byte; nothing is loaded or allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from optbench_llm.catalog import parse_spec
from optbench_llm.create import create_optimizer
from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.storage import check_storage
from optbench_llm.hub import looks_like_hub_id, snapshot
from optbench_llm.models.explain import blaming, check_causal
from optbench_llm.models.fresh import GPT2_SIZES, find_architecture, read_config
from optbench_llm.models.locate import OFFLINE_HINT, RANDOM, SMOLLM2, TINY_GPT2, locate
from optbench_llm.paths import user_path
from optbench_llm.rules.rule import STORAGES, Rule
from optbench_llm.state_bytes import state_bytes

SHOWN_CHARS = 80


@dataclass(frozen=True)
class State:
    """What one optimizer keeps for one model in one storage.

    ``storage`` is None where a provider has its own. ``state_bytes`` is None where nobody knows,
    and ``reason`` says why.
    """

    optimizer: str
    storage: str | None
    state_bytes: int | None
    reason: str | None = None


def meta_model(name: str) -> nn.Module:
    """The model as finetune would train it, in fp32, on the meta device: shapes without values.

    GPT-2's sizes are known without a network; of a hub id only the config is fetched.

    Raises:
        ValueError: there is no such model, or its config describes none.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    facts = _config(name)
    check_causal(facts, name)
    with blaming(f"model {name!r}: its config describes no model that can be made"):
        config = AutoConfig.for_model(**facts)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _config(name: str) -> Mapping[str, Any]:
    bare = name.removeprefix(RANDOM)
    path = user_path(bare)
    if bare == SMOLLM2 or (path.suffix == ".gguf" and path.is_file()):
        return _gguf_config(bare)
    known = bare in GPT2_SIZES or bare == TINY_GPT2 or path.exists()
    if known or not looks_like_hub_id(bare):
        return find_architecture(bare).config
    offline = f"Or: {', '.join(GPT2_SIZES)}, a folder or a config.json. {OFFLINE_HINT}"
    folder = snapshot(bare, "model", ["config.json"], offline)
    return read_config(folder / "config.json", name)


def _gguf_config(name: str) -> Mapping[str, Any]:
    from transformers import AutoConfig

    path = locate(name).path
    with blaming(f"{path}: expected a GGUF file that transformers can read"):
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()


def weights_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, tied ones once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def gradients_bytes(model: nn.Module) -> int:
    """Bytes of the gradients of all trainable parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def states(model: nn.Module, spec: str) -> list[State]:
    """What an optimizer keeps for a model on the meta device, in each storage that it bears.

    A spec with a storage gets that one alone. Of a provider's optimizer one step is taken with
    tensors that have shapes but no values.

    Raises:
        ValueError: an unknown optimizer, a storage that it cannot bear, or a model that it cannot
            step.
    """
    parsed = parse_spec(spec)
    if parsed.provider or (parsed.info and parsed.info.provider):
        return [_foreign_state(model, parsed.canonical)]
    optimizer = create_optimizer(model, parsed.canonical)
    assert isinstance(optimizer, RuleOptimizer)
    name = parsed.canonical.partition("@")[0]
    if parsed.storage:
        return [State(name, parsed.storage, optimizer.planned_state_bytes())]
    found = []
    for storage, refusal in storages(optimizer.rule, name).items():
        if refusal is None:
            in_storage = create_optimizer(model, f"{name}@{storage}")
            assert isinstance(in_storage, RuleOptimizer)
            found.append(State(name, storage, in_storage.planned_state_bytes()))
    return found


def storages(rule: type[Rule], name: str) -> dict[str, str | None]:
    """Each storage with None, or with the reason why the rule of that name cannot bear it."""
    found: dict[str, str | None] = {}
    for storage in STORAGES:
        try:
            check_storage(storage, name, rule, rule.settings())
            found[storage] = None
        except ValueError as error:
            found[storage] = str(error).partition(": ")[2]
    return found


class _Valueless(FakeTensorMode):
    """Tensors with shapes alone; whoever reads a number out of one gets 1."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].dtype.is_floating_point else 1
        return super().dispatch(func, types, args, kwargs or {})


def _foreign_state(model: nn.Module, spec: str) -> State:
    with _Valueless(), _on_the_cpu(model):
        optimizer = create_optimizer(model, spec)
        for p in model.parameters():
            if p.requires_grad:
                p.grad = torch.empty_like(p)
        if hasattr(optimizer, "train"):
            optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            optimizer.step()
        except Exception as error:
            # Somebody else's code, on tensors without values: anything may come of it.
            found = " ".join(str(error).split())[:SHOWN_CHARS]
            return State(spec, None, None, f"not known without a step on a device ({found})")
        return State(spec, None, state_bytes(optimizer))


@contextmanager
def _on_the_cpu(model: nn.Module) -> Iterator[None]:
    """Let the model have new parameters on the CPU, and its own again after."""
    places = [
        (module, name, p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
    ]
    made: dict[Tensor, nn.Parameter] = {}
    try:
        for module, name, p in places:
            if p not in made:
                fake = torch.empty(p.shape, dtype=p.dtype, device="cpu")
                made[p] = nn.Parameter(fake, requires_grad=p.requires_grad)
            setattr(module, name, made[p])
        yield
    finally:
        for module, name, p in places:
            setattr(module, name, p)
