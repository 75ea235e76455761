"""Ours and others' implementations of one optimizer, ready to be made over any shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optbench_llm.catalog import parse_spec
from optbench_llm.catalog.counterparts import COMPARISONS, Comparison, Counterpart
from optbench_llm.create import create_optimizer
from optbench_llm.providers import provider_class
from optbench_llm.rules.rule import Rule

Shape = tuple[int, ...]
Maker = Callable[..., tuple[list[nn.Parameter], Any]]


@dataclass(frozen=True)
class Implementation:
    """One implementation: ``make(shapes, dtype)`` gives parameters and the optimizer over them.

    ``settings`` are those of our rule that it is to be compared with; further keywords of ``make``
    change them. The rest is what :class:`Counterpart` says of it.
    """

    label: str
    make: Maker
    settings: Mapping[str, Any]
    known: str = ""
    agrees: bool = True
    matrices: bool = False
    constant_lr: bool = False


@dataclass(frozen=True)
class Absent:
    """One that cannot be stepped here, and why."""

    label: str
    reason: str
    known: str = ""


def comparison_for(spec: str) -> Comparison:
    """What the catalog knows of other implementations; our defaults alone where it knows none.

    Raises ValueError for an unknown optimizer and for one that is not a rule of ours.
    """
    parsed = parse_spec(spec)
    if parsed.provider or parsed.info is None or parsed.info.rule is None:
        raise ValueError(
            f"audit compares others with a rule of ours, and {spec!r} is none; take a name that"
            " `optbench-llm list` shows"
        )
    name = parsed.canonical.partition("@")[0]
    return COMPARISONS.get(name) or Comparison(parsed.info.defaults)


def rule_of(spec: str) -> type[Rule]:
    """The rule that a spec of ours names."""
    info = parse_spec(spec).info
    assert info is not None
    return info.rule_class()


def ours(spec: str) -> list[Implementation]:
    """Our rule by both engines."""
    settings = comparison_for(spec).settings
    return [
        Implementation(f"ours, {engine}", our_maker(spec, settings, engine), settings)
        for engine in ("eager", "compiled")
    ]


def theirs(spec: str) -> Iterator[Implementation | Absent]:
    """The others, in the catalog's order."""
    comparison = comparison_for(spec)
    for other in comparison.others:
        if other.unfit:
            yield Absent(other.label, other.unfit, other.known)
            continue
        settings = {**comparison.settings, **other.at}
        try:
            make = _their_maker(other, settings)
        except ValueError as error:
            yield Absent(other.label, str(error), other.known)
            continue
        yield Implementation(
            other.label,
            make,
            settings,
            other.known,
            other.agrees,
            other.matrices,
            other.constant_lr,
        )


def our_maker(spec: str, settings: Mapping[str, Any], engine: str) -> Maker:
    """Makes our rule with these settings."""
    by_layout = rule_of(spec).by_layout

    def make(shapes: Sequence[Shape], dtype: torch.dtype, **changes: Any) -> Any:
        params = _parameters(shapes, dtype)
        groups: Any = [{"params": params, "role": "matrix"}] if by_layout else params
        return params, create_optimizer(groups, spec, engine=engine, **{**settings, **changes})

    return make


def _their_maker(other: Counterpart, settings: Mapping[str, Any]) -> Maker:
    """Raises ValueError where the provider is not installed or lacks the class."""
    cls = _class_of(other.spec)
    base = _class_of(other.base) if other.base else None

    def make(shapes: Sequence[Shape], dtype: torch.dtype, **changes: Any) -> Any:
        h = {**settings, **changes}
        params = _parameters(shapes, dtype)
        target: Any = [{"params": params, **other.group}]
        if base is not None:
            target = base(target, **other.base_arguments(h))
        elif other.takes_model:
            target = nn.ParameterList(params)
        return params, cls(target, **other.arguments(h))

    return make


def _class_of(spec: str) -> Callable[..., torch.optim.Optimizer]:
    parsed = parse_spec(spec)
    assert parsed.provider is not None
    return provider_class(parsed.provider, parsed.name)


def random_values(shape: Sequence[int], *seed: int) -> Tensor:
    """Normal numbers, float64 but exact in fp32, the same for the same seed."""
    number = 0
    for part in seed:
        number = (number * 1009 + part) % 2**31
    generator = torch.Generator("cpu").manual_seed(number)
    return torch.randn(
        tuple(shape), generator=generator, dtype=torch.float32, device="cpu"
    ).double()


def _parameters(shapes: Sequence[Shape], dtype: torch.dtype) -> list[nn.Parameter]:
    starts = (random_values(shape, 1, index) / 8 for index, shape in enumerate(shapes))
    return [nn.Parameter(start.to(dtype)) for start in starts]
