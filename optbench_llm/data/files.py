"""Read JSON, JSONL, Parquet and Arrow files; a malformed one is named with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optbench_llm.data.records import Record

SUFFIXES = (".json", ".jsonl", ".parquet")
EXPECTED = (
    "expected objects with 'instruction' and 'output', and perhaps 'input', 'system' and 'history'"
)
SHOWN_KEYS = 5


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) for each record of a file; a place is 'record 3' or 'line 3'.

    Raises:
        ValueError: the file is malformed.
    """
    readers = {
        ".json": _read_json,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
        ".arrow": _read_arrow,
    }
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
        raise ValueError(f"{path}: expected a JSON list, found {_described(values)}; {EXPECTED}")
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
    yield from _rows(path, table)


def _read_arrow(path: Path) -> Iterator[tuple[str, Any]]:
    """A file in Arrow's streaming format, as ``datasets`` writes it."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as stream:
            table = pa.ipc.open_stream(stream).read_all()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Arrow file: {error}") from error
    yield from _rows(path, table)


def _rows(path: Path, table: Any) -> Iterator[tuple[str, Any]]:
    """The rows of a pyarrow table; of a column that is not read, whether it holds anything."""
    missing = {"instruction", "output"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{path}: no column {' and '.join(sorted(missing))} "
            f"(columns: {', '.join(table.column_names)}); {EXPECTED}"
        )
    for index, name in enumerate(table.column_names):
        if name not in Record._fields:
            table = table.set_column(index, name, table.column(index).is_valid())
    for index, row in enumerate(table.to_pylist()):
        for name in row.keys() - set(Record._fields):
            row[name] = row[name] or None
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


def _described(value: Any) -> str:
    """What a JSON file holds in place of a list."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    keys = [repr(key) for key in list(value)[:SHOWN_KEYS]] + ["..."] * (len(value) > SHOWN_KEYS)
    lists = [key for key, inside in value.items() if isinstance(inside, list)]
    hint = f" (the list under {lists[0]!r} alone, perhaps)" if len(lists) == 1 else ""
    return f"an object with the keys {', '.join(keys)}{hint}"


def _is_lines(text: str) -> bool:
    first = text.lstrip().split("\n", 1)[0]
    try:
        return isinstance(_parse(first), dict)
    except (json.JSONDecodeError, RecursionError):
        return False
