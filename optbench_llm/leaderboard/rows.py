"""From stored trials to ranked rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from optbench_llm.catalog import parse_spec
from optbench_llm.leaderboard.store import TrialResult

Row = dict[str, Any]

# What the record tells beyond the columns that every row begins with.
_DETAILS = (
    "initial_eval_loss",
    "first_loss",
    "last_loss",
    "tokens",
    "first_step_ms",
    "compile_s",
    "extra_passes",
    "state_bytes",
    "train_wall_s",
    "eval_wall_s",
    "batches_hash",
    "engine",
    "parameters",
)


def rank_rows(results: Sequence[TrialResult], rank_by: str) -> list[Row]:
    """One row a trial, best first; what did not finish shares the rank after the last that did.

    Equal losses share a rank; a row without the loss to rank by comes after those with one. A
    failed trial keeps its reason and has None for what it never measured: it is never dropped and
    never counted as zero.
    """
    rows = [_row(result) for result in results]
    for row, label in zip(rows, _labels(rows), strict=True):
        row["label"] = label
    done = [row for row in rows if row["status"] == "done"]
    failed = [row for row in rows if row["status"] != "done"]

    def key(row: Row) -> tuple[bool, float]:
        loss = row[rank_by]
        return (True, 0.0) if loss is None else (False, loss)

    done.sort(key=key)
    keys = [key(row) for row in done]
    for row in done:
        row["rank"] = 1 + keys.index(key(row))
    for row in failed:
        row["rank"] = 1 + len(done)
    return done + failed


def _row(result: TrialResult) -> Row:
    record, trial = result.record, result.trial
    return {
        "rank": None,
        "optimizer": trial["spec"],
        "label": trial["spec"],
        "status": record["status"],
        "reason": record.get("reason"),
        "train_loss": record.get("train_loss"),
        "eval_loss": record.get("eval_loss"),
        "published_loss": _published_loss(trial["spec"]),
        "lr": trial["lr"],
        "steps": record.get("steps"),
        "tokens_per_s": record.get("tokens_per_s"),
        "optimizer_step_ms": record.get("optimizer_step_ms"),
        "state_bytes_per_param": record.get("state_bytes_per_param"),
        "peak_mem_bytes": record.get("peak_mem_bytes"),
        "seed": trial["seed"],
        "schedule": trial["training"]["schedule"],
        "arguments": trial["hyperparameters"],
        "hyperparameters": record.get("hyperparameters"),
        **{key: record.get(key) for key in _DETAILS},
        "trial": result.id,
    }


def _published_loss(text: str) -> float | None:
    """The published figure of a plain catalog name: other storages and providers were not in it."""
    spec = parse_spec(text)
    return spec.info.published_loss if spec.info and not spec.storage else None


def _labels(rows: Sequence[Row]) -> list[str]:
    """The spec of each row, with what else it takes to tell rows apart."""
    labels = [row["optimizer"] for row in rows]
    for describe in (_arguments, _lr, _schedule, _seed):
        count = Counter(labels)
        described: dict[str, set[str]] = {}
        for row, label in zip(rows, labels, strict=True):
            described.setdefault(label, set()).add(describe(row))
        labels = [
            f"{label} {describe(row)}".rstrip()
            if count[label] > 1 and len(described[label]) > 1
            else label
            for row, label in zip(rows, labels, strict=True)
        ]
    return labels


def _arguments(row: Row) -> str:
    return " ".join(f"{key}={value}" for key, value in row["arguments"].items())


def _lr(row: Row) -> str:
    return f"lr={row['lr']:g}"


def _schedule(row: Row) -> str:
    return row["schedule"]


def _seed(row: Row) -> str:
    return f"seed={row['seed']}"
