"""Records in Alpaca's format, files of them, and settings to read them with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optbench_llm.data import DataSettings

RECORDS = [
    {"instruction": f"Count to {n}.", "input": "" if n % 3 else "in words", "output": "1 2 " * n}
    for n in range(1, 61)
]


def write(path: Path, records: list) -> Path:
    """Write records in the form that the file's name tells."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        import datasets

        datasets.Dataset.from_list(records).save_to_disk(path)
    return path


def settings(path: Path | str, **chosen: Any) -> DataSettings:
    """Settings for this source."""
    return DataSettings(source=str(path), **chosen)
