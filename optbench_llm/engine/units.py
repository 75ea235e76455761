"""What a rule gets of a parameter: the whole, turned if need be, or the parts of a fused weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from optbench_llm.rules.rule import Rule


@dataclass(frozen=True)
class Unit:
    """One matrix or tensor that a rule steps by itself.

    ``role`` and ``heads`` tell what it is (see ``params.py``). ``suffix`` ends the names of its
    slots in the state of a parameter that has several units.
    """

    role: str
    heads: int
    suffix: str
    turned: bool
    flattened: bool
    rows: slice | None

    def view(self, tensor: Tensor) -> Tensor:
        """This unit's view of a parameter, or of a tensor of its shape."""
        if self.turned:
            tensor = tensor.t()
        if self.flattened:
            tensor = tensor.view(tensor.shape[0], -1)
        return tensor if self.rows is None else tensor[self.rows]


def units_of(rule: type[Rule], p: Tensor, group: dict[str, Any]) -> tuple[Unit, ...]:
    """The units of a parameter of a group: one, or one for each of the group's ``parts``."""
    turned = group.get("conv1d", False) and p.ndim == 2
    role = group.get("role", "")
    if not rule.by_layout:
        return (Unit(role, 0, "", turned, False, None),)
    flattened = p.ndim > 2
    parts = group.get("parts", ())
    if len(parts) < 2:
        heads = parts[0][2] if parts else 0
        return (Unit(parts[0][0] if parts else role, heads, "", turned, flattened, None),)
    units, start = [], 0
    for index, (part_role, rows, heads) in enumerate(parts):
        cut = slice(start, start + rows)
        units.append(Unit(part_role, heads, f".{index}", turned, flattened, cut))
        start += rows
    assert start == p.shape[1 if turned else 0], (parts, p.shape)
    return tuple(units)
