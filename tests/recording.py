"""What a trial really does, as seen from inside it: by its optimizer and by its model."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from transformers import GPT2LMHeadModel


@dataclass(frozen=True)
class Step:
    """What an optimizer finds at one step; ``norm`` is that of all gradients together."""

    lr: float
    weight_decays: tuple[float, ...]
    norm: float


@dataclass(frozen=True)
class Pass:
    """One forward pass: ``autocast`` is None where it runs in the precision of the weights."""

    training: bool
    blocks: int
    autocast: torch.dtype | None


@dataclass
class Seen:
    """All steps and passes of one trial."""

    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)

    def blocks(self, *, training: bool) -> list[int]:
        """Blocks of each pass of this kind."""
        return [one.blocks for one in self.passes if one.training is training]


class SGD(torch.optim.SGD):
    """torch's, for recipes as ``recording:SGD``; writes every step down in ``seen``."""

    seen: ClassVar[Seen] = Seen()

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        self.seen.steps.append(
            Step(
                lr=float(self.param_groups[0]["lr"]),
                weight_decays=tuple(group["weight_decay"] for group in self.param_groups),
                norm=float(torch.nn.utils.get_total_norm(g for g in gradients if g is not None)),
            )
        )
        return super().step(closure)


class LateState(torch.optim.SGD):
    """torch's, with a state that is there from the third step on: 8 bytes a parameter."""

    taken = 0

    def step(self, closure: Any = None) -> Any:
        self.taken += 1
        if self.taken == 3:
            for p in (p for group in self.param_groups for p in group["params"]):
                self.state[p]["late"] = torch.zeros(p.shape, dtype=torch.float64)
        return super().step(closure)


def record(patch: pytest.MonkeyPatch) -> Seen:
    """Have passes of GPT-2, and steps of the optimizer above, written down from now on."""
    seen = Seen()
    forward = GPT2LMHeadModel.forward

    @functools.wraps(forward)
    def recorded(self: Any, *args: Any, **inputs: Any) -> Any:
        on = torch.is_autocast_enabled("cpu")
        autocast = torch.get_autocast_dtype("cpu") if on else None
        seen.passes.append(Pass(self.training, len(inputs["input_ids"]), autocast))
        return forward(self, *args, **inputs)

    patch.setattr(GPT2LMHeadModel, "forward", recorded)
    patch.setattr(SGD, "seen", seen)
    return seen
