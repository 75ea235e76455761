"""Foreign optimizers: ``torch:AdamW``, ``bnb:Lion8bit``, or any ``module.path:Class``."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from optbench_llm.rules.hyperparameters import FRACTION, RANGES, Interval

MODULES = {
    "torch": "torch.optim",
    "bnb": "bitsandbytes.optim",
    "schedulefree": "schedulefree",
    "pytorch_optimizer": "pytorch_optimizer",
}


def provider_class(provider: str, name: str) -> type[torch.optim.Optimizer]:
    """The optimizer class of a provider; its case does not matter.

    Raises ValueError where the provider is not installed or has no such optimizer.
    """
    if provider == "hf":
        raise ValueError(
            f"'hf:{name}' is transformers' own optimizer: it is made inside a Trainer, use"
            " OptBenchTrainer or attach"
        )
    path = MODULES.get(provider, provider)
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        known = ", ".join(f"{known}:" for known in ("hf", *MODULES))
        raise ValueError(
            f"optimizer '{provider}:{name}': cannot import {path!r} ({error}). Install it, or use"
            f" one of the providers {known} or a dotted module path"
        ) from error
    classes = {
        key.lower(): value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    }
    if name.lower() not in classes:
        near = difflib.get_close_matches(name.lower(), classes, n=3)
        hint = f" Nearest: {', '.join(classes[n].__name__ for n in near)}." if near else ""
        raise ValueError(f"provider {provider!r} has no optimizer {name!r}.{hint}")
    return classes[name.lower()]


def check_arguments(spec: str, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the constructor would be called with: its defaults overridden by ``given``.

    Raises ValueError for an argument that its signature does not name, and for a value out of the
    range that its name usually has.
    """
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names = set(given)
    else:
        names = {parameter.name for parameter in parameters}
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"optimizer {spec!r} has no hyperparameter {name!r}.{hint}"
                f" It accepts: {', '.join(sorted(names))}."
            )
    check_values(spec, given)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **given}


def check_values(spec: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for a number out of the range of its name; any count of betas will do."""
    for name, value in given.items():
        allowed = FRACTION if name == "betas" else RANGES.get(name)
        values = value if isinstance(value, (list, tuple)) else (value,)
        for number in values:
            if not isinstance(allowed, Interval) or not isinstance(number, (int, float)):
                continue
            if not allowed.accepts(number):
                raise ValueError(
                    f"optimizer {spec!r}: {name}={value!r} is out of range, expected {allowed}"
                )


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
