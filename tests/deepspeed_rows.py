"""Trains GPT-2 with rows of the catalog under DeepSpeed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from training_setup import tiny_gpt2, trainer, weights

GLOBAL_BATCH, STEPS, STAGES = 4, 5, (1, 2)


def train(folder: Path, spec: str, stage: int = 0) -> None:
    """Five steps with a stage of ZeRO, or plainly; keeps what they led to, or the refusal."""
    changes: dict[str, Any] = {}
    if stage:
        own = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        zero = {"stage": stage}
        changes["deepspeed"] = {**dict.fromkeys(own, "auto"), "zero_optimization": zero}
        # With use_cpu accelerate takes DDP; without a GPU DeepSpeed takes the CPU by itself.
        changes["use_cpu"] = False
    run = trainer(
        folder / "output", tiny_gpt2(), optim=spec, max_steps=STEPS, logging_strategy="no",
        per_device_train_batch_size=GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        engine="eager", **changes,
    )  # fmt: skip
    kept: dict[str, Any] = {}
    try:
        run.train()
        measured = run.measurements
        kept = {"weights": weights(run.model), "losses": measured.losses}
        kept["step_ms"] = measured.median_step_ms
    except ValueError as error:
        kept = {"refused": str(error), "steps": run.state.global_step}
    torch.save(kept, folder / f"{spec}-{stage}-{run.args.process_index}.pt")


def train_all(folder: Path, specs: list[str]) -> None:
    """Train with each of them at both stages."""
    import deepspeed.ops

    # Its own all-reduce on the CPU is compiled for half a minute; gloo's does as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(1)
    for spec in specs:
        for stage in STAGES:
            train(folder, spec, stage)
