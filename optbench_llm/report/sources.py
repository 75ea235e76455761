"""What a page is made of: the boards of stores, and the loss curves of their trials."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optbench_llm.leaderboard.identity import Identity
from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.store import read_identity
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.trial_files import read_result
from optbench_llm.run_record import Curves

#: The track that claims most comes first.
_TRACKS = ("tuned", "declared", "reference")


@dataclass(frozen=True)
class Source:
    """A board, and the store that its trials are in.

    ``identity`` is None of a table that stands alone, without the trials.
    """

    board: Board
    store: Path
    identity: Identity | None = None

    @property
    def name(self) -> str:
        """The recipe's name, and its track where a reader may think of another."""
        recipe = self.board.recipe
        track = recipe.its_track
        return recipe.name if track in recipe.name else f"{recipe.name}, {track}"

    def curves(self, row: Row) -> dict[int, Curves]:
        """What each finished seed of a row has many values of, by seed.

        Raises:
            ValueError: a trial is missing or damaged; names its folder and what to do.
        """
        return {run.seed: self._curves(row, run.trial) for run in row.seeds if run.status == "done"}

    def _curves(self, row: Row, id: str) -> Curves:
        if id not in self._folders:
            raise ValueError(f"{self.store}: the trial {id} of {row.label} is missing")
        return read_result(self.store / "trials" / self._folders[id]).curves()

    @cached_property
    def _folders(self) -> dict[str, str]:
        """The trials' folders by their ids."""
        trials = self.store / "trials"
        found = os.listdir(trials) if trials.is_dir() else []
        return {name.rpartition("-")[2]: name for name in found}


def names(sources: Sequence[Source]) -> list[str]:
    """What the boards are called where they stand together: those called alike by their stores."""
    own = [source.name for source in sources]
    return [
        name if own.count(name) == 1 else f"{name} ({source.store})"
        for name, source in zip(own, sources, strict=True)
    ]


def read_sources(stores: Sequence[Path]) -> list[Source]:
    """The boards of the stores, every track of each; no store is written to.

    Raises:
        ValueError: a folder is no store, holds no table or one that is damaged, or is named twice;
            says what to do.
    """
    places = [store.resolve() for store in stores]
    for place, store in zip(places, stores, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{store}: is named twice")
    return [source for store in stores for source in _of_store(store)]


def _of_store(store: Path) -> Iterator[Source]:
    tables = [store / f"leaderboard-{track}.json" for track in _TRACKS]
    found = [path for path in tables if path.is_file()]
    found = found or [path for path in [store / "leaderboard.json"] if path.is_file()]
    if not found:
        raise ValueError(_nothing_in(store))
    identity = read_identity(store)
    for path in found:
        try:
            board = Board.from_json(path.read_bytes())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"no key {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{path}: is no whole table ({what}); "
                f"optbench-llm leaderboard RECIPE --store {store} writes it anew"
            ) from error
        yield Source(board, store, identity)


def _nothing_in(store: Path) -> str:
    if not store.exists():
        return f"{store}: no such folder; a store is what optbench-llm leaderboard --store wrote"
    if (store / "store.json").is_file():
        return (
            f"{store}: holds trials and no table of them yet; "
            f"optbench-llm leaderboard RECIPE --store {store} writes it"
        )
    if (store / "recipe.json").is_file():
        return (
            f"{store}: was written by an older version of optbench-llm; convert it: "
            f"optbench-llm convert {store} --into NEW"
        )
    return f"{store}: holds no store (no store.json)"
