"""Steps optimizers over a model's shapes on several processes and counts; by torchrun.

torchrun ... worker.py OUT fsdp2|ddp SHAPES SPEC...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import optbench_llm as ob
from ledger.counts import counted, gathered_counts
from ledger.shapes import meta_model, sharded
from optbench_llm.engine import RuleOptimizer
from optbench_llm.engine.sharding import local


def feed(model: nn.Module) -> None:
    """Give every parameter a random gradient, or its part of one."""
    for p in model.parameters():
        if p.grad is None:
            p.grad = torch.empty_like(p)
        local(p.grad).normal_(0, 1e-3)


def take(optimizer: RuleOptimizer) -> None:
    """One step on the gradients that are there."""
    optimizer.gradients_made()
    optimizer.step()


def tensors_of(model: nn.Module, optimizer: RuleOptimizer) -> Iterator[Tensor]:
    """What this process holds of parameters, gradients and state."""
    for p in model.parameters():
        assert p.grad is not None
        yield from (local(p.detach()), local(p.grad))
        yield from (value for value in optimizer.state[p].values() if isinstance(value, Tensor))


@torch.no_grad()
def count_step(way: str, shapes: str, spec: str) -> list[dict[str, int]]:
    """Counts of a second step on each process, when all state is there, and its bytes."""
    processes = dist.get_world_size()
    model = sharded(shapes, processes) if way == "fsdp2" else meta_model(shapes)
    model = model.to_empty(device="cpu")
    model.tie_weights()  # pyright: ignore[reportCallIssue]
    torch.manual_seed(dist.get_rank() if way == "fsdp2" else 0)
    for p in model.parameters():
        local(p).normal_(0, 0.02)
    optimizer = ob.create_optimizer(model, spec, engine="eager")
    assert isinstance(optimizer, RuleOptimizer)
    feed(model)
    if optimizer.rule.observe is not None:
        optimizer.observe()
    take(optimizer)
    feed(model)
    counts = counted(lambda: take(optimizer), tensors_of(model, optimizer))
    return gathered_counts(counts, state_bytes=optimizer.state_bytes())


def main(out: Path, way: str, shapes: str, specs: list[str]) -> None:
    """Count every spec; the first process writes what all have found after each."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for spec in specs:
        found[spec] = count_step(way, shapes, spec)
        if dist.get_rank() == 0:
            out.write_text(json.dumps(found), encoding="utf-8")
            print(f"{way} on {dist.get_world_size()}, {shapes}: {spec}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
