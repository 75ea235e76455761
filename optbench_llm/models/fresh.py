"""``random:<config>``: an architecture with fresh weights, and the tokenizer that goes with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from optbench_llm.hub import looks_like_hub_id, snapshot
from optbench_llm.models.locate import (
    HUB_FILES,
    OFFLINE_HINT,
    RANDOM,
    TINY_GPT2,
    has_tokenizer,
    tiny_gpt2_folder,
)
from optbench_llm.paths import names_in, user_path

GPT2_SIZES = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}


@dataclass(frozen=True)
class Architecture:
    """A config as transformers writes it, and the folder of a tokenizer."""

    config: dict
    tokenizer_folder: Path


def find_architecture(name: str) -> Architecture:
    """The architecture behind ``random:<config>``.

    GPT-2's sizes are known without a network and come with the embedded tokenizer, as does a
    config without a tokenizer beside it: its ids fit any vocabulary of 2,048 or more.

    Raises:
        ValueError: there is no such config.
    """
    config = name.removeprefix(RANDOM)
    if config in GPT2_SIZES:
        return Architecture({"model_type": "gpt2", **GPT2_SIZES[config]}, tiny_gpt2_folder())
    folder = _folder(config)
    file = folder if folder.suffix == ".json" else folder / "config.json"
    if file.name not in names_in(file.parent):
        raise ValueError(f"model {name!r}: {folder} has no config.json")
    with_tokenizer = file.parent if has_tokenizer(file.parent) else tiny_gpt2_folder()
    return Architecture(read_config(file, name), with_tokenizer)


def read_config(file: Path, name: str) -> dict:
    """The config.json of the model that the user calls ``name``.

    Raises:
        ValueError: it cannot be read, or is no transformers config.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"model {name!r}: {file} cannot be read as JSON: {error}") from error
    if not isinstance(facts, dict) or "model_type" not in facts:
        raise ValueError(
            f"model {name!r}: {file} has no 'model_type', as every transformers config has"
        )
    return facts


def _folder(config: str) -> Path:
    if config == TINY_GPT2:
        return tiny_gpt2_folder()
    path = user_path(config)
    if path.exists():
        return path
    expected = f"expected {', '.join(GPT2_SIZES)}, {TINY_GPT2}, a folder, a config.json or a hub id"
    if not looks_like_hub_id(config) or path.suffix == ".json":
        raise ValueError(f"no config {config!r}: {expected}")
    patterns = [pattern for pattern in HUB_FILES if pattern != "*.safetensors"]
    return snapshot(config, "model", patterns, f"Or: {expected}. {OFFLINE_HINT}")
