"""SAM's second gradient, at the worst point nearby (Foret et al. 2021, arXiv:2010.01412)."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from optbench_llm.programs.program import Program
from optbench_llm.programs.replay import Replay
from optbench_llm.programs.weights import first_short, moved_away, norm, norm_of_all, with_gradients
from optbench_llm.rules.sam import SETTINGS
from optbench_llm.rules.wrapped import setting_name

TINY = 1e-12


class SAM(Program):
    """Takes the gradient of the same micro-batches at perturbed weights; one more pass.

    ``rho`` and ``adaptive`` are those of the parameter groups; see :mod:`optbench_llm.rules.sam`.
    """

    name: ClassVar[str] = "sam"

    def check(self, trainer: Any, optimizer: Any) -> None:
        """Warn of weights that are too coarse to be perturbed."""
        short = first_short(optimizer)
        if short is not None:
            warnings.warn(
                f"optimizer {optimizer.spec!r} perturbs weights by less than {short.dtype} can"
                " tell apart, so it will do little; load the model in fp32 and train with bf16=True"
            )

    def due(self, optimizer: Any, step: int) -> bool:
        """Before every step."""
        return True

    def before_step(self, replay: Replay, optimizer: Any) -> None:
        """Replace the gradients by those at the perturbed weights."""
        params, directions, scales = perturbation(optimizer)
        with moved_away(params):
            with torch.no_grad():
                for p, direction, scale in zip(params, directions, scales, strict=True):
                    p.addcmul_(direction, scale)
            del directions
            replay.clear_gradients()
            replay.repeat()


@torch.no_grad()
def perturbation(optimizer: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The parameters that have a gradient, where SAM moves them, and by how much of that."""
    params: list[Tensor] = []
    directions: list[Tensor] = []
    norms: list[Tensor] = []
    radii: list[float] = []
    names = [setting_name(optimizer.defaults, "sam", name) for name in SETTINGS]
    for group in optimizer.param_groups:
        # The groups of a companion have settings of its own alone.
        rho, adaptive = (group.get(name, optimizer.defaults[name]) for name in names)
        for p in with_gradients(group["params"]):
            assert p.grad is not None
            scaled = p.grad * p.abs() if adaptive else p.grad
            norms.append(norm(scaled))
            directions.append(scaled * p.abs() if adaptive else scaled)
            params.append(p)
            radii.append(rho)
    whole = norm_of_all(norms) + TINY
    scales = [(radius / whole).to(p) for radius, p in zip(radii, params, strict=True)]
    return params, directions, scales
