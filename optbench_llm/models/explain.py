"""Whatever transformers raises over a user's files, as an error that names them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

SHOWN_CHARS = 300


@contextmanager
def blaming(files: str) -> Iterator[None]:
    """Raise ``ValueError("<files>: <what was found>")`` in place of what the block raises.

    Damaged or foreign files end in anything from KeyError to tokenizers' bare Exception. Lack of
    memory is not theirs and stays what it is.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in str(error).lower():
            raise
        found = " ".join(str(error).split()) or "no reason given"
        if len(found) > SHOWN_CHARS:
            found = f"{found[:SHOWN_CHARS]}..."
        raise ValueError(f"{files}: {found} ({type(error).__name__})") from error


def check_causal(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config of something else than a causal language model.

    Raises:
        ValueError: names the nearest architectures.
    """
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    kind = str(config.get("model_type"))
    if kind not in KNOWN:
        near = difflib.get_close_matches(kind, KNOWN, n=3) or ["gpt2", "llama", "qwen3"]
        raise ValueError(
            f"model {name!r}: its config.json says model_type {kind!r}, which is no causal "
            f"language model of transformers {__version__}; there are {', '.join(near)} and others"
        )
