"""``optbench:pydocs``: instruction records made of the standard library's own docstrings."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from optbench_llm.data.docstrings import Documented, documented, python_sources
from optbench_llm.data.records import Record

SKIPPED_FOLDERS = frozenset(
    (
        *("test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "encodings"),
        *("ensurepip", "msilib", "distutils", "site-packages", "dist-packages", "__pycache__"),
    )
)
ANSWER_CHARS = 400
LISTED_MEMBERS = 16
NOT_PROSE = re.compile(r"^\s*(>>>|\.\. |[-=+*|~^#]{3})", re.MULTILINE)
NOT_DOCS = re.compile(r"see base class|see (the )?\w+ (docs|documentation)|copyright", re.I)

DESCRIBE = (
    "Describe what the {kind} {name} does.",
    "What does the {kind} {name} do?",
    "Explain the purpose of the {kind} {name}.",
)
SUMMARISE = ("Summarise the module {name}.", "What is the module {name} for?")
NAME_IT = (
    "Which {kind} of {parent} does the following?",
    "Name the {kind} of {parent} that fits this description.",
)
SIGNATURE = ("Give the signature of {name}.", "How is {name} called?")
MEMBERS = {
    "class": "Which public methods does the class {name} define?",
    "module": "Which public functions and classes does the module {name} define?",
}
CONTINUE = "Continue the documentation of {name}."


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def build_records(root: Path) -> list[Record]:
    """Records about every public, documented thing below ``root``; no answer is given twice.

    The same sources always give the same records in the same order. Files that this interpreter
    cannot parse are left out: the standard library ships a few on purpose.
    """
    records: dict[tuple[str, str], Record] = {}
    for module, path in python_sources(root, SKIPPED_FOLDERS):
        try:
            things = list(documented(path.read_bytes(), module))
        except (SyntaxError, ValueError):
            continue
        for thing in things:
            if thing.public and not NOT_DOCS.search(thing.doc):
                for record in _records_about(thing):
                    records.setdefault((record.input, record.output), record)
    return list(records.values())


def _records_about(thing: Documented) -> Iterator[Record]:
    kind, name = thing.kind, thing.name
    parent, _, own_name = name.rpartition(".")
    paragraphs = prose_paragraphs(thing.doc)
    if paragraphs:
        asked = SUMMARISE if kind == "module" else DESCRIBE
        yield Record(_choose(asked, name).format(kind=kind, name=name), "", _fit(paragraphs))
        if parent and kind != "module" and len(paragraphs[0]) <= ANSWER_CHARS:
            question = _choose(NAME_IT, name).format(kind=kind, parent=parent)
            clue = re.sub(rf"\b{re.escape(own_name)}\b", "It", paragraphs[0])
            yield Record(question, clue, f"{name}{thing.signature}")
        if len(paragraphs) > 1:
            question = CONTINUE.format(name=name)
            yield Record(question, _fit(paragraphs[:1]), _fit(paragraphs[1:]))
    if thing.signature:
        called = f"{name}{thing.signature}"
        yield Record(_choose(SIGNATURE, name + "()").format(name=name), "", called)
    members = [m for m in dict.fromkeys(thing.members) if not m.startswith("_")]
    if kind in MEMBERS and len(members) > 1:
        listed = ", ".join(members[:LISTED_MEMBERS])
        rest = len(members) - LISTED_MEMBERS
        answer = f"{listed} and {rest} more." if rest > 0 else f"{listed}."
        yield Record(MEMBERS[kind].format(name=name), "", f"{name} defines {answer}")


def prose_paragraphs(doc: str) -> list[str]:
    """The paragraphs of a docstring up to the first that is an example, a table or markup."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", doc.strip()):
        if NOT_PROSE.search(paragraph):
            break
        paragraphs.append(" ".join(paragraph.split()))
    return [p for p in paragraphs if p]


def _fit(paragraphs: list[str]) -> str:
    """As many whole paragraphs as fit; of a first one that is too long, its whole words."""
    text = paragraphs[0]
    if len(text) > ANSWER_CHARS:
        return text[:ANSWER_CHARS].rsplit(" ", 1)[0]
    for paragraph in paragraphs[1:]:
        if len(text) + 1 + len(paragraph) > ANSWER_CHARS:
            break
        text = f"{text}\n{paragraph}"
    return text


def _choose(options: tuple[str, ...], name: str) -> str:
    return options[sha256(name.encode()).digest()[0] % len(options)]
