"""Audits as people read them in a terminal, and as programs read them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from optbench_llm.audit.compare import Audit, Finding, audit
from optbench_llm.audit.implementations import comparison_for
from optbench_llm.catalog import expand, optimizer_info
from optbench_llm.catalog.counterparts import PACKAGES
from optbench_llm.strict_json import finite_only
from optbench_llm.terminal import MISSING, make_console

#: Above this a deviation is no rounding, and wants its cause named.
ROUNDING = 1e-4


def run_audits(specs: Sequence[str], *, steps: int, elements: int | None, as_json: bool) -> None:
    """Audit each of ``specs`` and print a table after each, or all as JSON at the end.

    Raises ValueError for an unknown name before anything has run, and for counts out of range.
    """
    for spec in specs:
        comparison_for(spec)
    audits = []
    for spec in specs:
        # Some packages print when they are used.
        with contextlib.redirect_stdout(sys.stderr):
            audits.append(audit(spec, steps, elements))
        if not as_json:
            print_audit(audits[-1])
    if as_json:
        found = {"versions": versions(), "audits": [asdict(result) for result in audits]}
        print(json.dumps(finite_only(found), indent=2))


def auditable(item: str) -> list[str]:
    """The names that one item stands for; of several, those that are rules of ours.

    Raises ValueError for a wildcard that no row matches.
    """
    names = expand(item)
    return names if names == [item] else [n for n in names if optimizer_info(n).rule is not None]


def versions() -> dict[str, str | None]:
    """The installed version of each package that is compared; None where there is none."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def print_audit(result: Audit) -> None:
    """Print one audit: the settings, a row for each implementation, known differences."""
    from rich.table import Table

    console = make_console()
    settings = ", ".join(f"{name}={value}" for name, value in result.settings.items())
    console.print(f"\n[bold]{result.spec}[/bold]  {settings}", highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("implementation", no_wrap=True)
    for heading in ("deviation", "at step", "ms/step", "x ours", "state B/param"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in result.findings:
        table.add_row(*_cells(finding, result.elements))
    console.print(table, highlight=False)
    for finding in result.findings:
        for note in (finding.reason, finding.known):
            if note:
                console.print(
                    f"  {finding.label}: {note}", style="dim", highlight=False, markup=False
                )
    console.print(
        f"  Deviation from our rule in float64 over {result.steps} steps, relative to the"
        f" displacement (*: known, see above; !: unexplained); times of {result.elements:,}"
        " elements.",
        style="dim",
        highlight=False,
    )


def _cells(finding: Finding, elements: int) -> list[str]:
    known = "" if finding.deviation is None or finding.deviation <= ROUNDING else " !"
    known = " *" if known and finding.known else known
    return [
        finding.label,
        _shown(finding.deviation, "{:.1e}") + known,
        _shown(finding.at_step, "{}"),
        _shown(finding.step_ms, "{:.2f}"),
        _shown(finding.ratio, "{:.2f}"),
        MISSING if finding.state_bytes is None else f"{finding.state_bytes / elements:.2f}",
    ]


def _shown(value: Any, form: str) -> str:
    return MISSING if value is None else form.format(value)
