"""What a plan may cost, before any of it has run. Imports no torch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from optbench_llm.catalog import parse_spec
from optbench_llm.catalog.info import state_bytes_per_param
from optbench_llm.leaderboard.board import Plan
from optbench_llm.leaderboard.model_size import ModelSize, model_size
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import TrialSpec

_STORAGE_BYTES = {None: 4.0, "bf16": 2.0, "int8": 1.0}
# The untouched weights, those in training, and their gradient.
_WEIGHTS_AND_GRADIENT_BYTES = 12
_START_S = 8.0
_CALIBRATION_S = 0.3
# Training a small model reaches about this share of a large matrix product's speed.
_EFFICIENCY = 0.25
# What a process with torch and transformers occupies before it holds a model.
_LIBRARIES_BYTES = 0.5 * 2**30
# Of a transformer's layer: about so many values a token and unit of width wait for their gradient.
_KEPT_VALUES_PER_WIDTH = 17
# Logits, their probabilities and their gradient.
_LOGIT_COPIES = 3


@dataclass(frozen=True)
class Estimate:
    """Wall time of what would run, memory of its most demanding trial, and what both rest on."""

    wall_s: float | None
    mem_bytes: float | None
    basis: str

    def __str__(self) -> str:
        if self.wall_s is None:
            return f"Estimate: none; {self.basis}."
        memory = f", {self.mem_bytes / 2**30:.1f} GiB a worker" if self.mem_bytes else ""
        return f"Estimate: {_duration(self.wall_s)}{memory}; {self.basis}."


def estimate(plan: Plan, store: Store, workers: int) -> Estimate:
    """Estimate what ``store`` lacks: from its finished trials, or from the model's size."""
    missing = plan.missing(store)
    if not missing:
        return Estimate(0.0, None, "nothing is left to run")
    processes = plan.recipe.processes_per_trial
    measured = [r.record for r in store.results if r.record["status"] == "done"]
    rounds = math.ceil(len(missing) / workers)
    if measured:
        wall_s = sum(record["wall_s"] for record in measured) / len(measured)
        peak = max(record["peak_mem_bytes"] for record in measured) * processes
        basis = f"from the {len(measured)} finished trials of this store"
        return Estimate(_START_S + wall_s * rounds, peak, basis)
    size = model_size(plan.recipe.model)
    steps = plan.recipe.training.max_steps
    if size is None or steps is None:
        return Estimate(None, None, "finish one trial, and it will be taken from that")
    trial_s = _flops(plan, size.parameters, steps) / (_matmul_flops_per_s() * _EFFICIENCY)
    state = max(_state_bytes_per_param(trial) for trial in missing)
    activations = _activation_bytes(plan, size)
    weights = size.parameters * (_WEIGHTS_AND_GRADIENT_BYTES + state)
    memory = (_LIBRARIES_BYTES + weights) * processes + activations
    basis = f"rough, from {size.parameters / 1e6:.1f} M parameters"
    basis += "" if activations else ", without activations"
    return Estimate(_START_S + trial_s * rounds * workers, memory, basis)


def _flops(plan: Plan, parameters: int, steps: int) -> float:
    """Six operations a parameter and token in training, two in evaluation."""
    training = plan.recipe.training
    blocks = steps * training.batch_size * training.gradient_accumulation_steps
    evaluated = training.max_eval_blocks or 0
    return parameters * plan.recipe.data.block_size * (6.0 * blocks + 2.0 * evaluated)


def _matmul_flops_per_s() -> float:
    """Speed of a matrix product on this processor: the best of many, since other work disturbs."""
    size, best_s = 384, math.inf
    matrix = np.ones((size, size), dtype=np.float32)
    end = time.perf_counter() + _CALIBRATION_S
    while (began := time.perf_counter()) < end:
        np.matmul(matrix, matrix)
        best_s = min(best_s, time.perf_counter() - began)
    return 2 * size**3 / best_s


def _state_bytes_per_param(trial: TrialSpec) -> float:
    """State of a large square matrix, by the rule's own slots; a provider's is taken for Adam's."""
    spec = parse_spec(trial.spec)
    if spec.info is None or spec.info.rule is None:
        return 8.0
    rule = spec.info.rule_class()
    fp32 = state_bytes_per_param(rule, {**rule.settings(), **trial.settings})
    return fp32 / 4 * _STORAGE_BYTES[spec.storage]


def _activation_bytes(plan: Plan, size: ModelSize) -> float:
    """What a step keeps for the backward pass, and its logits with their gradient, in fp32."""
    if size.width is None or size.layers is None or size.vocabulary is None:
        return 0.0
    training, block = plan.recipe.training, plan.recipe.data.block_size
    tokens = training.batch_size * block
    kept = tokens * size.layers * size.width * _KEPT_VALUES_PER_WIDTH
    logits = max(tokens, training.eval_batch_size * block) * size.vocabulary * _LOGIT_COPIES
    return 4.0 * (kept + logits)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
