"""Docstrings of Python sources, found by parsing; nothing is imported or run."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Documented:
    """A module, class, function or method that has a docstring."""

    kind: str
    name: str
    doc: str
    signature: str = ""
    members: tuple[str, ...] = ()

    @property
    def public(self) -> bool:
        """Whether no part of the dotted name is private."""
        return not any(part.startswith("_") for part in self.name.split("."))


def python_sources(root: Path, skip: Collection[str] = ()) -> Iterator[tuple[str, Path]]:
    """Yield (dotted module name, file) below a folder, sorted; ``skip`` names folders to leave."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(d for d in folders if d not in skip and d.isidentifier())
        package = Path(folder).relative_to(root).parts
        for file in sorted(files):
            stem, extension = os.path.splitext(file)
            if extension == ".py" and stem.isidentifier():
                parts = package if stem == "__init__" else (*package, stem)
                yield ".".join(parts), Path(folder, file)


def documented(source: bytes, module: str) -> Iterator[Documented]:
    """Yield what one source file documents: the module, then its definitions in order.

    Raises:
        SyntaxError: the file is not Python of this interpreter's version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes are not our news
        tree = ast.parse(source)
    members = tuple(node.name for node in _definitions(tree.body))
    if doc := ast.get_docstring(tree):
        yield Documented("module", module, doc, members=members)
    yield from _documented_in(tree.body, module, "function")


def _documented_in(body: list[ast.stmt], prefix: str, function_kind: str) -> Iterator[Documented]:
    for node in _definitions(body):
        name = f"{prefix}.{node.name}"
        doc = ast.get_docstring(node)
        if isinstance(node, ast.ClassDef):
            if doc:
                members = tuple(member.name for member in _definitions(node.body))
                yield Documented("class", name, doc, members=members)
            yield from _documented_in(node.body, name, "method")
        elif doc:
            yield Documented(function_kind, name, doc, signature=f"({_arguments(node.args)})")


def _definitions(
    body: list[ast.stmt],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Classes and functions of a body, also those under a top-level ``if`` or ``try``."""
    for node in body:
        if isinstance(node, DEFINITIONS):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body)


def _arguments(arguments: ast.arguments) -> str:
    """The argument list as written, less the annotations."""
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(arguments)
