"""Load a model and its tokenizer by name, in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging

from optbench_llm.models.explain import blaming, check_causal
from optbench_llm.models.fingerprint import model_fingerprint
from optbench_llm.models.fresh import find_architecture, read_config
from optbench_llm.models.gguf import dequantized
from optbench_llm.models.locate import RANDOM, locate


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in fp32 with its tokenizer, and the hash of what it was made of."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    name: str


def load_model(name: str, *, seed: int = 0, shards: int = 1) -> LoadedModel:
    """Load ``optbench:tiny-gpt2``, ``optbench:smollm2-135m``, a folder, a GGUF file or a hub id.

    ``random:<config>`` gives fresh weights by ``seed``. The global random state is left as it was.
    Over several ``shards``, one a process, weights are sharded (FSDP2); all processes must call it.

    Raises:
        ValueError: there is no such model, or its files are incomplete or damaged.
    """
    fingerprint = model_fingerprint(name)
    with torch.random.fork_rng(devices=[]), _no_progress_bars():
        torch.manual_seed(seed)
        load = _fresh if name.startswith(RANDOM) else _pretrained
        model, tokenizer = load(name, DistributedConfig(fsdp_size=shards) if shards > 1 else None)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{name!r}: the tokenizer has {len(tokenizer)} tokens, the model's vocabulary only "
            f"{model.config.vocab_size}: put the model's own tokenizer beside its config"
        )
    _limit(tokenizer, model.config)
    # GPT-2's class name does not tell transformers its loss, which then warns of a guess.
    if getattr(model, "loss_type", None) is None:
        model.loss_type = "ForCausalLM"
    return LoadedModel(model, tokenizer, fingerprint, name)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that ``load_model`` gives, without the model.

    Raises:
        ValueError: there is no such model, or its files are incomplete or damaged.
    """
    if name.startswith(RANDOM):
        architecture = find_architecture(name)
        folder, config_facts = architecture.tokenizer_folder, architecture.config
    else:
        files = locate(name)
        folder = dequantized(files.path) if files.is_gguf else files.path
        config_facts = read_config(folder / "config.json", name)
    check_causal(config_facts, name)
    tokenizer = _tokenizer(folder, name)
    with blaming(f"model {name!r}: its config.json describes no model that can be made"):
        _limit(tokenizer, AutoConfig.for_model(**config_facts))
    return tokenizer


def _limit(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """A tokenizer may come from elsewhere or know no limit; what counts is the model's."""
    positions = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    tokenizer.model_max_length = positions


def _pretrained(
    name: str, distributed: DistributedConfig | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    files = locate(name)
    folder = dequantized(files.path) if files.is_gguf else files.path
    check_causal(read_config(folder / "config.json", name), name)
    with blaming(f"model {name!r}: the weights or the config in {folder} are damaged"):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, distributed_config=distributed
        )
    return model, _tokenizer(folder, name)


def _tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    with blaming(f"model {name!r}: the tokenizer's files in {folder} are damaged"):
        return AutoTokenizer.from_pretrained(folder)


def _fresh(
    name: str, distributed: DistributedConfig | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    architecture = find_architecture(name)
    check_causal(architecture.config, name)
    unfit = f"model {name!r}: its config.json describes no model that can be made"
    with blaming(unfit):
        config = AutoConfig.for_model(**architecture.config)
    tokenizer = _tokenizer(architecture.tokenizer_folder, name)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    with blaming(unfit):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    distributed, _, mesh = model.prepare_distribute_model(distributed)
    return model.maybe_distribute_model(model, distributed, mesh), tokenizer


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """A bar over a model of some MB is noise between the lines of a leaderboard."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
