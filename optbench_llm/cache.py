"""The user's cache folder: whole files or nothing, checked when they are read again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

SMALL_BYTES = 1 << 20


def cache_dir() -> Path:
    """The cache folder, made if needed.

    It is ``$OPTBENCH_CACHE``, else ``$XDG_CACHE_HOME/optbench_llm``, else
    ``~/.cache/optbench_llm``. Everything in it can be deleted at any time.

    Raises:
        ValueError: the folder cannot be made or written.
    """
    chosen = os.environ.get("OPTBENCH_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        chosen = Path(base, "optbench_llm")
    folder = Path(chosen).expanduser().absolute()
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
        "set OPTBENCH_CACHE to a folder that can be written"
    )


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path to build a file or a folder at; rename it to ``target`` at the end.

    Readers see the old one or the new one, whole. Of two processes that build the same, the
    later one wins.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        built = scratch / target.name
        yield built
        if target.is_dir():
            os.replace(target, scratch / "replaced")
        os.replace(built, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_checked(path: Path, content: bytes) -> None:
    """Store ``content`` below its own hash, so that ``read_checked`` can tell damage."""
    with replacing(path) as built:
        built.write_bytes(sha256(content).digest() + content)


def read_checked(path: Path) -> bytes | None:
    """What ``write_checked`` stored, or None where there is nothing or it was damaged."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    content = stored[32:]
    return content if sha256(content).digest() == stored[:32] else None


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file; a big one is read once per (path, size, modification time)."""
    stat = path.stat()
    if stat.st_size < SMALL_BYTES:
        return sha256(path.read_bytes()).hexdigest()
    version = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    memo = cache_dir() / "hashes" / sha256(version.encode("utf-8", "surrogateescape")).hexdigest()
    if known := read_checked(memo):
        return known.decode()
    with path.open("rb") as stream:
        hasher = sha256()
        while chunk := stream.read(SMALL_BYTES):
            hasher.update(chunk)
    write_checked(memo, hasher.hexdigest().encode())
    return hasher.hexdigest()
