"""Cheaper code for a step, where a look at few rows of a tensor shows that it comes to the same."""

from __future__ import annotations

from dataclasses import replace

import torch

from optbench_llm.engine.bound import Work, in_memory_order
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.scalars import named

#: Rows that are looked at. Where rows are columns of memory, their first elements are one line of
#: the cache.
ROWS = 16
#: A look costs 0.1 to 0.4 ms, a fraction of what it spares from this size on.
FROM_ELEMENTS = 2**18


def shortened(work: Work) -> Work:
    """The same work, of a large unit with the number ``shortcut`` if its rule sees that it may.

    A GPU is not asked: the host would wait for it.
    """
    rule, p = work.bound.rule, work.bound.p
    if rule.shortcut is None or not work.updates:
        return work
    if p.ndim < 2 or p.numel() < FROM_ELEMENTS or p.device.type != "cpu":
        return work
    dtype = arithmetic_dtype(p)
    if not rule.shortcut(p[:ROWS].to(dtype), work.g[:ROWS].to(dtype), work.scalars):
        return work
    scalars = named(rule, {**work.scalars._asdict(), "shortcut": 1.0})
    vector = work.vector
    if vector is not None:
        vector = torch.cat([vector, vector.new_ones(1)])
    short = replace(work, scalars=scalars, vector=vector)
    flat = work.bound.flattened() if work.g.stride() == p.stride() else None
    return short if flat is None else replace(short, bound=flat, g=in_memory_order(work.g))
