"""What became of a source's records: read, left out, cut; as lines for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optbench_llm.data.cuts import Cuts

SHOWN_KEY_LENGTH = 30


@dataclass(frozen=True)
class RecordReport:
    """How many records were read, why some are not used, and what blocks cost the others.

    ``bad`` counts records by what is wrong with them, ``unread`` by a key that Alpaca's format
    does not have (the most frequent keys; ``further_unread`` is how many keys there are besides).
    ``untrained`` counts records (packed: blocks) of which no token is left to learn.
    """

    source: str
    records: int
    bad: Mapping[str, int]
    first_bad: tuple[str, ...] = ()
    unread: Mapping[str, int] | None = None
    further_unread: int = 0
    with_system: int = 0
    with_history: int = 0
    untrained: int = 0
    cuts: Cuts | None = None

    @property
    def bad_records(self) -> int:
        """Records that were left out because something is wrong with them."""
        return sum(self.bad.values())

    @property
    def lines(self) -> list[str]:
        """The account in lines for a terminal, the source first."""
        lines = [f"{self.source}: {self.records:,} records"]
        if self.bad:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.bad.items())
            lines.append(f"{self.bad_records:,} left out ({reasons}; {', '.join(self.first_bad)})")
        if self.with_system or self.with_history:
            lines.append(
                f"{self.with_system:,} with a system prompt, {self.with_history:,} with a history"
            )
        if self.unread:
            keys = [f"{_quoted(key)} ({count:,})" for key, count in self.unread.items()]
            if self.further_unread:
                keys.append(f"{self.further_unread:,} more")
            lines.append(f"keys that are not used: {', '.join(keys)}")
        if self.cuts is not None:
            lines += self.cuts.lines
            if self.untrained:
                what = "blocks" if self.cuts.packed else "records"
                lines.append(f"{self.untrained:,} {what} dropped: they hold no answer to learn")
        return lines

    @property
    def page(self) -> str:
        """The lines below each other, those after the first indented."""
        return "\n  ".join(self.lines)

    def __str__(self) -> str:
        return "; ".join(self.lines)


def _quoted(key: str) -> str:
    text = repr(key)
    return text if len(text) <= SHOWN_KEY_LENGTH else f"{text[:SHOWN_KEY_LENGTH]}...'"
