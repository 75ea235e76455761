"""Lists of specs as a command line has them: ``adamw,some.module:Class(a=1, b=2)``."""

from __future__ import annotations


def split_specs(option: str, text: str) -> list[str]:
    """Split at the commas that stand outside parentheses.

    Raises:
        ValueError: an item is empty, or a parenthesis is not closed; names the option.
    """
    items, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    if depth != 0:
        raise ValueError(f"{option} {text}: a parenthesis has no partner")
    items = [item.strip() for item in items]
    if "" in items:
        empty = items.index("") + 1
        raise ValueError(f"{option} {text}: item {empty} is empty; write one comma between two")
    return items
