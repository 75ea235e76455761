"""Specs: the strings that users type for an optimizer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from optbench_llm.catalog.info import OptimizerInfo
from optbench_llm.catalog.rows import ENTRIES
from optbench_llm.catalog.transformers_names import TRANSFORMERS_NAMES
from optbench_llm.rules.rule import STORAGES

BY_NAME = {entry.name: entry for entry in ENTRIES}


@dataclass(frozen=True)
class Spec:
    """``[wrapper+]...name[@storage]`` or ``provider:name``, taken apart.

    ``provider`` is None for a row of the catalog.
    """

    text: str
    name: str
    wrappers: tuple[str, ...] = ()
    storage: str | None = None
    provider: str | None = None

    @property
    def canonical(self) -> str:
        """The one spelling of this spec: what rows, trials and checkpoints are named by.

        A provider's class keeps the case it was typed in, since only the provider knows its own.
        """
        if self.provider:
            return f"{self.provider}:{self.name}"
        storage = f"@{self.storage}" if self.storage else ""
        return "+".join((*self.wrappers, self.name)) + storage

    @property
    def info(self) -> OptimizerInfo | None:
        """The catalog's row; None for a provider's optimizer that has none."""
        return None if self.provider else BY_NAME[self.name]


def parse_spec(text: str) -> Spec:
    """Take a spec apart and resolve its spelling.

    Raises ValueError that lists the nearest names where a part is unknown.
    """
    spec = text.strip()
    if not spec:
        raise ValueError("empty optimizer spec, expected a name such as 'adamw'")
    if ":" in spec:
        provider, _, name = spec.partition(":")
        if not provider or not name:
            raise ValueError(f"optimizer {text!r}: expected PROVIDER:NAME, such as torch:AdamW")
        return Spec(text, name, provider=provider.lower() if "." not in provider else provider)
    *wrappers, last = (part.strip() for part in spec.split("+"))
    if wrappers:
        raise ValueError(
            f"optimizer {text!r}: no wrapper {wrappers[0]!r} in this version; use a plain name"
        )
    name, at, storage = last.partition("@")
    if at and storage.lower() not in STORAGES:
        raise ValueError(
            f"optimizer {text!r}: unknown storage {storage!r}, expected {', '.join(STORAGES)}"
        )
    # In transformers' own spelling (lion_8bit) a name is theirs, unless it is also ours (sgd).
    if not at and name in TRANSFORMERS_NAMES and name not in BY_NAME:
        return Spec(text, name, provider="hf")
    entry = _find(name)
    if entry is None:
        raise ValueError(f"unknown optimizer {text!r}.{_nearest(name)}")
    if at and entry.provider:
        raise ValueError(
            f"optimizer {text!r}: {entry.name} is run by {entry.provider}, which has its own"
            " storage; leave the @ out"
        )
    kept = storage.lower() if at and storage.lower() != "fp32" else None
    return Spec(text, entry.name, storage=kept)


def _normalised(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


_SPELLINGS = {
    _normalised(spelling): entry
    for entry in ENTRIES
    for spelling in (entry.name, entry.title, *entry.aliases)
}


def _find(name: str) -> OptimizerInfo | None:
    return BY_NAME.get(name) or _SPELLINGS.get(_normalised(name))


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(_normalised(name), _SPELLINGS, n=4, cutoff=0.5)
    names = list(dict.fromkeys(_SPELLINGS[spelling].name for spelling in near))
    if not names:
        return " `optbench-llm list` shows all names."
    return f" Nearest: {', '.join(names)}. `optbench-llm list` shows all names."
