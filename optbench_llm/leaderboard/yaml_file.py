"""Read a YAML file as plain values, and know on which line each key stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without two of its traps: ``1e-5`` is a number, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="expected a plain key before the colon, not a list or a mapping",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value}: this key is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True)
class YamlFile:
    """The values of a YAML mapping and the line of each key, for error messages."""

    values: dict[str, Any]
    lines: dict[Key, int]

    def line(self, key: Key) -> int | None:
        """Line of ``key``, or of the nearest enclosing key that has one."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return self.lines[key[:end]]
        return None


def read_yaml(path: Path) -> YamlFile:
    """Read the mapping in ``path``.

    Raises:
        ValueError: the file cannot be read, is no YAML, or holds something other than a mapping;
            the message names the file and, where there is one, the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"the character {chr(error.character)!r}"
        raise ValueError(f"{path}:{line}: {character} is not allowed in YAML") from error
    try:
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {error}") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values, as in the shipped recipes")
    return YamlFile(values, dict(_lines(node, ())))


def _lines(node: yaml.Node | None, key: Key) -> list[tuple[Key, int]]:
    found: list[tuple[Key, int]] = []
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            found += [(inner, name.start_mark.line + 1), *_lines(value, inner)]
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*key, index)
            found += [(inner, value.start_mark.line + 1), *_lines(value, inner)]
    return found
