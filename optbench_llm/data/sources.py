"""Where records come from: a file, a hub dataset, or the standard library's docstrings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from optbench_llm.data.files import SUFFIXES, read_file
from optbench_llm.data.saved import arrow_files, is_saved, train_split
from optbench_llm.hub import looks_like_hub_id, snapshot
from optbench_llm.paths import listing, names_in, nearby, user_path

PYDOCS = "optbench:pydocs"
OFFLINE_HINT = f"To run offline, give a {', '.join(SUFFIXES)} file, or use {PYDOCS!r}."

EXPECTED_SOURCE = f"a file that ends in {', '.join(SUFFIXES)}, or a folder that save_to_disk wrote"
CONVERT = {
    ".csv": "; convert it with pandas: read_csv(...).to_json(..., orient='records', lines=True)",
    ".gz": "; unpack it with gunzip",
    ".arrow": "; name the folder that it lies in",
}


@dataclass(frozen=True)
class Location:
    """Files that hold the records of a source; equal locations hold equal records.

    ``version`` changes with the files' sizes or times, and, where records are made from the files,
    with the code that makes them.
    """

    name: str
    files: tuple[Path, ...]
    version: str


def locate(source: str) -> Location:
    """Find a source.

    Raises:
        ValueError: there is nothing of that name, with the nearest names or how to go on.
    """
    if source == PYDOCS:
        return _locate_pydocs()
    if source.startswith("optbench:"):
        raise ValueError(f"no embedded data set {source!r}: the only one is {PYDOCS!r}")
    path = user_path(source)
    if path.is_dir():
        return _locate_in_folder(source, path)
    if path.exists():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{source}: expected {EXPECTED_SOURCE}{CONVERT.get(path.suffix, '')}")
        return Location(source, (path,), _version([path]))
    if path.suffix in SUFFIXES or not looks_like_hub_id(source):
        raise ValueError(f"no data file {source}: {nearby(path, SUFFIXES)}")
    return _locate_on_hub(source)


def read(location: Location) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) for each record, unchecked.

    Raises:
        ValueError: a file is malformed; names the file and the line.
    """
    if location.name == PYDOCS:
        from optbench_llm.data.pydocs import build_records

        for index, record in enumerate(build_records(location.files[0])):
            yield f"record {index}", record._asdict()
        return
    several = len(location.files) > 1
    for file in location.files:
        for place, value in read_file(file):
            yield (f"{file.name} {place}" if several else place), value


def _locate_in_folder(source: str, folder: Path) -> Location:
    if not is_saved(folder):
        inside = [name for name in names_in(folder) if name.endswith(SUFFIXES)]
        raise ValueError(
            f"{source} is a folder: name one file ({listing(inside, SUFFIXES)}), or join several "
            "with datasets.load_dataset(...).save_to_disk(...) and name the folder it writes"
        )
    split = train_split(folder)
    files = arrow_files(split)
    name = source if split == folder else str(split)
    return Location(name, tuple(files), _version(files))


def _locate_pydocs() -> Location:
    from optbench_llm.data import docstrings, pydocs

    root = pydocs.standard_library()
    sources = [path for _, path in docstrings.python_sources(root, pydocs.SKIPPED_FOLDERS)]
    maker = inspect.getsource(docstrings) + inspect.getsource(pydocs)
    version = sha256(f"{sys.version}\0{maker}\0{_version(sources)}".encode()).hexdigest()
    return Location(PYDOCS, (root,), version)


def _locate_on_hub(repo_id: str) -> Location:
    folder = snapshot(repo_id, "dataset", [f"*{suffix}" for suffix in SUFFIXES], OFFLINE_HINT)
    files = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES)
    of_train = [p for p in files if "train" in p.relative_to(folder).as_posix()]
    for suffix in (".parquet", ".jsonl", ".json"):
        if chosen := [p for p in of_train or files if p.suffix == suffix]:
            return Location(repo_id, tuple(chosen), f"{repo_id}@{folder.name}")
    raise ValueError(
        f"dataset {repo_id!r} has no {', '.join(SUFFIXES)} file: download and convert it, then "
        "give the file's path"
    )


def _version(files: list[Path]) -> str:
    hasher = sha256()
    for file in files:
        stat = file.stat()
        line = f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        hasher.update(line.encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()
