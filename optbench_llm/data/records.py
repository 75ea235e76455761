"""What an instruction record is, and the account of those that could not be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

SHOWN_BAD = 5


class Record(NamedTuple):
    """One record in Alpaca's format; ``input`` may be empty."""

    instruction: str
    input: str
    output: str

    @property
    def digest(self) -> bytes:
        """Content hash; the lengths keep ("a", "b") and ("ab", "") apart."""
        hasher = sha256()
        for text in self:
            encoded = text.encode()
            hasher.update(len(encoded).to_bytes(8, "little") + encoded)
        return hasher.digest()


@dataclass(frozen=True)
class RecordReport:
    """How many records were read, and why some are not used.

    ``bad`` counts records by what is wrong with them; ``untrained`` counts those (packed: those
    blocks) in which the prompt fills the whole block, so that no token is left to learn.
    """

    source: str
    records: int
    bad: Mapping[str, int]
    first_bad: tuple[str, ...] = ()
    untrained: int = 0

    @property
    def bad_records(self) -> int:
        """Records that were left out because something is wrong with them."""
        return sum(self.bad.values())

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.records:,} records"]
        if self.bad:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.bad.items())
            parts.append(f"{self.bad_records:,} left out ({reasons}; {', '.join(self.first_bad)})")
        if self.untrained:
            parts.append(f"{self.untrained:,} dropped: their prompt alone fills block_size")
        return "; ".join(parts)


def check_records(
    found: Iterable[tuple[str, Any]], source: str
) -> tuple[list[Record], RecordReport]:
    """Turn (place, value) pairs into records; what is no record is counted, and named by place."""
    records: list[Record] = []
    bad: dict[str, int] = {}
    first_bad: list[str] = []
    total = 0
    for place, value in found:
        total += 1
        checked = _check(value)
        if isinstance(checked, Record):
            records.append(checked)
            continue
        bad[checked] = bad.get(checked, 0) + 1
        if len(first_bad) < SHOWN_BAD:
            first_bad.append(place)
        elif len(first_bad) == SHOWN_BAD:
            first_bad.append("...")
    return records, RecordReport(source, total, bad, tuple(first_bad))


def _check(value: Any) -> Record | str:
    """The record, or what is wrong with it."""
    if not isinstance(value, dict):
        return "not an object"
    for key in ("instruction", "output"):
        text = value.get(key)
        if text is None:
            return f"without '{key}'"
        if not isinstance(text, str):
            return f"with an '{key}' that is no string"
        if not text.strip():
            return f"with an empty '{key}'"
    if not isinstance(value.get("input") or "", str):
        return "with an 'input' that is no string"
    record = Record(value["instruction"], value.get("input") or "", value["output"])
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        return "with half a surrogate pair (no valid Unicode)"
    return record
