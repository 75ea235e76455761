"""A stored trial: ``result.json``, which ends with its own hash, and ``curves.json.gz``.

The hash in ``result.json`` is the SHA-256 of all that stands before it, which is canonical JSON, so
that thousands are checked in a moment; that of the curves stands there too, and is checked when
they are read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, StrictFloat, StrictStr, TypeAdapter, ValidationError

from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord
from optbench_llm.strict_json import finite_only

_RESULT, _CURVES = "result.json", "curves.json.gz"
_EDITED = "edited or damaged (its hash does not match)"
_AGAIN = "delete this folder to run the trial again"


@dataclass(frozen=True)
class _Stored:
    """What ``result.json`` holds; ``how`` has the fields of the trial that decide no result."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: StrictStr
    trial: dict[str, Any]
    how: dict[str, Any]
    record: RunRecord
    wall_s: StrictFloat
    environment: Environment
    curves_sha256: StrictStr
    sha256: StrictStr


def result_files(
    trial: TrialSpec, record: RunRecord, wall_s: float, environment: Environment
) -> dict[str, bytes]:
    """The contents of a trial's files by name; the same for the same values."""
    values = record.to_dict()
    curves = gzip.compress(_canonical(values.pop("curves")), mtime=0)
    identity = trial.identity()
    body = {
        "id": trial.id,
        "trial": identity,
        "how": {key: value for key, value in trial.to_dict().items() if key not in identity},
        "record": values,
        "wall_s": float(wall_s),
        "environment": environment.to_dict(),
        "curves_sha256": _hash(curves),
    }
    text = _canonical(finite_only(body))
    return {_RESULT: text[:-1] + _ending(text), _CURVES: curves}


def read_result(folder: Path) -> TrialResult:
    """The trial in ``folder``; its curves are read, and their hash looked at, when asked for.

    Raises:
        ValueError: half-written, damaged, or edited by hand; names the folder and what to do.
    """
    try:
        content = (folder / _RESULT).read_bytes()
        (folder / _CURVES).stat()
    except OSError as error:
        name = Path(error.filename).name
        raise ValueError(
            f"{folder}: half-written or damaged ({name}: {error.strerror}); {_AGAIN}"
        ) from error
    text = content[: -len(_ending(b""))] + b"}"
    if text[:-1] + _ending(text) != content:
        raise ValueError(f"{folder}: {_EDITED}; {_AGAIN}")
    try:
        stored = _stored().validate_json(content)
        trial = _trial().validate_python({**stored.trial, **stored.how})
    except ValidationError as error:
        raise ValueError(f"{folder}: damaged ({first_fault(error)}); {_AGAIN}") from None
    if trial.id != stored.id or trial.folder != folder.name:
        raise ValueError(
            f"{folder}: edited or damaged (its trial is {trial.folder}, its id {stored.id}); "
            f"{_AGAIN}"
        )
    curves = partial(_read_curves, folder, stored.curves_sha256)
    return TrialResult(trial, stored.record, stored.wall_s, stored.environment, curves)


def copied_files(folder: Path) -> dict[str, bytes]:
    """The contents of a trial's files, to the byte."""
    return {name: (folder / name).read_bytes() for name in (_RESULT, _CURVES)}


def _read_curves(folder: Path, sha256: str) -> Curves:
    try:
        content = (folder / _CURVES).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder}: damaged ({_CURVES}: {error.strerror}); {_AGAIN}") from error
    if _hash(content) != sha256:
        raise ValueError(f"{folder}: {_CURVES} is {_EDITED}; {_AGAIN}")
    try:
        return _curves().validate_json(gzip.decompress(content))
    except (OSError, EOFError, zlib.error, ValidationError) as error:
        raise ValueError(f"{folder}: {_CURVES} is damaged ({error}); {_AGAIN}") from error


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _ending(text: bytes) -> bytes:
    """What stands in the place of the closing brace of ``text``."""
    return b',"sha256":"%s"}\n' % _hash(text).encode()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def _stored() -> TypeAdapter[_Stored]:
    return TypeAdapter(_Stored)


@cache
def _trial() -> TypeAdapter[TrialSpec]:
    return TypeAdapter(TrialSpec)


@cache
def _curves() -> TypeAdapter[Curves]:
    return TypeAdapter(Curves)
