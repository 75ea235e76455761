"""A unit bound to its memory: what the engine keeps of it from one step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from optbench_llm.engine.graphs import SHORT_ELEMENTS, Compiled
from optbench_llm.engine.memory import Memory, lies_in_memory
from optbench_llm.engine.noise import wrapped
from optbench_llm.engine.phases import Stored
from optbench_llm.engine.plan import ViewPlan
from optbench_llm.engine.state import stored_slots
from optbench_llm.engine.storage import BLOCK, Blockwise, Plain
from optbench_llm.rules.rule import Rule, Scope

#: Flat units of at most so many elements share calls, see ``bundles.py``; those of a stack are
#: ``short``.
SMALL_ELEMENTS = 2**13
#: A unit that rules of rows see is cut for compiled code from this size, into parts of the other
#: one; a flat unit in 8 bits, rounded at random, as soon as there are two such parts. What such
#: code keeps of a part then stays in the cache.
CUT_FROM_ELEMENTS = 2**22
CUT_ELEMENTS = 2**18


@dataclass(frozen=True)
class Cut:
    """Some rows of a unit: a slice of its gradient, its part of the parameter and of the slots.

    ``starts`` has the position of the first element of a flat unit, one integer of int32.
    """

    rows: slice
    p: Tensor
    parts: list[Tensor]
    starts: tuple[Tensor, ...] = ()


class BoundUnit:
    """Views of one unit of a parameter and of its slots, and the compiled code that takes them.

    ``p`` is its view of the detached ``param``, ``stored`` are the tensors of its slots, that bear
    these ``names`` in the ``state``, all as ``plan`` has it.
    ``width`` is None for a unit that compiled code gets as it is; else the unit is flat, and code
    for any length gets ``head`` elements of it in rows of this many (1 for a plain vector). What is
    left, less than a block of a blockwise storage, is stepped eagerly: inductor reads beyond the
    end of a padded block. ``elements`` is the class of its length, see :class:`Layout`.

    ``by_itself`` says that its rule must see it by itself: it has sums or slots of its own.

    ``origin`` is the position of its first element where it is a part of a unit; random bits are
    those of the position.

    ``stacked`` says that it is a stack of flat units of one length, ``p`` one of them in each row.

    ``in_memory`` says that parameter and slots lie where they say: a tensor that wraps others, as
    those of float8 training, has no address of its own, and operations of torch's alone step it.

    ``moves`` counts how often its slots became other tensors.
    """

    def __init__(
        self,
        plan: ViewPlan,
        param: Tensor,
        view: Tensor,
        state: dict[str, Any],
        origin: int = 0,
        *,
        stacked: bool = False,
    ) -> None:
        self.plan, self.rule = plan, plan.phases.rule
        self.unit, self.slots, self.phases = plan.unit, plan.slots, plan.phases
        self.origin, self.stacked = origin, stacked
        self.param, self.p = param, view
        self.device_type = view.device.type
        self.names = plan.names
        of_tensor = self.rule.scope is Scope.TENSOR
        self.by_itself = of_tensor or any(slot.shape != "full" for slot in self.slots)
        self.flat = not stacked and sees_flat_pieces(self.rule, self.p) and self.p.is_contiguous()
        self.width, self.head = self._width(), 0
        self.elements: str | None = None
        if self.width is not None:
            self.head = self.p.numel() // self.width * self.width
            self.elements = "short" if self.head <= SHORT_ELEMENTS else "long"
        self.functions: dict[Any, Compiled] = {}
        self.moves = -1
        self.hold(state)
        self.leftover = self._leftover()
        self.compilable = self.leftover != 0
        self.small = self._small()

    def hold(self, state: dict[str, Any]) -> None:
        """Take the tensors that the state has now."""
        self.state = state
        self.moves += 1
        self.stored: Stored = stored_slots(state, self.plan)
        self.tensors = [tensor for own in self.stored for tensor in own]
        self.in_memory = lies_in_memory([self.p, *self.tensors])
        self.memory = Memory([self.param], [(state, name) for name in self.names])
        self.inputs = self._inputs()
        self.cuts = self._cuts()
        self._flattened: BoundUnit | None = None

    def fits(self, plan: ViewPlan, param: Tensor, state: dict[str, Any]) -> bool:
        """Whether it is still this view of a parameter, in the memory that it was bound to."""
        return (
            self.param is param
            and self.state is state
            and self.plan == plan
            and self.memory.holds()
        )

    def gradient(self, g: Tensor) -> Tensor:
        """The unit's view of a gradient, in the form in which compiled code gets it."""
        if self.width is None:
            return g
        # Given by hand it may lie anyhow, as one number seen many times, say.
        flat = g if g.is_contiguous() else g.contiguous()
        return flat if self.width == 1 and g.ndim == 1 else self._rows(flat.view(-1))

    def flattened(self) -> BoundUnit | None:
        """The unit as a vector in the order of memory, for code that needs no rows of it.

        None where its slots do not lie in memory as the parameter does.
        """
        if self._flattened is None:
            alike = all(slot.shape == "full" for slot in self.slots) and all(
                tensor.dtype.is_floating_point and tensor.stride() == self.p.stride()
                for tensor in self.tensors
            )
            if not alike or self.phases.stochastic or not is_dense(self.p):
                return None
            tensors = [in_memory_order(tensor) for tensor in self.tensors]
            state = dict(zip(self.names, tensors, strict=True))
            vector = in_memory_order(self.p)
            self._flattened = BoundUnit(self.plan, self.param, vector, state, self.origin)
        return self._flattened

    def _cuts(self) -> list[Cut]:
        """What each call gets, where one call would hold temporaries as large as the parameter.

        None for a unit that compiled code gets at once: code for small ones has no such
        temporaries, nor has that for flat ones, unless it rounds to 8 bits at random. None where
        nothing is compiled. One for what is rounded at random and begins within its unit.
        """
        if self.device_type != "cpu":
            return []
        if self.width is None:
            return self._cuts_of_rows()
        divisible = all(slot.shape == "full" for slot in self.slots)
        count = self.head // CUT_ELEMENTS
        p, parts = self.inputs
        if not self._blockwise() or not self.phases.stochastic or not divisible or count < 2:
            within = self.origin and self.phases.stochastic
            return [Cut(slice(None), p, [*parts], self._starts(0))] if within else []
        ends = [len(p) * i // count for i in range(count + 1)]
        return [
            Cut(
                slice(start, end),
                p[start:end],
                [part[start:end] for part in parts],
                self._starts(start * self.width),
            )
            for start, end in pairwise(ends)
        ]

    def _small(self) -> bool:
        """Whether it may be stepped together with others."""
        plain = self.width == 1 and not self.phases.stochastic and self.leftover is None
        few = self.p.numel() <= SMALL_ELEMENTS and self.device_type == "cpu"
        return plain and few and (self.elements == "short" or not self.by_itself)

    def _starts(self, element: int) -> tuple[Tensor, ...]:
        position = wrapped(self.origin + element)
        return (torch.tensor([position], dtype=torch.int32, device=self.p.device),)

    def _cuts_of_rows(self) -> list[Cut]:
        large = self.p.numel() >= CUT_FROM_ELEMENTS and not self.phases.stochastic
        by_rows = self.rule.scope is not Scope.MATRIX and self.p.ndim > 1 and not self.stacked
        divisible = all(
            slot.shape == "full" and isinstance(storage, Plain)
            for slot, storage in zip(self.slots, self.phases.storages, strict=True)
        )
        if not (large and by_rows and divisible):
            return []
        count = self.p.shape[0]
        step = max(1, CUT_ELEMENTS * count // self.p.numel())
        slices = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        return [Cut(rows, self.p[rows], [part[rows] for part in self.tensors]) for rows in slices]

    def _leftover(self) -> int | None:
        """The first element that is stepped eagerly, if any.

        All are in float64, of which inductor loses writes to 0-dim state, and of what has no
        address. Of a unit that ends within a block it is the last part, or all where a slot is no
        tensor of the parameter's shape: such a slot must be written once a step.
        """
        if self.p.dtype == torch.float64 or not self.in_memory:
            return 0
        if self.width is None or self.head == self.p.numel():
            return None
        return self.head if all(slot.shape == "full" for slot in self.slots) else 0

    def _width(self) -> int | None:
        every_slot = all(slot.shape in ("full", "scalar") for slot in self.slots)
        if not self.flat or not every_slot or self.p.numel() < 2:
            return None
        return BLOCK if self._blockwise() else 1

    def _blockwise(self) -> bool:
        return any(isinstance(storage, Blockwise) for storage in self.phases.storages)

    def _inputs(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The parameter and the parts of all slots, as compiled code gets them."""
        if self.width is None:
            return self.p, tuple(self.tensors)
        inputs: list[Tensor] = []
        for slot, storage, parts in zip(self.slots, self.phases.storages, self.stored, strict=True):
            if slot.shape == "full":
                codes, *scales = storage.cut(parts, 0, self.head)
                inputs += [self._rows(codes), *scales]
            else:
                inputs += parts
        return self._rows(self.p.view(-1)), tuple(inputs)

    def _rows(self, flat: Tensor) -> Tensor:
        """The head of a flat tensor, in rows."""
        assert self.width is not None
        return flat if self.width == 1 else flat[: self.head].view(-1, self.width)


def in_memory_order(tensor: Tensor) -> Tensor:
    """A vector of the elements of a tensor that fills its memory, however its dimensions lie."""
    return _outermost_first(tensor).view(-1)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory, without gaps or overlaps."""
    return _outermost_first(tensor).is_contiguous()


def _outermost_first(tensor: Tensor) -> Tensor:
    return tensor.permute(memory_order(tensor))


def memory_order(tensor: Tensor) -> list[int]:
    """The dimensions of a tensor, the one of the largest stride first."""
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)


def sees_flat_pieces(rule: type[Rule], p: Tensor) -> bool:
    """Whether a rule takes any range of a parameter's elements, in any shape."""
    by_rows = (rule.by_channel or rule.by_layout) and p.ndim > 1
    return rule.scope is not Scope.MATRIX and not by_rows


class Bucket(Protocol):
    """Small units that are stepped as one work, see ``bundles.py``."""

    units: Sequence[tuple[tuple[int, int], BoundUnit]]

    def work(self, first: Work, gradients: Sequence[Tensor]) -> Work:
        """The work of its first unit, made that of all."""
        ...

    def hand_back(self) -> None:
        """Let the parameters have their new values."""
        ...


@dataclass(slots=True)
class Work:
    """One unit in one step: its gradient, settings, the step's scalars and stages.

    ``scalars`` are the numbers by name, ``vector`` the same for compiled code, None for eager.
    ``place`` is that of its parameter in the groups, ``state`` the parameter's.
    Of a bundle they are those of its first unit.
    """

    bound: BoundUnit
    g: Tensor
    h: Any
    scalars: Any
    vector: Tensor | None
    stages: tuple[str, ...]
    place: tuple[int, int]
    state: dict[str, Any]
    bundle: Bucket | None = None

    @property
    def before(self) -> tuple[str, ...]:
        """The stages that come before the update."""
        return self.stages[: self._update]

    @property
    def after(self) -> tuple[str, ...]:
        """The stages that come after it."""
        return self.stages[self._update + 1 :]

    @property
    def updates(self) -> bool:
        """Whether this step moves the parameter."""
        return "update" in self.stages

    @property
    def _update(self) -> int:
        return self.stages.index("update") if self.updates else len(self.stages)
