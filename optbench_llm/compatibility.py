"""Where the rows of the catalog run: what the tests showed, as they wrote it down."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from optbench_llm.catalog import parse_spec

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


def rows_of(name: str) -> tuple[str, ...]:
    """The rows that a row with wrappers around it is made of, from the outside in."""
    spec = parse_spec(name)
    return (*(ROWS_OF_WRAPPERS.get(name, name) for name in spec.wrappers), spec.name)


def compatibility(name: str) -> dict[str, Cell]:
    """By circumstance what was shown for a row, or for those that a wrapped one is made of.

    It works where all of them do, and is refused for the reason of the first that is.
    """
    cells = [shown()[row] for row in rows_of(name)]
    return {
        circumstance: next(
            (own[circumstance] for own in cells if not own[circumstance]["works"]),
            cells[-1][circumstance],
        )
        for circumstance in CIRCUMSTANCES
    }
