"""Triton's interpreter without two fifths of its time, which go into work that it has done already.

At every call of a function from a kernel it replaces the whole of triton.language once more, as it
has for the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def replace_language_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter replace the language once a launch."""
    from triton.runtime import interpreter

    replace: Callable[[Any], Any] = interpreter._patch_lang
    replaced: list[set[str]] = []

    class Launch:
        """What puts the language back after a launch."""

        def __init__(self, scope: Any, seen: set[str]) -> None:
            self._scope = scope
            replaced.append(seen)

        def restore(self) -> None:
            replaced.pop()
            self._scope.restore()

    def once(function: Any) -> Any:
        named = function.__globals__.values()
        seen = {
            lang.__name__
            for lang in (interpreter.tl, interpreter.tl.core)
            if any(value is lang for value in named)
        }
        if replaced:
            # Nobody restores what a function within a kernel has replaced.
            return None if seen <= replaced[-1] else replace(function)
        return Launch(replace(function), seen)

    monkeypatch.setattr(interpreter, "_patch_lang", once)
