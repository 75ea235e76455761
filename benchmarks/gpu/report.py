"""What a section has found so far, in a file that is whole after every entry."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optbench_llm.strict_json import finite_only


def write_json(path: Path, value: Any) -> None:
    """Replace the file in one move, with None for what is no finite number."""
    unfinished = path.with_name(f"{path.name}.tmp")
    text = json.dumps(finite_only(value), indent=1, allow_nan=False)
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, path)


class Report:
    """Numbers by name, and findings: what must not be, in words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: dict[str, Any] = {}
        self.findings: list[str] = []
        self._write()

    def record(self, name: str, numbers: Any) -> None:
        """Keep numbers, in place of earlier ones; any that is not finite is a finding, once."""
        self.numbers[name] = numbers
        found = [f"{place} is {value}" for place, value in _not_finite(name, numbers)]
        self.findings += [finding for finding in found if finding not in self.findings]
        self._write()

    def find(self, finding: str) -> None:
        """Add a finding."""
        self.findings.append(finding)
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"findings": self.findings, "numbers": self.numbers})


def _not_finite(place: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_finite(f"{place}: {name}", inner)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _not_finite(f"{place}[{number}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        yield place, value
