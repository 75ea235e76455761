"""Rules made from other rules."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
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


def setting_name(settings: Mapping[str, Any], wrapper: str, name: str) -> str:
    """What a wrapper's hyperparameter is called among ``settings``.

    It is ``name`` itself; with the wrapper's own before it where the base has one of that name.
    """
    prefixed = f"{wrapper}_{name}"
    return prefixed if prefixed in settings else name


def wrapper_settings(base: type[Rule], wrapper: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """A wrapper's hyperparameters, renamed as :func:`setting_name` finds them."""
    return {f"{wrapper}_{k}" if k in base.defaults else k: value for k, value in own.items()}


def check_gradients_are_the_batchs(wrapper: str, base: type[Rule]) -> None:
    """Raise ValueError for a base whose gradients a program makes already."""
    if base.replaces_gradients:
        raise ValueError(
            f"{wrapper} cannot wrap {base.__name__}, whose gradients are not the batch's already;"
            " keep one of the two"
        )
