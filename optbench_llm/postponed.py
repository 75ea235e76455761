"""bitsandbytes, loaded once something of it is used.

Loading it takes a second or more and asks CUDA for its GPUs, and peft, which transformers'
Trainer imports, imports it whatever is trained.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

_NAME = "bitsandbytes"


def postpone_bitsandbytes() -> None:
    """Let ``import bitsandbytes`` of this process load it no sooner than something of it is used.

    For processes of our own: what others import in theirs is theirs to say.
    """
    spec = importlib.util.find_spec(_NAME)
    if spec is None or _NAME in sys.modules:
        return
    module = _Postponed(_NAME)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    sys.modules[_NAME] = module


def is_bitsandbytes_used() -> bool:
    """Whether this process has loaded it."""
    return not isinstance(sys.modules.get(_NAME), _Postponed | None)


class _Postponed(ModuleType):
    """Becomes the module that its ``__spec__`` tells as soon as it is asked for what it lacks.

    That is anything but what looks at a module from outside, and ``__path__`` as well, which is
    asked for when one of its own modules is imported.
    """

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
        self.__package__ = _NAME
        self.__path__ = [*(spec.submodule_search_locations or ())]
        try:
            spec.loader.exec_module(self)
        except BaseException:
            # As an import that fails: the next one tries again.
            del sys.modules[_NAME]
            raise
        return getattr(self, name)
