"""Where the rows of the catalog run: what the tests showed, as they wrote it down."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from optbench_llm.catalog import Spec

#: The tests write it, and compare it with what they show: tests/compatibility.py.
FILE = Path(__file__).parent / "assets" / "compatibility.json"
CIRCUMSTANCES = (
    "one process",
    "DDP",
    "FSDP2",
    "DeepSpeed ZeRO-1/2",
    "LoRA",
    "gradient accumulation",
    "bf16 autocast",
    "resume",
    "resume on another number of processes",
)
#: The row that shows what a wrapper comes to, where that has another name.
ROWS_OF_WRAPPERS = {"schedulefree": "sgd-schedulefree"}

Cell = dict[str, Any]


@cache
def shown() -> dict[str, dict[str, Cell]]:
    """All that was shown, by row and circumstance.

    A cell says ``works`` and its ``test``, and the ``reason`` where it is refused.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))


def rows_of(spec: Spec) -> tuple[str, ...]:
    """The rows that a spec is made of: those of its wrappers, and the one inside."""
    return (*(ROWS_OF_WRAPPERS.get(name, name) for name in spec.wrappers), spec.name)


def compatibility(spec: Spec) -> dict[str, Cell]:
    """By circumstance what was shown for the rows that a spec is made of.

    It works where all of them do, and is refused for the reason of the first that is.
    """
    cells = [shown()[row] for row in rows_of(spec)]
    return {
        circumstance: next(
            (own[circumstance] for own in cells if not own[circumstance]["works"]),
            cells[-1][circumstance],
        )
        for circumstance in CIRCUMSTANCES
    }
