"""Read JSON, JSONL and Parquet files; a malformed one is named with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".jsonl", ".parquet")
EXPECTED = "expected objects with 'instruction' and 'output', and perhaps 'input'"


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) for each record of a file; a place is 'record 3' or 'line 3'.

    Raises:
        ValueError: the file is malformed.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    yield from readers[path.suffix](path)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    text = _text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty: expected a JSON list; {EXPECTED}")
    try:
        values = _parse(text)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply; {EXPECTED}") from error
    except json.JSONDecodeError as error:
        hint = " (is this one object a line? then name it .jsonl)" if _is_lines(text) else ""
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}{hint}"
        ) from error
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a JSON list, found {type(values).__name__}; {EXPECTED}")
    for index, value in enumerate(values):
        yield f"record {index}", value


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", _parse(line)
        except RecursionError as error:
            raise ValueError(f"{path}, line {number}: nested too deeply; {EXPECTED}") from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}, column {error.colno}: not valid JSON: {error.msg}; "
                "expected one whole object a line"
            ) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from error
    missing = {"instruction", "output"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{path}: no column {' and '.join(sorted(missing))} "
            f"(columns: {', '.join(table.column_names)}); {EXPECTED}"
        )
    wanted = [c for c in ("instruction", "input", "output") if c in table.column_names]
    for index, row in enumerate(table.select(wanted).to_pylist()):
        yield f"record {index}", row


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8; convert the file to UTF-8") from error


def _parse(text: str) -> Any:
    # No number is of use here, and int refuses one of thousands of digits.
    return json.loads(text, parse_int=float)


def _is_lines(text: str) -> bool:
    first = text.lstrip().split("\n", 1)[0]
    try:
        return isinstance(_parse(first), dict)
    except (json.JSONDecodeError, RecursionError):
        return False
