"""What blocks of a limited size cost: whose answer, and whose end token, is not trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Share of records too long for a block from which the note becomes a warning.
WARNED_SHARE = 0.25
#: Share of records that the smaller of the two proposed block sizes holds.
MOST = 0.99


@dataclass(frozen=True)
class Lengths:
    """Tokens of each record of a split, in order: of its prompt, and of prompt and answer.

    ``whole`` counts the oldest turns of its history as well, which are left out to fit a block.
    """

    prompts: np.ndarray
    records: np.ndarray
    whole: np.ndarray


@dataclass(frozen=True)
class Cuts:
    """How many of ``records`` lie whole in no block of ``size`` tokens, and what they lose.

    ``cut`` are shortened to a block, or, packed, lie in several blocks or in the last tokens, which
    fill no block. ``too_long`` have more tokens than any block. ``answers_cut`` are trained in part
    or in several blocks, ``answers_lost`` not at all; ``ends_lost`` end tokens are not learned.
    ``turns_left_out`` records go without the oldest turns of their history. Blocks of
    ``most_size`` tokens would hold 99 % of the records, of ``all_size`` all of them; the model
    takes ``max_size``.
    """

    size: int
    packed: bool
    max_size: int
    records: int
    cut: int
    too_long: int
    answers_cut: int
    answers_lost: int
    ends_lost: int
    turns_left_out: int
    most_size: int
    all_size: int

    @property
    def is_warning(self) -> bool:
        """Whether so many records are too long that the run is hardly what was meant."""
        return self.too_long >= WARNED_SHARE * self.records > 0

    @property
    def lines(self) -> list[str]:
        """What is lost, and which size would hold it; nothing where nothing is."""
        return [*self._cut_lines(), *self._turns_lines(), *self._remedy()]

    def _cut_lines(self) -> list[str]:
        if not self.cut:
            return []
        if self.packed:
            what, parts = "span packed blocks of", ("answers divided", "answers not trained")
        else:
            what, parts = "are cut at", ("answers cut short", "cut away whole")
        warning = "WARNING: " if self.is_warning else ""
        names = ("end tokens lost", *parts)
        counts = (self.ends_lost, self.answers_cut, self.answers_lost)
        lost = [f"{name}: {count:,}" for name, count in zip(names, counts, strict=True) if count]
        head = f"{warning}{self._share(self.cut)} {what} {self.size:,} tokens"
        return [head, ", ".join(lost)] if lost else [head]

    def _turns_lines(self) -> list[str]:
        if not self.turns_left_out:
            return []
        which = self._share(self.turns_left_out)
        return [f"{which} go without their oldest turns of history"]

    def _share(self, records: int) -> str:
        return f"{records:,} of {self.records:,} records ({_percent(records / self.records)})"

    def _remedy(self) -> list[str]:
        if self.all_size <= self.size:
            return []
        sizes = f"block_size {self.all_size} would hold all records"
        if self.size < self.most_size < self.all_size:
            sizes = (
                f"block_size {self.most_size} would hold 99% of the records, {self.all_size} all"
            )
        if self.all_size <= self.max_size:
            return [sizes]
        return [sizes, f"this model takes at most {self.max_size:,} tokens: drop longer records"]


def count_cuts(splits: Sequence[Lengths], size: int, packed: bool, max_size: int) -> Cuts:
    """Count what blocks of ``size`` tokens cost the records of all splits together."""
    losses = [_packed(split, size) if packed else _padded(split, size) for split in splits]
    cut, answers_cut, answers_lost, ends_lost = (
        sum(int(which.sum()) for which in each) for each in zip(*losses, strict=True)
    )
    lengths = np.concatenate([split.records for split in splits])
    whole = np.sort(np.concatenate([split.whole for split in splits]))
    return Cuts(
        size=size,
        packed=packed,
        max_size=max_size,
        records=len(whole),
        cut=cut,
        too_long=int((lengths > size).sum()),
        answers_cut=answers_cut,
        answers_lost=answers_lost,
        ends_lost=ends_lost,
        turns_left_out=sum(int((split.whole > split.records).sum()) for split in splits),
        most_size=int(whole[math.ceil(MOST * len(whole)) - 1]),
        all_size=int(whole[-1]),
    )


def _padded(split: Lengths, size: int) -> tuple[np.ndarray, ...]:
    """Which records are cut, which answers in part and which whole, and which end tokens."""
    cut = split.records > size
    lost = split.prompts >= size
    return cut, cut & ~lost, lost, cut


def _packed(split: Lengths, size: int) -> tuple[np.ndarray, ...]:
    """The same for records end to end, of which only whole blocks are kept."""
    stops = np.cumsum(split.records)
    starts = stops - split.records
    answers = starts + split.prompts
    total = int(stops[-1]) if len(stops) else 0
    kept = max(total // size * size, min(total, size))
    in_tail = stops > kept
    cut = (starts // size != (stops - 1) // size) | in_tail
    lost = answers >= kept
    divided = ((answers // size != (stops - 1) // size) | in_tail) & ~lost
    # Nothing in its block comes before a first token, so that a model predicts all but that.
    ends = in_tail | ((stops - 1) % size == 0)
    return cut, divided, lost, ends


def _percent(share: float) -> str:
    """As a whole number that is 100 or 0 only where it is all or none."""
    percent = round(100 * share)
    if percent == 0:
        return "under 1%"
    return "over 99%" if percent == 100 and share < 1 else f"{percent}%"
