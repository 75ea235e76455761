"""A store's rows and trials as Parquet files with a card, as `datasets.load_dataset` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.sources import Source
from optbench_llm.strict_json import finite_only

#: Keys whose values have no fixed form: they travel as JSON.
_AS_JSON = ("arguments", "hyperparameters", "seeds", "search", "with_tries")

_TEXTS = (
    "reason", "batches_hash", "trial", "equivalent_baseline_steps_bound", "device", "engine",
)  # fmt: skip


def write_dataset(folder: Path, sources: Sequence[Source], repo: str) -> None:
    """Write ``rows.parquet`` (every board's), ``trials.parquet`` and ``README.md`` of one store.

    Raises:
        ValueError: a trial is damaged; names its folder.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_row(source.board, row.to_dict()) for source in sources for row in source.board.rows]
    trials = [_trial(result) for result in Store.read(sources[0].store).results]
    _write(folder / "rows.parquet", rows)
    _write(folder / "trials.parquet", trials)
    (folder / "README.md").write_text(_card(sources, repo), encoding="utf-8")


def _row(board: Board, values: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: json.dumps(v) if key in _AS_JSON else v for key, v in finite_only(values).items()}
    return {"track": board.recipe.its_track, **told}


def _trial(result: TrialResult) -> dict[str, Any]:
    trial, record, curves = result.trial, result.record.to_dict(), result.curves()
    record.pop("curves")
    return {
        "id": trial.id,
        **trial.to_dict(),
        **record,
        "hyperparameters": json.dumps(trial.hyperparameters),
        "effective_hyperparameters": json.dumps(record["hyperparameters"]),
        "wall_s": result.wall_s,
        "processor": result.environment.processor,
        "device": result.environment.device,
        "versions": json.dumps(result.environment.versions),
        "losses": list(curves.losses),
        "test_losses": None if curves.test_losses is None else list(curves.test_losses),
        "test_tokens": curves.test_tokens,
    }


def _write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist(list(records))
    # A column of nothing has no type of its own, and could not stand beside another store's.
    types = {True: pa.string(), False: pa.float64()}
    for place, column in enumerate(table.schema):
        if pa.types.is_null(column.type):
            values = table.column(place).cast(types[column.name in _TEXTS])
            table = table.set_column(place, column.name, values)
    parquet.write_table(table, path, compression="zstd")


def _card(sources: Sequence[Source], repo: str) -> str:
    import yaml

    recipe = sources[0].board.recipe
    head = {
        "pretty_name": f"optbench_llm: {recipe.name}",
        "tags": ["optimizers", "benchmark", "fine-tuning", "optbench_llm"],
        "configs": [
            {"config_name": name, "data_files": f"{name}.parquet", **default}
            for name, default in (("rows", {"default": True}), ("trials", {}))
        ],
    }
    tables = [source.board.to_markdown() for source in sources]
    load = (
        "```python\nfrom datasets import load_dataset\n\n"
        f'rows = load_dataset("{repo}", "rows", split="train")      # a row for each optimizer\n'
        f'trials = load_dataset("{repo}", "trials", split="train")  # each run, with its losses\n'
        "```\n"
    )
    text = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"
    return text + "\n".join([tables[0], load, *tables[1:]])
