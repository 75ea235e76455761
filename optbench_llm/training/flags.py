"""Command-line flags of argument dataclasses, with errors that a user can act on."""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")


class FlagParser(HfArgumentParser):
    """Parser over dataclasses; flags are spelled with dashes or underscores, never abbreviated."""

    def __init__(self, dataclass_types: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise ValueError; argparse would print pages of usage."""
        raise ValueError(message)

    def parse(self, argv: Sequence[str]) -> Namespace:
        """Parse all of ``argv``.

        Raises ValueError for a value of the wrong type and for unknown flags, naming the nearest.
        """
        namespace, unknown = self.parse_known_args(list(argv))
        for word in unknown:
            if word.startswith("-"):
                raise ValueError(self._unknown_flag(word.partition("=")[0]))
        if unknown:
            raise ValueError(f"unexpected argument {unknown[0]!r}: values follow a --flag")
        return namespace

    def _unknown_flag(self, flag: str) -> str:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        dashed = [option for option in known if "_" not in option]
        near = difflib.get_close_matches(flag.replace("_", "-"), dashed, n=3)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        return f"unknown flag {flag}.{hint} --help shows all flags."


def take(arguments: type[Arguments], namespace: Namespace) -> Arguments:
    """Build one of the parser's dataclasses from what was parsed."""
    names = [f.name for f in fields(arguments) if f.init]  # pyright: ignore[reportArgumentType]
    return arguments(**{name: getattr(namespace, name) for name in names})
