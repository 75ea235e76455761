"""What decides a result as far as data goes, in one hash; computed without torch."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from hashlib import sha256

from optbench_llm.cache import cache_dir, read_checked, write_checked
from optbench_llm.data import files, records, saved, sources
from optbench_llm.data.prompts import CONTEXT_TEMPLATES, TEMPLATES
from optbench_llm.data.records import Record, check_records
from optbench_llm.data.report import RecordReport
from optbench_llm.data.settings import DataSettings
from optbench_llm.data.sources import Location, locate, read

BLOCK_RULES = 1
"""Raise it when splitting, masking, cutting or packing changes: old fingerprints must not match."""


@dataclass(frozen=True)
class Summary:
    """The content hash of a source's usable records, and the account of the others."""

    digest: str
    report: RecordReport


def data_fingerprint(settings: DataSettings) -> str:
    """Hex hash of the records' content and of every setting that changes a batch.

    The order of records in the file and the name of the file do not matter. The second call for
    the same unchanged file reads no records.

    Raises:
        ValueError: the data is missing, malformed, empty, or too much of it is bad.
    """
    return fingerprint_of(summarise(settings), settings)


def fingerprint_of(summary: Summary, settings: DataSettings) -> str:
    """The fingerprint, where the records' summary is known."""
    facts = settings.model_dump(exclude={"source", "max_bad_fraction"})
    facts |= {"records": summary.digest, "rules": BLOCK_RULES}
    facts["template"] = TEMPLATES[settings.prompt]
    if summary.report.with_system or summary.report.with_history:
        facts["context"] = CONTEXT_TEMPLATES[settings.prompt]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def summarise(settings: DataSettings) -> Summary:
    """The summary of a source's records, from the cache where the source is unchanged.

    Raises:
        ValueError: as ``data_fingerprint``.
    """
    location = locate(settings.source)
    key = sha256(f"{_checker_version()}\0{location.version}".encode()).hexdigest()
    memo = cache_dir() / "records" / f"{key}.json"
    if stored := read_checked(memo):
        facts = json.loads(stored)
        facts["report"]["first_bad"] = tuple(facts["report"]["first_bad"])
        report = RecordReport(location.name, **facts["report"])
        summary = Summary(facts["digest"], report)
    else:
        found, report = _read_records(location)
        digest = sha256(b"".join(record.digest for record in found)).hexdigest()
        summary = Summary(digest, report)
        facts = asdict(summary)
        del facts["report"]["source"]  # the same file may be called by another name
        write_checked(memo, json.dumps(facts).encode())
    _refuse_bad_data(summary.report, settings)
    return summary


@cache
def _checker_version() -> str:
    """Changes with the code that reads and checks: what an older one counted is counted anew."""
    return "".join(inspect.getsource(module) for module in (sources, saved, files, records))


def read_records(settings: DataSettings) -> list[Record]:
    """All usable records, ordered by content."""
    return _read_records(locate(settings.source))[0]


@lru_cache(maxsize=1)  # the summary and then the tokenization read the same source
def _read_records(location: Location) -> tuple[list[Record], RecordReport]:
    found, report = check_records(read(location), location.name)
    return sorted(found, key=lambda record: record.digest), report


def _refuse_bad_data(report: RecordReport, settings: DataSettings) -> None:
    if report.records == 0:
        raise ValueError(f"{report.source} holds no records: nothing to train on")
    fraction = report.bad_records / report.records
    if fraction > settings.max_bad_fraction or report.bad_records == report.records:
        way_out = "" if fraction == 1 else ", or raise max_bad_fraction"
        raise ValueError(
            f"{report}: {fraction:.1%} of the records are unusable, more than "
            f"max_bad_fraction={settings.max_bad_fraction:g}; every record needs non-empty texts "
            f"'instruction' and 'output'. Rename its keys, or mend the file{way_out}"
        )
