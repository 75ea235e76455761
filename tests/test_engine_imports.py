"""How the modules of the engine depend on each other, and on what they do not ship with."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import optbench_llm
from optbench_llm.engine.replaced import replaced

ENGINE = "optbench_llm.engine"
PACKAGE = Path(optbench_llm.__file__).parent
MODULES = {
    ENGINE if path.stem == "__init__" else f"{ENGINE}.{path.stem}": path
    for path in sorted((PACKAGE / "engine").glob("*.py"))
}


def imported(path: Path) -> set[str]:
    """All modules that a file names in an import, wherever in it that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module, path
            assert not node.level, f"{path}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_engines_modules_import_one_way() -> None:
    """In functions and for type checkers too: so that each can be read after those it builds on."""
    graph = {name: imported(path) & MODULES.keys() for name, path in MODULES.items()}
    # Raises CycleError, which names the modules of a circle.
    order = [*TopologicalSorter(graph).static_order()]
    assert order.index(f"{ENGINE}.bound") < order.index(f"{ENGINE}.optimizer")
    assert order[-1] == ENGINE


def test_the_engine_knows_rules_alone() -> None:
    """And nothing of the catalog, of programs, or of whoever trains."""
    ours = {name for path in MODULES.values() for name in imported(path) if "optbench_llm" in name}
    assert {name.split(".")[1] for name in ours} == {"engine", "rules"}


def test_nothing_of_a_test_library_is_shipped() -> None:
    """A mock takes the place of any name for good: if that is gone one day, nobody hears of it."""
    for path in PACKAGE.rglob("*.py"):
        roots = {name.partition(".")[0] for name in imported(path)}
        assert not roots & {"unittest", "pytest", "doctest"}, path


class _Base:
    value = 1

    @staticmethod
    def double(x: int) -> int:
        return 2 * x


class _Derived(_Base):
    pass


@pytest.mark.parametrize("owner", [_Base, _Derived])
@pytest.mark.parametrize("name", ["value", "double"])
def test_what_was_replaced_is_as_it_was(owner: type, name: str) -> None:
    """Where it was, and as what it was, inherited or a static method, also after an error."""

    def fail() -> None:
        with replaced(owner, name, 3):
            raise ZeroDivisionError(getattr(owner, name))

    before = dict(vars(owner))
    with pytest.raises(ZeroDivisionError, match="3"):
        fail()
    assert dict(vars(owner)) == before
    assert owner().double(owner.value) == 2


def test_only_what_is_there_is_replaced() -> None:
    with pytest.raises(AttributeError, match="triple"), replaced(_Base, "triple", 3):
        pass
    assert not hasattr(_Base, "triple")
