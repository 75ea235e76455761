"""Trains GPT-2 with programs for some steps and saves the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from training_setup import common, tiny_gpt2, trainer
from transformers.distributed.configuration_utils import DistributedConfig

from optbench_llm.training import OptBenchArguments

GLOBAL_BATCH = 8
#: What the runs could only agree in if they drew the same labels or masks is left out.
SETTINGS = {
    "sam+adamw": {"rho": 0.1},
    "sophia-h": {"k": 1},
    "adahessian": {"k": 2, "lr": 0.01, "hvp": "finite-difference"},
    "svrg+sgd": {"snapshot_period": 2},
}


def sharded(model: Any, folder: Path) -> Any:
    """The model as transformers shards it (FSDP2)."""
    args = OptBenchArguments(**common(folder))
    assert args.device.type == "cpu"  # asked for, which joins the processes
    config = DistributedConfig(fsdp_size=args.world_size)
    config, _, mesh = model.prepare_distribute_model(config)
    return model.maybe_distribute_model(model, config, mesh)


def train(folder: Path, spec: str, kind: str) -> None:
    """Three steps of one spec in double precision: ``ddp``, ``fsdp`` or ``alone``."""
    model = tiny_gpt2().double()
    run = trainer(
        folder / "output", sharded(model, folder) if kind == "fsdp" else model,
        optim=spec, optim_args=SETTINGS[spec], max_steps=3,
        per_device_train_batch_size=GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        logging_strategy="no",
    )  # fmt: skip
    run.train()
    params = [p.detach() for group in run.optimizer.param_groups for p in group["params"]]
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in params]
    kept = {"weights": whole, "passes": run.measurements.passes}
    torch.save(kept, folder / f"{spec}-{kind}-{run.args.process_index}.pt")


def train_all(folder: Path) -> None:
    """Train with every program, replicated and sharded."""
    torch.set_num_threads(1)
    for spec in SETTINGS:
        for kind in ("ddp", "fsdp"):
            train(folder, spec, kind)
