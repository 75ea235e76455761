"""What ``optbench-llm report`` does: stores in, a page and figures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optbench_llm.report.export import export
from optbench_llm.report.page import INDEX, assemble, make_page, write_page
from optbench_llm.report.sources import read_sources


def write_report(stores: Sequence[Path], out: Path | None, *, figures: bool = False) -> list[Path]:
    """Write the page of the stores' boards, and its figures where they are asked for.

    Without ``out`` the page of one store goes beside its tables, that of several into ``report``.
    Returns the files, the page first.

    Raises:
        ValueError: a folder that is no store, or holds no table, or ``out`` cannot be written.
    """
    sources = read_sources(stores)
    folder = out or (stores[0] if len(stores) == 1 else Path("report"))
    page = assemble(sources)
    written = [folder / INDEX]
    write_page(written[0], page.text())
    if figures:
        for place, section in enumerate(page.sections, start=1):
            track = section.source.board.recipe.its_track
            several = f"{place}-{section.source.store.resolve().name}-{track}"
            prefix = track if len(sources) == 1 else several
            for figure in section.figures:
                written += export(figure, folder / "figures", prefix)
        if page.coupling is not None:
            written += export(page.coupling, folder / "figures")
    return written


def refresh_page(store: Path, track: str, *, live: bool) -> Path:
    """Write the page of one track of a store that a leaderboard runs in; returns its file.

    Raises:
        ValueError: as `write_report`.
    """
    sources = read_sources([store])
    first = [source for source in sources if source.board.recipe.its_track == track]
    others = [source for source in sources if source not in first]
    page = store / INDEX
    write_page(page, make_page([*first, *others], live=live))
    return page
