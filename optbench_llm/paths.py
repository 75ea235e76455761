"""Paths that a user names: looked up, and helped along where nothing lies there."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

_SHOWN = 5


def user_path(text: str) -> Path:
    """The path that ``text`` names, with ``~`` expanded; nothing need lie there.

    Raises:
        ValueError: the system cannot tell whether something does: no permission on the way, a
            name that is too long.
    """
    path = Path(os.path.expanduser(text))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ValueError(f"{text!r} cannot be looked up: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{text!r} cannot be looked up: {error}") from error
    return path


def names_in(folder: Path) -> list[str]:
    """The sorted names in a folder.

    Raises:
        ValueError: the folder does not exist or cannot be read.
    """
    try:
        names = os.listdir(folder)
        os.stat(folder / ".")  # fails where names can be listed and nothing be opened
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from error
    return sorted(names)


def nearby(path: Path, suffixes: Sequence[str]) -> str:
    """What lies where ``path`` does not: similar names, else files with one of ``suffixes``."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = names_in(folder)
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    near = near or [name for name in names if name.endswith(tuple(suffixes))]
    return f"in {folder} there is {listing(near, suffixes)}"


def listing(names: Sequence[str], suffixes: Sequence[str] = ()) -> str:
    """The first few names, or that there is no file with one of ``suffixes``."""
    if not names:
        return f"no {', '.join(suffixes)} file" if suffixes else "nothing"
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
