"""Cheaper code for a step, where a look at few rows of a tensor shows that it comes to the same."""

from __future__ import annotations

from dataclasses import replace

import torch

from optbench_llm.engine.bound import Work
from optbench_llm.engine.phases import arithmetic_dtype
from optbench_llm.engine.scalars import named

#: Rows that are looked at. Where rows are columns of memory, their first elements are one line of
#: the cache.
ROWS = 16
#: A look costs some 50 us, as much as such a unit's whole step.
FROM_ELEMENTS = 2**18


def shortened(work: Work) -> Work:
    """The same work, of a large unit with the number ``shortcut`` if its rule sees that it may.

    A GPU is not asked: the host would wait for it.
    """
    bound = work.bound
    shortcut, p, g = bound.rule.shortcut, bound.p, work.g
    large = p.ndim > 1 and p.numel() >= FROM_ELEMENTS and p.device.type == "cpu"
    if shortcut is None or not large or not work.updates:
        return work
    dtype = arithmetic_dtype(p)
    if not shortcut(p[:ROWS].to(dtype), g[:ROWS].to(dtype), work.scalars):
        return work
    scalars = named(bound.rule, {**work.scalars._asdict(), "shortcut": 1.0})
    vector = work.vector
    if vector is not None:
        vector = torch.cat([vector, vector.new_ones(1)])
    return replace(work, scalars=scalars, vector=vector)
