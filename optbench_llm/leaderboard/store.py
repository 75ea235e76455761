"""The store: a folder of trials, the truth for every table.

``store.json`` says which model, data and training all its trials share, ``rows.json`` which rows
runs have asked for, ``untouched.json`` what the model lost before any training. Each trial is a
folder ``trials/<spec>-<id>``, which is there whole or not at all. One process at a time writes to a
store: it holds a file lock that dies with it. Anyone may read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, StrictFloat, StrictStr, TypeAdapter, ValidationError

from optbench_llm.leaderboard.durable import (
    SCRATCH,
    clear_scratch,
    refusing,
    write_file,
    write_folder,
)
from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.faults import first_fault
from optbench_llm.leaderboard.identity import Identity
from optbench_llm.leaderboard.recipe import OptimizerEntry, Schedule
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.leaderboard.trial_files import copied_files, read_result, result_files
from optbench_llm.run_record import RunRecord
from optbench_llm.strict_json import finite_only

FORMAT = 2
_IDENTITY, _ROWS, _UNTOUCHED = "store.json", "rows.json", "untouched.json"
_OTHER_STORE = "choose another folder with --store"


@dataclass(frozen=True)
class Untouched:
    """Losses of the model before any training; None where a split is empty or was not measured."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    eval_loss: StrictFloat | None = None
    test_loss: StrictFloat | None = None


@dataclass(frozen=True)
class _Row:
    """A row of a table as it is stored. It was checked when a run asked for it.

    To check it again would take the provider of a third-party optimizer, which whoever reads a
    store need not have.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    spec: StrictStr
    lr: StrictFloat | None
    schedule: Schedule | None
    args: dict[str, Any]


@dataclass
class Store:
    """A folder of trials that belong together; ``by_id`` holds them, by the ids of their specs."""

    path: Path
    identity: Identity
    by_id: dict[str, TrialResult] = field(default_factory=dict, repr=False)
    rows: list[OptimizerEntry] = field(default_factory=list, repr=False)
    untouched: Untouched | None = None

    @classmethod
    def read(cls, path: Path, identity: Identity | None = None) -> Store:
        """Look into the store at ``path`` without writing; without an identity, whatever it holds.

        With one, a store that does not exist is empty.

        Raises:
            ValueError: no store where one is expected, one of another model, data or training or
                of another format, or a file in it is damaged.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"store {path}: is not a folder; choose another with --store")
        there = read_identity(path)
        if there is None:
            if identity is None:
                raise ValueError(f"store {path}: holds no store (no {_IDENTITY})")
            return cls(path, identity)
        differing = identity.differences(there) if identity else []
        if differing:
            raise ValueError(
                f"store {path}: holds results of another model, data or training, which cannot be "
                f"ranked with these ({'; '.join(differing)}); {_OTHER_STORE}"
            )
        rows = [] if (rows := _read_json(path / _ROWS)) is None else _stored(path / _ROWS, rows)
        untouched = _read_json(path / _UNTOUCHED)
        return cls(
            path,
            there,
            {result.trial.id: result for result in map(read_result, _trial_folders(path))},
            [OptimizerEntry.model_construct(**asdict(row)) for row in rows],
            None if untouched is None else _stored(path / _UNTOUCHED, untouched),
        )

    @classmethod
    @contextmanager
    def open(cls, path: Path, identity: Identity) -> Iterator[Store]:
        """Open the store at ``path`` for writing, alone, and clear what a killed run left.

        Raises:
            ValueError: ``path`` cannot be written, another process is writing there, or as `read`.
        """
        with refusing(path):
            (path / "trials").mkdir(parents=True, exist_ok=True)
            lock = open(path / "lock", "a+", encoding="utf-8")  # noqa: SIM115
        with lock:
            with refusing(path):
                _take(lock, path)
                clear_scratch(path / "trials")
            store = cls.read(path, identity)
            if not (path / _IDENTITY).exists():
                store._write_json(_IDENTITY, {"format": FORMAT, **identity.to_dict()})
            try:
                yield store
            finally:
                clear_scratch(path / "trials")

    @property
    def results(self) -> list[TrialResult]:
        """Every trial in the store, finished or failed."""
        return list(self.by_id.values())

    def get(self, trial: TrialSpec) -> TrialResult | None:
        """The stored result of ``trial``, if there is one."""
        return self.by_id.get(trial.id)

    def put(
        self, trial: TrialSpec, record: RunRecord, wall_s: float, environment: Environment
    ) -> TrialResult:
        """Keep a trial's outcome; takes the place of an earlier one. Safe against a crash.

        Returns the result as the next reader will see it.

        Raises:
            ValueError: the disk is full or cannot be written; all that was stored is whole.
        """
        return self._keep(trial, result_files(trial, record, wall_s, environment))

    def copy(self, result: TrialResult, source: Store) -> TrialResult:
        """Keep a result of another store, file for file; takes the place of an earlier one.

        Raises:
            ValueError: its curves are damaged, or the disk is full or cannot be written.
        """
        result.curves()
        return self._keep(result.trial, copied_files(source._folder(result.trial)))

    def add_rows(self, entries: Sequence[OptimizerEntry]) -> None:
        """Remember the rows that a run asks for, behind those of earlier runs.

        Raises:
            ValueError: as :meth:`put`.
        """
        rows = list(self.rows)
        for entry in entries:
            if entry not in rows:
                rows.append(entry)
        if len(rows) > len(self.rows):
            self._write_json(_ROWS, [entry.model_dump(mode="json") for entry in rows])
            self.rows = rows

    def put_untouched(self, untouched: Untouched) -> None:
        """Keep the untouched model's losses.

        Raises:
            ValueError: as :meth:`put`.
        """
        values = finite_only(asdict(untouched))
        self._write_json(_UNTOUCHED, values)
        self.untouched = Untouched(**values)

    def write(self, name: str, text: str) -> None:
        """Write a file beside the trials, whole or not at all.

        Raises:
            ValueError: as :meth:`put`.
        """
        with refusing(self.path):
            write_file(self.path / name, text.encode())

    def scratch_folder(self, name: str) -> Path:
        """A folder for a worker's temporary files; the next opening clears it."""
        folder = self.path / "trials" / f"{SCRATCH}{name}"
        with refusing(self.path):
            folder.mkdir(exist_ok=True)
        return folder

    def _folder(self, trial: TrialSpec) -> Path:
        return self.path / "trials" / trial.folder

    def _keep(self, trial: TrialSpec, files: dict[str, bytes]) -> TrialResult:
        folder = self._folder(trial)
        with refusing(self.path):
            write_folder(folder, files)
        result = read_result(folder)
        self.by_id[trial.id] = result
        return result

    def _write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_identity(path: Path) -> Identity | None:
    """What the store at ``path`` says that it holds; None where there is no store.

    Raises:
        ValueError: a store of another format, or one that is damaged; says what to do.
    """
    file = path / _IDENTITY
    values = _read_json(file)
    if values is None:
        if (path / "recipe.json").exists():
            raise ValueError(
                f"store {path}: was written by an older version of optbench-llm; convert it: "
                f"optbench-llm convert {path} --into NEW"
            )
        if next(_trial_folders(path), None) is not None:
            raise ValueError(
                f"store {path}: holds trials and no {_IDENTITY} that says of what model, data and "
                f"training; {_OTHER_STORE}"
            )
        return None
    found = values.pop("format", None) if isinstance(values, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ValueError(
            f"store {path}: has format {found}, and this version of optbench-llm reads {FORMAT}; "
            f"install a later one, or {_OTHER_STORE}"
        )
    if found != FORMAT:
        raise ValueError(f"{file}: damaged (expected format {FORMAT}); {_OTHER_STORE}")
    try:
        return Identity.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{file}: damaged ({error}); {_OTHER_STORE}") from error


def _read_json(path: Path) -> Any:
    """The JSON in a file beside the trials; None where there is no such file."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {_OTHER_STORE}") from error
    if value is None:
        raise ValueError(f"{path}: damaged (holds null); {_OTHER_STORE}")
    return value


def _stored(path: Path, value: Any) -> Any:
    try:
        return _readers()[path.name].validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{path}: damaged ({first_fault(error)}); {_OTHER_STORE}") from None


@cache
def _readers() -> dict[str, TypeAdapter[Any]]:
    return {_ROWS: TypeAdapter(list[_Row]), _UNTOUCHED: TypeAdapter(Untouched)}


def _trial_folders(path: Path) -> Iterator[Path]:
    trials = path / "trials"
    if trials.is_dir():
        names = sorted(e.name for e in os.scandir(trials) if e.is_dir() and e.name[0] != ".")
        yield from (trials / name for name in names)


def _take(lock: Any, path: Path) -> None:
    if sys.platform == "win32":
        raise ValueError(f"store {path}: leaderboards run on Linux and macOS; on Windows use WSL")
    try:
        _lock(lock)
    except BlockingIOError:
        lock.seek(0)
        raise ValueError(
            f"store {path}: process {lock.read().strip() or '?'} is writing to it; "
            f"wait for it, or {_OTHER_STORE}"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _lock(lock: Any) -> None:
    """Take the lock; who only asks for the status holds it for a moment."""
    import fcntl  # Windows has none

    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
