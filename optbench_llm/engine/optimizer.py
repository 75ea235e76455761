"""The one optimizer: runs any rule over all parameters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bindings import Bindings
from optbench_llm.engine.bound import Work
from optbench_llm.engine.bundles import Bundles
from optbench_llm.engine.checks import check_gradients, check_ready, check_role, check_shapes
from optbench_llm.engine.compiled import CompiledPhases
from optbench_llm.engine.compiler import check_engine, choose_engine
from optbench_llm.engine.devices import check_devices
from optbench_llm.engine.division import Division
from optbench_llm.engine.dtensors import as_dtensors, contiguous, joined
from optbench_llm.engine.finite import check_finite
from optbench_llm.engine.groups import completed
from optbench_llm.engine.loading import asks_for_state, check_origin, group_in_numbers, own_state
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.pieces import EagerPhases
from optbench_llm.engine.repeat import Repeat
from optbench_llm.engine.resharding import TRAIN_POINT, Layout
from optbench_llm.engine.restored import warn_of_other_settings
from optbench_llm.engine.sharding import Owned, Place, Spread, has_parts, local
from optbench_llm.engine.state import check_slots, stored_slots
from optbench_llm.engine.stepping import Runner, take_step
from optbench_llm.engine.storage import check_storage
from optbench_llm.engine.works import Held, WorkMaker
from optbench_llm.rules.hyperparameters import check_hyperparameters
from optbench_llm.rules.rule import COMPANION, Rule, Scope

EAGER = EagerPhases()
logger = logging.getLogger(__name__)


class RuleOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that steps every parameter by one :class:`Rule`.

    State holds tensors, ints and floats only: ``step`` (per parameter, since gradients may come and
    go), the slots by name, the rule's carried floats. It is made on the first gradient. A rule of
    ``Scope.MODEL`` has one count of steps and one set of carried floats, in the parameter groups.

    Groups whose ``role`` is not among ``rule.roles`` are stepped by the rule's companion, if it has
    one, under the hyperparameters that bear the prefix ``companion_``.

    ``engine`` is ``eager`` (bounded pieces, no compiler), ``compiled`` (on a CPU) or ``auto``:
    compiled where the elements and the steps ahead (``expected_steps``, if somebody sets it before
    the first) repay the seconds of compiling, with a warning and eagerly where nothing can be
    compiled, as on an accelerator.

    An element of a gradient beyond 4.4e12 (2**42) counts as that, so that its square is one that
    fp32 can hold; what is no number, or infinite, makes its weight NaN.

    Raises ValueError for an unknown hyperparameter, storage or engine, for values out of range, and
    at the first step for ``compiled`` off the CPU;
    RuntimeError for sparse or complex gradients, parameters that are sharded in a way that no rule
    or not this one can step, a step in evaluation mode, a rule whose curvature estimate was never
    fed, and one whose gradients no program has made.
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: type[Rule],
        *,
        spec: str | None = None,
        storage: str = "fp32",
        engine: str = "auto",
        **hyperparameters: Any,
    ) -> None:
        self.rule = rule
        self.spec = spec or rule.__name__.lower()
        self.storage = storage
        check_engine(engine)
        self._asked_engine = engine
        self.expected_steps: int | None = None
        defaults = check_hyperparameters(self.spec, hyperparameters, rule)
        check_storage(storage, self.spec, rule, SimpleNamespace(**defaults, role="", heads=0))
        self._training = True
        self._start_afresh()
        super().__init__(params, defaults)

    def _start_afresh(self) -> None:
        """Begin what a copy does not take along."""
        self._gradients_made = False
        self._told_of_train_point = self._told_of_no_gradients = False
        self._engine: tuple[str, str] | None = None
        self._compiled = CompiledPhases()
        self._forget_memory()
        self._division = Division(self.spec, self.rule_for, self.rule.kept_by_program)

    def _forget_memory(self) -> None:
        """Begin what is known of the parameters' and the state's memory."""
        self._bindings = Bindings(self.spec, self.storage)
        self._bundles = Bundles()
        self._repeat: Repeat | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("rule", "spec", "storage", "_asked_engine", "expected_steps", "_training")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A copy has no caches yet; load_state_dict comes here too, and keeps what it chose.
        if not hasattr(self, "_compiled"):
            self._start_afresh()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hyperparameters are checked as the constructor's are.

        Raises ValueError for a group without a known ``role`` where the rule must know it, and for
        parameters that are no matrices there; TypeError for what is no group or no tensor.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        rule = self.rule_for(param_group)
        if self.rule.by_layout:
            check_role(self.spec, param_group)
        prefix = "" if rule is self.rule else COMPANION
        own = {name: self.defaults[prefix + name] for name in rule.settings()}
        first = self.param_groups[0] if self.param_groups else {}
        super().add_param_group(completed(param_group, self.spec, rule, own, first))
        for name in self.defaults.keys() - rule.defaults.keys():
            del self.param_groups[-1][name]
        if self.rule.by_layout:
            try:
                check_shapes(self.spec, rule, self.param_groups[-1])
            except ValueError:
                del self.param_groups[-1]
                raise

    def rule_for(self, group: dict[str, Any]) -> type[Rule]:
        """The rule that steps a group: ours, or its companion."""
        companion = self.rule.companion
        if companion is None or "role" not in group or group["role"] in self.rule.roles:
            return self.rule
        return companion

    @property
    def programs(self) -> tuple[str, ...]:
        """Names of the programs that must run before a step."""
        return self.rule.programs

    @property
    def engine(self) -> str:
        """``eager`` or ``compiled``; ``auto`` is decided when first asked."""
        return self._chosen_engine()[0]

    @property
    def engine_reason(self) -> str:
        """Why the engine is what it is."""
        return self._chosen_engine()[1]

    def _chosen_engine(self) -> tuple[str, str]:
        if self._engine is None:
            params = self._every_param()
            self._engine = choose_engine(self._asked_engine, params, self.expected_steps)
            logger.info("optimizer %s runs %s: %s", self.spec, *self._engine)
        return self._engine

    @property
    def compile_s(self) -> float:
        """Seconds spent waiting for compilations."""
        return self._compiled.compile_s

    def state_bytes(self) -> int:
        """Bytes of the slots; what evaluation mode puts aside is not counted."""
        return sum(
            value.numel() * value.element_size()
            for p in dict.fromkeys(self._every_param())
            for name, value in self.state.get(p, {}).items()
            if _is_tensor(value) and name != TRAIN_POINT
        )

    def check_finite(self) -> None:
        """Look through the whole state, one pass over its memory.

        Raises FloatingPointError that names optimizer, slot, parameter and step where a slot holds
        NaN or an infinity.
        """
        check_finite(self.spec, self.param_groups, self.state)

    def planned_state_bytes(self) -> int:
        """Bytes that the slots take once every parameter has had a gradient.

        Nothing is allocated: parameters may be on the meta device.
        """
        kept = 4 * len(self.rule.kept_by_program)
        return sum(
            self._bindings.planned_bytes(self.rule_for(group), p, group) + kept * p.numel()
            for group in self.param_groups
            for p in group["params"]
            if p.numel()
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        At lr 0 with gradients of zeros, before there is any state, it makes state and counts as no
        step: so torch.distributed.checkpoint prepares an optimizer for what it saves or loads.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if asks_for_state(self.param_groups, self.state):
            self._make_state()
            return loss
        check_ready(self.spec, self.rule, self.param_groups, self._training, self._gradients_made)
        self._gradients_made = False
        if not self._step_again():
            self._step_anew()
        return loss

    def _make_state(self) -> None:
        """Begin the state of what has a gradient, for a checkpoint to be loaded into."""
        here, _, owned = self._divided(_has_gradient)
        for held in chain([here], self._in_turns(owned)):
            self._maker(advance=False).prepare(held)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    own = local(p.detach())
                    self.state[p]["step"] = 0
                    for name in self.rule.kept_by_program:
                        self.state[p][name] = torch.zeros_like(own, dtype=arithmetic_dtype(own))
        self._name_slots_of_others()
        if self.rule.observe is not None:
            for group in self.param_groups:
                group.setdefault("observations", 0)

    def _name_slots_of_others(self) -> None:
        """Give every process the same names in the state of a parameter."""
        for p, layout in zip(self._every_param(), self._layouts(), strict=True):
            if self.state.get(p):
                for name, nothing in layout.names_without_tensors().items():
                    self.state[p].setdefault(name, nothing)

    def _step_again(self) -> bool:
        """Step as the last time, unless something is not as it was then."""
        if self._repeat is None:
            return False
        works = self._repeat.works(self.param_groups, self.state, self._maker())
        if works is None:
            self._repeat = None
            return False
        self._take(works)
        for state in self._repeat.states:
            state["step"] += 1
        self._count_groups()
        return True

    def _step_anew(self) -> None:
        check_devices(self.spec, self.param_groups)
        check_gradients(self.spec, self.param_groups)
        here, spread, owned = self._divided(_has_gradient)
        self._tell_of_no_gradients(here or spread or owned)
        maker = self._maker()
        works = maker.works(here)
        alone = not owned and all(held.p is self._param(held.place) for held in here)
        again = alone and Repeat.fits(works)
        if alone and self.engine == "compiled":
            works = self._bundles.joined(works)
        if again:
            self._repeat = Repeat(self.param_groups, self.state, works, maker)
        self._take(works, spread)
        for held in self._in_turns(owned):
            self._take(self._maker().works(held))
        begun = any("step" not in self.state[entry.p] for entry in (*spread, *owned))
        self._count_step()
        if begun:
            self._name_slots_of_others()

    def _tell_of_no_gradients(self, found: Sequence[Any]) -> None:
        """Warn, once, of a step that changes nothing: the model may train other tensors."""
        if found or self._told_of_no_gradients:
            return
        self._told_of_no_gradients = True
        warnings.warn(
            f"optimizer {self.spec!r}: no parameter has a gradient, so that this step changes"
            " nothing; make the optimizer of the parameters that the model has now, after it was"
            " moved, wrapped or sharded (weights that accelerate offloads cannot be trained)",
            stacklevel=4,
        )

    def _count_groups(self) -> None:
        for group in self.param_groups:
            if self.rule_for(group).scope is Scope.MODEL:
                group["step"] += 1

    def _count_step(self) -> None:
        self._count_groups()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    # Of a sharded parameter also where another process steps it.
                    state = self.state[p]
                    state["step"] = state.get("step", 0) + 1

    def gradients_made(self) -> None:
        """Say that the present gradients are those that the rule's programs make."""
        self._gradients_made = True

    @torch.no_grad()
    def observe(self, scale: float = 1.0) -> None:
        """Take in the current gradients as a second, curvature, gradient of this step.

        ``scale`` is the number that turns a squared mean gradient into the rule's estimate: the
        count of samples under the mean.
        """
        if self.rule.observe is None:
            raise RuntimeError(f"optimizer {self.spec!r} takes in no second gradient")
        check_devices(self.spec, self.param_groups)
        check_gradients(self.spec, self.param_groups)
        here, _, owned = self._divided(_has_gradient)
        for held in chain([here], self._in_turns(owned)):
            self._runner.run("observe", self._maker(advance=False, scale=scale).works(held))
        for group in self.param_groups:
            group["observations"] = group.get("observations", 0) + 1

    def train(self) -> None:
        """Put the parameters back where they are trained, exactly as they were."""
        if self._training:
            return
        self._training = True
        for group in self.param_groups:
            for p in group["params"]:
                if TRAIN_POINT in self.state.get(p, ()):
                    local(p.detach()).copy_(self.state[p].pop(TRAIN_POINT))

    @torch.no_grad()
    def eval(self) -> None:
        """Move the parameters to where the rule's model is evaluated and saved, if elsewhere."""
        if not self._training:
            return
        here, spread, owned = self._divided(self._has_evaluation_point)
        self._training = not (here or spread or owned)
        # Of a sharded parameter also where this process has nothing of it.
        places = dict.fromkeys(entry.place for entry in (*here, *spread, *owned))
        for p in map(self._param, places):
            self.state[p][TRAIN_POINT] = local(p.detach()).clone()
        for held in chain([here], self._in_turns(owned, gradients=False)):
            for entry in held:
                self._evaluate(entry)

    def _has_evaluation_point(self, rule: type[Rule], p: Tensor) -> bool:
        return rule.evaluation_point is not None and bool(self.state.get(p, {}).get("step"))

    def _evaluate(self, held: Held) -> None:
        """Move what this process holds of a parameter to where it is evaluated."""
        group = self.param_groups[held.place[0]]
        rule = self.rule_for(group)
        assert rule.evaluation_point is not None
        plans = self._bindings.plans(rule, held.p, group, held.elements)
        for unit, view, h, slots, phases in plans:
            check_slots(self.spec, held.state, view, slots, phases, unit.suffix)
            exact = view.to(arithmetic_dtype(held.p))
            loaded = phases.load(exact, stored_slots(held.state, slots, phases, unit.suffix))
            view.copy_(rule.evaluation_point(exact, loaded, h))

    def _param(self, place: Place) -> Tensor:
        return self.param_groups[place[0]]["params"][place[1]]

    def state_dict(self) -> dict[str, Any]:
        """As torch has it: of DTensors where parameters are sharded (FSDP2).

        So torch.distributed.checkpoint takes it, and ``load_state_dict`` again on any number of
        processes. All processes must call it there: matrices that one of them steps whole and
        8-bit codes are sent to where their parts lie, others stay where they are, not copied.

        Warns, once, where weights saved beside it are not those to be evaluated.
        """
        if self._training and not self._told_of_train_point and self._moves_to_evaluate():
            self._told_of_train_point = True
            warnings.warn(
                f"optimizer {self.spec!r} trains at another point than its model is evaluated at:"
                " weights that are saved beside this state are at the first; call optimizer.eval()"
                " before saving and train() after it, as OptBenchTrainer and attach do"
            )
        state = super().state_dict()
        if not has_parts(self):
            states = {key: contiguous(own) for key, own in state["state"].items()}
            return {**state, "state": states}
        self._name_slots_of_others()
        return {**state, "state": as_dtensors(self._layouts(), state["state"])}

    def _moves_to_evaluate(self) -> bool:
        return any(
            self._has_evaluation_point(self.rule_for(group), p)
            for group in self.param_groups
            for p in group["params"]
        )

    def whole_state_dict(self) -> dict[str, Any] | None:
        """The state as one process would have it, on the CPU of the first one; None on others.

        All processes must call it. ``load_state_dict`` takes it on any number of processes.
        """
        self._name_slots_of_others()
        state = super().state_dict()
        whole = joined(self._layouts(), state["state"])
        return None if whole is None else {**state, "state": whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit; torch's own method casts state to the parameter's dtype.

        Hooks may change the checkpoint before anything is checked. Of sharded parameters each
        process keeps what it steps; all processes must call it where the state has DTensors. State
        goes to the device of its parameter. Nothing has changed after an error. Hyperparameters are
        those of the state from then on, with a warning where others were given.

        Raises ValueError for the state of another optimizer, storage or model, or of other groups.
        """
        found: dict[Any, Any] = {}

        def read(_: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            saved = given["param_groups"]
            check_origin(self.spec, saved, self.param_groups)
            rules = [self.rule_for(group) for group in self.param_groups]
            found.update(own_state(given, self.param_groups, rules, self._layouts()))
            warn_of_other_settings(
                self.spec, self.param_groups, saved, lambda group: self.rule_for(group).settings()
            )
            pairs = zip(saved, self.param_groups, strict=True)
            return {"state": {}, "param_groups": [group_in_numbers(*pair) for pair in pairs]}

        def take(_: torch.optim.Optimizer) -> None:
            self.state.update(found)
            self._forget_memory()
            self._training = not any(TRAIN_POINT in found.get(p, ()) for p in self._every_param())

        # Torch's method knows no other way to keep dtypes. The last hook before, the first after.
        hooks = (
            self.register_load_state_dict_pre_hook(read),
            self.register_load_state_dict_post_hook(take, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _every_param(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _maker(self, *, advance: bool = True, scale: float = 1.0) -> WorkMaker:
        return WorkMaker(
            self.param_groups, self.rule_for, self._bindings,
            compiled=self.engine == "compiled", advance=advance, scale=scale,
        )  # fmt: skip

    def _divided(
        self, takes_part: Callable[[type[Rule], Tensor], Any]
    ) -> tuple[list[Held], list[Spread], list[Owned]]:
        return self._division.divide(self.param_groups, self.state, takes_part)

    def _in_turns(self, owned: Sequence[Owned], *, gradients: bool = True) -> Iterator[list[Held]]:
        return self._division.in_turns(owned, self.state, self._bindings, gradients=gradients)

    def _layouts(self) -> list[Layout]:
        return self._division.layouts(self.param_groups, self._bindings)

    def _take(self, works: list[Work], spread: Sequence[Spread] = ()) -> None:
        take_step(self._runner, self.param_groups, works, spread)

    @property
    def _runner(self) -> Runner:
        return self._compiled if self.engine == "compiled" else EAGER


def _has_gradient(rule: type[Rule], p: Tensor) -> bool:
    return p.grad is not None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
