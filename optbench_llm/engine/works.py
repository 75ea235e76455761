"""What one step has to do: every unit with its gradient and the numbers of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optbench_llm.engine.bindings import Bindings
from optbench_llm.engine.bound import Work
from optbench_llm.engine.noise import NOISE, noise_key
from optbench_llm.engine.scalars import named, settings_of, settings_of_unit
from optbench_llm.rules.rule import Rule, Scope


class Held(NamedTuple):
    """A parameter that this process steps, or its part of one, with its gradient if it has one.

    ``elements`` is the size by which storages are chosen, that of the whole parameter, 0 for what
    can have no blocks. ``origin`` is the position of a part's first element in the parameter.
    """

    place: tuple[int, int]
    p: Tensor
    g: Tensor | None
    state: dict[str, Any]
    elements: int
    origin: int = 0


class WorkMaker:
    """Turns parameters into works, for one call of ``step`` or ``observe``.

    ``advance`` says that this is the next step of each, ``scale`` is the curvature gradient's.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        rule_for: Callable[[dict[str, Any]], type[Rule]],
        bindings: Bindings,
        *,
        compiled: bool,
        advance: bool,
        scale: float = 1.0,
    ) -> None:
        self._groups, self._bindings = groups, bindings
        self._rules = [rule_for(group) for group in groups]
        self._settings = [settings_of(group) for group in groups]
        self._compiled, self._advance, self._scale = compiled, advance, scale
        self._of_units: dict[Any, Any] = {}
        self._computed: dict[Any, tuple[Any, Tensor | None, tuple[str, ...]]] = {}

    def works(self, held: Iterable[Held]) -> list[Work]:
        """Every unit; state that is lacking begins, carried numbers become those of the step."""
        return [work for entry in held for work in self._works_of(entry)]

    def _works_of(self, held: Held) -> list[Work]:
        index, state = held.place[0], held.state
        rule, group = self._rules[index], self._groups[index]
        shared = rule.scope is Scope.MODEL
        if not shared:
            for name, value in rule.carry.items():
                state.setdefault(name, value)
        own_t = state.setdefault("step", 0) + 1
        keeper = group if shared else state
        t = keeper["step"] + 1
        carry = {name: keeper[name] for name in rule.carry}
        assert held.g is not None
        works = []
        units = self._bindings.units(held.place, held.p, rule, group, held.elements, held.origin)
        for number, unit in enumerate(units):
            kind = (index, unit.role, unit.heads)
            if kind not in self._of_units:
                self._of_units[kind] = settings_of_unit(self._settings[index], unit)
            h = self._of_units[kind]
            g = unit.view(held.g.contiguous() if unit.flattened else held.g)
            bound = self._bindings.bind(held.place, number, state, rule, h, g)
            noise = None
            if bound.phases.stochastic:
                noise = noise_key(own_t, *held.place, number)
            key = (t, held.p.device, kind, noise, *carry.values())
            known = self._computed.get(key)
            if known is None:
                known = self._computed[key] = self._compute(rule, h, t, carry, noise, held.p.device)
            scalars, vector, stages = known
            if self._advance and carry:
                now = scalars._asdict()
                keeper.update({name: now[name] for name in carry if name in now})
            elif "observed" in carry:
                keeper["observed"] = carry["observed"] + 1
            works.append(Work(bound, g, h, scalars, vector, stages, held.place))
        return works

    def _compute(
        self,
        rule: type[Rule],
        h: Any,
        t: int,
        carry: dict[str, float],
        noise: int | None,
        device: torch.device,
    ) -> tuple[Any, Tensor | None, tuple[str, ...]]:
        """The scalars by name and, for compiled code, as a vector: it is compiled once for any."""
        fixed: dict[str, float] = {"scale": self._scale}
        if noise is not None:
            fixed[NOISE] = noise
        numbers = rule.scalars(h, t, carry)
        assert not numbers.keys() & fixed.keys(), (rule, fixed)
        scalars = named(rule, {**numbers, **fixed})
        vector = None
        if self._compiled:
            vector = torch.tensor(scalars, dtype=torch.float32, device=device)
        return scalars, vector, rule.stages(h, t) if self._advance else ("observe",)
