"""How far an implementation strays from our rule run in float64, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from optbench_llm.audit.implementations import Implementation, our_maker, random_values, rule_of

#: Small, so that hardly any sign of a sum close to 0 falls differently in fp32.
SHAPES = ((24, 40), (40, 24), (40,))
#: What a program would pass to ``observe``: the count of samples under the mean.
OBSERVED_SAMPLES = 3.0


def deviations(
    spec: str, implementation: Implementation, steps: int, dtype: torch.dtype = torch.float32
) -> Iterator[float]:
    """The deviation of each step.

    It is the largest difference of any element over the largest displacement, up to that step, of
    any element of the parameter; the worst over the parameters. Both walk over the same gradients
    from the same start, and the learning rate halves midway. Where an optimizer evaluates elsewhere
    than it trains, both points count. Infinity where something is not finite, or moves when our
    rule has not.
    """
    matrices = implementation.matrices or rule_of(spec).by_layout
    shapes = [shape for shape in SHAPES if len(shape) > 1 or not matrices]
    # The reference keeps its state as it is, whatever storage the spec asks for.
    reference = our_maker(spec.partition("@")[0], implementation.settings, "eager")
    exact = Walk(*reference(shapes, torch.float64))
    walk = Walk(*implementation.make(shapes, dtype))
    starts = [p.detach().clone() for p in exact.params]
    furthest = [0.0] * len(starts)
    for t in range(1, steps + 1):
        lr = implementation.settings["lr"]
        if t > math.ceil(steps / 2) and not implementation.constant_lr:
            lr /= 2
        worst = 0.0
        # An optimizer without evaluation mode has half as many points.
        pairs = zip(walk.step(t, lr), exact.step(t, lr), strict=False)
        for number, (point, reference) in enumerate(pairs):
            index = number % len(starts)
            moved = float((reference - starts[index]).abs().max())
            furthest[index] = max(furthest[index], moved)
            worst = max(worst, _relative(float((point - reference).abs().max()), furthest[index]))
        yield worst


def _relative(difference: float, displacement: float) -> float:
    if difference == 0:
        return 0.0
    if not math.isfinite(difference) or displacement == 0:
        return math.inf
    return difference / displacement


class Walk:
    """Parameters on the path that an optimizer takes them."""

    def __init__(self, params: list[nn.Parameter], optimizer: Any) -> None:
        self.params = params
        self.optimizer = optimizer
        switch(optimizer, "train")

    def step(self, t: int, lr: float) -> list[Tensor]:
        """Take step t; return where all parameters train, then where all are evaluated."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if observes(self.optimizer) and (t - 1) % self.optimizer.defaults["k"] == 0:
            self._set_gradients(t, kind=4)
            self.optimizer.observe(scale=OBSERVED_SAMPLES)
        self._set_gradients(t, kind=3)
        take_gradients(self.optimizer)
        self.optimizer.step()
        points = self._points()
        if hasattr(self.optimizer, "eval"):
            switch(self.optimizer, "eval")
            points += self._points()
            switch(self.optimizer, "train")
        return points

    def _points(self) -> list[Tensor]:
        return [p.detach().double().clone() for p in self.params]

    def _set_gradients(self, t: int, kind: int) -> None:
        """A lasting half and a half that changes from step to step."""
        for index, p in enumerate(self.params):
            lasting, passing = (random_values(p.shape, *s, index) for s in ((2,), (kind, t)))
            p.grad = ((lasting + passing) / 2).to(p.dtype)


def observes(optimizer: Any) -> bool:
    """Whether an optimizer of ours wants a second gradient fed."""
    return getattr(getattr(optimizer, "rule", None), "observe", None) is not None


def take_gradients(optimizer: Any) -> None:
    """Let an optimizer of ours step with gradients that no program has made."""
    if hasattr(optimizer, "gradients_made"):
        optimizer.gradients_made()


def switch(optimizer: Any, mode: str) -> None:
    """Call ``train`` or ``eval`` of an optimizer that has them."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()
