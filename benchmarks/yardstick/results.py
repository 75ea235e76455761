"""The result files: one a size, rewritten whole after every row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yardstick.bench import SIZES

FOLDER = Path(__file__).parents[1] / "results"
Document = dict[str, Any]


def path_of(size: str, folder: Path) -> Path:
    """Where the results of a size lie."""
    return folder / f"step_time_{size}.json"


def load(size: str, folder: Path) -> Document | None:
    """What was measured so far, if anything was."""
    path = path_of(size, folder)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def load_all(folder: Path) -> list[Document]:
    """The results of all sizes that have any."""
    return [found for size in SIZES if (found := load(size, folder)) is not None]


def with_row(
    document: Document | None, about: Document, run: Document, row: Document, order: Iterable[str]
) -> Document:
    """The document with one row put in its place, and without runs that no row stems from.

    A row names its run by number: rows measured anew may stem from another machine or version.
    First steps that were not measured this time stay as they were.
    """
    old = document or {"runs": [], "rows": []}
    runs = [*old["runs"], *([] if run in old["runs"] else [run])]
    rows = {one["optimizer"]: one for one in old["rows"]}
    name = row["optimizer"]
    if "first_step" not in row and "first_step" in rows.get(name, {}):
        row = {**row, "first_step": rows[name]["first_step"]}
    rows[name] = {**row, "run": runs.index(run)}
    used = sorted({one["run"] for one in rows.values()})
    places = {name: number for number, name in enumerate(order)}
    return {
        **about,
        "runs": [runs[number] for number in used],
        "rows": [
            {**one, "run": used.index(one["run"])}
            for one in sorted(
                rows.values(), key=lambda r: (places.get(r["optimizer"], 1000), r["optimizer"])
            )
        ],
    }


def save(document: Document, size: str, folder: Path) -> None:
    """Replace the file in one move, so that an interrupted run leaves whole results."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(size, folder)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
