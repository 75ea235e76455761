"""Optimizers stepped in turn, each between two steps of fused AdamW."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from yardstick.contenders import REFUSALS, Stepper

#: However long they take.
FEWEST_REPETITIONS = 3
#: Steps over fewer elements are shorter than the slices of time that other processes take, and find
#: in the caches what the step before left there: the fastest of some in a row counts.
SMALL_ELEMENTS = 16_000_000
IN_A_ROW = 3


@dataclass
class Samples:
    """Milliseconds of each step, and the mean of the fused AdamW steps right before and after."""

    step_ms: list[float] = field(default_factory=list)
    fused_ms: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def ratios(self) -> list[float]:
        """Of each step to its neighbours."""
        return [own / fused for own, fused in zip(self.step_ms, self.fused_ms, strict=True)]

    def suffices(self, enough_s: float, period: int) -> bool:
        """Whether these have taken so long that no more are needed."""
        count = len(self.step_ms)
        late = sum(self.step_ms) + sum(self.fused_ms) > 1e3 * enough_s
        return late and count >= FEWEST_REPETITIONS and count % period == 0

    def typical_ms(self, *, periodic: bool) -> float:
        """The median step; the mean where some steps do far more than others."""
        return (statistics.mean if periodic else statistics.median)(self.step_ms)

    def typical_ratio(self, *, periodic: bool) -> float:
        """The median of the ratios; where steps differ, the ratio of all to all neighbours."""
        if periodic:
            return sum(self.step_ms) / sum(self.fused_ms)
        return statistics.median(self.ratios)


def take_turns(
    steppers: Mapping[str, Stepper],
    fused: Stepper,
    *,
    repetitions: int,
    enough_s: float,
    period: int = 1,
) -> dict[str, Samples]:
    """Step all ``repetitions`` times, each time begun by another one.

    Of those that take more than their share of ``enough_s`` seconds fewer do, in whole periods.
    """
    samples = {label: Samples() for label in steppers}
    labels = list(steppers)
    repetitions = period * -(-repetitions // period)
    in_a_row = IN_A_ROW if fused.bench.elements < SMALL_ELEMENTS else 1
    own_in_a_row = in_a_row if period == 1 else 1
    gc.collect()
    _milliseconds(fused)
    for number in range(repetitions):
        first = number % max(1, len(labels))
        before = _milliseconds(fused, in_a_row)
        for label in (*labels[first:], *labels[:first]):
            one = samples[label]
            if one.failure or one.suffices(enough_s / len(labels), period):
                continue
            try:
                own = _milliseconds(steppers[label], own_in_a_row)
            except REFUSALS as error:
                one.failure = f"{type(error).__name__}: {error}"
                continue
            after = _milliseconds(fused, in_a_row)
            one.step_ms.append(own)
            one.fused_ms.append((before + after) / 2)
            before = after
    return samples


def _milliseconds(stepper: Stepper, in_a_row: int = 1) -> float:
    """Of the fastest of some steps in a row."""
    found = []
    for _ in range(in_a_row):
        stepper.prepare()
        began = time.perf_counter()
        stepper.step()
        found.append(1e3 * (time.perf_counter() - began))
    return min(found)
