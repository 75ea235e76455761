"""The columns that people see: where each stands, what it shows, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.rows import Interval, Row
from optbench_llm.terminal import MISSING

#: Marks a difference that more than chance may account for.
DIFFERS = "*"


@dataclass(frozen=True)
class Column:
    """One column: its key, its heading in two lines, its cells, and a sentence where one is needed.

    ``show`` gives None where a row has nothing to show. ``wide`` columns stand in files alone.
    """

    key: str
    heading: tuple[str, str]
    show: Callable[[Row], str | None]
    note: str = ""
    wide: bool = False
    text: bool = False

    @property
    def title(self) -> str:
        """The heading on one line."""
        return " ".join(self.heading).strip().replace("- ", "").replace(" /", "/")

    def cell(self, row: Row) -> str:
        """What stands in the table."""
        shown = self.show(row)
        return MISSING if shown is None else shown


def columns(recipe: Recipe, rows: Sequence[Row]) -> list[Column]:
    """Those of a recipe's track that at least one row has something to show in, in their order.

    The costs of passes are left out where every step takes one; the rank stands as an interval
    where there is one.
    """
    found = [c for c in _ordered(recipe) if any(c.show(row) is not None for row in rows)]
    keys = [column.key for column in found]
    left_out: set[str] = set()
    if not any((row.costs.passes_per_step or 1.0) > 1.0 for row in rows):
        left_out |= {"passes_per_step", "loss_at_equal_passes"}
    if "rank_interval" in keys:
        left_out.add("rank")
    if not any(run.status != "done" for row in rows for run in row.seeds):
        left_out.add("finished")
    if all(row.lr == row.tuning.declared_lr for row in rows):
        left_out.add("declared_lr")
    return [column for column in found if column.key not in left_out]


def _ordered(recipe: Recipe) -> list[Column]:
    by_key = {column.key: column for column in _all(recipe)}
    first = [*_FIRST, f"{recipe.ranked_by}", "difference"]
    order = [*first, *(key for key in by_key if key not in first)]
    return [by_key[key] for key in order]


_FIRST = ("rank", "rank_interval", "label")


def _all(recipe: Recipe) -> tuple[Column, ...]:
    baseline = recipe.baseline
    tuned = recipe.its_track == "tuned"
    metric = recipe.ranked_by.replace("_", " ")
    return (
        Column("rank", ("", "#"), lambda r: str(r.rank)),
        Column(
            "rank_interval",
            ("", "rank"),
            lambda r: _ranks(r.verdict.rank_interval),
            "Rank: from one more than the rows that are significantly better, to the last but those"
            " that are significantly worse; rows whose ranks overlap are not told apart.",
        ),
        Column("label", ("", "optimizer"), lambda r: r.label, text=True),
        Column(
            "test_loss",
            ("test", "loss"),
            lambda r: _with_half(r.test_loss, r.verdict.test_loss_interval),
            "Test loss: mean over seeds, ± half of its 95 % t interval over seeds on these test"
            " records."
            if len(recipe.all_seeds) > 1
            else "",
        ),
        Column(
            "difference",
            ("difference", f"to {baseline}"),
            difference_text,
            f"Difference to {baseline}: of mean {metric}, ± half of its 95 % interval; {DIFFERS}"
            " where it exceeds what chance and the search for the lr may hide (Holm-adjusted p"
            " below 0.05).",
        ),
        Column(
            "train_loss",
            ("train", "loss"),
            lambda r: _loss(r.train_loss),
            "Train loss: mean over the whole run, and over seeds." if tuned else "",
        ),
        Column("eval_loss", ("eval", "loss"), lambda r: _loss(r.eval_loss)),
        Column("lr", ("", "lr"), lambda r: _lr(r.lr)),
        Column(
            "optimizer_step_ms",
            ("optim.", "ms"),
            lambda r: _number(r.costs.optimizer_step_ms, ".2f"),
            "Optim. ms: milliseconds of the optimizer's own step, median.",
        ),
        Column(
            "passes_per_step",
            ("passes", "/step"),
            lambda r: _number(r.costs.passes_per_step, ".3g"),
            "Passes/step: forward and backward passes over as much data as a batch.",
        ),
        Column(
            "loss_at_equal_passes",
            ("loss at", "equal passes"),
            lambda r: _loss(r.at_equal_cost.loss_at_equal_passes),
            "Loss at equal passes: mean train loss over as many forward and backward passes as a"
            " run has steps (SAM takes two a step).",
            wide=tuned,
        ),
        Column(
            "loss_at_equal_time",
            ("loss at", "equal time"),
            lambda r: _loss(r.at_equal_cost.loss_at_equal_time),
            "Loss at equal time: mean train loss over as many seconds of training as the fastest"
            " row took. Fewer steps are fewer batches: small differences mean little.",
            wide=tuned,
        ),
        Column(
            "published_loss",
            ("published", "loss†"),
            lambda r: _loss(r.published_loss),
            wide=tuned,
        ),
        Column(
            "equivalent_baseline_steps",
            (baseline, "steps"),
            _equivalent,
            f"{baseline} steps: after how many {baseline}, tuned as it is here, has this test loss;"
            " ≤ and ≥ beyond the lengths at which it was run.",
        ),
        Column(
            "sensitivity",
            ("lr sensi-", "tivity"),
            lambda r: _loss(r.tuning.sensitivity),
            "Lr sensitivity: mean validation loss over the lrs tried within a decade of the best,"
            " less the best of them; failures count as the untouched model.",
        ),
        Column(
            "lr_tolerance",
            ("lr toler-", "ance"),
            lambda r: _number(r.tuning.lr_tolerance, ".2f"),
            f"Lr tolerance: decades of lr around the best that lose at most 5 % of {baseline}'s"
            " gain over the untouched model.",
        ),
        Column("steps", ("", "steps"), lambda r: _number(r.costs.steps, "d"), wide=tuned),
        Column("tokens_per_s", ("", "tokens/s"), lambda r: _number(r.costs.tokens_per_s, ",.0f")),
        Column(
            "state_bytes_per_param",
            ("state", "B/param"),
            lambda r: _number(r.costs.state_bytes_per_param, ".2f"),
        ),
        Column(
            "peak_mem_bytes",
            ("peak", "MiB"),
            lambda r: _number(r.costs.peak_mem_bytes, ",.0f", 2**-20),
        ),
        Column(
            "train_wall_s",
            ("", "seconds"),
            lambda r: _number(r.costs.train_wall_s, ",.1f"),
            "Seconds: of the training of one trial, median over the row's.",
            wide=True,
        ),
        Column(
            "test_loss_interval_records",
            ("test loss", "other records"),
            lambda r: _range(r.verdict.test_loss_interval_records),
            "Test loss, other records: its 95 % interval over seeds and over other test records"
            " like these.",
            wide=True,
        ),
        Column(
            "loss_at_declared_lr",
            ("loss at", "declared lr"),
            lambda r: _loss(r.tuning.loss_at_declared_lr),
            "Loss at declared lr: test loss of the search's trial there, which is one seed, so its"
            " noise is larger than that of test loss.",
            wide=True,
        ),
        Column(
            "declared_lr",
            ("declared", "lr"),
            lambda r: _lr(r.tuning.declared_lr),
            "Declared lr: the middle of the row's search.",
            wide=True,
        ),
        *(_tries(k) for k in ("1", "3", "5")),
        Column(
            "edges",
            ("edge of", "search"),
            lambda r: " ".join(r.tuning.edges) or None,
            "Edge of search: the best lr tried was the lowest or highest, so that a better one may"
            " lie beyond.",
            wide=True,
            text=True,
        ),
        Column(
            "weight_decay",
            ("weight", "decay"),
            lambda r: _number(r.weight_decay, "g") if recipe.training.weight_decay != 0 else None,
            wide=True,
        ),
        Column(
            "finished",
            ("seeds", "done"),
            lambda r: f"{r.finished[0]} of {r.finished[1]}",
            wide=True,
        ),
        Column("status", ("", "status"), lambda r: r.status, text=True),
    )


def _tries(k: str) -> Column:
    return Column(
        f"with_{k}",
        (f"with {k}", "try" if k == "1" else "tries"),
        lambda r: _loss((r.tuning.with_tries or {}).get(k)),
        "With 1, 3, 5 tries: expected test loss of who tries so many of the five coarse lrs and"
        " keeps the best on validation; one seed, failures count as the untouched model."
        if k == "1"
        else "",
        wide=True,
    )


def _number(value: float | None, pattern: str, scale: float = 1) -> str | None:
    return None if value is None else format(value * scale, pattern)


def _lr(value: float | None) -> str | None:
    """Three digits, as people write learning rates."""
    if value is None or value >= 1e-3:
        return _number(value, ".3g")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _loss(value: float | None) -> str | None:
    return _number(value, ".4f")


def _half_width(interval: Interval) -> str:
    low, high = interval
    return f"±{(high - low) / 2:.4f}".replace("±0.", "±.")


def _with_half(loss: float | None, interval: Interval | None) -> str | None:
    if loss is None or interval is None:
        return _loss(loss)
    return f"{loss:.4f}{_half_width(interval)}"


def difference_text(row: Row) -> str | None:
    """The difference to the baseline, half of its interval, and the mark of a claim."""
    verdict = row.verdict
    if verdict.difference is None or verdict.difference_interval is None:
        return None
    mark = DIFFERS if verdict.differs else " "
    return f"{verdict.difference:+.4f}{_half_width(verdict.difference_interval)}{mark}"


def _range(interval: Interval | None) -> str | None:
    return None if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _ranks(interval: tuple[int, int] | None) -> str | None:
    if interval is None:
        return None
    low, high = interval
    return str(low) if low == high else f"{low}–{high}"


def _equivalent(row: Row) -> str | None:
    steps, bound = (
        row.verdict.equivalent_baseline_steps,
        row.verdict.equivalent_baseline_steps_bound,
    )
    if steps is None:
        return None
    sign = {"at most": "≤ ", "at least": "≥ ", None: ""}[bound]
    return f"{sign}{steps:.0f}"
