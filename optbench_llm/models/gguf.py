"""GGUF files, dequantized once and kept as a model folder in the cache."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from optbench_llm.cache import build_once, cache_dir, file_hash
from optbench_llm.models.explain import blaming

MANIFEST = "hashes.json"


def dequantized(gguf: Path) -> Path:
    """The folder with a GGUF file's weights in fp32 and its tokenizer.

    The first call takes some 15 s for 135M parameters and leaves 4 bytes a parameter in the cache;
    a damaged copy is made anew. Of several processes that call, one converts.

    Raises:
        ValueError: the package gguf is missing, or the file cannot be read.
    """
    # Another version of transformers may read tensors or tokenizers otherwise.
    maker = f"{file_hash(gguf)}-transformers-{version('transformers')}"
    folder = cache_dir() / "models" / maker
    return build_once(folder, _intact, lambda built: _build(gguf, built))


def _build(gguf: Path, folder: Path) -> None:
    if find_spec("gguf") is None:
        raise ValueError(f"{gguf} needs the package gguf, not installed: pip install gguf")
    _convert(gguf, folder)
    hashes = {file.name: file_hash(file) for file in folder.iterdir()}
    (folder / MANIFEST).write_text(json.dumps(hashes))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, file = str(gguf.parent), gguf.name
    with blaming(f"{gguf}: expected a GGUF file that transformers can read"):
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # What is saved is no longer quantized, and must not say so when it is loaded.
    vars(model.config).pop("quantization_config", None)
    vars(model).pop("hf_quantizer", None)
    # Of several processes transformers lets the first one save, and here whoever came first does.
    vars(model)["should_save_on_this_rank"] = lambda is_main_process: is_main_process
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what a full disk looks like from there
        raise OSError(str(error)) from error


def _intact(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
        same = (file_hash(folder / name) == known for name, known in hashes.items())
        return "config.json" in hashes and all(same)
    except (OSError, ValueError):
        return False
