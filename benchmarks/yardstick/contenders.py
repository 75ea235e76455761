"""All implementations of one row: ours by both engines, and the libraries' over the same model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import optbench_llm as ob
from optbench_llm.audit.deviation import observes, switch, take_gradients
from optbench_llm.catalog import Spec, list_optimizers, parse_spec
from optbench_llm.catalog.counterparts import COMPARISONS, Counterpart
from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.storage import check_storage
from optbench_llm.memory import storages
from optbench_llm.params import param_groups
from optbench_llm.providers import provider_class
from optbench_llm.rules.rule import Rule
from optbench_llm.state_bytes import state_bytes
from yardstick.bench import Bench

ENGINES = ("compiled", "eager")
#: Measured in 16 and 8 bits as well, where the rule allows it: bitsandbytes has them in 8 bits.
IN_LOW_BITS = ("adam", "adamw", "ademamix", "lamb", "lion")
#: What constructors and first steps raise where the settings do not suit them.
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, ImportError, AttributeError)


class Stepper:
    """One optimizer or several that share the parameters between them, stepped as one."""

    def __init__(self, bench: Bench, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.bench = bench
        self.optimizers = optimizers
        self.overwrites = True
        for optimizer in optimizers:
            switch(optimizer, "train")

    def prepare(self) -> None:
        """Hand out gradients; what a curvature estimate needs before the first step is fed once."""
        if self.overwrites:
            self.bench.hand_out_copies()
        else:
            self.bench.hand_out_gradients()
        for optimizer in self.optimizers:
            if observes(optimizer) and not optimizer.state:
                optimizer.observe()  # pyright: ignore[reportAttributeAccessIssue]
            take_gradients(optimizer)

    def step(self) -> None:
        """One step of all."""
        for optimizer in self.optimizers:
            optimizer.step()

    def warm_up(self, steps: int) -> None:
        """Make the state, compile, and find out whether a step overwrites the gradients."""
        for _ in range(steps):
            self.prepare()
            before = self.bench.versions()
            self.step()
        self.overwrites = before != self.bench.versions()

    def state_bytes(self) -> int:
        """Bytes of all state tensors."""
        return sum(
            o.state_bytes() if isinstance(o, RuleOptimizer) else state_bytes(o)
            for o in self.optimizers
        )

    def quantised(self) -> tuple[int, int]:
        """Bytes of the state of parameters that have 8-bit slots of ours, and their elements."""
        in_8_bits = [
            (p, [value for value in state.values() if isinstance(value, torch.Tensor)])
            for o in self.optimizers
            if isinstance(o, RuleOptimizer)
            for p, state in o.state.items()
            if any(getattr(v, "dtype", None) in (torch.int8, torch.uint8) for v in state.values())
        ]
        state_bytes = sum(v.numel() * v.element_size() for _, own in in_8_bits for v in own)
        return state_bytes, sum(p.numel() for p, _ in in_8_bits)


@dataclass(frozen=True)
class Contender:
    """One implementation of a row.

    ``makers`` are tried in turn: libraries refuse some of our defaults. ``note`` says what is to be
    known of the comparison.
    """

    label: str
    makers: tuple[Callable[[Bench], Sequence[torch.optim.Optimizer]], ...]
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether our engine runs it."""
        return self.label.startswith("ours")

    @property
    def is_compiled(self) -> bool:
        """Whether the first steps compile."""
        return self.label == "ours, compiled"

    def ready(self, bench: Bench, warm_up_steps: int) -> Stepper:
        """Make and warm up. Raises what the last maker raises."""
        for maker in self.makers[:-1]:
            try:
                return self._ready(maker, bench, warm_up_steps)
            except REFUSALS:
                continue
        return self._ready(self.makers[-1], bench, warm_up_steps)

    @staticmethod
    def _ready(maker: Callable[..., Any], bench: Bench, warm_up_steps: int) -> Stepper:
        stepper = Stepper(bench, maker(bench))
        stepper.warm_up(warm_up_steps)
        return stepper


def fused_adamw(bench: Bench) -> Stepper:
    """What all are compared with."""
    return Stepper(bench, [torch.optim.AdamW(bench.params, fused=True)])


def all_specs() -> list[str]:
    """Every row of the catalog, and some in 16 and 8 bits; last those of matrices, the slowest."""
    low = [
        f"{name}@{storage}"
        for name in IN_LOW_BITS
        for storage, refusal in storages(parse_spec(name).rule_class(), name).items()
        if refusal is None and storage != "fp32"
    ]
    matrices = list_optimizers("*", scope="matrix")
    rest = {*list_optimizers(), *low}.difference(matrices)
    return [*sorted(rest), *matrices]


def check_spec(text: str) -> str:
    """The canonical spelling. Raises ValueError for what the catalog lacks or refuses."""
    spec = parse_spec(text)
    if spec.info is None:
        raise ValueError(
            f"{text!r} is a provider's: give the row of the catalog that it implements"
        )
    if spec.storage:
        rule = spec.rule_class()
        check_storage(spec.storage, spec.canonical, rule, rule.settings())
    return spec.canonical


def contenders(text: str, engines: Sequence[str] = ENGINES) -> Iterator[Contender]:
    """Ours by each engine, then the libraries'; a row that a provider runs has that one alone."""
    spec = parse_spec(text)
    assert spec.info is not None
    if spec.info.provider:
        yield Contender(spec.info.provider, (lambda b: [ob.create_optimizer(b.params, text)],))
        return
    for engine in engines:
        yield Contender(f"ours, {engine}", (_our_maker(text, engine),))
    for other in _others(spec):
        makers = (_their_maker(spec, other, {}), _their_maker(spec, other, other.at))
        yield Contender(other.label, makers if other.at else makers[:1], other.known)


def _our_maker(spec: str, engine: str) -> Callable[[Bench], Sequence[torch.optim.Optimizer]]:
    return lambda bench: [ob.create_optimizer(bench.model, spec, engine=engine)]


def _others(spec: Spec) -> Iterator[Counterpart]:
    comparison = COMPARISONS.get(spec.canonical.partition("@")[0])
    for other in comparison.others if comparison else ():
        if other.unfit:
            continue
        if spec.storage is None:
            yield other
            if other.spec.startswith("torch:") and not other.note and _has_foreach(other):
                yield dataclasses.replace(other, note="foreach", arguments=_foreach(other))
        elif spec.storage == "int8" and other.spec.startswith("bnb:"):
            name = f"{other.spec.removesuffix('32bit')}8bit"
            yield dataclasses.replace(other, spec=name)


def _has_foreach(other: Counterpart) -> bool:
    return "foreach" in _class_of(other.spec).__init__.__code__.co_varnames


def _foreach(other: Counterpart) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda settings: {**other.arguments(settings), "foreach": True}


def _their_maker(
    spec: Spec, other: Counterpart, changes: Mapping[str, Any]
) -> Callable[[Bench], Sequence[torch.optim.Optimizer]]:
    """Theirs at our defaults, over the parameters that our rule steps itself.

    The parameters that our rule leaves to its companion are stepped by torch's fused AdamW.
    """
    assert spec.info is not None
    defaults, rule = spec.info.defaults, spec.rule_class()
    compared = COMPARISONS[spec.canonical.partition("@")[0]].settings
    settings = {**{name: defaults[name] for name in compared}, **changes}

    def make(bench: Bench) -> list[torch.optim.Optimizer]:
        cls = _class_of(other.spec)
        own, rest = _divide(bench, rule)
        arguments = other.arguments(settings)
        target: Any = [{"params": own, **other.group}]
        if other.base is not None:
            target = _class_of(other.base)(target, **other.base_arguments(settings))
        elif other.takes_model:
            target = bench.model
        elif other.spec.endswith(":SCION"):
            target = _scion_groups(bench, rule)
        optimizers = [cls(target, **arguments)]
        return [*optimizers, torch.optim.AdamW(rest, fused=True)] if rest else optimizers

    return make


def _divide(bench: Bench, rule: type[Rule]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters that the rule steps itself, and those of its companion."""
    own: list[Tensor] = []
    rest: list[Tensor] = []
    for group in param_groups(bench.model, 0.0, rule):
        is_own = rule.companion is None or group["role"] in rule.roles
        (own if is_own else rest).extend(group["params"])
    return own, rest


def _scion_groups(bench: Bench, rule: type[Rule]) -> list[dict[str, Any]]:
    """Embeddings by sign, as in ours: by itself theirs would orthogonalise them."""
    from pytorch_optimizer.optimizer.scion import LMONorm

    return [
        {
            "params": group["params"],
            "norm_type": LMONorm.SIGN if group["role"] in ("embedding", "head") else LMONorm.AUTO,
        }
        for group in param_groups(bench.model, 0.0, rule)
    ]


def _class_of(spec: str) -> Callable[..., torch.optim.Optimizer]:
    parsed = parse_spec(spec)
    assert parsed.provider is not None
    return provider_class(parsed.provider, parsed.name)
