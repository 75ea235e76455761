"""All parameters of one optimizer, stepped: as the last time, or with everything looked up anew."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from optbench_llm.engine.bindings import Bindings, Held
from optbench_llm.engine.bundles import Bundles
from optbench_llm.engine.checks import check_gradients
from optbench_llm.engine.devices import check_devices
from optbench_llm.engine.division import Division, Groups, States
from optbench_llm.engine.executors import Executor
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.plan import Planner
from optbench_llm.engine.repeat import Repeat
from optbench_llm.engine.sharding import Owned, local
from optbench_llm.engine.stepping import take_step
from optbench_llm.engine.works import WorkMaker
from optbench_llm.rules.rule import Rule, Scope


class Stepper:
    """Steps the parameters of an optimizer, and remembers what it may from step to step."""

    def __init__(self, spec: str, planner: Planner, kept_by_program: Sequence[str]) -> None:
        self._spec, self._planner, self._kept_by_program = spec, planner, kept_by_program
        self._told_of_no_gradients = False
        self.division = Division(spec, planner, kept_by_program)
        self.forget_memory()

    def forget_memory(self) -> None:
        """Begin what is known of the parameters' and the state's memory."""
        self._bindings = Bindings(self._spec)
        self._bundles = Bundles()
        self._repeat: Repeat | None = None

    def step(
        self, groups: Groups, states: States, last: Executor | None, find: Callable[[], Executor]
    ) -> None:
        """Update every parameter that has a gradient.

        ``last`` ran the step before; it runs this one where nothing has changed, and what ``find``
        returns does otherwise: looking at every parameter's device takes time.
        """
        if last is None or not self._step_again(groups, states, last):
            self._step_anew(groups, states, find())

    def _step_again(self, groups: Groups, states: States, executor: Executor) -> bool:
        """Step as the last time, unless something is not as it was then."""
        if self._repeat is None:
            return False
        maker = self._maker(groups, executor)
        works = self._repeat.works(groups, states, maker)
        if works is None:
            self._repeat = None
            return False
        take_step(executor, groups, works, ())
        for state in self._repeat.states:
            state["step"] += 1
        _count_groups(groups, maker)
        return True

    def _step_anew(self, groups: Groups, states: States, executor: Executor) -> None:
        check_devices(self._spec, groups)
        check_gradients(self._spec, groups)
        here, spread, owned = self.division.divide(groups, states, _has_gradient)
        if not (here or spread or owned):
            self._tell_of_no_gradients()
        maker = self._maker(groups, executor)
        works = maker.works(here)
        alone = not owned and all(held.p is _at(groups, held) for held in here)
        again = alone and Repeat.fits(works)
        if alone and executor.of_vectors:
            works = self._bundles.joined(works)
        if again:
            self._repeat = Repeat(groups, states, works, maker)
        take_step(executor, groups, works, spread)
        for held in self._in_turns(owned, states):
            take_step(executor, groups, self._maker(groups, executor).works(held), ())
        begun = any("step" not in states[entry.p] for entry in (*spread, *owned))
        _count_groups(groups, maker)
        for p in chain.from_iterable(group["params"] for group in groups):
            if p.grad is not None and p.numel():
                # Of a sharded parameter also where another process steps it.
                states[p]["step"] = states[p].get("step", 0) + 1
        if begun:
            self.name_slots_of_others(groups, states)

    def observe(self, groups: Groups, states: States, executor: Executor, scale: float) -> None:
        """Let rules take in the present gradients as a second one."""
        check_devices(self._spec, groups)
        check_gradients(self._spec, groups)
        here, _, owned = self.division.divide(groups, states, _has_gradient)
        for held in chain([here], self._in_turns(owned, states)):
            maker = self._maker(groups, executor, advance=False, scale=scale)
            works = maker.works(held)
            executor.prepare(works)
            executor.run("observe", works)

    def make_state(self, groups: Groups, states: States, executor: Executor) -> None:
        """Begin the state of what has a gradient, for a checkpoint to be loaded into."""
        here, _, owned = self.division.divide(groups, states, _has_gradient)
        for held in chain([here], self._in_turns(owned, states)):
            self._maker(groups, executor, advance=False).prepare(held)
        for p in chain.from_iterable(group["params"] for group in groups):
            if p.grad is not None and p.numel():
                own = local(p.detach())
                states[p]["step"] = 0
                for name in self._kept_by_program:
                    states[p][name] = torch.zeros_like(own, dtype=arithmetic_dtype(own))
        self.name_slots_of_others(groups, states)

    def name_slots_of_others(self, groups: Groups, states: States) -> None:
        """Give every process the same names in the state of a parameter."""
        params = chain.from_iterable(group["params"] for group in groups)
        for p, layout in zip(params, self.division.layouts(groups), strict=True):
            if states.get(p):
                for name, nothing in layout.names_without_tensors().items():
                    states[p].setdefault(name, nothing)

    def _tell_of_no_gradients(self) -> None:
        """Warn, once, of a step that changes nothing: the model may train other tensors."""
        if self._told_of_no_gradients:
            return
        self._told_of_no_gradients = True
        warnings.warn(
            f"optimizer {self._spec!r}: no parameter has a gradient, so that this step changes"
            " nothing; make the optimizer of the parameters that the model has now, after it was"
            " moved, wrapped or sharded (weights that accelerate offloads cannot be trained)",
            stacklevel=5,
        )

    def _in_turns(self, owned: Sequence[Owned], states: States) -> Iterator[list[Held]]:
        for held in self.division.in_turns(owned, states, gradients=True):
            yield held
            # Their memory is that of this turn.
            for entry in held:
                self._bindings.forget(entry.place)

    def _maker(
        self, groups: Groups, executor: Executor, *, advance: bool = True, scale: float = 1.0
    ) -> WorkMaker:
        return WorkMaker(
            groups, self._planner, self._bindings,
            vectors=executor.of_vectors, advance=advance, scale=scale,
        )  # fmt: skip


def _at(groups: Groups, held: Held) -> Tensor:
    index, position = held.place
    return groups[index]["params"][position]


def _count_groups(groups: Groups, maker: WorkMaker) -> None:
    for group, plans in zip(groups, maker.plans, strict=True):
        if plans.rule.scope is Scope.MODEL:
            group["step"] += 1


def _has_gradient(rule: type[Rule], p: Tensor) -> bool:
    return p.grad is not None
