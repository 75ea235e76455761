"""GGUF files, dequantized once and kept as a model folder in the cache."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from optbench_llm.cache import cache_dir, file_hash, replacing
from optbench_llm.models.locate import SMOLLM2_EXTRA

MANIFEST = "hashes.json"


def dequantized(gguf: Path) -> Path:
    """The folder with a GGUF file's weights in fp32 and its tokenizer.

    The first call takes some 15 s for 135M parameters and leaves 4 bytes a parameter in the cache;
    a damaged copy is made anew.

    Raises:
        ValueError: the package gguf is missing, or the file cannot be read.
    """
    # Another version of transformers may read tensors or tokenizers otherwise.
    maker = f"{file_hash(gguf)}-transformers-{version('transformers')}"
    folder = cache_dir() / "models" / maker
    if not _intact(folder):
        if find_spec("gguf") is None:
            raise ValueError(f"{gguf} needs the package gguf, not installed: {SMOLLM2_EXTRA}")
        with replacing(folder) as built:
            _convert(gguf, built)
            hashes = {file.name: file_hash(file) for file in built.iterdir()}
            (built / MANIFEST).write_text(json.dumps(hashes))
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, file = str(gguf.parent), gguf.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"{gguf}: not a GGUF file that transformers can read: {error}") from error
    # What is saved is no longer quantized, and must not say so when it is loaded.
    vars(model.config).pop("quantization_config", None)
    vars(model).pop("hf_quantizer", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _intact(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
        return all(file_hash(folder / name) == known for name, known in hashes.items())
    except (OSError, ValueError):
        return False
