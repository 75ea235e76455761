"""The embedded data set: made of sources, the same each time, and worth learning."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from optbench_llm.data.docstrings import documented
from optbench_llm.data.pydocs import ANSWER_CHARS, build_records, standard_library
from optbench_llm.data.records import Record

SOURCE = b'''"""Fruit, weighed."""
import nowhere_to_be_found
raise SystemExit("imported!")

class Apple:
    """A round fruit.

    It falls.

    >>> Apple()
    """

    def bite(self, size: int = 1, *, loud=False) -> None:
        """Take a bite."""

    def peel(self):
        """Peel it."""

try:
    def weigh(fruit):
        """Weigh {a} fruit."""
finally:
    pass

def _private():
    """Not for you."""
'''


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return build_records(standard_library())


@pytest.fixture
def orchard(tmp_path: Path) -> list[Record]:
    (tmp_path / "fruit.py").write_bytes(SOURCE)
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "ignored.py").write_text('"""Ignored."""')
    return build_records(tmp_path)


def test_sources_are_parsed_and_never_run(orchard: list[Record]) -> None:
    """A module whose import fails and exits still gives records; an unparsable one gives none."""
    assert orchard
    assert all("fruit" in record.instruction for record in orchard)


def test_answers_come_from_the_docstring(orchard: list[Record]) -> None:
    """Each kind of question has the answer that the source holds."""
    answers = {record.output for record in orchard}
    assert "fruit.Apple.bite(self, size=1, *, loud=False)" in answers
    assert "A round fruit.\nIt falls." in answers, "prose ends where the example begins"
    assert "It falls." in answers
    assert "fruit.Apple defines bite, peel." in answers
    assert "fruit defines Apple, weigh." in answers, "also what stands under a try"
    assert "Weigh {a} fruit." in answers


def test_private_things_are_left_out(orchard: list[Record]) -> None:
    """No record speaks of a name with a leading underscore."""
    assert not any("_private" in "".join(record.texts) for record in orchard)


def test_there_are_thousands_of_varied_records(records: list[Record]) -> None:
    """Enough to fine-tune on: many records, many forms of question, no form dominating."""
    assert len(records) >= 5000
    forms = Counter(" ".join(record.instruction.split()[:2]) for record in records)
    assert len(forms) >= 10
    assert max(forms.values()) < 0.25 * len(records)


def test_every_record_is_fit_to_learn(records: list[Record]) -> None:
    """No empty text, no endless answer, and no answer twice to one input."""
    assert all(r.instruction.strip() and r.output.strip() for r in records)
    prose = [r.output for r in records if not r.instruction.startswith(("Give", "How", "Which"))]
    assert sum(len(text) <= ANSWER_CHARS for text in prose) >= 0.99 * len(prose)
    assert len({(r.input, r.output) for r in records}) == len(records)


# Builds them twice more.
@pytest.mark.slow
def test_every_process_builds_the_same_records(records: list[Record]) -> None:
    """Nothing depends on hash seeds or the order in which a file system lists files."""
    code = (
        "from optbench_llm.data.pydocs import build_records, standard_library as s;"
        "from hashlib import sha256;"
        "print(sha256(b''.join(r.digest for r in build_records(s()))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert digests != {""}


def test_signatures_lose_annotations_only() -> None:
    """Defaults and markers stay as written: the answer has to be short and right."""
    source = b"def f(a: int, /, b: str = 'x', *args: int, c: float = 1.0, **kw: dict): 'Doc.'"
    (thing,) = documented(source, "m")
    assert thing.signature == "(a, /, b='x', *args, c=1.0, **kw)"
