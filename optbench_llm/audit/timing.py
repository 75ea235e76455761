"""Milliseconds of a step and bytes of state, on the weights of a GPT-2 block."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from optbench_llm.audit.deviation import OBSERVED_SAMPLES, observes, switch, take_gradients
from optbench_llm.audit.implementations import Shape, random_values
from optbench_llm.devices import synchronize

#: Untimed steps before the timed ones: state is made, code compiled.
WARM_UP = 3
#: Seconds after which a timing makes do with the repetitions that it has.
ENOUGH_S = 60.0


class Timed:
    """Parameters whose steps are timed, all with the same gradients."""

    def __init__(self, params: list[nn.Parameter], optimizer: Any) -> None:
        self.params = params
        self.optimizer = optimizer
        self.gradients = [random_values(p.shape, 2, i).to(p.dtype) for i, p in enumerate(params)]
        self.milliseconds: list[float] = []
        switch(optimizer, "train")

    def step(self) -> None:
        """One step, with fresh copies of the gradients, which some optimizers overwrite."""
        for p, gradient in zip(self.params, self.gradients, strict=True):
            p.grad = gradient.clone() if p.grad is None else p.grad.copy_(gradient)
        if not self.milliseconds and observes(self.optimizer):
            self.optimizer.observe(scale=OBSERVED_SAMPLES)
        take_gradients(self.optimizer)
        device = self.params[0].device
        synchronize(device)
        began = time.perf_counter()
        self.optimizer.step()
        synchronize(device)
        self.milliseconds.append(1e3 * (time.perf_counter() - began))

    @property
    def step_ms(self) -> float:
        """Median over the steps after the warm-up, or the last one."""
        return statistics.median(self.milliseconds[WARM_UP:] or self.milliseconds[-1:])

    @property
    def elements(self) -> int:
        """Count of elements of all parameters."""
        return sum(p.numel() for p in self.params)


def take_turns(all_timed: Mapping[str, Timed], steps: int) -> dict[str, str]:
    """Step all in turn, each round begun by another one, so that a noisy moment spares nobody.

    Returns why some could not go on.
    """
    failed: dict[str, str] = {}
    labels = list(all_timed)
    began = time.perf_counter()
    for number in range(WARM_UP + steps):
        if number > WARM_UP and time.perf_counter() - began > ENOUGH_S:
            break
        first = number % max(1, len(labels))
        for label in (*labels[first:], *labels[:first]):
            if label not in failed:
                try:
                    all_timed[label].step()
                except (ValueError, RuntimeError) as error:
                    failed[label] = f"{type(error).__name__}: {error}"
    return failed


def block_shapes(elements: int, *, matrices: bool) -> list[Shape]:
    """Weights of a GPT-2 block of the width that gives about so many elements, (out, in).

    Raises ValueError for fewer elements than the smallest block has.
    """
    width = 8 * round(math.sqrt(max(elements, 0) / 12) / 8)
    if width < 8:
        raise ValueError(f"elements={elements} is out of range, expected 768 or more")
    weights = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    vectors = [(rows,) for rows, _ in weights] + [(width,)] * 4
    return weights if matrices else [*weights, *vectors]
