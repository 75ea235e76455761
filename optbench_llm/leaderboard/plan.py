"""Which trials a recipe needs, given those that are there: a pure function, row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optbench_llm.data import data_fingerprint
from optbench_llm.leaderboard import search
from optbench_llm.leaderboard.identity import Identity, identity
from optbench_llm.leaderboard.optimizer_settings import check_settings
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import Inputs, TrialSpec, trial_of
from optbench_llm.models import model_fingerprint

#: The second AdamW of a tuned board starts its search so far off, in decades.
A_A_OFFSET = 0.25

Results = Mapping[str, TrialResult]


@dataclass(frozen=True)
class RowTrials:
    """The trials of one row, as far as they are known.

    ``search`` are those of the search for its lr, ``lr`` what its ``seeds`` run at: None, and no
    seeds, while the search is not over or has found nothing. ``budgets`` are the tuned baseline's
    runs of other lengths, by their steps.
    """

    entry: OptimizerEntry
    is_a_a: bool = False
    search: tuple[TrialSpec, ...] = ()
    found: search.Found | None = None
    lr: float | None = None
    seeds: tuple[TrialSpec, ...] = ()
    budgets: Mapping[int, tuple[TrialSpec, ...]] = field(default_factory=dict)

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """All of them, in the order in which they can run."""
        return (*self.search, *self.seeds, *(t for of in self.budgets.values() for t in of))


@dataclass(frozen=True)
class Part:
    """Every N-th row of a recipe, from one of the first N on: the share of one of N machines."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """``2/5``: of five parts the second.

        Raises:
            ValueError: not of that form.
        """
        number, _, of = text.partition("/")
        if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise ValueError(f"--part {text!r}: expected I/N, such as 2/5 for the second part of five")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class Plan:
    """A recipe over what its model and data are, by content; with a ``part``, that alone is run."""

    recipe: Recipe
    inputs: Inputs
    part: Part | None = None

    @property
    def identity(self) -> Identity:
        """What a store must have in common with this plan to take its trials."""
        return identity(self.recipe, self.inputs)

    def with_rows(self, others: Iterable[OptimizerEntry]) -> Plan:
        """The same plan with those of ``others`` as well that its recipe does not list."""
        listed = list(self.recipe.optimizers)
        more = [entry for entry in others if entry not in listed]
        return replace(self, recipe=self.recipe.model_copy(update={"optimizers": listed + more}))

    def entries(self) -> list[tuple[OptimizerEntry, bool]]:
        """Every row, and whether it is the second of the baseline, which follows the first."""
        rows: list[tuple[OptimizerEntry, bool]] = []
        baseline, a_a = self.baseline_row(), self.a_a_row()
        for entry in self.recipe.optimizers:
            rows.append((entry, False))
            if a_a is not None and entry == baseline:
                rows.append((a_a, True))
        return rows

    def own_entries(self) -> list[tuple[OptimizerEntry, bool]]:
        """Those of its part; the baseline's two rows stay together, they may share trials."""
        rows = self.entries()
        if self.part is None:
            return rows
        own, number = [], -1
        for entry, is_a_a in rows:
            number += not is_a_a
            if number % self.part.of == self.part.number - 1:
                own.append((entry, is_a_a))
        return own

    def a_a_row(self) -> OptimizerEntry | None:
        """The baseline a second time, from another declared lr; None outside the tuned track."""
        baseline = self.baseline_row()
        if baseline is None:
            return None
        offset = search.rounded(self.recipe.lr_of(baseline) * 10**A_A_OFFSET)
        return baseline.model_copy(update={"lr": offset})

    def baseline_row(self) -> OptimizerEntry | None:
        """What tuned rows are compared with, if the recipe lists it."""
        rows = self.recipe.optimizers
        place = baseline_place(self.recipe, rows) if self.recipe.its_track == "tuned" else None
        return None if place is None else rows[place]

    def row(
        self,
        entry: OptimizerEntry,
        results: Results,
        again: Collection[str] = (),
        *,
        is_a_a: bool = False,
    ) -> RowTrials:
        """The trials of one row that ``results`` leave known.

        What neither finished nor diverged counts as infinitely bad in a search, but for the ids in
        ``again``, which are to be run once more, and for what was interrupted.
        """
        recipe = self.recipe
        if recipe.its_track != "tuned":
            lr = recipe.lr_of(entry)
            row = RowTrials(entry, lr=lr, seeds=self._seeds(entry, lr))
        else:
            row = self._tuned(entry, results, again, is_a_a)
        return self._with_engine(row, results)

    def trials_of(self, entry: OptimizerEntry, *, is_a_a: bool = False) -> int:
        """How many trials one row takes in all, before any of its results are known."""
        recipe = self.recipe
        seeds = len(recipe.all_seeds)
        if recipe.its_track != "tuned":
            return seeds
        return recipe.search.trials + seeds * (1 + len(self.lengths(entry, is_a_a=is_a_a)))

    def lengths(self, entry: OptimizerEntry, *, is_a_a: bool = False) -> list[int]:
        """The other lengths that a row is run at, in steps: of the tuned baseline alone."""
        steps = self.recipe.training.max_steps
        if steps is None or is_a_a or entry != self.baseline_row():
            return []
        lengths = {max(1, round(steps * budget)) for budget in self.recipe.baseline_budgets}
        return sorted(lengths - {steps})

    def check(self) -> None:
        """Raise ValueError where an optimizer does not take what the recipe sets for it."""
        for entry in self.recipe.optimizers:
            trial = trial_of(self.recipe, entry, self.recipe.lr_of(entry), 0)
            try:
                check_settings(trial.spec, trial.settings)
            except ValueError as error:
                raise ValueError(f"recipe {self.recipe.name}: {error}") from error

    def _tuned(
        self, entry: OptimizerEntry, results: Results, again: Collection[str], is_a_a: bool
    ) -> RowTrials:
        recipe, count = self.recipe, self.recipe.search.trials
        declared = recipe.lr_of(entry)

        def at(lr: float) -> TrialSpec:
            return trial_of(recipe, entry, lr, recipe.search.seed)

        losses: dict[float, float] = {}
        hopeless = True
        asked: list[float] = []
        while new := search.next_lrs(losses, declared, count):
            asked += new
            found = [(lr, results.get(at(lr).id)) for lr in new]
            known = [(lr, result) for lr, result in found if _counts(result, again)]
            losses |= {lr: result.validation_loss for lr, result in known if result}
            hopeless &= all(result and result.failed for _, result in known)
            if len(known) < len(new) or (hopeless and known):
                break
        trials = tuple(at(lr) for lr in asked)
        won = None if len(losses) < len(asked) else search.found(losses, declared, count)
        row = RowTrials(entry, is_a_a, trials, won)
        if won is None:
            return row
        seeds = self._seeds(entry, won.lr)
        lengths = self.lengths(entry, is_a_a=is_a_a)
        budgets = {count: self._seeds(entry, won.lr, count) for count in lengths}
        return replace(row, lr=won.lr, seeds=seeds, budgets=budgets)

    def _seeds(
        self, entry: OptimizerEntry, lr: float, max_steps: int | None = None
    ) -> tuple[TrialSpec, ...]:
        recipe = self.recipe
        return tuple(
            trial_of(recipe, entry, lr, seed, max_steps=max_steps) for seed in recipe.all_seeds
        )

    def _with_engine(self, row: RowTrials, results: Results) -> RowTrials:
        """The row with all its trials told how to run: by what it has compiled or not before."""
        steps = self.recipe.training.max_steps
        count = len(self.recipe.all_seeds)
        if self.recipe.its_track == "tuned":
            count += self.recipe.search.trials
        planned = None if steps is None else steps * count
        done = (results.get(trial.id) for trial in row.trials)
        engines = [r.record.engine for r in done if r and r.record.engine not in (None, "foreign")]
        how = {"planned_steps": planned, "engine": engines[0] if engines else "auto"}

        def told(trials: tuple[TrialSpec, ...]) -> tuple[TrialSpec, ...]:
            return tuple(replace(trial, **how) for trial in trials)

        budgets = {steps: told(trials) for steps, trials in row.budgets.items()}
        return replace(row, search=told(row.search), seeds=told(row.seeds), budgets=budgets)


def baseline_place(recipe: Recipe, entries: Sequence[OptimizerEntry]) -> int | None:
    """Which of these rows the others are compared with: the baseline's with the fewest arguments.

    None where it is not among them.
    """
    places = [place for place, entry in enumerate(entries) if entry.spec == recipe.baseline]
    return min(places, key=lambda place: len(entries[place].args), default=None)


def make_plan(recipe: Recipe) -> Plan:
    """Find out what the recipe's model and data are, by content.

    Raises:
        ValueError: model or data cannot be found, or an optimizer does not take what the recipe
            sets for it.
    """
    plan = Plan(recipe, Inputs(model_fingerprint(recipe.model), data_fingerprint(recipe.data)))
    plan.check()
    return plan


def _counts(result: TrialResult | None, again: Collection[str]) -> bool:
    """Whether a search may go by this result."""
    if result is None or result.record.status == "interrupted":
        return False
    return result.final or result.trial.id not in again
