"""What an instruction record is, and how what a file holds is turned into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, NamedTuple

from optbench_llm.data.report import RecordReport

SHOWN_BAD = 5
SHOWN_KEYS = 5
# As many different keys as are told apart; a file may use its keys for values.
COUNTED_KEYS = 1000


class Record(NamedTuple):
    """One record in Alpaca's format; all but ``instruction`` and ``output`` may be empty.

    ``history`` holds the turns before this one, each an instruction and its answer.
    """

    instruction: str
    input: str
    output: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All of its texts; those of ``system`` and ``history`` only where there are any."""
        own = (self.instruction, self.input, self.output)
        if not self.system and not self.history:
            return own
        return (*own, self.system, *(text for turn in self.history for text in turn))

    @property
    def digest(self) -> bytes:
        """Content hash; the lengths keep ("a", "b") and ("ab", "") apart."""
        hasher = sha256()
        for text in self.texts:
            encoded = text.encode()
            hasher.update(len(encoded).to_bytes(8, "little") + encoded)
        return hasher.digest()


def check_records(
    found: Iterable[tuple[str, Any]], source: str
) -> tuple[list[Record], RecordReport]:
    """Turn (place, value) pairs into records; what is no record is counted, and named by place.

    Keys that no record has are counted wherever they hold something.
    """
    records: list[Record] = []
    bad: dict[str, int] = {}
    unread: Counter[str] = Counter()
    first_bad: list[str] = []
    total = 0
    for place, value in found:
        total += 1
        if isinstance(value, dict):
            for key in value.keys() - set(Record._fields):
                if value[key] is not None and (key in unread or len(unread) < COUNTED_KEYS):
                    unread[key] += 1
        checked = _check(value)
        if isinstance(checked, Record):
            records.append(checked)
            continue
        bad[checked] = bad.get(checked, 0) + 1
        if len(first_bad) < SHOWN_BAD:
            first_bad.append(place)
        elif len(first_bad) == SHOWN_BAD:
            first_bad.append("...")
    shown = sorted(unread.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_KEYS]
    return records, RecordReport(
        source,
        total,
        bad,
        tuple(first_bad),
        unread=dict(shown),
        further_unread=len(unread) - len(shown),
        with_system=sum(bool(record.system) for record in records),
        with_history=sum(bool(record.history) for record in records),
    )


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
    for key, article in (("input", "an"), ("system", "a")):
        if not isinstance(value.get(key) or "", str):
            return f"with {article} '{key}' that is no string"
    history = _history(value.get("history") or ())
    if isinstance(history, str):
        return history
    system = value.get("system") or ""
    record = Record(
        value["instruction"],
        value.get("input") or "",
        value["output"],
        system if system.strip() else "",
        history,
    )
    try:
        "".join(record.texts).encode()
    except UnicodeEncodeError:
        return "with half a surrogate pair (no valid Unicode)"
    return record


def _history(value: Any) -> tuple[tuple[str, str], ...] | str:
    """The earlier turns, or what is wrong with them."""
    wrong = "with a 'history' that is no list of [instruction, answer] pairs"
    if not isinstance(value, list | tuple):
        return wrong
    turns = []
    for turn in value:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            return wrong
        instruction, answer = turn
        if not isinstance(instruction, str) or not isinstance(answer, str):
            return wrong
        if not instruction.strip() or not answer.strip():
            return "with an empty text in 'history'"
        turns.append((instruction, answer))
    return tuple(turns)
