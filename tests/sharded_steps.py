"""Steps every row of the catalog on given gradients and saves the weights; by torchrun or alone.

python sharded_steps.py FOLDER ENGINE SPEC...
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import GPT2Config, GPT2LMHeadModel

import optbench_llm as ob

STEPS = 20


def model_of_odd_sizes() -> GPT2LMHeadModel:
    """GPT-2 with 101 words, which two processes hold 51 and 50 of, and one position, 1 and 0.

    Its feed-forward weights are large enough for 8 bits and halved between two blocks.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_embd=32, n_head=2, n_positions=1, vocab_size=101, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def gradients(step: int, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of one step, for all parameters; the first bias has none in every third step."""
    generator = torch.Generator().manual_seed(step)
    found = {name: 0.1 * torch.randn(p.shape, generator=generator) for name, p in params.items()}
    if step % 3 == 2:
        del found["transformer.h.0.ln_1.bias"]
    return found


def feed(model: nn.Module, step: int) -> None:
    """Give every parameter its gradient, or its part of it."""
    params = dict(model.named_parameters())
    found = gradients(step, params)
    for name, p in params.items():
        g = found.get(name)
        if g is not None and isinstance(p, DTensor):
            g = distribute_tensor(g, p.device_mesh, p.placements, src_data_rank=None)
        p.grad = g


def take_steps(model: nn.Module, optimizer: Any, steps: range) -> None:
    """Step on the gradients of these steps, with an estimate before the step where one is due."""
    for step in steps:
        if optimizer.rule.observe is not None and step % 5 == 0:
            feed(model, 1000 + step)
            optimizer.observe()
        feed(model, step)
        optimizer.gradients_made()
        optimizer.step()


def whole(tensor: Tensor) -> Tensor:
    """All of a parameter; every process must ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def train(spec: str, engine: str, *, sharded: bool) -> dict[str, Any]:
    """The weights in training and, where they differ, in evaluation; what the state takes here."""
    model = model_of_odd_sizes()
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = ob.create_optimizer(model, spec, engine=engine)
    take_steps(model, optimizer, range(STEPS))
    trained = {name: whole(p) for name, p in model.named_parameters()}
    optimizer.eval()
    evaluated = {name: whole(p) for name, p in model.named_parameters()}
    optimizer.train()
    back = {name: whole(p) for name, p in model.named_parameters()}
    assert all(torch.equal(trained[name], back[name]) for name in trained), spec
    return {"trained": trained, "evaluated": evaluated, "state_bytes": optimizer.state_bytes()}


def main(folder: Path, engine: str, specs: list[str]) -> None:
    """Save the outcome of each spec, or the error that it ended with."""
    dist.init_process_group("gloo")
    for spec in specs:
        try:
            outcome = train(spec, engine, sharded=True)
        except Exception:  # the others are to be seen too
            outcome = {"error": traceback.format_exc()}
        torch.save(outcome, folder / f"{spec}-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
