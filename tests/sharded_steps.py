"""Steps rows of the catalog on given gradients and saves the weights, in one process or two."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from training_setup import trainer
from transformers import GPT2Config, GPT2LMHeadModel

import optbench_llm as ob

STEPS = 8
#: Specs that run on a model whose parts end within blocks of 8 bits.
UNALIGNED = ("lion@int8", "muon@int8")
WIDTH, UNALIGNED_WIDTH = 32, 42


def model_of_odd_sizes(width: int) -> GPT2LMHeadModel:
    """GPT-2 with 101 words, which two processes hold 51 and 50 of, and one position, 1 and 0.

    Its feed-forward weights are large enough for 8 bits; two processes halve them between two
    blocks where the width is 32, within one where it is 42.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1,
        n_embd=width,
        n_head=2,
        n_positions=1,
        vocab_size=101,
        bos_token_id=0,
        eos_token_id=0,
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


def start(
    spec: str, engine: str, weights: dict[str, Tensor] | None = None, width: int | None = None
) -> tuple[Any, Any]:
    """A model, sharded where there are several processes, and its optimizer."""
    if width is None:
        width = UNALIGNED_WIDTH if spec in UNALIGNED else WIDTH
    model = model_of_odd_sizes(width)
    if weights is not None:
        model.load_state_dict(weights)
    if dist.is_initialized():
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, ob.create_optimizer(model, spec, engine=engine)


def all_weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name; every process must ask."""
    params = ((name, p.detach()) for name, p in model.named_parameters())
    return {n: p.full_tensor() if isinstance(p, DTensor) else p.clone() for n, p in params}


def first_half(spec: str, engine: str) -> dict[str, Any]:
    """A checkpoint after half of the steps, as a Trainer makes it: in evaluation mode."""
    model, optimizer = start(spec, engine)
    take_steps(model, optimizer, range(STEPS // 2))
    optimizer.eval()
    weights = all_weights(model)
    tied = {"lm_head.weight": weights["transformer.wte.weight"]}
    return {"weights": weights | tied, "optimizer": optimizer.whole_state_dict()}


def second_half(spec: str, engine: str, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights at the end of a run that goes on from a checkpoint."""
    model, optimizer = start(spec, engine, checkpoint["weights"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    optimizer.train()
    take_steps(model, optimizer, range(STEPS // 2, STEPS))
    return all_weights(model)


def train(spec: str, engine: str, width: int | None = None) -> dict[str, Any]:
    """The weights in training and in evaluation, and what the state takes here."""
    model, optimizer = start(spec, engine, width=width)
    take_steps(model, optimizer, range(STEPS))
    trained = all_weights(model)
    optimizer.eval()
    evaluated = all_weights(model)
    optimizer.train()
    back = all_weights(model)
    assert all(torch.equal(trained[name], back[name]) for name in trained), spec
    return {"trained": trained, "evaluated": evaluated, "state_bytes": optimizer.state_bytes()}


def outcome(folder: Path, spec: str, engine: str) -> dict[str, Any]:
    """Of a run without a break, of one with, and of one that another number of processes began."""
    result = train(spec, engine)
    checkpoint = first_half(spec, engine)
    if checkpoint["optimizer"] is not None:
        torch.save(checkpoint, folder / f"{spec}-half.pt")
    dist.barrier()
    for name in ("half", "alone"):
        begun = torch.load(folder / f"{spec}-{name}.pt", weights_only=True)
        result[f"after {name}"] = second_half(spec, engine, begun)
    return result


def saving(folder: Path, model: nn.Module) -> None:
    """Make a provider's optimizer in a Trainer that is to save its state."""
    run = trainer(folder / "output", model, optim="torch:AdamW", save_strategy="steps")
    run.create_optimizer()


def refusals(folder: Path, checkpoint: dict[str, Any]) -> dict[str, str]:
    """What is said to a wrong call, by case; the checkpoint is that of AdamW here."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model, _ = start("adamw", "eager")
    _, other = start("adamw", "eager", width=UNALIGNED_WIDTH)
    partial = nn.Parameter(DTensor.from_local(torch.ones(4, 4), mesh, [Partial()]))
    partial.grad = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()])
    sharded = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
    sharded.grad = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    calls = {
        "partial": ob.create_optimizer([partial], "adamw").step,
        "gradient": ob.create_optimizer([sharded], "adamw").step,
        "lion-8bit": lambda: start("lion-8bit", "eager"),
        "saves": lambda: saving(folder, model),
        "model": lambda: other.load_state_dict(checkpoint["optimizer"]),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
        except (RuntimeError, ValueError) as error:
            said[name] = str(error)
    return said


def main(folder: Path, engine: str, specs: list[str]) -> None:
    """Save the outcome of each spec, or the error that it ended with.

    The folder holds SPEC-alone.pt: the first half of the steps on one process.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for spec in specs:
        try:
            found = outcome(folder, spec, engine)
        except Exception:  # the others are to be seen too
            found = {"error": traceback.format_exc()}
        torch.save(found, folder / f"{spec}-{dist.get_rank()}.pt")
    if "adamw" in specs:
        begun = torch.load(folder / "adamw-alone.pt", weights_only=True)
        torch.save(refusals(folder, begun), folder / f"refusals-{dist.get_rank()}.pt")
    dist.destroy_process_group()
