"""The store: a folder of trials, the truth for every table.

``recipe.json`` says which recipe, model, data and package version all its trials share; each trial
is a folder ``trials/<spec>-<id>`` with ``result.json`` and ``losses.jsonl``. A trial's folder is
written under a temporary name, flushed to the disk and renamed, so that it is there whole or not at
all. One process at a time writes to a store: it holds a file lock that dies with it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.trial import Inputs, TrialSpec
from optbench_llm.strict_json import finite_only

FINAL = ("done", "diverged")
_SCRATCH = ".tmp-"
_OTHER_STORE = "choose another folder with --store"


@dataclass(frozen=True)
class TrialResult:
    """What one trial gave: its ``RunRecord`` as a dict, its losses, and where it ran."""

    trial: dict[str, Any]
    id: str
    record: dict[str, Any]
    losses: list[float | None]
    environment: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether the same trial would give the same again; all else is worth another try."""
        return self.record["status"] in FINAL


def identity(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """What all trials of a store share: without it, two results must not stand in one ranking."""
    return {
        "name": recipe.name,
        "version": recipe.version,
        "model": inputs.model_fingerprint,
        "data": inputs.data_fingerprint,
        "package": inputs.package_version,
        "lr": recipe.lr,
        "lr_scale": recipe.lr_scale,
        "seeds": list(recipe.seeds),
        "training": recipe.training.model_dump(mode="json"),
        **recipe.launch,
    }


@dataclass
class Store:
    """A folder of trials that belong together."""

    path: Path
    identity: dict[str, Any]
    _results: dict[str, TrialResult] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: Path, identity: dict[str, Any]) -> Store:
        """Look into the store at ``path`` without writing; one that does not exist is empty.

        Raises:
            ValueError: ``path`` is no folder, a file in it is damaged, or the store belongs to
                another recipe, model, data or package version.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"store {path}: is not a folder; choose another with --store")
        store = cls(path, identity)
        store._refuse_others()
        store._results = {result.id: result for result in store._read_results()}
        return store

    @classmethod
    @contextmanager
    def open(cls, path: Path, identity: dict[str, Any]) -> Iterator[Store]:
        """Open the store at ``path`` for writing, alone, and clear what a killed run left.

        Raises:
            ValueError: ``path`` cannot be written, another process is writing there, or the store
                belongs to another recipe, model, data or package version.
        """
        try:
            (path / "trials").mkdir(parents=True, exist_ok=True)
            lock = open(path / "lock", "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise ValueError(
                f"store {path}: cannot be written ({error.strerror}); choose another with --store"
            ) from error
        with lock:
            _take(lock, path)
            store = cls.read(path, identity)
            store._clear_scratch()
            if not (path / "recipe.json").exists():
                store.write_json("recipe.json", identity)
            try:
                yield store
            finally:
                store._clear_scratch()

    @property
    def results(self) -> list[TrialResult]:
        """Every trial in the store, finished or failed."""
        return list(self._results.values())

    def get(self, trial: TrialSpec) -> TrialResult | None:
        """The stored result of ``trial``, if there is one."""
        return self._results.get(trial.id)

    def put(
        self,
        trial: TrialSpec,
        record: dict[str, Any],
        losses: list[float],
        environment: dict[str, Any],
    ) -> TrialResult:
        """Keep a trial's outcome; takes the place of an earlier one. Safe against a crash."""
        finite = finite_only({"record": record, "losses": losses})
        result = TrialResult(
            trial.to_dict(), trial.id, finite["record"], finite["losses"], environment
        )
        scratch = self.path / "trials" / f"{_SCRATCH}{trial.folder}"
        earlier = scratch.with_name(f"{scratch.name}-earlier")
        for left_over in (scratch, earlier):
            shutil.rmtree(left_over, ignore_errors=True)
        scratch.mkdir()
        lines = [_line({"step": i, "loss": loss}) for i, loss in enumerate(result.losses, 1)]
        _write_file(scratch / "losses.jsonl", "".join(lines))
        head = {"id": result.id, "trial": result.trial, "environment": environment}
        _write_file(scratch / "result.json", _json({**head, "record": result.record}))
        _flush_folder(scratch)

        folder = self.path / "trials" / trial.folder
        if folder.exists():
            folder.rename(earlier)
        scratch.rename(folder)
        _flush_folder(folder.parent)
        shutil.rmtree(earlier, ignore_errors=True)
        self._results[trial.id] = result
        return result

    def write(self, name: str, text: str) -> None:
        """Write a file beside the trials, whole or not at all."""
        _write_file(self.path / name, text)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in the JSON file ``name`` beside the trials, if it is there.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); {_OTHER_STORE}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}: damaged (expected a JSON object); {_OTHER_STORE}")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file beside the trials."""
        self.write(name, _json(value))

    def scratch_folder(self, name: str) -> Path:
        """A folder for a worker's temporary files; the next opening clears it."""
        folder = self.path / "trials" / f"{_SCRATCH}{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def _clear_scratch(self) -> None:
        for left_over in (self.path / "trials").glob(f"{_SCRATCH}*"):
            shutil.rmtree(left_over)

    def _read_results(self) -> Iterator[TrialResult]:
        for path in sorted((self.path / "trials").glob("[!.]*/result.json")):
            try:
                head = json.loads(path.read_text(encoding="utf-8"))
                lines = path.with_name("losses.jsonl").read_text(encoding="utf-8").splitlines()
                losses = [json.loads(line)["loss"] for line in lines]
                result = TrialResult(
                    dict(head["trial"]),
                    head["id"],
                    {"status": head["record"]["status"], **head["record"]},
                    losses,
                    dict(head["environment"]),
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path.parent}: damaged ({error!r}); delete this folder to run the trial again"
                ) from error
            yield result

    def _refuse_others(self) -> None:
        theirs = self.read_json("recipe.json")
        if theirs is None:
            return
        ours = json.loads(_json(self.identity))
        differing = [
            f"{key}: {_short(a)} there, {_short(b)} here"
            for (key, a), (_, b) in zip(_flat(theirs, ours), _flat(ours, theirs), strict=True)
            if a != b
        ]
        if differing:
            raise ValueError(
                f"store {self.path}: holds results of another recipe, which cannot be ranked "
                f"with these ({'; '.join(differing)}); choose another folder with --store"
            )


def _flat(values: dict[str, Any], others: dict[str, Any]) -> list[tuple[str, Any]]:
    """``(dotted key, value)`` for every key that either of the two has, in one fixed order."""
    flat: list[tuple[str, Any]] = []
    for key in sorted(values.keys() | others.keys()):
        a, b = values.get(key), others.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            flat += [(f"{key}.{inner}", value) for inner, value in _flat(a, b)]
        else:
            flat.append((key, a))
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def _take(lock: Any, path: Path) -> None:
    if sys.platform == "win32":
        raise ValueError(f"store {path}: leaderboards run on Linux and macOS; on Windows use WSL")
    import fcntl  # Windows has none

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise ValueError(
            f"store {path}: process {lock.read().strip() or '?'} is writing to it; "
            "wait for it, or choose another folder with --store"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _write_file(path: Path, text: str) -> None:
    scratch = path.with_name(f"{path.name}{_SCRATCH}")
    with open(scratch, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
