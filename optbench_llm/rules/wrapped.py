"""Rules made from other rules."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optbench_llm.rules.rule import Rule


class WrappedRule(type):
    """The class of rules that a function made of another rule.

    No module has their names, so they are pickled as that function, ``made_by``, and its argument,
    ``made_of``; a rule that a module derives from one of them is pickled by name as any other.
    """

    made_by: Callable[[type[Rule]], type[Rule]]
    made_of: type[Rule]


def _reduced(rule: WrappedRule) -> tuple[Any, ...] | str:
    if "made_of" in vars(rule):
        return rule.made_by, (rule.made_of,)
    return rule.__qualname__


copyreg.pickle(WrappedRule, _reduced)  # pyright: ignore[reportArgumentType]
