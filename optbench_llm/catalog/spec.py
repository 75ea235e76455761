"""Specs: the strings that users type for an optimizer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from optbench_llm.catalog.info import OptimizerInfo
from optbench_llm.catalog.rows import ENTRIES
from optbench_llm.catalog.transformers_names import TRANSFORMERS_NAMES
from optbench_llm.catalog.wrappers import WRAPPERS, wrapped_info
from optbench_llm.rules.rule import STORAGES

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule

BY_NAME = {entry.name: entry for entry in ENTRIES}


@dataclass(frozen=True)
class Spec:
    """``[wrapper+]...name[@storage]`` or ``provider:name``, taken apart.

    ``wrappers`` are their names, the outermost first. ``provider`` is None for a row of the
    catalog.
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
        """The catalog's row with the wrappers around it; None for a provider's optimizer."""
        return None if self.provider else wrapped_info(BY_NAME[self.name], self.wrappers)

    @property
    def demands_constant_lr(self) -> bool:
        """Whether the method itself demands a constant learning rate.

        Of a provider's class only the name tells; transformers' own optimizers (``hf:``) keep the
        schedule that its Trainer gives them.
        """
        if self.info is not None:
            return self.info.schedule == "constant"
        return self.provider != "hf" and "schedulefree" in _normalised(self.name)

    @property
    def finds_step_size(self) -> bool:
        """Whether the lr only scales a step size that the method finds itself."""
        return self.info is not None and self.info.finds_step_size

    @property
    def reads_more_data(self) -> bool:
        """Whether its steps use records beyond their own batches: SVRG's snapshots do."""
        return self.info is not None and "svrg" in (self.info.program or "").split("+")

    def rule_class(self) -> type[Rule]:
        """The rule with its wrappers. Raises ValueError where no rule of ours runs it."""
        if self.info is None:
            raise ValueError(f"{self.canonical!r} is a provider's, it has no rule of ours")
        return self.info.rule_class()


@cache
def parse_spec(text: str) -> Spec:
    """Take a spec apart and resolve its spelling.

    Raises ValueError that lists the nearest names where a part is unknown.
    """
    spec = text.strip()
    if not spec:
        raise ValueError("empty optimizer spec, expected a name such as 'adamw'")
    *prefixes, last = (part.strip() for part in spec.split("+"))
    wrappers = _wrappers(text, prefixes)
    if not last:
        raise ValueError(
            f"optimizer {text!r}: expected a name after the +, such as {spec}adamw;"
            " `optbench-llm list` shows all names"
        )
    if ":" in last:
        provider, _, name = last.partition(":")
        if not provider or not name:
            raise ValueError(f"optimizer {text!r}: expected PROVIDER:NAME, such as torch:AdamW")
        _refuse_wrapping(text, wrappers, last)
        return Spec(text, name, provider=provider.lower() if "." not in provider else provider)
    name, at, storage = last.partition("@")
    if at and storage.lower() not in STORAGES:
        raise ValueError(
            f"optimizer {text!r}: unknown storage {storage!r}, expected {', '.join(STORAGES)}"
        )
    # In transformers' own spelling (lion_8bit) a name is theirs, unless it is also ours (sgd).
    if not at and name in TRANSFORMERS_NAMES and name not in BY_NAME:
        _refuse_wrapping(text, wrappers, name)
        return Spec(text, name, provider="hf")
    entry = _find(name)
    if entry is None:
        raise ValueError(f"unknown optimizer {text!r}.{_nearest(name)}")
    if entry.provider:
        _refuse_wrapping(text, wrappers, entry.name)
        if at:
            raise ValueError(
                f"optimizer {text!r}: {entry.name} is run by {entry.provider}, which has its own"
                " storage; leave the @ out"
            )
    kept = storage.lower() if at and storage.lower() != "fp32" else None
    _check_wrapped(text, entry, wrappers)
    return Spec(text, entry.name, wrappers, kept)


def _wrappers(text: str, prefixes: list[str]) -> tuple[str, ...]:
    """The names of the wrappers before a name."""
    known = {_normalised(name): name for name in WRAPPERS}
    for prefix in prefixes:
        if _normalised(prefix) not in known:
            near = difflib.get_close_matches(_normalised(prefix), known, n=1)
            hint = f" Did you mean {known[near[0]]!r}?" if near else ""
            raise ValueError(
                f"optimizer {text!r}: no wrapper {prefix!r}, expected one of"
                f" {', '.join(WRAPPERS)}.{hint}"
            )
    names = [known[_normalised(prefix)] for prefix in prefixes]
    # What changes gradients alone stands outside: one spelling for what comes to the same.
    return tuple(sorted(names, key=lambda name: not WRAPPERS[name].of_gradients))


def _refuse_wrapping(text: str, wrappers: tuple[str, ...], foreign: str) -> None:
    if wrappers:
        raise ValueError(
            f"optimizer {text!r}: {wrappers[-1]} wraps rules of this package alone, and {foreign}"
            f" is a provider's; use one of ours, such as {wrappers[-1]}+adamw"
        )


def _check_wrapped(text: str, entry: OptimizerInfo, wrappers: tuple[str, ...]) -> None:
    """Make the wrapped rule, to learn early that it cannot be made."""
    twice = [name for name in WRAPPERS if (*wrappers, entry.name).count(name) > 1]
    if twice:
        raise ValueError(f"optimizer {text!r}: {twice[0]} stands there twice; keep one of them")
    if not wrappers:
        return
    try:
        wrapped_info(entry, wrappers).rule_class()
    except ValueError as error:
        raise ValueError(f"optimizer {text!r}: {error}") from error


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
