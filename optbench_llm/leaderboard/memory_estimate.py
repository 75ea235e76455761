"""What memory a trial may need, by its model's headers, before any has run. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from optbench_llm.catalog import parse_spec
from optbench_llm.catalog.info import state_bytes_per_param
from optbench_llm.leaderboard.model_size import ModelSize, model_size
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe

_STORAGE_BYTES = {None: 4.0, "bf16": 2.0, "int8": 1.0}
# The untouched weights, those in training, and their gradient.
_WEIGHTS_AND_GRADIENT_BYTES = 12
# What a process with torch and transformers occupies before it holds a model.
_LIBRARIES_BYTES = 0.5 * 2**30
# Of a transformer's layer: about so many values a token and unit of width wait for their gradient.
_KEPT_VALUES_PER_WIDTH = 17
# Logits, their probabilities and their gradient.
_LOGIT_COPIES = 3


def estimated_mem_bytes(recipe: Recipe, entries: Iterable[OptimizerEntry]) -> float | None:
    """Memory of a worker at the most demanding of these rows; None where the model tells no size.

    Raises:
        ValueError: there is no such model, or a header cannot be read; names the file.
    """
    size = model_size(recipe.model)
    if size is None:
        return None
    state = max((_state_bytes_per_param(entry) for entry in entries), default=0.0)
    weights = size.parameters * (_WEIGHTS_AND_GRADIENT_BYTES + state)
    whole = (_LIBRARIES_BYTES + weights) * recipe.processes_per_trial
    return whole + _activation_bytes(recipe, size)


def _state_bytes_per_param(entry: OptimizerEntry) -> float:
    """State of a large square matrix, by the rule's own slots; a provider's is taken for Adam's."""
    spec = parse_spec(entry.spec)
    if spec.info is None or spec.info.rule is None:
        return 8.0
    rule = spec.info.rule_class()
    fp32 = state_bytes_per_param(rule, {**rule.settings(), **entry.args})
    return fp32 / 4 * _STORAGE_BYTES[spec.storage]


def _activation_bytes(recipe: Recipe, size: ModelSize) -> float:
    """What a step keeps for the backward pass, and its logits with their gradient, in fp32."""
    if size.width is None or size.layers is None or size.vocabulary is None:
        return 0.0
    training, block = recipe.training, recipe.data.block_size
    tokens = training.batch_size * block
    kept = tokens * size.layers * size.width * _KEPT_VALUES_PER_WIDTH
    logits = max(tokens, training.eval_batch_size * block) * size.vocabulary * _LOGIT_COPIES
    return 4.0 * (kept + logits)
