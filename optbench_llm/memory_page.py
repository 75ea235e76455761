"""What every optimizer keeps for a model, as people read it in a terminal and programs read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optbench_llm.catalog import list_optimizers
from optbench_llm.memory import State, gradients_bytes, meta_model, states, weights_bytes
from optbench_llm.rules.rule import STORAGES
from optbench_llm.terminal import MISSING, make_console, plain_table

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

OWN = "own"


def memory_json(name: str, specs: Sequence[str] | None) -> dict[str, Any]:
    """Bytes of a model's weights and gradients, and of each optimizer's state, smallest first.

    ``specs`` None means all of the catalog. Per parameter: per trainable one.

    Raises:
        ValueError: no such model or optimizer; a storage that a given optimizer cannot bear.
    """
    model = meta_model(name)
    weights, gradients = weights_bytes(model), gradients_bytes(model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = [
        {
            "optimizer": state.optimizer,
            "storage": state.storage,
            "state_bytes": state.state_bytes,
            "state_bytes_per_param": None if kept is None else kept / trainable,
            "total_bytes": None if kept is None else weights + gradients + kept,
            "reason": state.reason,
        }
        for state in (_all_states(model) if specs is None else _given_states(model, specs))
        for kept in [state.state_bytes]
    ]
    rows.sort(key=_rank)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": trainable,
        "weights_bytes": weights,
        "gradients_bytes": gradients,
        "optimizers": rows,
    }


def _given_states(model: nn.Module, specs: Sequence[str]) -> list[State]:
    return list(dict.fromkeys(state for spec in specs for state in states(model, spec)))


def _all_states(model: nn.Module) -> list[State]:
    """Of every row of the catalog; one that this model does not suit says why."""
    found = []
    for name in list_optimizers():
        try:
            found += states(model, name)
        except ValueError as error:
            found.append(State(name, None, None, str(error)))
    return found


def print_memory(name: str, specs: Sequence[str] | None) -> None:
    """Print a model's memory and a table of optimizers, the smallest total first.

    Raises:
        ValueError: as :func:`memory_json` does.
    """
    facts = memory_json(name, specs)
    out = make_console()
    out.print(
        f"{name}: {facts['parameters']:,} parameters, {facts['trainable_parameters']:,} trainable;"
        f" weights {_mb(facts['weights_bytes'])} MB, gradients {_mb(facts['gradients_bytes'])} MB",
        highlight=False,
    )
    out.print(_table(facts["optimizers"]))
    out.print(
        "State in MB (10^6 bytes) by storage; own: the provider's. B/param and total (weights,"
        " gradients, state) are of the row's first storage. Activations are not counted.",
        style="dim",
        highlight=False,
    )
    for row in facts["optimizers"]:
        if row["reason"]:
            out.print(f"{row['optimizer']}: {row['reason']}", style="dim", highlight=False)


def _table(rows: list[dict[str, Any]]) -> Table:
    """A line for each optimizer, its storages beside each other; those come largest first."""
    lines: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["optimizer"], {})[row["storage"] or OWN] = row
    columns = [c for c in (*STORAGES, OWN) if any(c in line for line in lines.values())]
    table = plain_table()
    table.add_column("optimizer", style="bold", no_wrap=True)
    for column in (*columns, "B/param", "total"):
        table.add_column(column, justify="right", no_wrap=True)
    first = {name: next(line[c] for c in columns if c in line) for name, line in lines.items()}
    for name in sorted(lines, key=lambda name: _rank(first[name])):
        cells = [_mb(lines[name][c]["state_bytes"]) if c in lines[name] else "" for c in columns]
        cost = first[name]["state_bytes_per_param"]
        per_param = MISSING if cost is None else f"{cost:.2f}"
        table.add_row(name, *cells, per_param, _mb(first[name]["total_bytes"]))
    return table


def _rank(row: dict[str, Any]) -> tuple[bool, int, str]:
    total = row["total_bytes"]
    return total is None, total or 0, row["optimizer"]


def _mb(size: int | None) -> str:
    if size is None:
        return MISSING
    return f"{size / 1e6:,.1f}" if size >= 1e8 else f"{size / 1e6:.3g}"
