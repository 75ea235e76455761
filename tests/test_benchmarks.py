"""Benchmarks are run by hand, seldom: what they import must not have moved in the meantime."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_what_a_benchmark_imports_of_the_package_is_there(script):
    """Every name of every import, also of those inside functions."""
    tree = ast.parse((FOLDER / script).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("optbench"):
            continue
        module = importlib.import_module(node.module or "")
        for name in (alias.name for alias in node.names):
            try:
                importlib.import_module(f"{node.module}.{name}")
            except ModuleNotFoundError:
                assert hasattr(module, name), f"{node.module} has no {name}"
