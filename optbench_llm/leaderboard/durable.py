"""Files and folders that are there whole or not at all, whatever crashes, and said in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: What a killed process leaves has this in its name.
SCRATCH = ".tmp-"
_EARLIER = "-earlier"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, rename it."""
    scratch = path.with_name(f"{path.name}{SCRATCH}")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files as one; takes the place of an earlier one."""
    scratch = path.with_name(f"{SCRATCH}{path.name}")
    earlier = scratch.with_name(f"{scratch.name}{_EARLIER}")
    for left_over in (scratch, earlier):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        scratch.mkdir()
        for name, content in files.items():
            write_file(scratch / name, content)
        _flush_folder(scratch)
        if path.exists():
            path.rename(earlier)
        scratch.rename(path)
        _flush_folder(path.parent)
    except OSError:
        if earlier.exists() and not path.exists():
            earlier.rename(path)
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def clear_scratch(folder: Path) -> None:
    """Delete what a killed process left; a folder that it was about to replace comes back."""
    for earlier in folder.glob(f"{SCRATCH}*{_EARLIER}"):
        path = earlier.with_name(earlier.name.removeprefix(SCRATCH).removesuffix(_EARLIER))
        if not path.exists():
            earlier.rename(path)
    for left_over in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left_over, ignore_errors=True)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """A disk that is full or cannot be written is the user's to know of.

    Raises:
        ValueError: the system refused; names ``path``, its reason, and what to do.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        way_out = "choose another folder with --store"
        if error.errno in _FULL:
            way_out = "what it holds is whole: make room, and the same command continues"
        raise ValueError(f"store {path}: cannot be written ({reason}); {way_out}") from error


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
