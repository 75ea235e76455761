"""Split records into train, validation and test by their content."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from optbench_llm.data.records import Record
from optbench_llm.data.settings import DataSettings


class RecordSplits(NamedTuple):
    """Records of each split, ordered by content."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]


def split_records(records: list[Record], settings: DataSettings) -> RecordSplits:
    """Hold out the distinct records whose salted hashes come first.

    Copies of a record land in one split, and the order of the file does not matter. A fraction
    above 0 holds out one record at least.

    Raises:
        ValueError: too few distinct records.
    """
    records = records[: settings.max_records]
    # A salt: max_records cuts by the digest itself, and must not cut a whole split away.
    ranked = sorted({r.digest for r in records}, key=lambda d: sha256(b"split" + d).digest())
    test = _share(len(ranked), settings.test_fraction)
    held_out = test + _share(len(ranked), settings.validation_fraction)
    if held_out >= len(ranked):
        raise ValueError(
            f"{settings.source}: {len(ranked)} distinct records are too few for a validation and "
            "a test split; give more records, or set validation_fraction and test_fraction to 0"
        )
    of_test, of_validation = set(ranked[:test]), set(ranked[test:held_out])
    splits = RecordSplits([], [], [])
    for record in records:
        digest = record.digest
        if digest in of_test:
            splits.test.append(record)
        elif digest in of_validation:
            splits.validation.append(record)
        else:
            splits.train.append(record)
    return splits


def _share(count: int, fraction: float) -> int:
    return max(1, round(count * fraction)) if fraction else 0
