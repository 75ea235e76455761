"""A step like the one before: the same parameters, memory and state, so nothing is looked up."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.bundles import Bundle
from optbench_llm.engine.works import WorkMaker
from optbench_llm.rules.rule import Scope

Groups = Sequence[dict[str, Any]]
#: What a parameter group may hold anew at each step, beside a rule's carried numbers; it changes no
#: slot.
CHANGING = ("lr", "step", "observations")


class _Member(NamedTuple):
    """A parameter of one unit, and what must still be so of it."""

    p: Tensor
    address: int
    stride: tuple[int, ...]
    state: dict[str, Any]
    bound: BoundUnit


class _Part(NamedTuple):
    """What one work steps: a parameter, or those of a bundle.

    ``carry`` are the names of the numbers that each parameter carries on in its state.
    """

    place: tuple[int, int]
    members: list[_Member]
    bundle: Bundle | None
    carry: tuple[str, ...]
    kind: Any


class Repeat:
    """The works of a step, to be made again for the next one.

    Of parameters that this process holds whole, with one unit each and no random bits.
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
        self._parts = [self._part(work, states) for work in works]
        rules = {work.bound.rule for work in works}
        self._changing = {*CHANGING, *(name for rule in rules for name in rule.carry)}
        self._fixed = self._fixed_of(maker)
        stepped = {id(member.p) for part in self._parts for member in part.members}
        every = (p for params in self._params for p in params if p.numel())
        self._others = [p for p in every if id(p) not in stepped]

    @staticmethod
    def fits(works: Sequence[Work]) -> bool:
        """Whether works, not yet in bundles, can be made again."""
        places = {work.place for work in works}
        noisy = any(work.bound.phases.stochastic for work in works)
        return len(places) == len(works) and not noisy

    @property
    def states(self) -> list[dict[str, Any]]:
        """Of all parameters that are stepped."""
        return [member.state for part in self._parts for member in part.members]

    def works(
        self, groups: Groups, states: MutableMapping[Tensor, Any], maker: WorkMaker
    ) -> list[Work] | None:
        """The works of this step; None, and nothing has changed, where it is another one."""
        if not self._fits_groups(groups, maker) or not _same(states.values(), self._states):
            return None
        gradients: list[list[Tensor]] = []
        for part in self._parts:
            found = _gradients(part)
            if found is None:
                return None
            gradients.append(found)
        numbers: dict[Any, tuple[Any, ...]] = {}
        return [_work(*each, maker, numbers) for each in zip(self._parts, gradients, strict=True)]

    def _part(self, work: Work, states: MutableMapping[Tensor, Any]) -> _Part:
        index = work.place[0]
        units = [(work.place, work.bound)] if work.bundle is None else work.bundle.units
        members = []
        for (_, position), bound in units:
            p = self._params[index][position]
            assert p.grad is not None
            members.append(_Member(p, p.data_ptr(), p.grad.stride(), states[p], bound))
        bound = members[0].bound
        unit = bound.unit
        kind = (index, unit.role, unit.heads, bound.p.device)
        of_model = bound.rule.scope is Scope.MODEL
        carry = () if of_model else tuple(bound.rule.carry)
        return _Part(work.place, members, work.bundle, carry, kind)

    def _fits_groups(self, groups: Groups, maker: WorkMaker) -> bool:
        return (
            len(groups) == len(self._params)
            and all(
                _same(group["params"], params)
                for group, params in zip(groups, self._params, strict=True)
            )
            and all(p.grad is None for p in self._others)
            and self._fixed_of(maker) == self._fixed
        )

    def _fixed_of(self, maker: WorkMaker) -> list[dict[str, Any]]:
        """What each group holds that may change slots."""
        return [
            {name: value for name, value in vars(h).items() if name not in self._changing}
            for h in maker.of_groups
        ]


def _same(found: Collection[Any], known: Collection[Any]) -> bool:
    """Whether these are the same objects in the same order."""
    return len(found) == len(known) and all(map(is_, found, known))


def _gradients(part: _Part) -> list[Tensor] | None:
    """Of all members, if they are as they were, and those of a bundle at one step."""
    found = []
    first = part.members[0].state
    step = first["step"]
    for p, address, stride, state, bound in part.members:
        g = p.grad
        if (
            g is None
            or g.stride() != stride
            or p.data_ptr() != address
            or not bound.holds(state)
            or state["step"] != step
            or (part.carry and any(state.get(name) != first.get(name) for name in part.carry))
        ):
            return None
        found.append(g)
    return found


def _work(
    part: _Part,
    gradients: Sequence[Tensor],
    maker: WorkMaker,
    numbers: dict[Any, tuple[Any, ...]],
) -> Work:
    """The work of a part; ``numbers`` are those of this step that are known by now."""
    state, bound = part.members[0].state, part.members[0].bound
    key = (part.kind, state["step"])
    if part.carry or key not in numbers:
        index, unit = part.place[0], bound.unit
        h = maker.settings(index, unit)
        # All must have what they carry on; otherwise the first one's numbers are those of all.
        of_members = [
            maker.numbers(index, unit, h, *maker.carried(index, member.state), None, bound.p.device)
            for member in (part.members if part.carry else part.members[:1])
        ]
        numbers[key] = (h, *of_members[0])
    h, scalars, vector, stages = numbers[key]
    g = bound.unit.view_of_gradient(gradients[0])
    work = Work(bound, g, h, scalars, vector, stages, part.place, state)
    return work if part.bundle is None else part.bundle.work(work, gradients)
