"""Trains GPT-2 with rows of the catalog and saves the weights, in one process or several."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from training_setup import tiny_gpt2, trainer, weights

import optbench_llm as ob

GLOBAL_BATCH, STEPS = 8, 12


def train(folder: Path, spec: str, checkpoint: Path | None = None) -> None:
    """Twelve steps in double precision: there is little noise to magnify.

    One process takes each global batch at once, several take it in two micro-batches each.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batches = 1 if processes == 1 else 2
    # Of our own rules other tests show that checkpoints fit any number of processes.
    foreign = ob.optimizer_info(spec).rule is None
    run = trainer(
        folder / f"output-{spec}", tiny_gpt2().double(), optim=spec, max_steps=STEPS,
        per_device_train_batch_size=GLOBAL_BATCH // micro_batches // processes,
        gradient_accumulation_steps=micro_batches,
        logging_strategy="no", engine="eager",
        save_strategy="steps" if foreign else "no", save_steps=STEPS // 2,
    )  # fmt: skip
    run.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    kept = {"weights": weights(run.model), "losses": run.measurements.losses}
    torch.save(kept, folder / f"{spec}-{run.args.process_index}.pt")


def train_all(folder: Path, specs: list[str]) -> None:
    """Train with each of them."""
    torch.set_num_threads(1)
    for spec in specs:
        train(folder, spec)
