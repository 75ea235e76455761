"""Hands a board's trials out to workers, as the results so far call for them."""

from __future__ import annotations

from collections.abc import Iterator

from optbench_llm.leaderboard.plan import Plan, RowTrials
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import TrialSpec


class Agenda:
    """The trials of a plan that are still to run, in the order of its rows.

    A search's later trials follow from the results of its earlier ones, so the list grows while it
    is worked off; what it grows to does not depend on who finishes what first. A row stays with the
    worker that has its code; a worker without a row takes the first that nobody works at.

    ``results`` are those of the store, by trial id. What failed there without being final is run
    once more; what fails now is not.
    """

    def __init__(self, plan: Plan, results: dict[str, TrialResult]) -> None:
        self._plan = plan
        self._results = results
        self._again: set[str] = {id for id, result in results.items() if not result.final}
        self._running: dict[str, int] = {}
        self._at: dict[int, int] = {}
        self._entries = plan.own_entries()
        self._rows = [self._row(number) for number in range(len(self._entries))]

    @property
    def rows(self) -> list[RowTrials]:
        """Every row's trials, as far as they are known."""
        return list(self._rows)

    @property
    def again(self) -> frozenset[str]:
        """Ids of stored trials that are to run once more."""
        return frozenset(self._again)

    def missing(self) -> list[TrialSpec]:
        """All trials known to be needed and neither finished nor running."""
        return [trial for number in range(len(self._rows)) for trial in self._missing(number)]

    def tried_again(self) -> list[str]:
        """``spec (status)`` of the missing trials that an earlier run has already tried."""
        found = ((trial, self._results.get(trial.id)) for trial in self.missing())
        return [f"{trial.spec} ({result.record.status})" for trial, result in found if result]

    def planned(self) -> int:
        """How many trials the board takes in all, those of unfinished searches counted in full."""
        recipe = self._plan.recipe
        known: set[str] = set()
        unknown = 0
        for row in self._rows:
            if recipe.its_track != "tuned" or row.lr is not None or self._is_over(row):
                known |= {trial.id for trial in row.trials}
            else:
                unknown += self._plan.trials_of(row.entry, is_a_a=row.is_a_a)
        return len(known) + unknown

    def ended(self) -> int:
        """How many of the known trials need no other run."""
        ids = {trial.id for row in self._rows for trial in row.trials}
        return sum(id in self._results and id not in self._again for id in ids)

    def is_to_run(self, trial: TrialSpec) -> bool:
        """Whether a known trial is still to be run, or run again."""
        return trial.id not in self._results or trial.id in self._again

    def take(self, worker: int) -> TrialSpec | None:
        """The next trial for this worker; None where there is none now."""
        number = next(self._rows_for(worker), None)
        if number is None:
            return None
        trial = next(self._missing(number))
        self._at[worker] = number
        self._running[trial.id] = number
        return trial

    def waiting(self) -> int:
        """How many trials could be taken now."""
        return len(self.missing())

    def finished(self, trial: TrialSpec) -> None:
        """Go on from what the store now holds of ``trial``."""
        result = self._results.get(trial.id)
        if result is not None and result.record.status == "interrupted":
            self._again.add(trial.id)
        else:
            self._again.discard(trial.id)
        self._running.pop(trial.id, None)
        for number, row in enumerate(self._rows):
            entry = row.entry
            if (entry.spec, entry.args) == (trial.spec, trial.hyperparameters):
                self._rows[number] = self._row(number)

    def _row(self, number: int) -> RowTrials:
        entry, is_a_a = self._entries[number]
        return self._plan.row(entry, self._results, self._again, is_a_a=is_a_a)

    def _missing(self, number: int) -> Iterator[TrialSpec]:
        seen: set[str] = set()
        for trial in self._rows[number].trials:
            if trial.id in self._running or trial.id in seen:
                continue
            seen.add(trial.id)
            if self.is_to_run(trial):
                yield trial

    def _rows_for(self, worker: int) -> Iterator[int]:
        """Rows with something to run: this worker's, then those of nobody, then those of others."""
        taken = {row for of, row in self._at.items() if of != worker}
        own = self._at.get(worker)
        numbers = sorted(range(len(self._rows)), key=lambda i: (i != own, i in taken, i))
        return (i for i in numbers if next(self._missing(i), None) is not None)

    def _is_over(self, row: RowTrials) -> bool:
        """Whether a search has ended without an lr: it found none, or every trial failed."""
        results = [self._results.get(trial.id) for trial in row.search]
        return all(r is not None and r.trial.id not in self._again for r in results)
