"""Folders that ``datasets`` writes with ``save_to_disk``; that package is not imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRAIN = "train"
SPLITS, STATE = "dataset_dict.json", "state.json"


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of a data set, or of a dictionary of splits, wrote the folder."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def train_split(folder: Path) -> Path:
    """The folder of the train split; the same folder where it holds no splits.

    Raises:
        ValueError: there is no split of that name, or the folder is damaged.
    """
    if not (folder / SPLITS).is_file():
        return folder
    splits = [str(split) for split in _read(folder / SPLITS, "splits")]
    if TRAIN in splits:
        return folder / TRAIN
    raise ValueError(
        f"{folder}: expected a split {TRAIN!r}, found {', '.join(map(repr, splits)) or 'none'}; "
        "to train on another, name its folder"
    )


def arrow_files(folder: Path) -> list[Path]:
    """The files of one saved data set, in order.

    Raises:
        ValueError: the folder is incomplete or damaged.
    """
    entries = _read(folder / STATE, "_data_files")
    files = [
        folder / str(e["filename"]) for e in entries if isinstance(e, dict) and "filename" in e
    ]
    if len(files) < len(entries) or not files:
        raise ValueError(f"{folder / STATE} is damaged: expected file names under '_data_files'")
    for file in files:
        if not file.is_file():
            raise ValueError(f"{folder}: {file.name} is missing; save the data set again")
    return files


def _read(file: Path, key: str) -> list[Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}): expected what save_to_disk writes"
        ) from error
    if not isinstance(found, list):
        raise ValueError(f"{file} is damaged: expected a list under {key!r}")
    return found
