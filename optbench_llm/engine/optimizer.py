"""The one optimizer: runs any rule over all parameters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.checks import (
    check_not_captured,
    check_ready,
    check_role,
    check_shapes,
)
from optbench_llm.engine.compiler import Choice, check_engine, choose_engine
from optbench_llm.engine.dtensors import as_dtensors, contiguous, joined
from optbench_llm.engine.evaluation import (
    has_evaluation_point,
    move_to_evaluation_points,
    return_to_train_points,
)
from optbench_llm.engine.executors import Executor, executor_of
from optbench_llm.engine.finite import check_finite
from optbench_llm.engine.groups import completed
from optbench_llm.engine.loading import asks_for_state, restored
from optbench_llm.engine.plan import Planner
from optbench_llm.engine.precision import full_precision
from optbench_llm.engine.resharding import TRAIN_POINT, Layout
from optbench_llm.engine.sharding import has_parts
from optbench_llm.engine.stepper import Stepper
from optbench_llm.engine.storage import check_storage
from optbench_llm.rules.hyperparameters import check_hyperparameters
from optbench_llm.rules.rule import COMPANION, Rule

logger = logging.getLogger(__name__)
_DEVICE = attrgetter("device")


class RuleOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that steps every parameter by one :class:`Rule`.

    State holds tensors, ints and floats only: ``step`` (per parameter, since gradients may come and
    go), the slots by name, the rule's carried floats. It is made on the first gradient. A rule of
    ``Scope.MODEL`` has one count of steps and one set of carried floats, in the parameter groups.

    Groups whose ``role`` is not among ``rule.roles`` are stepped by the rule's companion, if it has
    one, under the hyperparameters that bear the prefix ``companion_``.

    ``engine`` is ``eager`` (torch's own kernels), ``compiled`` (inductor's code on a CPU, Triton's
    kernels on a GPU), ``triton`` (those; on a CPU in Triton's interpreter alone) or ``auto``: on a
    GPU Triton's, on a CPU compiled where the elements and the steps ahead (``expected_steps``, if
    somebody sets it before the first) repay the seconds of compiling; eagerly, with a warning,
    where nothing can be compiled.

    An element of a gradient beyond 4.4e12 (2**42) counts as that, so that its square is one that
    fp32 can hold; what is no number, or infinite, makes its weight NaN.

    Raises ValueError for an unknown hyperparameter, storage or engine, for values out of range, and
    at the first step for an engine that cannot step these parameters;
    RuntimeError for sparse or complex gradients, parameters that are sharded in a way that no rule
    or not this one can step, a step in evaluation mode, a rule whose curvature estimate was never
    fed, one whose gradients no program has made, and one within the capture of a CUDA graph.
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
        check_storage(storage, self.spec, rule, defaults)
        self._training = True
        self._start_afresh()
        super().__init__(params, defaults)

    def _start_afresh(self) -> None:
        """Begin what a copy does not take along."""
        self._gradients_made = False
        self._told_of_train_point = False
        self._engine: Choice | None = None
        self._devices: set[torch.device] = set()
        self._executor: Executor | None = None
        self._compiled_before_s = 0.0
        self._planner = Planner(self.rule_for, self.storage)
        self._stepper = Stepper(self.spec, self._planner, self.rule.kept_by_program)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("rule", "spec", "storage", "_asked_engine", "expected_steps", "_training")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A copy has no caches yet; load_state_dict comes here too, and keeps what it chose.
        if not hasattr(self, "_executor"):
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
        """``eager``, ``compiled`` or ``triton``; ``auto`` is decided when first asked."""
        return self._chosen_engine().engine

    @property
    def engine_reason(self) -> str:
        """Why the engine is what it is."""
        return self._chosen_engine().reason

    def _chosen_engine(self) -> Choice:
        params = self._every_param()
        devices = {*map(_DEVICE, params)}
        if self._engine is None or devices != self._devices:
            if self._engine is not None:
                # The model has moved, and what served it there need not do so here.
                self.forget_memory()
            asked, self._devices = self._asked_engine, devices
            self._engine = choose_engine(asked, params, self.expected_steps, self.storage)
            logger.info("optimizer %s runs %s: %s", self.spec, *self._engine)
        return self._engine

    @property
    def compile_s(self) -> float:
        """Seconds spent waiting for compilations."""
        now = 0.0 if self._executor is None else self._executor.compile_s
        return self._compiled_before_s + now

    def forget_memory(self) -> None:
        """Hold no memory of parameters and state: call it before they are offloaded.

        They stay as they are; without this, what a step knew of where they lay would keep that
        memory in use until the next one, which looks everything up anew.
        """
        self._stepper.forget_memory()
        self._compiled_before_s, self._executor = self.compile_s, None

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
        planned = zip(self._planner.groups(self.param_groups), self.param_groups, strict=True)
        return sum(
            plans.state_bytes(p, self.rule.kept_by_program)
            for plans, group in planned
            for p in group["params"]
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Neither autocast nor TF32 around it changes its arithmetic.

        At lr 0 with gradients of zeros, before there is any state, it makes state and counts as no
        step: so torch.distributed.checkpoint prepares an optimizer for what it saves or loads.
        """
        check_not_captured(self.spec)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if asks_for_state(self.param_groups, self.state):
            self._stepper.make_state(self.param_groups, self.state, self._find_executor())
            if self.rule.observe is not None:
                for group in self.param_groups:
                    group.setdefault("observations", 0)
            return loss
        check_ready(self.spec, self.rule, self.param_groups, self._training, self._gradients_made)
        self._gradients_made = False
        with full_precision():
            self._stepper.step(self.param_groups, self.state, self._executor, self._find_executor)
        return loss

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
        check_not_captured(self.spec)
        with full_precision():
            self._stepper.observe(self.param_groups, self.state, self._find_executor(), scale)
        for group in self.param_groups:
            group["observations"] = group.get("observations", 0) + 1

    def train(self) -> None:
        """Put the parameters back where they are trained, exactly as they were."""
        if self._training:
            return
        self._training = True
        return_to_train_points(self._every_param(), self.state)

    @torch.no_grad()
    def eval(self) -> None:
        """Move the parameters to where the rule's model is evaluated and saved, if elsewhere."""
        if not self._training:
            return
        groups, division = self.param_groups, self._stepper.division
        here, spread, owned = division.divide(groups, self.state, self._has_evaluation_point)
        self._training = not (here or spread or owned)
        plans = self._planner.groups(groups)
        move_to_evaluation_points(
            self.spec, division, here, spread, owned, groups, self.state, plans
        )

    def _has_evaluation_point(self, rule: type[Rule], p: Tensor) -> bool:
        return has_evaluation_point(rule, self.state.get(p, {}))

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
        self._stepper.name_slots_of_others(self.param_groups, self.state)
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
        self._stepper.name_slots_of_others(self.param_groups, self.state)
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
            rules = [self.rule_for(group) for group in self.param_groups]
            state, groups = restored(self.spec, given, self.param_groups, rules, self._layouts())
            found.update(state)
            return {"state": {}, "param_groups": groups}

        def take(_: torch.optim.Optimizer) -> None:
            self.state.update(found)
            self.forget_memory()
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

    def _layouts(self) -> list[Layout]:
        return self._stepper.division.layouts(self.param_groups)

    def _find_executor(self) -> Executor:
        """What runs stages on the parameters' devices as they are now."""
        engine = self.engine
        if self._executor is None:
            self._executor = executor_of(engine)
        return self._executor


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
