"""What is wrong with a recipe, where it stands, and what was expected: a line for each fault."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from optbench_llm.leaderboard.yaml_file import YamlFile

Model = type[BaseModel]


def told_faults(
    error: ValidationError,
    source: str,
    file: YamlFile | None,
    recipe: Model,
    sections: Mapping[str, Model],
) -> str:
    """The faults that pydantic found in ``source``, in the order of the file's lines.

    ``recipe`` and its ``sections`` are what was validated: they know the keys that there are.
    """
    details = error.errors()
    if file is not None:
        details.sort(key=lambda detail: file.line(tuple(detail["loc"])) or 0)
    return "\n".join(_fault(detail, source, file, recipe, sections) for detail in details)


def _fault(
    detail: Any,
    source: str,
    file: YamlFile | None,
    recipe: Model,
    sections: Mapping[str, Model],
) -> str:
    location: tuple[str | int, ...] = tuple(detail["loc"])
    line = file.line(location) if file else None
    where = f"{source}:{line}" if line else source
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        section = sections[str(location[0])] if location[1:] else recipe
        message = f"unknown key; {_nearest_key(str(location[-1]), section)}"
    elif detail["type"] == "missing":
        message = "this key is missing"
    elif detail["type"] != "value_error":
        message = message.replace("Input should be", "expected").replace("Field required", "needed")
        message = f"{message[0].lower()}{message[1:]}"
    if location and detail["type"] not in ("extra_forbidden", "missing"):
        got = detail["input"]
        message += f", got {got!r}" if isinstance(got, str | int | float | bool | None) else ""
    return f"{where}: {key.lstrip('.')}: {message}" if key else f"{where}: {message}"


def _nearest_key(key: str, section: Model) -> str:
    known = list(section.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"nearest: {nearest[0]}" if nearest else f"expected one of {', '.join(known)}"
