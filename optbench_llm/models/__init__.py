"""Models by name: the embedded ones, folders, GGUF files, hub ids, and random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optbench_llm.lazy import lazily

_HOMES = {
    "EMBEDDED": "optbench_llm.models.locate",
    "LoadedModel": "optbench_llm.models.load",
    "load_model": "optbench_llm.models.load",
    "load_tokenizer": "optbench_llm.models.load",
    "model_fingerprint": "optbench_llm.models.fingerprint",
}
__all__ = ["EMBEDDED", "LoadedModel", "load_model", "load_tokenizer", "model_fingerprint"]

if TYPE_CHECKING:
    from optbench_llm.models.fingerprint import model_fingerprint
    from optbench_llm.models.load import LoadedModel, load_model, load_tokenizer
    from optbench_llm.models.locate import EMBEDDED

# A fingerprint must not cost torch.
__getattr__ = lazily(__name__, _HOMES)
