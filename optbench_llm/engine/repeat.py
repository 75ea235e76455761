"""A step like the one before: the same parameters, memory and state, so nothing is looked up."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from itertools import repeat
from operator import attrgetter, is_, is_not
from typing import Any, NamedTuple

from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Bucket, Work
from optbench_llm.engine.memory import Memory, in_memory
from optbench_llm.engine.noise import noise_key
from optbench_llm.engine.works import WorkMaker
from optbench_llm.rules.rule import Scope

Groups = Sequence[dict[str, Any]]
_GRADIENT, _DTYPE = attrgetter("grad"), attrgetter("dtype")


class _Part(NamedTuple):
    """What one work steps: a parameter, or those of a bundle.

    ``members`` are their places among all that are stepped, ``states`` theirs, ``bound`` the unit
    of the first. ``carry`` are the names of the numbers that each parameter carries on in its
    state. Parts of one ``kind`` at one step have the same numbers.
    """

    place: tuple[int, int]
    members: slice
    states: list[dict[str, Any]]
    bound: BoundUnit
    bundle: Bucket | None
    carry: tuple[str, ...]
    kind: int


class Repeat:
    """The works of a step, to be made again for the next one.

    Of parameters that this process holds whole, with one unit each. For small ones a loop over them
    here would take as long as their step, so all are looked at by few calls.

    ``states`` are those of all parameters that are stepped.
    """

    def __init__(
        self,
        groups: Groups,
        states: MutableMapping[Tensor, Any],
        works: Sequence[Work],
        maker: WorkMaker,
    ) -> None:
        self._states = [*states.values()]
        self._params = [[*group["params"]] for group in groups]
        self._stepped: list[Tensor] = []
        self.states: list[dict[str, Any]] = []
        self._kinds: dict[Any, int] = {}
        bounds: list[BoundUnit] = []
        self._parts = [self._part(work, states, bounds) for work in works]
        self._memory = Memory.joined(bound.memory for bound in bounds)
        self._layouts = _layouts_of([*map(_GRADIENT, self._stepped)])
        self._plans = [*maker.plans]
        stepped = {*map(id, self._stepped)}
        every = (p for params in self._params for p in params)
        self._others = [p for p in every if id(p) not in stepped]

    @staticmethod
    def fits(works: Sequence[Work]) -> bool:
        """Whether works, not yet in bundles, can be made again."""
        return len({work.place for work in works}) == len(works)

    def works(
        self, groups: Groups, states: MutableMapping[Tensor, Any], maker: WorkMaker
    ) -> list[Work] | None:
        """The works of this step; None, and nothing has changed, where it is another one."""
        if not self._fits_groups(groups, maker) or not _same(states.values(), self._states):
            return None
        gradients: list[Any] = [*map(_GRADIENT, self._stepped)]
        steps: list[Any] = [*map(dict.get, self.states, repeat("step"))]
        if not all(map(is_not, gradients, repeat(None))) or None in steps:
            return None
        gradients = [*in_memory(gradients)]
        if _layouts_of(gradients) != self._layouts or not self._memory.holds():
            return None
        if not all(_together(part, steps[part.members]) for part in self._parts):
            return None
        numbers: dict[Any, tuple[Any, ...]] = {}
        return [_work(part, gradients[part.members], maker, numbers) for part in self._parts]

    def _part(
        self, work: Work, states: MutableMapping[Tensor, Any], bounds: list[BoundUnit]
    ) -> _Part:
        """What a work steps; its units come after those of the works before."""
        index = work.place[0]
        units = [(work.place, work.bound)] if work.bundle is None else work.bundle.units
        members = slice(len(self._stepped), len(self._stepped) + len(units))
        for (_, position), bound in units:
            p = self._params[index][position]
            self._stepped.append(p)
            self.states.append(states[p])
            bounds.append(bound)
        bound = units[0][1]
        unit = bound.unit
        numbers_of = (index, unit.role, unit.heads, bound.p.device)
        kind = self._kinds.setdefault(numbers_of, len(self._kinds))
        of_model = bound.rule.scope is Scope.MODEL
        carry = () if of_model else tuple(bound.rule.carry)
        return _Part(work.place, members, self.states[members], bound, work.bundle, carry, kind)

    def _fits_groups(self, groups: Groups, maker: WorkMaker) -> bool:
        return (
            len(groups) == len(self._params)
            and all(
                _same(group["params"], params)
                for group, params in zip(groups, self._params, strict=True)
            )
            and all(p.grad is None or not p.numel() for p in self._others)
            and _same(maker.plans, self._plans)
        )


def _layouts_of(gradients: Sequence[Any]) -> tuple[list[Any], ...]:
    """How gradients lie in memory, as far as code goes by it."""
    return [*map(Tensor.stride, gradients)], [*map(_DTYPE, gradients)]


def _same(found: Collection[Any], known: Collection[Any]) -> bool:
    """Whether these are the same objects in the same order."""
    return len(found) == len(known) and all(map(is_, found, known))


def _together(part: _Part, steps: list[Any]) -> bool:
    """Whether the members of a bundle carry on the same numbers; ``steps`` are theirs."""
    if part.bundle is None:
        return True
    first, *others = part.states
    return steps.count(steps[0]) == len(steps) and not any(
        state.get(name) != first.get(name) for name in part.carry for state in others
    )


def _work(
    part: _Part,
    gradients: Sequence[Tensor],
    maker: WorkMaker,
    numbers: dict[Any, tuple[Any, ...]],
) -> Work:
    """The work of a part; ``numbers`` are those of this step that are known by now."""
    state, bound = part.states[0], part.bound
    step = state["step"]
    # Its only unit has the number 0.
    noise = noise_key(step + 1, *part.place, 0) if bound.phases.stochastic else None
    key = (part.kind, step, noise)
    if part.carry or key not in numbers:
        index, unit = part.place[0], bound.unit
        h = maker.settings(index, unit)
        # All must have what they carry on; otherwise the first one's numbers are those of all.
        of_members = [
            maker.numbers(index, unit, h, *maker.carried(index, own), noise, bound.p.device)
            for own in (part.states if part.carry else part.states[:1])
        ]
        numbers[key] = (h, *of_members[0])
    h, scalars, vector, stages = numbers[key]
    g = bound.unit.view_of_gradient(gradients[0])
    work = Work(bound, g, h, scalars, vector, stages, part.place, state)
    return work if part.bundle is None else part.bundle.work(work, gradients)
