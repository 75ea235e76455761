"""Models by name: the embedded ones, folders, GGUF files, hub ids, and random weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "EMBEDDED": "locate",
    "LoadedModel": "load",
    "load_model": "load",
    "model_fingerprint": "fingerprint",
}
__all__ = ["EMBEDDED", "LoadedModel", "load_model", "model_fingerprint"]

if TYPE_CHECKING:
    from optbench_llm.models.fingerprint import model_fingerprint
    from optbench_llm.models.load import LoadedModel, load_model
    from optbench_llm.models.locate import EMBEDDED


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a fingerprint must not cost torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
