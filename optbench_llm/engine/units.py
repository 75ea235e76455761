"""What a rule gets of a parameter: the whole, turned if need be, or the parts of a fused weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any

from torch import Tensor

from optbench_llm.rules.rule import Rule


@dataclass(frozen=True)
class Unit:
    """One matrix or tensor that a rule steps by itself.

    ``role`` and ``heads`` tell what it is (see ``params.py``). ``suffix`` ends the names of its
    slots in the state of a parameter that has several units. ``index`` is its place in a stack of
    matrices.
    """

    role: str
    heads: int = 0
    suffix: str = ""
    turned: bool = False
    flattened: bool = False
    index: int | None = None
    rows: slice | None = None

    def view(self, tensor: Tensor) -> Tensor:
        """This unit's view of a parameter, or of a tensor of its shape."""
        if self.index is not None:
            tensor = tensor[self.index]
        if self.turned:
            tensor = tensor.t()
        if self.flattened:
            tensor = tensor.view(tensor.shape[0], -1)
        return tensor if self.rows is None else tensor[self.rows]

    def view_of_gradient(self, g: Tensor) -> Tensor:
        """The same of a gradient, which may lie anyhow in memory."""
        return self.view(g.contiguous() if self.flattened else g)


def units_of(rule: type[Rule], shape: tuple[int, ...], h: Any) -> tuple[Unit, ...]:
    """The units of a parameter of a group: one, or one for each matrix and each of its parts.

    ``h`` are the group's settings.
    """
    turned, role = getattr(h, "conv1d", False), getattr(h, "role", "")
    if not rule.by_layout:
        return (Unit(role, turned=turned and len(shape) == 2),)
    stacked = getattr(h, "stacked", False) and len(shape) == 3
    indices: Sequence[int | None] = range(shape[0]) if stacked else (None,)
    shape = shape[1:] if stacked else shape
    turned = turned and len(shape) == 2
    parts = getattr(h, "parts", ())
    cuts: list[tuple[str, int, slice | None]] = [(role, 0, None)]
    if parts:
        ends = [*accumulate(rows for _, rows, _ in parts)]
        assert len(parts) == 1 or ends[-1] == shape[1 if turned else 0], (parts, shape)
        cuts = [
            (part_role, heads, slice(end - rows, end) if len(parts) > 1 else None)
            for (part_role, rows, heads), end in zip(parts, ends, strict=True)
        ]
    several = len(cuts) * len(indices) > 1
    return tuple(
        Unit(
            part_role,
            heads,
            f".{number}" if several else "",
            turned,
            len(shape) > 2,
            index,
            cut,
        )
        for number, (index, (part_role, heads, cut)) in enumerate(product(indices, cuts))
    )
