"""The recipe that a table was made with, as the table tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from optbench_llm.leaderboard.recipe import SECTIONS, Recipe


def checked_before(values: Mapping[str, Any]) -> Recipe:
    """The recipe of a table, as it was when a run made it; nothing in it is checked again.

    To check it would take the libraries of its third-party optimizers.

    Raises:
        ValueError: a key that every recipe has is missing; names it.
    """
    own = dict(values)
    for name, section in SECTIONS.items():
        match own.get(name):
            case list(entries):
                own[name] = [_constructed(section, entry, name) for entry in entries]
            case dict(entry):
                own[name] = _constructed(section, entry, name)
    return _constructed(Recipe, own, "recipe")


def _constructed(section: type[BaseModel], values: Mapping[str, Any], name: str) -> Any:
    known = section.model_fields
    for key, field in known.items():
        if field.is_required() and key not in values:
            raise ValueError(f"{name}.{key}: this key is missing")
    return section.model_construct(**{key: values[key] for key in known if key in values})
