"""How large a model is, by the headers of its files: nothing is loaded. Imports no torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench_llm.models.locate import RANDOM, locate


@dataclass(frozen=True)
class ModelSize:
    """Counts that memory follows from; ``width``, ``layers``, ``vocabulary`` None where untold."""

    parameters: int
    width: int | None = None
    layers: int | None = None
    vocabulary: int | None = None


def model_size(model: str) -> ModelSize | None:
    """The size of a model by its name; None where its files do not tell.

    Raises:
        ValueError: there is no such model, or a header cannot be read; names the file.
    """
    if model.startswith(RANDOM):
        return None
    files = locate(model)
    if files.is_gguf:
        return ModelSize(_gguf_parameters(files.path))
    weights = list(files.path.glob("*.safetensors"))
    if not weights:
        return None
    parameters = sum(_safetensors_parameters(path) for path in weights)
    config = _config(files.path / "config.json")
    return ModelSize(
        parameters,
        width=config.get("hidden_size", config.get("n_embd")),
        layers=config.get("num_hidden_layers", config.get("n_layer")),
        vocabulary=config.get("vocab_size"),
    )


def _safetensors_parameters(path: Path) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: is no whole safetensors file: {error}") from error


def _gguf_parameters(path: Path) -> int:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: reading a GGUF file needs gguf: pip install gguf") from error
    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: is no whole GGUF file: {error}") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return config
