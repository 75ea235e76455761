"""Foreign optimizers: ``torch:AdamW``, ``bnb:Lion8bit``, or any ``module.path:Class``."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from optbench_llm.catalog import Spec, parse_spec
from optbench_llm.engine.restored import warn_of_other_settings
from optbench_llm.engine.sharding import has_parts
from optbench_llm.params import param_groups
from optbench_llm.rules.hyperparameters import FRACTION, RANGES, Interval, plain
from optbench_llm.rules.rule import LAYOUT_KEYS, MATRIX_ROLES, Rule

MODULES = {
    "torch": "torch.optim",
    "bnb": "bitsandbytes.optim",
    "schedulefree": "schedulefree",
    "pytorch_optimizer": "pytorch_optimizer",
}
#: Packages that ``pip install 'optbench-llm[providers]'`` brings.
EXTRA = ("schedulefree", "pytorch_optimizer", "prodigyopt")
READ_FROM_GROUP = re.compile(r"""\bgroup\.get\(\s*['"](\w+)['"]""")
GRAPH = "it differentiates the gradient, for which no Trainer keeps the graph of the backward pass"
#: What no signature tells: why a class of a package cannot run under a Trainer.
OUT_OF_REACH = {
    "pytorch_optimizer": {
        "AdaHessian": GRAPH,
        "SophiaH": GRAPH,
        "AliG": "its step needs the loss from a closure, and Trainers call step() without one",
    }
}
#: Classes of a package whose parameter groups say ``use_muon``: Muon for matrices, else AdamW.
MARKED_GROUPS = {
    "pytorch_optimizer": ("Muon", "AdaMuon", "AdaGO", "DistributedMuon", "MuonClip", "NorMuon")
}


def provider_class(provider: str, name: str) -> type[torch.optim.Optimizer]:
    """The optimizer class of a provider; its case does not matter.

    Raises ValueError where the provider is not installed or has no such optimizer.
    """
    return _exported(provider, name)[1]


def canonical_spec(text: str) -> str:
    """The one spelling of a spec: ``torch:adamw`` and ``torch.optim:AdamW`` are ``torch:AdamW``.

    Raises ValueError as :func:`provider_class` does; the names of ``hf:`` are not looked up.
    """
    spec = parse_spec(text)
    if spec.provider is None:
        return spec.canonical
    if spec.provider == "hf":
        return f"hf:{spec.name.lower()}"
    short = {module: provider for provider, module in MODULES.items()}
    return f"{short.get(spec.provider, spec.provider)}:{_exported(spec.provider, spec.name)[0]}"


def provider_defaults(provider: str, name: str) -> dict[str, Any]:
    """The constructor's arguments that have defaults.

    Raises ValueError as :func:`provider_class` does.
    """
    accepted = _accepted(provider_class(provider, name))
    return {key: p.default for key, p in accepted.items() if p.default is not p.empty}


def check_arguments(spec: str, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the constructor would be called with: its defaults overridden by ``given``.

    Raises ValueError for an optimizer that no Trainer could step, for an argument that its
    signature does not name or whose value is out of the usual range of that name, and for one that
    it cannot do without.
    """
    _check_steppable(spec, cls)
    accepted = _accepted(cls)
    names = ", ".join(sorted(accepted))
    for name in given:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"optimizer {spec!r} has no hyperparameter {name!r}.{hint} It accepts: {names}."
            )
    check_values(spec, given)
    defaults = {key: p.default for key, p in accepted.items() if p.default is not p.empty}
    missing = [repr(name) for name in accepted if name not in given and name not in defaults]
    if missing:
        raise ValueError(
            f"optimizer {spec!r} has no default for {', '.join(missing)}: give a value"
        )
    return {**defaults, **given}


def check_values(spec: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for a number out of the range of its name; any count of betas will do."""
    for name, value in given.items():
        allowed = FRACTION if name == "betas" else RANGES.get(name)
        values = plain(value)
        for number in values if isinstance(values, tuple) else (values,):
            if not isinstance(allowed, Interval) or not isinstance(number, (int, float)):
                continue
            if not allowed.accepts(number):
                raise ValueError(
                    f"optimizer {spec!r}: {name}={value!r} is out of range, expected {allowed}"
                )


def make_foreign(
    spec: Spec,
    provider: str,
    name: str,
    model_or_params: nn.Module | Iterable[Any],
    arguments: Mapping[str, Any],
    decays: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """Make a provider's optimizer; ``arguments`` have been checked.

    Raises ValueError where its own constructor refuses them, or needs a model and got parameters,
    and for ``decays`` (see :func:`param_groups`) where it divides the model itself.
    """
    cls = provider_class(provider, name)
    target: Any = model_or_params
    takes = _first_parameter(cls)
    if takes in ("model", "named_parameters"):
        if not isinstance(target, nn.Module):
            raise ValueError(f"optimizer {spec.text!r} reads the names of weights: pass the model")
        if decays is not None:
            raise ValueError(
                f"optimizer {spec.text!r} divides the model into parameter groups itself, so that"
                " nobody else can say which weights decay"
            )
        target = target if takes == "model" else target.named_parameters()
    elif _is_listed(MARKED_GROUPS, cls):
        target = _marked_groups(spec, target, arguments.get("weight_decay"), decays)
    elif isinstance(target, nn.Module):
        if provider == "bnb":
            keep_embeddings_in_32_bits(target)
        target = param_groups(target, arguments.get("weight_decay"), decays=decays)
    try:
        optimizer = cls(target, **arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"optimizer {spec.canonical!r}: {error}") from error
    if provider == "bnb" and has_parts(optimizer):
        raise ValueError(
            f"optimizer {spec.canonical!r} is bitsandbytes' own, which steps no sharded parameters"
            " (FSDP2); use a rule of ours with its state in 8 bits, such as lion@int8, or DDP"
        )
    tell_of_loaded_settings(spec.canonical, optimizer)
    return optimizer


def tell_of_loaded_settings(spec: str, optimizer: torch.optim.Optimizer) -> None:
    """Let a foreign optimizer warn of hyperparameters that a loaded state replaces by others."""
    optimizer.register_load_state_dict_pre_hook(functools.partial(_warn_before_loading, spec))


def _warn_before_loading(
    spec: str, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]
) -> None:
    """Tell what a state brings along; whether it fits is for the optimizer to say."""
    groups, saved = optimizer.param_groups, state_dict["param_groups"]
    if len(groups) == len(saved):
        names = _accepted(type(optimizer))
        warn_of_other_settings(spec, groups, saved, [names] * len(groups))


class _ByRole(Rule):
    """What tells :func:`param_groups` to name roles."""

    by_layout = True


def _marked_groups(
    spec: Spec,
    model_or_params: Any,
    weight_decay: float | None,
    decays: Collection[str] | None,
) -> Any:
    """Groups that say ``use_muon``: weight matrices, but neither embeddings nor the head.

    Raises ValueError for parameters that do not come in such groups.
    """
    if isinstance(model_or_params, nn.Module):
        groups = param_groups(model_or_params, weight_decay, _ByRole, decays=decays)
        return [
            {name: value for name, value in group.items() if name not in LAYOUT_KEYS}
            | {"use_muon": group["role"] in MATRIX_ROLES}
            for group in groups
        ]
    groups = list(model_or_params)
    if not all(isinstance(group, dict) and "use_muon" in group for group in groups):
        raise ValueError(
            f"optimizer {spec.text!r} takes a model, or parameter groups that say use_muon=True"
            " (matrices) or use_muon=False (the rest)"
        )
    return groups


def keep_embeddings_in_32_bits(model: nn.Module) -> None:
    """Tell bitsandbytes to keep the state of embeddings in fp32, as transformers' Trainer does.

    bitsandbytes keeps such wishes for the whole process, by position in the parameter groups; those
    of an earlier optimizer are dropped here, or they would reach into this one.
    """
    from bitsandbytes.optim.optimizer import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    manager.initialize()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def _exported(provider: str, name: str) -> tuple[str, type[torch.optim.Optimizer]]:
    """The name under which a provider exports a class, and the class."""
    if provider == "hf":
        raise ValueError(
            f"'hf:{name}' is transformers' own optimizer: it is made inside a Trainer, use"
            " OptBenchTrainer or attach"
        )
    path = MODULES.get(provider, provider)
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ValueError(
            f"optimizer '{provider}:{name}': cannot import {path!r} ({error}). {_remedy(path)}"
        ) from error
    classes = {key: value for key, value in vars(module).items() if _is_optimizer(value)}
    spellings = {key.lower(): key for key in reversed(classes)}
    found = name if name in classes else spellings.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), spellings, n=3)
        hint = f" Nearest: {', '.join(spellings[n] for n in near)}." if near else ""
        raise ValueError(f"provider {provider!r} has no optimizer {name!r}.{hint}")
    return found, classes[found]


def _remedy(path: str) -> str:
    package = path.partition(".")[0]
    if package in EXTRA:
        return f"{package} comes with pip install 'optbench-llm[providers]'"
    known = ", ".join(f"{name}:" for name in ("hf", *MODULES))
    return f"Install it, or use one of the providers {known} or a dotted module path"


def _is_optimizer(value: Any) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and not inspect.isabstract(value)
    )


def _accepted(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's arguments after the first; ``**kwargs`` are those of the class above.

    A class that swallows further names without passing them on takes those that its code then reads
    from its parameter groups; others would have no effect.
    """
    accepted: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if owner is torch.optim.Optimizer:
            break
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[2:]
        named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        accepted = {**named, **accepted}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        for name in READ_FROM_GROUP.findall(inspect.getsource(owner)):
            optional = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            accepted.setdefault(name, optional)
    return {name: p for name, p in accepted.items() if name not in ("params", "defaults")}


def _first_parameter(cls: type) -> str:
    return next(iter(inspect.signature(cls).parameters), "")


def _is_listed(table: Mapping[str, Iterable[str]], cls: type) -> bool:
    return cls.__name__ in table.get(cls.__module__.partition(".")[0], ())


def _check_steppable(spec: str, cls: type) -> None:
    """Raise ValueError for what a training loop that calls ``step()`` alone cannot run."""
    closure = inspect.signature(cls.step).parameters.get("closure")
    if _first_parameter(cls) == "optimizer" or "base_optimizer" in _accepted(cls):
        reason = "it wraps another optimizer, which PROVIDER:NAME has no place for"
    elif closure is not None and closure.default is closure.empty:
        reason = "its step needs a closure, and Trainers call step() without one"
    elif hasattr(cls, "fused_backward"):
        reason = "it updates inside the backward pass, which it wants to run itself"
    elif _is_listed(OUT_OF_REACH, cls):
        reason = OUT_OF_REACH[cls.__module__.partition(".")[0]][cls.__name__]
    else:
        return
    raise ValueError(f"optimizer {spec!r} cannot run under a Trainer: {reason}; use another one")
