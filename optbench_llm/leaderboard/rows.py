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
    _compare_at_equal_cost(rows, results)
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
        "passes_per_step": None,
        "loss_at_equal_passes": None,
        "loss_at_equal_time": None,
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


def _compare_at_equal_cost(rows: Sequence[Row], results: Sequence[TrialResult]) -> None:
    """Fill in what the rows that are done cost, and their train loss over as much of it.

    Equal passes: the first forward and backward passes, as many as the run has steps, so that it is
    ``train_loss`` where a step takes one. Equal time: the first seconds of training, as many as the
    fastest row took for all of it. A loss counts for the passes, or for the seconds, of its step.
    """
    done = [
        (row, result)
        for row, result in zip(rows, results, strict=True)
        if row["status"] == "done" and result.losses
    ]
    seconds = {
        row["trial"]: row["train_wall_s"] - (row["compile_s"] or 0.0)
        for row, _ in done
        if row["train_wall_s"] is not None
    }
    for row, result in done:
        losses = [loss for loss in result.losses if loss is not None]
        passes = result.record.get("step_passes") or [1.0] * len(losses)
        if len(passes) != len(losses):
            continue
        total = sum(passes)
        row["passes_per_step"] = total / len(passes)
        row["loss_at_equal_passes"] = _mean_loss_within(len(passes), losses, passes)
        if row["trial"] in seconds:
            second = seconds[row["trial"]] / total
            budget = min(seconds.values())
            spent = [count * second for count in passes]
            row["loss_at_equal_time"] = _mean_loss_within(budget, losses, spent)


def _mean_loss_within(
    budget: float, losses: Sequence[float], costs: Sequence[float]
) -> float | None:
    """Mean of the losses over the first ``budget`` of cost, each weighted by its share of it.

    None where that does not pay for a single step.
    """
    if costs[0] > budget:
        return None
    total = spent = 0.0
    for loss, cost in zip(losses, costs, strict=True):
        share = min(cost, budget - spent)
        total += share * loss
        spent += share
    return total / spent


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
