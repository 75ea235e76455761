"""The one optimizer: runs any rule over all parameters."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from optbench_llm.engine.compiler import compiler_failure
from optbench_llm.engine.phases import CompiledPhases, Phases, arithmetic_dtype
from optbench_llm.engine.pieces import Work, pieces, stored_slots, whole
from optbench_llm.engine.storage import check_storage, storage_for
from optbench_llm.rules.hyperparameters import check_hyperparameters
from optbench_llm.rules.rule import Rule, Scope, Slot

ENGINES = ("auto", "eager", "compiled")
#: Below this many elements a compiled step does not repay its compilation in a usual run.
COMPILE_FROM_ELEMENTS = 16_000_000
#: What a parameter group may carry besides the rule's hyperparameters.
GROUP_KEYS = ("params", "param_names", "conv1d", "spec", "observations", "initial_lr")
TRAIN_POINT = "train_point"


class RuleOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that steps every parameter by one :class:`Rule`.

    State holds tensors, ints and floats only: ``step`` (per parameter, since gradients may come and
    go), the slots by name, the rule's carried floats. It is made on the first gradient.

    ``engine`` is ``eager`` (bounded pieces, no compiler), ``compiled`` (one function for each
    distinct shape) or ``auto``: compiled for models of 16 M parameters and more, with a warning
    and eagerly where nothing can be compiled.

    Raises ValueError for an unknown hyperparameter, storage or engine and for values out of range;
    RuntimeError for sparse or complex gradients, sharded parameters, a step in evaluation mode, and
    a rule whose curvature estimate was never fed.
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
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")
        self._asked_engine = engine
        defaults = check_hyperparameters(self.spec, hyperparameters, rule)
        check_storage(storage, self.spec, rule, SimpleNamespace(**defaults))
        self._reset_caches()
        super().__init__(params, {**defaults, "conv1d": False, "observations": 0})

    def _reset_caches(self) -> None:
        self._engine: str | None = None
        self._compiled = CompiledPhases()
        self._phases: dict[Any, Phases] = {}
        self._scalar_types: dict[tuple[str, ...], Any] = {}
        self._vectors: list[dict[torch.dtype, Tensor]] = []
        self._training = True

    def __getstate__(self) -> dict[str, Any]:
        kept = ("rule", "spec", "storage", "_asked_engine", "_training")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy has no caches yet; load_state_dict comes here too, and keeps its compiled code.
        if not hasattr(self, "_compiled"):
            self._reset_caches()
        super().__setstate__(state)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hyperparameters are checked as the constructor's are."""
        given = {k: v for k, v in param_group.items() if k not in GROUP_KEYS}
        own = {name: self.defaults[name] for name in self.rule.defaults}
        checked = check_hyperparameters(self.spec, {**own, **given}, self.rule)
        checked_group = {**param_group, **{k: checked[k] for k in given}, "spec": self.spec}
        super().add_param_group(checked_group)

    @property
    def program(self) -> str | None:
        """Name of the program that must feed :meth:`observe`, if the rule needs one."""
        return self.rule.program

    @property
    def engine(self) -> str:
        """``eager`` or ``compiled``; ``auto`` is decided when first asked."""
        if self._engine is None:
            self._engine = self._choose_engine()
        return self._engine

    def _choose_engine(self) -> str:
        if self._asked_engine == "eager":
            return "eager"
        elements = sum(p.numel() for group in self.param_groups for p in group["params"])
        if self._asked_engine == "auto" and elements < COMPILE_FROM_ELEMENTS:
            return "eager"
        failure = compiler_failure(self.param_groups[0]["params"][0].device)
        if failure is None:
            return "compiled"
        advice = "install g++ and Python's headers, or set CXX"
        if self._asked_engine == "compiled":
            raise RuntimeError(f"engine 'compiled' does not work here ({failure}); {advice}")
        warnings.warn(
            f"cannot compile ({failure}), so the optimizer steps eagerly, several times slower;"
            f" {advice}"
        )
        return "eager"

    @property
    def compile_s(self) -> float:
        """Seconds spent in first calls of compiled functions."""
        return self._compiled.compile_s

    def state_bytes(self) -> int:
        """Bytes of the slots; what evaluation mode puts aside is not counted."""
        return sum(
            value.numel() * value.element_size()
            for state in self.state.values()
            for name, value in state.items()
            if _is_tensor(value) and name != TRAIN_POINT
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_ready()
        self._check_gradients()
        works = list(self._works(advance=True))
        sums = self._measure(works) if self.rule.measures else [None] * len(works)
        for work, total in zip(works, sums, strict=True):
            self._run("update", work, total)
        return loss

    @torch.no_grad()
    def observe(self, scale: float = 1.0) -> None:
        """Take in the current gradients as a second, curvature, gradient of this step.

        ``scale`` is the number that turns a squared mean gradient into the rule's estimate: the
        count of samples under the mean.
        """
        if self.rule.observe is None:
            raise RuntimeError(f"optimizer {self.spec!r} takes in no second gradient")
        self._check_gradients()
        for work in self._works(advance=False, scale=scale):
            self._run("observe", work)
        for group in self.param_groups:
            group["observations"] += 1

    def train(self) -> None:
        """Put the parameters back where they are trained, exactly as they were."""
        if self._training:
            return
        self._training = True
        for p, state, _ in self._known_states():
            if TRAIN_POINT in state:
                p.detach().copy_(state.pop(TRAIN_POINT))

    @torch.no_grad()
    def eval(self) -> None:
        """Move the parameters to where the rule's model is evaluated and saved, if elsewhere."""
        if not self._training or self.rule.evaluation_point is None:
            return
        self._training = False
        for p, state, group in self._known_states():
            slots = self.rule.slots_for(p.shape, _numbers(group))
            phases = self._phases_for(p, slots)
            exact = p.detach().to(arithmetic_dtype(p))
            loaded = phases.load(exact, stored_slots(state, slots, phases))
            state[TRAIN_POINT] = p.detach().clone()
            p.copy_(self.rule.evaluation_point(exact, loaded, _numbers(group)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit; torch's own method casts state to the parameter's dtype.

        Raises ValueError for the state of another optimizer or storage.
        """
        for group in state_dict["param_groups"]:
            if group.get("spec") != self.spec:
                found = repr(group["spec"]) if "spec" in group else "a foreign optimizer"
                raise ValueError(f"this is the state of {found}, the optimizer is {self.spec!r}")
        super().load_state_dict(state_dict)
        saved = (index for group in state_dict["param_groups"] for index in group["params"])
        own = (p for group in self.param_groups for p in group["params"])
        for index, p in zip(saved, own, strict=True):
            if index in state_dict["state"]:
                self.state[p] = {
                    key: value.detach().to(p.device, copy=True) if _is_tensor(value) else value
                    for key, value in state_dict["state"][index].items()
                }
        self._training = not any(TRAIN_POINT in state for state in self.state.values())

    def _check_ready(self) -> None:
        if not self._training:
            raise RuntimeError(
                f"optimizer {self.spec!r} is in evaluation mode; call optimizer.train() before step"
            )
        if self.rule.observe is not None and not self.param_groups[0]["observations"]:
            raise RuntimeError(
                f"optimizer {self.spec!r} needs a curvature estimate that was never fed: train with"
                " OptBenchTrainer or attach(trainer, ...), or call optimizer.observe() yourself"
                " with the gradients of the estimate"
            )

    def _known_states(self) -> Iterator[tuple[Tensor, dict[str, Any], dict[str, Any]]]:
        for group in self.param_groups:
            for p in group["params"]:
                if self.state.get(p):
                    yield p, self.state[p], group

    def _works(self, *, advance: bool, scale: float = 1.0) -> Iterator[Work]:
        """Every parameter with a gradient; ``advance`` counts this as its next step."""
        computed: dict[Any, tuple[Any, ...]] = {}
        for index, group in enumerate(self.param_groups):
            h = _numbers(group)
            for p in group["params"]:
                if p.grad is None or p.numel() == 0:
                    continue
                state = self.state[p]
                slots = self.rule.slots_for(p.shape, h)
                phases = self._phases_for(p, slots)
                if "step" not in state or any(slot.name not in state for slot in slots):
                    self._initialise(state, p, slots, phases, h)
                t = state["step"] + 1
                carry = {name: state[name] for name in self.rule.carry}
                key = (index, t, *carry.values())
                if key not in computed:
                    computed[key] = self._scalars(h, t, carry, scale, len(computed))
                scalars = computed[key]
                if advance:
                    state["step"] = t
                    state.update({name: getattr(scalars[0], name) for name in carry})
                stored = stored_slots(state, slots, phases)
                p, g = p.detach(), p.grad.detach()
                yield Work(p, g, slots, phases, stored, scalars, group["conv1d"])

    def _check_gradients(self) -> None:
        """Refuse what no rule can take, before anything has moved."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and (p.grad.is_sparse or p.grad.is_complex()):
                    kind = "sparse" if p.grad.is_sparse else "complex"
                    raise RuntimeError(
                        f"optimizer {self.spec!r} takes dense real gradients, this one of shape"
                        f" {tuple(p.shape)} is {kind}"
                        + ("; use nn.Embedding(sparse=False)" if p.grad.is_sparse else "")
                    )

    def _phases_for(self, p: Tensor, slots: tuple[Slot, ...]) -> Phases:
        dtype = arithmetic_dtype(p)
        storages = tuple(storage_for(slot, self.storage, p, dtype) for slot in slots)
        names = tuple(slot.name for slot in slots)
        key = (names, storages)
        if key not in self._phases:
            self._phases[key] = Phases(self.rule, names, storages)
        return self._phases[key]

    def _initialise(
        self, state: dict[str, Any], p: Tensor, slots: tuple[Slot, ...], phases: Phases, h: Any
    ) -> None:
        """Make what is missing: all at first, later what a changed hyperparameter asks for."""
        if isinstance(p, DTensor):
            raise RuntimeError(
                f"optimizer {self.spec!r} does not step sharded parameters (FSDP2) in this version;"
                " use DDP, or a provider's optimizer such as torch:AdamW"
            )
        state.setdefault("step", 0)
        for name, value in self.rule.carry.items():
            state.setdefault(name, value)
        dtype = arithmetic_dtype(p)
        for slot, storage in zip(slots, phases.storages, strict=True):
            if slot.name in state:
                continue
            shape = slot.shape_for(p.shape)
            value = torch.zeros(shape, dtype=dtype, device=p.device)
            if slot.initial is not None:
                assert p.grad is not None
                value.copy_(slot.initial(p.detach().to(dtype), p.grad.detach().to(dtype), h))
            for suffix, part in zip(storage.suffixes, storage.encode(value), strict=True):
                state[slot.name + suffix] = part

    def _scalars(
        self, h: Any, t: int, carry: dict[str, float], scale: float, position: int
    ) -> tuple[Any, ...]:
        """The numbers of one step as a named tuple; compiled code gets them as a tensor."""
        numbers = {**self.rule.scalars(h, t, carry), "scale": scale}
        names = tuple(numbers)
        if names not in self._scalar_types:
            self._scalar_types[names] = namedtuple(f"{self.rule.__name__}Scalars", names)
        named = self._scalar_types[names](**numbers)
        if self.engine == "eager":
            return (named,)
        exact = torch.tensor(named, dtype=torch.float64)
        if position == len(self._vectors):
            self._vectors.append({torch.float64: exact, torch.float32: exact.float()})
        for vector in self._vectors[position].values():
            vector.copy_(exact)
        return named, self._vectors[position]

    def _measure(self, works: list[Work]) -> list[Tensor | None]:
        """Sums over each tensor, or over the whole model."""
        sums = [self._run("measure", work) for work in works]
        if self.rule.scope is Scope.MODEL and sums:
            return [torch.stack(sums).sum(0)] * len(sums)
        return sums

    def _run(self, phase: str, work: Work, *rest: Any) -> Any:
        """Run a phase over all pieces of a parameter; sums of ``measure`` are added up."""
        if self.engine == "compiled":
            p, g, stored = whole(self.rule, work)
            scalars, vectors = work.scalars
            c = vectors[arithmetic_dtype(p)]
            return self._compiled.call(work.phases, phase, type(scalars), p, g, stored, c, *rest)
        function = getattr(work.phases, phase)
        results = [
            function(p, g, stored, work.scalars[0], *rest)
            for p, g, stored in pieces(self.rule, work)
        ]
        return sum(results[1:], results[0]) if phase == "measure" else None


def _numbers(group: dict[str, Any]) -> Any:
    """Hyperparameters of a group by name; a scheduler may have made lr a tensor."""
    values = {k: v.item() if _is_tensor(v) else v for k, v in group.items() if k != "params"}
    return SimpleNamespace(**values)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
