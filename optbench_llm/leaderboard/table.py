"""The leaderboard for programs (JSON, CSV) and for people (Markdown, terminal)."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import SkipValidation, TypeAdapter, ValidationError

from optbench_llm.leaderboard.columns import columns
from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.leaderboard.judgement import AA
from optbench_llm.leaderboard.markdown import markdown
from optbench_llm.leaderboard.notes import notes
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe
from optbench_llm.leaderboard.recipe_of_table import checked_before
from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.store import Untouched
from optbench_llm.leaderboard.terminal_table import rich_board, shown_columns
from optbench_llm.leaderboard.trial import canonical_hash
from optbench_llm.strict_json import finite_only

if TYPE_CHECKING:
    from rich.console import Console, Group


@dataclass(frozen=True)
class Board:
    """Ranked rows with what a reader must know to read them.

    ``entries`` are the optimizers of all rows as a recipe lists them, of this run and of earlier
    ones. Rows are named by their labels: ``baseline`` is what differences are to, ``took_part`` are
    the rows that the statistics rest on, ``other_data`` those that were trained on other batches
    than the others, ``not_begun`` those without a trial. ``measured_elsewhere`` counts rows that
    were not measured with ``environment``, ``trials_left`` trials of this run that are yet to end,
    of ``trials_planned``. ``baseline_loss_at_steps`` are the tuned baseline's test losses after
    runs of other lengths, which equivalent steps are told by.
    """

    recipe: SkipValidation[Recipe]
    environment: Environment
    rows: tuple[Row, ...]
    entries: tuple[OptimizerEntry, ...] = ()
    untouched: Untouched | None = None
    baseline: str | None = None
    baseline_loss_at_steps: dict[int, float] = field(default_factory=dict)
    noise_between_seeds: float | None = None
    aa: AA | None = None
    took_part: tuple[str, ...] = ()
    other_data: tuple[str, ...] = ()
    not_begun: tuple[str, ...] = ()
    measured_elsewhere: int = 0
    trials_left: int = 0
    trials_planned: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All of it, plain values without NaN."""
        environment = self.environment.to_dict()
        environment["rows_measured_elsewhere"] = self.measured_elsewhere
        values = {
            "recipe": self.recipe_values(),
            "environment": environment,
            "track": self.recipe.its_track,
            "ranked_by": self.recipe.ranked_by,
            "baseline": self.baseline,
            "baseline_loss_at_steps": {str(k): v for k, v in self.baseline_loss_at_steps.items()},
            "untouched": None if self.untouched is None else asdict(self.untouched),
            "noise_between_seeds": self.noise_between_seeds,
            "aa": None if self.aa is None else asdict(self.aa),
            "took_part": self.took_part,
            "other_data": self.other_data,
            "not_begun": self.not_begun,
            "trials_left": self.trials_left,
            "trials_planned": self.trials_planned,
            "rows": [row.to_dict() for row in self.rows],
        }
        return finite_only(values)

    def recipe_values(self) -> dict[str, Any]:
        """The recipe with the optimizers of all rows, and its hash."""
        recipe = self.recipe.model_dump(mode="json")
        if self.entries:
            recipe["optimizers"] = [entry.model_dump(mode="json") for entry in self.entries]
        return {"hash": canonical_hash(recipe, 12), **recipe}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Board:
        """The board that `to_json` gave this text of.

        Its recipe is not checked again, which would take the libraries of third-party optimizers;
        what an earlier version did not write has its default.

        Raises:
            ValueError: no JSON, or a key is missing or has a value of another type; names it.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("expected a JSON object")
        values["rows"] = [Row.from_dict(row) for row in values.get("rows", ())]
        environment = dict(values["environment"])
        values["measured_elsewhere"] = environment.pop("rows_measured_elsewhere", 0)
        values["environment"] = environment
        recipe = checked_before(values.pop("recipe"))
        judged = [row.label for row in values["rows"] if row.verdict.rank_interval is not None]
        values.setdefault("took_part", judged)
        own = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        try:
            board = _reader().validate_python({**own, "recipe": recipe})
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        return replace(board, entries=tuple(recipe.optimizers))

    def to_csv(self) -> str:
        """One line a row, unrounded; nested values as JSON."""
        rows = [finite_only(row.to_dict()) for row in self.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0] if rows else ["rank"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
            )
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table for people, every column, with its notes."""
        return markdown(self)

    def to_rich(self, console: Console) -> Group:
        """Headline and table for a terminal; where it is too narrow, columns go."""
        return rich_board(self, console)

    def notes(self, console: Console | None = None) -> list[str]:
        """What stands under the table: on the columns ``console`` shows, without one on all."""
        if console is None:
            return notes(self, columns(self.recipe, self.rows))
        return notes(self, shown_columns(self, console))


@cache
def _reader() -> TypeAdapter[Board]:
    return TypeAdapter(Board)
