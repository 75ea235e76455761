"""One hash for all files that decide what a model computes; torch is not imported."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from optbench_llm.cache import file_hash
from optbench_llm.models.fresh import find_architecture
from optbench_llm.models.locate import RANDOM, TOKENIZERS, locate

DECIDING = ("*.json", "*.safetensors", "pytorch_model*.bin", "*.model", "*.txt", "*.jinja")


def model_fingerprint(name: str) -> str:
    """Hex hash of a model's weights, config and tokenizer; of a hub model, its id and revision.

    Of ``random:<config>`` it holds the config and the tokenizer; the seed is the caller's.

    Raises:
        ValueError: there is no such model.
    """
    if name.startswith(RANDOM):
        architecture = find_architecture(name)
        folder = architecture.tokenizer_folder
        files = [folder / file for file in (*TOKENIZERS, "merges.txt", "tokenizer_config.json")]
        return _hash_of("random", architecture.config, _hashes(f for f in files if f.is_file()))
    files = locate(name)
    if files.revision:
        return _hash_of("hub", files.revision)
    if files.is_gguf:
        return _hash_of("gguf", file_hash(files.path))
    deciding = {file for pattern in DECIDING for file in files.path.glob(pattern)}
    return _hash_of("folder", _hashes(deciding))


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: file_hash(file) for file in files}


def _hash_of(*facts: object) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
