"""The user's cache folder: whole files or nothing, checked when they are read again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

SMALL_BYTES = 1 << 20
_SCRATCH = ".scratch-"


def cache_dir() -> Path:
    """The cache folder, made if needed.

    It is ``$OPTBENCH_CACHE``, else ``$XDG_CACHE_HOME/optbench_llm``, else
    ``~/.cache/optbench_llm``. Everything in it can be deleted while nothing runs.

    Raises:
        ValueError: the folder cannot be made or written.
    """
    chosen = os.environ.get("OPTBENCH_CACHE")
    if not chosen:
        chosen = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "optbench_llm")
    expanded = os.path.expanduser(chosen)
    if expanded.startswith("~"):
        raise _unwritable(Path(expanded), "there is no such home folder")
    folder = Path(expanded).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, "permission denied")
    return folder


def _unwritable(folder: Path, why: object) -> ValueError:
    return ValueError(
        f"cannot write the cache folder {folder} ({why}): "
        "set OPTBENCH_CACHE to a folder that can be written and has room"
    )


def build_once(
    target: Path, is_intact: Callable[[Path], bool], build: Callable[[Path], None]
) -> Path:
    """``target``, a file or a folder, built by ``build(path)`` unless it is there and intact.

    Of several processes that need it, one builds and the others wait for it. Nobody sees half of
    it, and nobody's intact copy is replaced.

    Raises:
        ValueError: the cache cannot be written.
    """
    if not is_intact(target):
        with _alone_in(target.parent):
            if not is_intact(target):  # nobody built it while this process waited
                with _scratch_for(target) as scratch:
                    build(scratch)
                    _replace(target, scratch)
    return target


def write_checked(path: Path, content: bytes) -> None:
    """Store ``content`` below its own hash, so that ``read_checked`` can tell damage.

    Raises:
        ValueError: the cache cannot be written.
    """
    with _alone_in(path.parent), _scratch_for(path) as scratch:
        scratch.write_bytes(sha256(content).digest() + content)
        _replace(path, scratch)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and clear what killed builders left there."""
    from filelock import FileLock  # imports asyncio: not for those who only look

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for left_over in folder.glob(f"{_SCRATCH}*"):
                _remove(left_over)
            yield
    except OSError as error:
        raise _unwritable(folder, error) from error


@contextmanager
def _scratch_for(target: Path) -> Iterator[Path]:
    scratch = target.with_name(f"{_SCRATCH}{target.name}")
    try:
        yield scratch
    finally:
        _remove(scratch)


def _replace(target: Path, built: Path) -> None:
    if target.is_dir():
        damaged = target.with_name(f"{_SCRATCH}damaged-{target.name}")
        os.replace(target, damaged)
        shutil.rmtree(damaged)
    os.replace(built, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_checked(path: Path) -> bytes | None:
    """What ``write_checked`` stored, or None where there is nothing to be read or it is damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[32:]
    return content if sha256(content).digest() == stored[:32] else None


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file; a big one is read once per (path, size, modification time).

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        stat = path.stat()
        if stat.st_size < SMALL_BYTES:
            return sha256(path.read_bytes()).hexdigest()
        version = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
        name = sha256(version.encode("utf-8", "surrogateescape")).hexdigest()
        memo = cache_dir() / "hashes" / name
        if known := read_checked(memo):
            return known.decode()
        with path.open("rb") as stream:
            hasher = sha256()
            while chunk := stream.read(SMALL_BYTES):
                hasher.update(chunk)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    write_checked(memo, hasher.hexdigest().encode())
    return hasher.hexdigest()
