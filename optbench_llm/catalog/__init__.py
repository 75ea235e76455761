"""The one registry: names, specs and what is known of each optimizer. Imports no torch."""

from __future__ import annotations

import fnmatch

from optbench_llm.catalog.info import OptimizerInfo
from optbench_llm.catalog.rows import ENTRIES
from optbench_llm.catalog.spec import Spec, parse_spec

#: Stands for the whole catalog in a list of specs.
ALL = "all"

__all__ = [
    "OptimizerInfo",
    "Spec",
    "expand",
    "list_optimizers",
    "optimizer_info",
    "parse_spec",
    "published_optimizers",
]


def list_optimizers(
    pattern: str = "*",
    *,
    category: str | None = None,
    scope: str | None = None,
    program: str | None = None,
) -> list[str]:
    """Sorted names of the catalog that match a wildcard and the filters.

    Raises ValueError for a category, scope or program that no row has.
    """
    for label, value in (("category", category), ("scope", scope), ("program", program)):
        known = sorted({str(getattr(entry, label)) for entry in ENTRIES} - {"None"})
        if value is not None and value not in known:
            raise ValueError(f"no optimizer has {label} {value!r}, expected one of {known}")
    return sorted(
        entry.name
        for entry in ENTRIES
        if fnmatch.fnmatch(entry.name, pattern.lower())
        and category in (None, entry.category)
        and scope in (None, entry.scope)
        and program in (None, entry.program)
    )


def optimizer_info(name: str) -> OptimizerInfo:
    """What the catalog knows of an optimizer, by any spelling of its name or by a spec.

    Raises ValueError for an unknown name and for a provider's optimizer, which has no row.
    """
    spec = parse_spec(name)
    if spec.info is None:
        raise ValueError(
            f"{name!r} comes from the provider {spec.provider!r} and has no row in the catalog;"
            " its own documentation tells of it, and `optbench-llm list` shows the rows there are"
        )
    return spec.info


def published_optimizers() -> list[str]:
    """The rows of the published GPT-2-on-Alpaca table, best first; no variants of them."""
    return [entry.name for entry in ENTRIES if entry.published_loss and not entry.variant_of]


def expand(item: str) -> list[str]:
    """The names that one item of a list of specs stands for.

    ``all`` and wildcards stand for the rows that match, without the variants, which depart from
    their method on purpose and must be named; anything else stands for itself.

    Raises ValueError for a wildcard that no row matches.
    """
    if item != ALL and not set("*?[") & set(item):
        return [item]
    pattern = "*" if item == ALL else item
    names = [name for name in list_optimizers(pattern) if optimizer_info(name).variant_of is None]
    if not names:
        hint = "; a wildcard takes no storage" if "@" in item else ""
        raise ValueError(
            f"no optimizer matches {item!r}{hint}; `optbench-llm list` shows all names"
        )
    return names
