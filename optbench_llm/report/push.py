"""What ``optbench-llm push`` does: a store's results as a data set, its page as a static Space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optbench_llm.hub import check_login, upload
from optbench_llm.report.dataset import write_dataset
from optbench_llm.report.page import INDEX, make_page, write_page
from optbench_llm.report.sources import read_sources

DATASET: Final = "dataset"
SPACE: Final = "space"


@dataclass(frozen=True)
class Pushed:
    """Where the data set and the Space are."""

    dataset: str
    space: str


def write_folders(store: Path, repo: str, folder: Path) -> Pushed:
    """Write what `push` would upload into two folders of ``folder``: ``dataset`` and ``space``.

    Raises:
        ValueError: the store holds no table, or ``repo`` is no name of a repository.
    """
    _check(repo)
    sources = read_sources([store])
    write_dataset(folder / DATASET, sources, repo)
    write_page(folder / SPACE / INDEX, make_page(sources))
    (folder / SPACE / "README.md").write_text(_space_card(repo), encoding="utf-8")
    return Pushed(str(folder / DATASET), str(folder / SPACE))


def push(store: Path, repo: str, folder: Path, *, private: bool) -> Pushed:
    """Write the folders and upload them as a data set and a Space, both called ``repo``.

    What is there of an earlier push is replaced, file by file.

    Raises:
        ValueError: as `write_folders`; nobody is logged in, or the hub refuses; says why.
    """
    option = f"--repo {repo}"
    how: dict[str, Any] = {"message": "Push the results", "private": private or None}
    written = write_folders(store, repo, folder)
    try:
        check_login(option)
        dataset = upload(Path(written.dataset), repo, DATASET, option, **how)
        space = upload(Path(written.space), repo, SPACE, option, **how)
    except ValueError as error:
        raise ValueError(f"{error}; what was to go up is in {folder}") from error
    return Pushed(dataset, space)


def _check(repo: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"--repo {repo}: {error}") from None
    if repo.count("/") != 1:
        raise ValueError(f"--repo {repo}: expected user/name or organisation/name")


def _space_card(repo: str) -> str:
    import yaml

    head = {
        "title": repo.split("/")[1],
        "sdk": "static",
        "app_file": INDEX,
        "datasets": [repo],
        "tags": ["optimizers", "leaderboard", "optbench_llm"],
    }
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"
        f"A leaderboard of optimizers; its numbers are the data set `{repo}`.\n"
    )
