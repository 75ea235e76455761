"""Optimizers from specs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from optbench_llm.catalog import Spec, parse_spec
from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.compiler import check_engine
from optbench_llm.params import param_groups
from optbench_llm.providers import (
    check_arguments,
    check_values,
    make_foreign,
    provider_class,
    provider_defaults,
)
from optbench_llm.rules.hyperparameters import check_hyperparameters, plain


def create_optimizer(
    model_or_params: nn.Module | Iterable[Any],
    spec: str,
    lr: float | None = None,
    *,
    engine: str = "auto",
    decays: Collection[str] | None = None,
    **hyperparameters: Any,
) -> torch.optim.Optimizer:
    """Make the optimizer that a spec names.

    A model is split into parameters that decay and parameters that do not (biases and norms), and
    by what each is where the optimizer must know it. Its embeddings keep their state in fp32 when
    the spec asks for ``@int8``; those of bare parameters do not. An iterable of parameters or of
    groups is taken as it is: with a warning for optimizers that look at output channels, with a
    ``role`` in each group for those that must know what a parameter is. ``lr`` None means the
    declared one.
    ``engine`` is ``auto``, ``eager`` or ``compiled`` and concerns our own rules only. ``decays``
    holds the names of a model's parameters that decay, where that is not all but biases and norms.

    Warns of weights in 16 bits that lose small steps.

    Raises ValueError for an unknown name (with the nearest ones), an unknown engine, an unknown
    hyperparameter or one out of range, a model without parameters for the optimizer, groups without
    a role where it needs one, and for a provider that is not installed.
    """
    check_engine(engine)
    parsed = parse_spec(spec)
    given = dict(hyperparameters) if lr is None else {"lr": lr, **hyperparameters}
    settings = validate_hyperparameters(spec, given)
    foreign = _provider(parsed)
    if foreign is None:
        assert parsed.info is not None
        rule = parsed.info.rule_class()
        caution = rule.caution(SimpleNamespace(**{k: plain(v) for k, v in settings.items()}))
        if caution:
            warnings.warn(f"optimizer {spec!r}: {caution}")
        params: Any = model_or_params
        if isinstance(params, nn.Module):
            int8 = parsed.storage == "int8"
            params = param_groups(
                params, settings["weight_decay"], rule, mark_embeddings=int8, decays=decays
            )
        elif rule.by_channel:
            warnings.warn(
                f"optimizer {spec!r} looks at output channels but was given parameters: it takes"
                " the rows of each matrix for channels, which is wrong for transformers' Conv1D;"
                " pass the model"
            )
        made: torch.optim.Optimizer = RuleOptimizer(
            params,
            rule,
            spec=parsed.canonical,
            storage=parsed.storage or "fp32",
            engine=engine,
            **settings,
        )
    else:
        row = dict(parsed.info.settings or {}) if parsed.info else {}
        made = make_foreign(parsed, *foreign, model_or_params, {**row, **given}, decays)
    _warn_of_short_weights(spec, made)
    return made


def _warn_of_short_weights(spec: str, optimizer: torch.optim.Optimizer) -> None:
    """Say that weights of 16 bits, rounded to nearest, lose small steps."""
    found = {
        p.dtype
        for group in optimizer.param_groups
        for p in group["params"]
        if p.dtype is torch.float16
        or (p.dtype is torch.bfloat16 and group.get("rounding", "nearest") == "nearest")
    }
    for dtype in sorted(found, key=str):
        lost = torch.finfo(dtype).eps / 4
        other = "" if dtype is torch.float16 else ", or take 'adamw-bf16', which rounds at random"
        warnings.warn(
            f"optimizer {spec!r} steps weights in {str(dtype).removeprefix('torch.')}, where steps"
            f" below {lost:.2g} of a weight are lost: at small learning rates, most of them. Load"
            f" the model in fp32 and train with bf16=True{other}"
        )


def validate_hyperparameters(spec: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """All hyperparameters of a spec: its defaults, the declared lr among them, and what was given.

    Raises ValueError that names the optimizer, the hyperparameter, its range and the accepted
    names.
    """
    parsed = parse_spec(spec)
    foreign = _provider(parsed)
    if parsed.info is not None and foreign is None:
        return check_hyperparameters(parsed.canonical, hyperparameters, parsed.info.rule_class())
    assert foreign is not None
    if foreign[0] == "hf":
        check_values(parsed.canonical, hyperparameters)
        return dict(hyperparameters)
    row = dict(parsed.info.settings or {}) if parsed.info else {}
    return check_arguments(parsed.canonical, provider_class(*foreign), {**row, **hyperparameters})


def declared_hyperparameters(spec: str) -> dict[str, Any]:
    """What a spec's hyperparameters are where none is given; those that must be are left out.

    Raises ValueError for an unknown name and for a provider that is not installed.
    """
    parsed = parse_spec(spec)
    foreign = _provider(parsed)
    if foreign is None:
        assert parsed.info is not None
        return parsed.info.defaults
    if foreign[0] == "hf":
        return {"weight_decay": 0.0}
    row = dict(parsed.info.settings or {}) if parsed.info else {}
    return {**provider_defaults(*foreign), **row}


def effective_hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The settings of each parameter group as plain values, with its count of elements.

    ``lr`` is the peak: what a schedule starts from, not what it has made of it by now.
    """
    return [
        {
            "elements": sum(p.numel() for p in group["params"]),
            **{
                name: _recorded(group.get("initial_lr", value) if name == "lr" else value)
                for name, value in group.items()
                if name not in _NOT_SETTINGS
            },
        }
        for group in optimizer.param_groups
    ]


_NOT_SETTINGS = ("params", "param_names", "initial_lr", "spec", "observations", "step")


def _recorded(value: Any) -> Any:
    return str(value) if isinstance(value, torch.dtype) else plain(value)


def _provider(spec: Spec) -> tuple[str, str] | None:
    """Provider and class name of a foreign optimizer; None for a rule of ours."""
    if spec.provider:
        return spec.provider, spec.name
    if spec.info is not None and spec.info.provider:
        provider, _, name = spec.info.provider.partition(":")
        return provider, name
    return None
