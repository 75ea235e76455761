"""One audit: every implementation of an optimizer stepped, compared and timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from optbench_llm.audit.deviation import deviations
from optbench_llm.audit.implementations import (
    Absent,
    Implementation,
    comparison_for,
    ours,
    rule_of,
    theirs,
)
from optbench_llm.audit.timing import Timed, block_shapes, take_turns
from optbench_llm.catalog import parse_spec
from optbench_llm.rules.rule import Scope
from optbench_llm.state_bytes import state_bytes

#: One block of GPT-2; a third of its width for rules that factorise matrices.
DEFAULT_ELEMENTS = 7_087_872
DEFAULT_MATRIX_ELEMENTS = 786_432


@dataclass(frozen=True)
class Finding:
    """What the audit found out about one implementation; ``reason`` says why it could not.

    ``deviation`` is the largest over the steps, reached at step ``at_step``. ``ratio`` is its time
    over that of the faster of our engines. ``known`` says in what it differs by design, and
    ``agrees`` whether the rest is meant to be equal.
    """

    label: str
    deviation: float | None = None
    at_step: int | None = None
    step_ms: float | None = None
    ratio: float | None = None
    state_bytes: int | None = None
    known: str = ""
    agrees: bool = True
    reason: str | None = None


@dataclass(frozen=True)
class Audit:
    """All findings on one optimizer: ``settings`` are ours, ``elements`` were timed."""

    spec: str
    settings: Mapping[str, Any]
    steps: int
    elements: int
    findings: tuple[Finding, ...]


def audit(spec: str, steps: int = 20, elements: int | None = None) -> Audit:
    """Step every implementation of ``spec`` over the same gradients.

    ``elements`` is about how many the timed parameters have: the weights of a GPT-2 block of the
    width that gives so many.

    Raises ValueError for an unknown optimizer, one that is not a rule of ours, and counts out of
    range.
    """
    comparison = comparison_for(spec)
    if steps < 1:
        raise ValueError(f"steps={steps} is out of range, expected 1 or more")
    rule = rule_of(spec)
    if elements is None:
        is_matrix = rule.scope is Scope.MATRIX and rule.by_layout
        elements = DEFAULT_MATRIX_ELEMENTS if is_matrix else DEFAULT_ELEMENTS
    shapes = block_shapes(elements, matrices=rule.by_layout)
    findings: list[Finding] = []
    all_timed: dict[str, Timed] = {}
    for implementation in (*ours(spec), *theirs(spec)):
        finding = _compared(spec, implementation, steps)
        findings.append(finding)
        if finding.reason is None:
            assert isinstance(implementation, Implementation)
            all_timed[finding.label] = Timed(
                *implementation.make(shapes, torch.float32, **comparison.timed)
            )
    failed = take_turns(all_timed, steps)
    return Audit(
        parse_spec(spec).canonical,
        comparison.settings,
        steps,
        sum(torch.Size(shape).numel() for shape in shapes),
        tuple(_timed(finding, all_timed, failed) for finding in findings),
    )


def _compared(spec: str, implementation: Implementation | Absent, steps: int) -> Finding:
    label, known = implementation.label, implementation.known
    if isinstance(implementation, Absent):
        return Finding(label, known=known, reason=implementation.reason)
    try:
        by_step = list(deviations(spec, implementation, steps))
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        return Finding(label, known=known, reason=f"{type(error).__name__}: {error}")
    worst = max(by_step)
    return Finding(
        label, worst, by_step.index(worst) + 1, known=known, agrees=implementation.agrees
    )


def _timed(finding: Finding, all_timed: Mapping[str, Timed], failed: Mapping[str, str]) -> Finding:
    if finding.label in failed:
        return replace(finding, reason=failed[finding.label])
    if finding.label not in all_timed:
        return finding
    timed = all_timed[finding.label]
    own = [t.step_ms for label, t in all_timed.items() if label.startswith("ours")]
    return replace(
        finding,
        step_ms=timed.step_ms,
        ratio=timed.step_ms / min(own) if own else None,
        state_bytes=state_bytes(timed.optimizer),
    )
