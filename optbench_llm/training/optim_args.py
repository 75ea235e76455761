"""Typed optimizer arguments from text: ``betas=(0.98,0.92,0.99) eps=1e-8``."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

OptimArgs = Mapping[str, Any] | str | Iterable[str] | None

_OPENING, _CLOSING = "([{", ")]}"
_EXAMPLE = "write name=value, such as betas=(0.9,0.99) or nesterov=True"


def parse_optim_args(optim_args: OptimArgs) -> dict[str, Any]:
    """Read hyperparameters from a mapping, a ``k=v,k=v`` string or a list of such strings.

    Values are Python literals; lists become tuples, so that arguments survive JSON. Names are not
    checked here: the optimizer knows which it has.

    Raises ValueError naming the piece that cannot be read or a name that is given twice.
    """
    if optim_args is None:
        return {}
    if isinstance(optim_args, Mapping):
        return {name: frozen(value) for name, value in optim_args.items()}
    texts = [optim_args] if isinstance(optim_args, str) else list(optim_args)
    parsed: dict[str, Any] = {}
    for text in texts:
        for piece in _split(text):
            name, value = _parse_piece(piece)
            if name in parsed:
                raise ValueError(f"optim_args sets {name!r} twice, the second time by {piece!r}")
            parsed[name] = value
    return parsed


def _split(text: str) -> list[str]:
    """Cut at the commas and spaces that stand outside brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0 and (character == "," or character.isspace()):
            pieces.append("")
        else:
            pieces[-1] += character
    if depth:
        raise ValueError(f"optim_args: unbalanced brackets in {text!r}; {_EXAMPLE}")
    return [piece for piece in pieces if piece]


def _parse_piece(piece: str) -> tuple[str, Any]:
    name, equals, literal = piece.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"optim_args: cannot read {piece!r}; {_EXAMPLE}")
    try:
        return name, frozen(ast.literal_eval(literal))
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"optim_args: the value of {piece!r} is not a Python literal; {_EXAMPLE}"
        ) from error


def frozen(value: Any) -> Any:
    """Return a list as a tuple, anything else as it is: one form to compare and to keep."""
    return tuple(value) if isinstance(value, list) else value
