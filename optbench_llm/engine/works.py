"""What one step has to do: every unit with its gradient and the numbers of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bindings import Bindings, Held
from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.noise import NOISE, noise_key
from optbench_llm.engine.plan import Planner
from optbench_llm.engine.scalars import named, settings_of_unit
from optbench_llm.engine.units import Unit
from optbench_llm.rules.rule import Rule, Scope


class WorkMaker:
    """Turns parameters into works, for one call of ``step`` or ``observe``.

    ``advance`` says that this is the next step of each, ``scale`` is the curvature gradient's.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        planner: Planner,
        bindings: Bindings,
        *,
        vectors: bool,
        advance: bool,
        scale: float = 1.0,
    ) -> None:
        self._groups, self._bindings = groups, bindings
        self.plans = planner.groups(groups)
        self._vectors, self._advance, self._scale = vectors, advance, scale
        self._of_units: dict[Any, Any] = {}
        self._computed: dict[Any, tuple[Any, Tensor | None, tuple[str, ...]]] = {}

    def works(self, held: Iterable[Held]) -> list[Work]:
        """Every unit; state that is lacking begins, carried numbers become those of the step."""
        return [work for entry in held for work in self._works_of(entry)]

    def prepare(self, held: Iterable[Held]) -> None:
        """Begin what state is lacking; nothing is counted, so that the first step is still ahead.

        Slots that begin with the first gradient or the parameter do so once more then.
        """
        for entry in held:
            index, state = entry.place[0], entry.state
            state.setdefault("step", 0)
            self.carried(index, state)
            for _ in self._bound(entry):
                pass

    def _works_of(self, held: Held) -> list[Work]:
        index, state = held.place[0], held.state
        own_t = state.setdefault("step", 0) + 1
        keeper, carry = self.carried(index, state)
        works = []
        for number, (bound, g, h) in enumerate(self._bound(held)):
            noise = noise_key(own_t, *held.place, number) if bound.phases.stochastic else None
            numbers = self.numbers(index, bound.unit, h, keeper, carry, noise, held.p.device)
            works.append(Work(bound, g, h, *numbers, held.place, state))
        return works

    def _bound(self, held: Held) -> Iterator[tuple[BoundUnit, Tensor, Any]]:
        """Every unit of a parameter, with its gradient and settings."""
        index, state = held.place[0], held.state
        assert held.g is not None
        first = self._advance and not state["step"]
        for view in self.plans[index].plan(held.p, held.elements):
            h, g = self.settings(index, view.unit), view.unit.view_of_gradient(held.g)
            yield self._bindings.bind(held, view, g, h, first=first), g, h

    def settings(self, index: int, unit: Unit) -> Any:
        """The settings of a unit of a group."""
        kind = (index, unit.role, unit.heads)
        if kind not in self._of_units:
            self._of_units[kind] = settings_of_unit(self.plans[index].h, unit)
        return self._of_units[kind]

    def carried(self, index: int, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """Who keeps the count of steps and the carried numbers of a parameter, and those."""
        rule = self.plans[index].rule
        keeper = self._groups[index] if rule.scope is Scope.MODEL else state
        return keeper, {name: keeper.setdefault(name, start) for name, start in rule.carry.items()}

    def numbers(
        self,
        index: int,
        unit: Unit,
        h: Any,
        keeper: dict[str, Any],
        carry: dict[str, float],
        noise: int | None,
        device: torch.device,
    ) -> tuple[Any, Tensor | None, tuple[str, ...]]:
        """Scalars, their vector and the stages of a unit; the keeper gets what they carry on."""
        t = keeper["step"] + 1
        key = (t, device, index, unit.role, unit.heads, noise, *carry.values())
        known = self._computed.get(key)
        if known is None:
            rule = self.plans[index].rule
            known = self._computed[key] = self._compute(rule, h, t, carry, noise, device)
        if self._advance and carry:
            now = known[0]._asdict()
            keeper.update({name: now[name] for name in carry if name in now})
        elif "observed" in carry:
            keeper["observed"] = carry["observed"] + 1
        return known

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
        if self._vectors:
            vector = torch.tensor(scalars, dtype=torch.float32, device=device)
        return scalars, vector, rule.stages(h, t) if self._advance else ("observe",)
