"""One step of many units: stages in their order, and the sums that updates must know."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from optbench_llm.engine.bound import Work
from optbench_llm.engine.executors import Executor
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.sharding import Spread, local, reduced
from optbench_llm.engine.shortcuts import shortened
from optbench_llm.engine.sums import together
from optbench_llm.rules.rule import Rule, Scope

Groups = Sequence[dict[str, Any]]


def take_step(
    executor: Executor, groups: Groups, works: list[Work], spread: Sequence[Spread]
) -> None:
    """Step these units; ``spread`` are the parameters whose sums lie over processes."""
    works = [shortened(work) for work in works]
    executor.prepare(works)
    staged = [work for work in works if work.stages != ("update",)]
    _run_stages(executor, staged, attrgetter("before"))
    sums = _sums(executor, groups, works, spread)
    updating = [i for i, work in enumerate(works) if work.updates]
    executor.run("update", [works[i] for i in updating], [sums[i] for i in updating])
    _run_stages(executor, staged, attrgetter("after"))
    for work in works:
        if work.bundle is not None and work.updates:
            work.bundle.hand_back()


def _run_stages(
    executor: Executor, works: Sequence[Work], stages_of: Callable[[Work], tuple[str, ...]]
) -> None:
    """Run stages of each unit in their order; those with the same ones together."""
    alike: dict[tuple[str, ...], list[Work]] = {}
    for work in works:
        alike.setdefault(stages_of(work), []).append(work)
    for stages, own in alike.items():
        for stage in stages:
            executor.run(stage, own)


def _sums(
    executor: Executor, groups: Groups, works: list[Work], spread: Sequence[Spread]
) -> list[Tensor | None]:
    """What each work's update is to know of the sums over its tensor or over the model."""
    measured = [i for i, work in enumerate(works) if work.bound.rule.measures and work.updates]
    parts = executor.run("measure", [works[i] for i in measured])
    found = dict(zip(measured, parts, strict=True))
    total: Tensor | None = None
    spread = [entry for entry in spread if entry.rule.measures]
    places = {entry.place for entry in spread}
    if spread:
        device = local(spread[0].p).device
        own = {works[i].place: found[i] for i in measured if works[i].place in places}
        sums, total = reduced(spread, own, device)
        for i in measured:
            if works[i].place in sums:
                found[i] = sums[works[i].place].to(found[i].dtype)
    of_model = [i for i in measured if works[i].bound.rule.scope is Scope.MODEL]
    if not of_model:
        return [found.get(i) for i in range(len(works))]
    whole = [found[i] for i in of_model if works[i].place not in places]
    whole += [] if total is None else [total]
    known = _conclusions(groups, works[of_model[0]], _total(whole))
    # One copy to each device; a few bytes do not keep the host waiting.
    copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for i in of_model:
        bound = works[i].bound
        kind = (bound.p.device, arithmetic_dtype(bound.p))
        if kind not in copies:
            copies[kind] = known.to(kind[1]).to(kind[0], non_blocking=kind[0].type == "cuda")
        found[i] = copies[kind].repeat(len(bound.p), 1) if bound.stacked else copies[kind]
    return [found.get(i) for i in range(len(works))]


def _total(sums: Sequence[Tensor]) -> Tensor:
    """The sums over the model, in float64 on the host, which waits once for each device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for own in sums:
        # A stack has the sums of each of its rows.
        by_device.setdefault(own.device, []).extend([own] if own.ndim == 1 else own)
    parts = [together(own).cpu().double() for own in by_device.values()]
    return torch.cat(parts).sum(0)


def _conclusions(groups: Groups, work: Work, total: Tensor) -> Tensor:
    """What a rule makes of its sums over the model; the carried numbers go to the groups.

    Float64 on the host, as the total is.
    """
    rule = work.bound.rule
    if rule.conclude is None:
        return total
    numbers = rule.conclude(work.h, work.scalars, _total_type(rule)(*total.tolist()))
    for group in groups:
        group.update({name: numbers[name] for name in rule.carry if name in numbers})
    return torch.tensor(
        [numbers[name] for name in rule.conclusions], dtype=torch.float64, device="cpu"
    )


@cache
def _total_type(rule: type[Rule]) -> Any:
    """A named tuple of the rule's sums over the model."""
    return namedtuple(f"{rule.__name__}Total", rule.measures)
