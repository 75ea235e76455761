"""The leaderboard for programs (JSON, CSV) and for people (Markdown, terminal)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optbench_llm.catalog import parse_spec
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.trial import canonical_hash
from optbench_llm.strict_json import finite_only
from optbench_llm.terminal import MISSING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PUBLISHED = (
    "Published: train loss of GPT-2 on Alpaca in the table that LMFlow published in 2024, one run "
    "each at one lr for all."
)
_PUBLISHED_ELSEWHERE = (
    "Another model and other data: read its order, never compare its numbers with this table's."
)
_PUBLISHED_HERE = (
    "The same model and data as here, other software and hardware: compare order and rough bands, "
    "not digits."
)
_PUBLISHED_MODELS = ("gpt2", "openai-community/gpt2")
_PUBLISHED_DATA = "tatsu-lab/alpaca"


def _number(pattern: str, scale: float = 1) -> Callable[[Any], str]:
    return lambda value: MISSING if value is None else format(value * scale, pattern)


@dataclass(frozen=True)
class Column:
    """A column for people: where it stands in a row, its heading in two lines, its format."""

    key: str
    heading: tuple[str, str]
    show: Callable[[Any], str]

    @property
    def title(self) -> str:
        """The heading on one line."""
        return " ".join(self.heading).strip()


COLUMNS = (
    Column("rank", ("", "#"), str),
    Column("label", ("", "optimizer"), str),
    Column("train_loss", ("train", "loss"), _number(".4f")),
    Column("eval_loss", ("eval", "loss"), _number(".4f")),
    Column("passes_per_step", ("passes", "/step"), _number(".3g")),
    Column("loss_at_equal_passes", ("loss at", "equal passes"), _number(".4f")),
    Column("loss_at_equal_time", ("loss at", "equal time"), _number(".4f")),
    Column("published_loss", ("published", "loss*"), _number(".4f")),
    Column("lr", ("", "lr"), _number(".3g")),
    Column("steps", ("", "steps"), _number("d")),
    Column("tokens_per_s", ("", "tokens/s"), _number(",.0f")),
    Column("optimizer_step_ms", ("optimizer", "ms/step"), _number(".2f")),
    Column("state_bytes_per_param", ("state", "B/param"), _number(".2f")),
    Column("peak_mem_bytes", ("peak", "MiB"), _number(",.0f", 2**-20)),
    Column("status", ("", "status"), str),
)


@dataclass(frozen=True)
class Board:
    """Ranked rows with what a reader must know to read them."""

    recipe: Recipe
    environment: dict[str, Any]
    rows: Sequence[Row]

    def to_dict(self) -> dict[str, Any]:
        """``{"recipe", "environment", "rows"}``, plain values without NaN.

        The recipe lists the optimizers of all rows, of this run and of earlier ones.
        """
        recipe = self.recipe.model_dump(mode="json")
        if self.rows:
            recipe["optimizers"] = _entries(self.rows)
        recipe = {"hash": canonical_hash(recipe, 12), "track": self.recipe.track, **recipe}
        return finite_only(
            {"recipe": recipe, "environment": self.environment, "rows": list(self.rows)}
        )

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line a row, unrounded; nested values as JSON."""
        rows = self.to_dict()["rows"]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0] if rows else ["rank"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
            )
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table for people, with its notes."""
        lines = [f"# {self.recipe.name}", "", self.recipe.description.strip(), ""]
        columns = self._columns()
        lines.append(_markdown_line([_escape(column.title) for column in columns]))
        lines.append(_markdown_line([":--" if c.key in _TEXT else "--:" for c in columns]))
        lines += [_markdown_line(_cells(row, columns)) for row in self.rows]
        lines += ["", *[f"- {_escape(note)}" for note in self.notes()]]
        return "\n".join(lines) + "\n"

    def notes(self) -> list[str]:
        """What stands under the table: reasons of failed rows, track, baseline, machine."""
        notes = [
            f"{row['label']}: {row['status']}: {row['reason']}"
            for row in self.rows
            if row["status"] != "done"
        ]
        metric = self.recipe.rank_by.replace("_", " ")
        notes.append(f"Ranked by {metric}, lower is better; {self.recipe.track}.")
        schedule = self.recipe.training.schedule
        other = [_schedule(row) for row in self.rows if row["schedule"] != schedule]
        if other:
            notes.append(f"Schedules other than {schedule}: {'; '.join(other)}.")
        unscaled = [row["optimizer"] for row in self.rows if _finds_step_size(row["optimizer"])]
        if unscaled and self.recipe.lr_scale != 1:
            notes.append(
                f"At the declared lr unscaled, of its own step size: {', '.join(unscaled)}."
            )
        notes += self._costs()
        untouched = self.environment.get("untouched_eval_loss")
        if untouched is not None:
            notes.append(f"The untouched model's eval loss is {untouched:.4f}.")
        if any(row["published_loss"] is not None for row in self.rows):
            notes.append(f"* {_PUBLISHED} {self._published_compares()}")
        elsewhere = self.environment.get("rows_measured_elsewhere", 0)
        if elsewhere:
            notes.append(
                f"{elsewhere} of {len(self.rows)} rows were measured on another machine or device, "
                "with other package versions or another number of threads: compare their speed and "
                "memory with care; losses may differ in the last digits as well."
            )
        if self.recipe.processes_per_trial > 1:
            count = self.recipe.processes_per_trial
            notes.append(
                f"Each trial ran on {count} processes; peak memory is that of one of them."
            )
        notes.append(_machine(self.environment))
        return notes

    def _columns(self) -> list[Column]:
        """Without those of passes where a step of every row takes one."""
        return [c for c in COLUMNS if c.key not in _OF_PASSES or self._takes_more_passes]

    @property
    def _takes_more_passes(self) -> bool:
        return any((row["passes_per_step"] or 1.0) > 1.0 for row in self.rows)

    def _costs(self) -> list[str]:
        """What the losses at equal cost are means over."""
        if not any(row["loss_at_equal_time"] is not None for row in self.rows):
            return []
        told = (
            "Loss at equal time: mean train loss over as many seconds of training as the fastest"
            " row took"
        )
        if self._takes_more_passes:
            told += (
                "; at equal passes: over as many forward and backward passes as a run has steps"
                " (SAM takes two a step)"
            )
        return [f"{told}. Fewer steps are fewer batches: small differences mean little."]

    def _published_compares(self) -> str:
        model, data = self.recipe.model, self.recipe.data.source
        same = model in _PUBLISHED_MODELS and data == _PUBLISHED_DATA
        return _PUBLISHED_HERE if same else _PUBLISHED_ELSEWHERE

    def to_rich(self, console: Console) -> Table:
        """The table for a terminal; where it is too narrow, the least telling columns go."""
        columns = self._columns()
        unbounded = console.options.update(max_width=1000)
        for gone in range(len(_FIRST_TO_GO) + 1):
            hidden = [column for column in columns if column.key in _FIRST_TO_GO[:gone]]
            table = self._rich_table([column for column in columns if column not in hidden])
            if console.measure(table, options=unbounded).maximum <= console.width:
                break
        if hidden:
            titles = ", ".join(column.title for column in hidden)
            table.caption = f"Columns hidden, see leaderboard.md: {titles}"
            table.caption_justify = "left"
        return table

    def _rich_table(self, columns: Sequence[Column]) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold"
        )
        for column in columns:
            table.add_column(
                "\n".join(column.heading),
                justify="left" if column.key in _TEXT else "right",
                no_wrap=True,
            )
        for row in self.rows:
            failed = row["status"] != "done"
            style = "red" if failed else "bold" if row["rank"] == 1 else ""
            table.add_row(*[column.show(row[column.key]) for column in columns], style=style)
        return table


_TEXT = ("label", "status")
_OF_PASSES = ("passes_per_step", "loss_at_equal_passes")
_FIRST_TO_GO = (
    "steps",
    "peak_mem_bytes",
    "optimizer_step_ms",
    "state_bytes_per_param",
    "loss_at_equal_time",
    "lr",
    "loss_at_equal_passes",
    "passes_per_step",
)


def _finds_step_size(spec: str) -> bool:
    info = parse_spec(spec).info
    return info is not None and info.finds_step_size


def _schedule(row: Row) -> str:
    demanded = row["schedule"] == "constant" and parse_spec(row["optimizer"]).demands_constant_lr
    return f"{row['label']} {row['schedule']}{', as the method demands' if demanded else ''}"


def _entries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as a recipe would list them, once for all seeds."""
    entries: list[dict[str, Any]] = []
    for row in rows:
        keys = {"spec": "optimizer", "lr": "lr", "schedule": "schedule", "args": "arguments"}
        entry = {key: row[of_row] for key, of_row in keys.items()}
        if entry not in entries:
            entries.append(entry)
    return entries


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    return [_escape(column.show(row[column.key])) for column in columns]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine(environment: dict[str, Any]) -> str:
    versions = environment["versions"]
    names = ("optbench_llm", "torch", "transformers")
    packages = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    where = f"{environment['processor']}, {environment['cores']} cores"
    device = environment.get("device")
    return f"{where}{f', {device}' if device and device != 'cpu' else ''}; {packages}."
