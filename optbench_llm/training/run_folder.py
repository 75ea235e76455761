"""The folder of one fine-tuning run: may it be used, with which settings, with which result."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optbench_llm.training.checkpoints import checkpoint_folders, latest_checkpoint

SETTINGS, RESULT = "settings.json", "result.json"


class RunFolder:
    """``settings.json`` from the start, checkpoints on the way, ``result.json`` at the end."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def open(self, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> Path | None:
        """Return the checkpoint to go on from, if any; what the folder holds stays as it is.

        ``settings`` holds what decides the result. Raises ValueError for a folder with a run in it,
        unless that run is to be resumed with the same settings or overwritten, and for one that
        cannot be written.
        """
        settings = json.loads(json.dumps(settings))
        started = bool(checkpoint_folders(self.path)) or (self.path / RESULT).exists()
        if started and not (resume or overwrite):
            state = "a finished run" if (self.path / RESULT).exists() else "an interrupted run"
            raise ValueError(
                f"{self.path} holds {state}; --resume goes on with it, --overwrite replaces it,"
                " --output-dir chooses another folder"
            )
        if resume and (self.path / SETTINGS).exists():
            self._check_same(settings)
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return latest_checkpoint(self.path) if resume else None

    def begin(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Make the folder this run's; of several processes one does."""
        if overwrite:
            self._clear()
        self._write(SETTINGS, settings)

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run."""
        file = self.path / RESULT
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``, whole or not at all."""
        self._write(RESULT, result)

    def _check_same(self, settings: dict[str, Any]) -> None:
        saved = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))
        for name in sorted({*saved, *settings}):
            before, now = saved.get(name), settings.get(name)
            if before != now:
                raise ValueError(
                    f"cannot resume {self.path}: it was started with {name}={before!r}, now it is"
                    f" {now!r}; use the same settings, or --overwrite to start again"
                )

    def _clear(self) -> None:
        for folder in checkpoint_folders(self.path):
            shutil.rmtree(folder)
        for name in (SETTINGS, RESULT):
            (self.path / name).unlink(missing_ok=True)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with self._writing():
            scratch = self.path / f".{name}.tmp"
            scratch.write_text(json.dumps(content, indent=2, allow_nan=False), encoding="utf-8")
            os.replace(scratch, self.path / name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.path}: {error.strerror};"
                " --output-dir chooses another folder"
            ) from error
