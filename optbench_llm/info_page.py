"""One optimizer: all that the catalog, its rule and the engine know of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench_llm.catalog import OptimizerInfo, list_optimizers, optimizer_info, parse_spec
from optbench_llm.compatibility import compatibility, rows_of
from optbench_llm.rules.hyperparameters import RANGES, range_of
from optbench_llm.rules.rule import COMPANION
from optbench_llm.terminal import MISSING, make_console, plain_table
from optbench_llm.tuned_boards import TunedBoard, tuned_boards

if TYPE_CHECKING:
    from rich.table import Table

    from optbench_llm.rules.rule import Rule, Slot

SEES = {
    "element": "each element by itself",
    "tensor": "sums over a whole tensor",
    "matrix": "whole matrices",
    "model": "sums over all parameters",
}
SHAPES = {
    "full": "as the parameter",
    "row": "one value a row",
    "column": "one value a column",
    "scalar": "one value a tensor",
    "left": "rows x rows",
    "right": "columns x columns",
}


def info_json(text: str, stores: Sequence[Path] | None = None) -> dict[str, Any]:
    """What there is to know of one optimizer, as plain values.

    ``tuned_lrs`` are those that the tuned boards of these stores found (see `tuned_boards`).

    Raises:
        ValueError: no optimizer of that name, one of a provider that has no row, a storage that
            the optimizer cannot bear, or a store without a tuned board.
    """
    return _all_json(text, tuned_boards(stores)[0])


def _all_json(text: str, boards: Sequence[TunedBoard]) -> dict[str, Any]:
    return {**_catalog_json(text), "tuned_lrs": _tuned_lrs(parse_spec(text).canonical, boards)}


def _tuned_lrs(spec: str, boards: Sequence[TunedBoard]) -> list[dict[str, Any]]:
    found = ((board, board.row(spec)) for board in boards)
    return [
        {
            "lr": row.lr,
            "recipe": board.recipe,
            "model": board.model,
            "data": board.data,
            "steps": board.steps,
            "test_loss": row.test_loss,
            "finished": list(row.finished),
            "edges": list(row.edges),
            "store": str(board.path.parent),
            "in_words": board.in_words,
        }
        for board, row in found
        if row is not None
    ]


def _catalog_json(text: str) -> dict[str, Any]:
    info = optimizer_info(text)
    from optbench_llm.memory import storages

    rule = None if info.provider else info.rule_class()
    borne = storages(rule, info.name) if rule else None
    spec = parse_spec(text)
    refusal = (borne or {}).get(spec.storage or "fp32")
    if refusal:
        raise ValueError(f"optimizer {spec.canonical!r}: {refusal}")
    defaults = info.defaults
    return {
        "name": info.name,
        "spec": spec.canonical,
        "title": info.title,
        "variant_of": info.variant_of,
        "paper": info.paper,
        "year": info.year,
        "url": info.url,
        "category": info.category,
        "category_is_ours": info.category_is_ours,
        "published_name": info.published_name,
        "published_loss": info.published_loss,
        "aliases": list(info.aliases),
        "variants": [
            name for name in list_optimizers() if optimizer_info(name).variant_of == info.name
        ],
        "notes": info.notes,
        "scope": info.scope,
        "program": info.program,
        "schedule": info.schedule,
        "needs": _needs(info, rule),
        "lr": info.lr,
        "lr_grid": list(info.lr_grid),
        "hyperparameters": {
            name: {"default": _plain(default), "range": _range(rule, name)}
            for name, default in _own_first(defaults).items()
        },
        "slots": [_slot(slot) for slot in info.slots] if rule else None,
        "kept_by_program": list(rule.kept_by_program) if rule else [],
        "state_bytes_per_param": info.state_bytes_per_param,
        "storages": borne,
        "compatibility": compatibility(info.name),
        "compatibility_shown_for": list(rows_of(info.name)),
        "equations": info.equations,
    }


def _plain(default: Any) -> Any:
    """Strict JSON has no infinity: its name stands for it."""
    return str(default) if isinstance(default, float) and math.isinf(default) else default


def _own_first(defaults: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(defaults.items(), key=lambda item: item[0].startswith(COMPANION)))


def _needs(info: OptimizerInfo, rule: type[Rule] | None) -> list[str]:
    needs = []
    if rule and rule.programs:
        programs = ", ".join(rule.programs)
        needs.append(f"program {programs}: extra passes over the batch, by OptBenchTrainer")
    if info.schedule == "constant":
        needs.append("a constant learning rate")
    if info.finds_step_size:
        needs.append(f"an lr of about {info.lr:g}, which scales a step that it finds itself")
    if rule and rule.by_layout:
        needs.append("the model, or groups that name a role: it must know what a parameter is")
    elif rule and rule.by_channel:
        needs.append("the model: it looks at output channels")
    if rule and rule.companion:
        needs.append(
            f"a companion: {rule.companion.__name__} steps all but"
            f" {', '.join(sorted(rule.roles))}, with settings of its own (companion_...)"
        )
    if rule and rule.conclude:
        needs.append("the host at every step: on a GPU it waits for sums over the model, once")
    if rule and rule.evaluation_point:
        needs.append("optimizer.eval() before evaluating and saving; our Trainer does it")
    return needs


def _range(rule: type[Rule] | None, name: str) -> str | None:
    accepted = range_of(rule, name) if rule else RANGES.get(name)
    return None if accepted is None else str(accepted)


def _slot(slot: Slot) -> dict[str, Any]:
    return {"name": slot.name, "shape": slot.shape, "positive": slot.positive}


def print_info(text: str, stores: Sequence[Path] | None = None) -> None:
    """Print all that there is to know of one optimizer.

    Raises:
        ValueError: no optimizer of that name, or a store without a tuned board.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    boards, warnings = tuned_boards(stores)
    facts = _all_json(text, boards)
    out = make_console()
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    out.print(Text(facts["name"], style="bold") + Text(f"   {facts['title']}"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for key, value in _facts(facts):
        grid.add_row(Text(key, style="dim"), Text(value))
    out.print(Padding.indent(grid, 2))
    out.print()
    out.print(Padding.indent(_hyperparameters(facts["hyperparameters"]), 2))
    out.print(Padding.indent(Text(facts["equations"].strip()), 2))


def _facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The page's lines: a label, and what stands beside it."""
    lines = [
        ("variant of", facts["variant_of"]),
        ("paper", f"{facts['paper']} ({facts['year']})"),
        ("", facts["url"]),
        ("category", facts["category"] + (" (our reading)" if facts["category_is_ours"] else "")),
        *_running(facts),
    ]
    if facts["published_loss"] is not None:
        published = f"{facts['published_loss']:.4f} as {facts['published_name']}"
        lines.append(("published loss", f"{published} (GPT-2 on Alpaca, train loss, 2024)"))
    lines += [
        ("also known as", ", ".join(facts["aliases"])),
        ("variants", ", ".join(facts["variants"])),
        ("note", facts["notes"]),
    ]
    return [(key, value) for key, value in lines if value]


def _running(facts: dict[str, Any]) -> list[tuple[str, str]]:
    scope, needs = facts["scope"], facts["needs"] or ["nothing beyond gradients"]
    lines = [("scope", f"{scope}: sees {SEES[scope]}")]
    lines += [("" if index else "needs", need) for index, need in enumerate(needs)]
    lines += [
        ("declared lr", f"{facts['lr']:g}"),
        *[("lr found", _found(tuned)) for tuned in facts["tuned_lrs"]],
        ("lr grid", ", ".join(f"{lr:g}" for lr in facts["lr_grid"])),
        *_state(facts),
        ("storage", _storage(facts["storages"])),
    ]
    return lines + _compatibility(facts)


def _found(tuned: dict[str, Any]) -> str:
    done, of = tuned["finished"]
    seeds = f"{of} seeds" if done == of else f"{done} of {of} seeds"
    edges = "".join(f" (at the {edge} edge of what was tried)" for edge in tuned["edges"])
    return (
        f"{tuned['lr']:.3g}{edges}, {tuned['in_words']}, {seeds}, "
        f"test loss {tuned['test_loss']:.4g}"
    )


def _compatibility(facts: dict[str, Any]) -> list[tuple[str, str]]:
    cells = facts["compatibility"].items()
    works = [where for where, cell in cells if cell["works"]]
    refused = [(where, f"refused: {cell['reason']}") for where, cell in cells if not cell["works"]]
    rows = facts["compatibility_shown_for"]
    own = rows == [facts["name"]] and "@" not in facts["spec"]
    told = "" if own else f" (shown for {' and '.join(rows)})"
    return [("works with", ", ".join(works) + told), *refused]


def _state(facts: dict[str, Any]) -> list[tuple[str, str]]:
    cost = facts["state_bytes_per_param"]
    if facts["slots"] is not None and not [*facts["slots"], *facts["kept_by_program"]]:
        return [("state", "none")]
    told = "unknown" if cost is None else f"{cost:.3g} bytes per parameter of a large matrix"
    if facts["slots"] is None:
        return [("state", f"the provider's: {told}")]
    slots = [
        f"{slot['name']} ({_shape(slot['shape'])}{', >= 0' if slot['positive'] else ''})"
        for slot in facts["slots"]
    ]
    slots += [f"{name} (as the parameter, by its program)" for name in facts["kept_by_program"]]
    return [("state", f"{told}, in fp32"), ("", ", ".join(slots))]


def _shape(shape: str | tuple[int, ...]) -> str:
    return SHAPES[shape] if isinstance(shape, str) else " x ".join(map(str, shape))


def _storage(storages: dict[str, str | None] | None) -> str:
    if storages is None:
        return "the provider's own"
    borne = [storage for storage, refusal in storages.items() if refusal is None]
    return ", ".join(f"@{storage}" if storage != "fp32" else storage for storage in borne)


def _hyperparameters(hyperparameters: dict[str, Any]) -> Table:
    table = plain_table()
    table.add_column("hyperparameter")
    table.add_column("default")
    table.add_column("accepts")
    for name, about in hyperparameters.items():
        table.add_row(name, _value(about["default"]), about["range"] or MISSING)
    return table


def _value(value: Any) -> str:
    if value in ("inf", "-inf"):
        return value
    return f"{value:g}" if isinstance(value, float) else repr(value)
