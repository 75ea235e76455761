"""The phases of a step over one piece of one parameter, run eagerly or compiled."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.limits import bounded
from optbench_llm.engine.noise import NOISE, Noise, Position
from optbench_llm.engine.rounding import COMPENSATION, bf16_stochastic, bf16_to_nearest
from optbench_llm.engine.storage import Storage
from optbench_llm.rules.rule import Rule

Stored = Sequence[Sequence[Tensor]]


def arithmetic_dtype(p: Tensor) -> torch.dtype:
    """fp32 for every parameter but float64 ones, which stay as they are."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32


class Phases:
    """``measure``, ``update`` and the other stages of a rule, as functions of tensors alone.

    ``stored`` holds, for each slot in ``names``, the tensors of its storage; ``c`` and ``sums``
    are sequences in the order of the rule's scalars and of what its update is to know of the sums.
    ``start`` is the position of the piece in its unit.

    ``rounding`` is how bf16 parameters are written: ``nearest``, ``stochastic``, or ``kahan``,
    which has a slot for the residual.
    """

    def __init__(
        self,
        rule: type[Rule],
        names: tuple[str, ...],
        storages: tuple[Storage, ...],
        rounding: str,
    ) -> None:
        self.rule = rule
        self.names = names
        self.storages = storages
        self.rounding = rounding
        self.state_type = rule.state_type(names)
        known = rule.measures if rule.conclude is None else rule.conclusions
        self.sums_type: Any = namedtuple(f"{rule.__name__}Sums", known)

    @property
    def stochastic(self) -> bool:
        """Whether the scalars must hold the key of random bits."""
        return self.rounding == "stochastic" or any(s.stochastic for s in self.storages)

    def load(self, p: Tensor, stored: Stored) -> Any:
        """The slots by name, decoded."""
        values = {
            name: storage.decode(parts, p)
            for name, storage, parts in zip(self.names, self.storages, stored, strict=True)
        }
        return self.state_type(**values)

    def write(
        self, stored: Stored, values: dict[str, Tensor], stage: str, c: Any, start: Position
    ) -> None:
        """Encode in place what a stage found; without a key in ``c`` all is rounded to nearest."""
        for name, storage, parts in zip(self.names, self.storages, stored, strict=True):
            if name in values:
                noise = _noise(c, f"{stage}/{name}", start) if storage.stochastic else None
                for part, new in zip(parts, storage.encode(values[name], noise), strict=True):
                    part.copy_(new.view(part.shape))

    def measure(self, p: Tensor, g: Tensor, stored: Stored, c: Any, start: Position = 0) -> Tensor:
        """Partial sums of this piece, one vector in the order of ``rule.measures``."""
        return torch.stack(self.partial_sums(p, g, stored, c))

    def partial_sums(self, p: Tensor, g: Tensor, stored: Stored, c: Any) -> tuple[Tensor, ...]:
        """The same, each by itself."""
        p, g = self._arithmetic(p, g)
        assert self.rule.measure is not None
        return self.rule.measure(p, g, self.load(p, stored), c)

    def update(
        self,
        p: Tensor,
        g: Tensor,
        stored: Stored,
        c: Any,
        sums: Tensor | Sequence[Tensor] | None,
        start: Position = 0,
    ) -> None:
        """One step, in place."""
        exact, g = self._arithmetic(p, g)
        s = self.load(exact, stored)
        compensated = COMPENSATION.name in self.names
        if compensated:
            exact = exact + s.compensation
        named_sums = None if sums is None else self.sums_type(*sums)
        new, values = self.rule.update(exact, g, s, c, named_sums)
        if compensated:
            rounded = bf16_to_nearest(new)
            values = {**values, COMPENSATION.name: new - rounded}
            new = rounded
        elif self.rounding == "stochastic" and p.dtype is torch.bfloat16:
            noise = _noise(c, "update", start)
            new = new if noise is None else bf16_stochastic(new, noise)
        p.copy_(new)
        self.write(stored, values, "update", c, start)

    def stage(self, name: str) -> Callable[..., Any]:
        """The function of a phase: ``measure``, ``update``, or any other stage of the rule."""
        if name in ("measure", "update"):
            return getattr(self, name)
        transform = getattr(self.rule, name)

        def run(p: Tensor, g: Tensor, stored: Stored, c: Any, start: Position = 0) -> None:
            exact, g = self._arithmetic(p, g)
            values = transform(exact, g, self.load(exact, stored), c)
            self.write(stored, values, name, c, start)

        return run

    @staticmethod
    def _arithmetic(p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Parameter and gradient in the dtype of the arithmetic, the gradient within bounds."""
        dtype = arithmetic_dtype(p)
        return p.to(dtype), bounded(g.to(dtype))


def _noise(c: Any, stream: str, start: Position) -> Noise | None:
    """The random bits of one value, if the scalars hold a key."""
    return Noise(c.noise, stream, start) if hasattr(c, NOISE) else None
