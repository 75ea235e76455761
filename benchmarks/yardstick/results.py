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
    """The document with one row put in its place, and without runs that nothing stems from.

    A row names its run by number, and so do its first steps: what is measured anew may stem from
    another machine or version. First steps that were not measured this time stay as they were.
    """
    old = document or {"runs": [], "rows": []}
    runs, number = _with_run(old, run)
    rows = {one["optimizer"]: one for one in old["rows"]}
    name = row["optimizer"]
    if "first_step" in row:
        row = {**row, "first_step": {**row["first_step"], "run": number}}
    elif "first_step" in rows.get(name, {}):
        row = {**row, "first_step": rows[name]["first_step"]}
    rows[name] = {**row, "run": number}
    places = {name: number for number, name in enumerate(order)}
    in_order = sorted(
        rows.values(), key=lambda r: (places.get(r["optimizer"], 1000), r["optimizer"])
    )
    return {**about, **_of_used_runs(runs, in_order)}


def with_first_step(document: Document, run: Document, name: str, first_step: Document) -> Document:
    """The document with the first steps of a row that it has, all else as it was."""
    runs, number = _with_run(document, run)
    rows = [
        {**row, "first_step": {**first_step, "run": number}} if row["optimizer"] == name else row
        for row in document["rows"]
    ]
    return {**document, **_of_used_runs(runs, rows)}


def _with_run(document: Document, run: Document) -> tuple[list[Document], int]:
    """The document's runs with this one, and its number."""
    runs = [*document["runs"], *([] if run in document["runs"] else [run])]
    return runs, runs.index(run)


def _of_used_runs(runs: list[Document], rows: list[Document]) -> Document:
    """Runs and rows, the runs without those that nothing stems from, counted anew."""
    places = [place for row in rows for place in (row, row.get("first_step", {})) if "run" in place]
    used = sorted({place["run"] for place in places})

    def renumbered(place: Document) -> Document:
        return {**place, "run": used.index(place["run"])} if "run" in place else place

    return {
        "runs": [runs[number] for number in used],
        "rows": [
            renumbered(row) | {"first_step": renumbered(row["first_step"])}
            if "first_step" in row
            else renumbered(row)
            for row in rows
        ],
    }


def save(document: Document, size: str, folder: Path) -> None:
    """Replace the file in one move, so that an interrupted run leaves whole results."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(size, folder)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
