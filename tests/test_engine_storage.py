"""State in 16 and 8 bits: how far it strays from fp32, in short and in long runs."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from marks import slow
from oracles import CASES
from oracles.comparison import make_optimizer, make_parameter, take_step
from oracles.proof import Shape
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import optbench_llm as ob
from optbench_llm.engine.storage import BLOCK, SMALLEST_INT8, storage_for
from optbench_llm.rules.adam import AdamW
from optbench_llm.rules.rule import Slot

SHAPES = (Shape((64, 80)), Shape((70, 64), transposed=True))
IN_8_BITS, IN_BF16 = ([f"{name}@{storage}" for name in CASES] for storage in ("int8", "bf16"))
STORED = [*IN_8_BITS, *IN_BF16]
#: Distance of the displacements after 20 steps, relative, in the 2-norm.
SHORT = {"bf16": 0.01, "int8": 0.03}
#: The same after 150 steps of noisy gradients whose elements differ widely in size, and how far the
#: displacement's length may stray. AdaMod, whose three averages all round, is the worst.
LONG = {"bf16": 0.02, "int8": 0.12}
LONG_LENGTH = 0.02


def create_or_skip(params: Any, spec: str, **h: Any) -> Any:
    try:
        return make_optimizer(params, spec, engine="eager", **h)
    except ValueError as error:
        if "storage" not in str(error):
            raise
        pytest.skip(str(error))


@cache
def short_run(spec: str) -> torch.Tensor:
    """Displacement after 20 steps of the rule's first case."""
    params = [make_parameter(shape, i, torch.float32) for i, shape in enumerate(SHAPES)]
    start = [p.detach().clone() for p in params]
    optimizer = create_or_skip(params, spec, **CASES[spec.partition("@")[0]][0])
    for t in range(1, 21):
        take_step(optimizer, params, SHAPES, t)
    return torch.cat([(p.detach() - s).flatten() for p, s in zip(params, start, strict=True)])


@cache
def long_run(spec: str, steps: int = 150) -> torch.Tensor:
    """Displacement under default betas and a small lr, as in a real run."""
    rule = ob.optimizer_info(spec).name
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(64, SMALLEST_INT8 // 64, generator=generator).exp()
    p = nn.Parameter(torch.randn(sizes.shape, generator=generator) * 0.1)
    start = p.detach().clone()
    lr = ob.optimizer_info(rule).lr / 10
    optimizer = create_or_skip([p], spec, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        noise = torch.randn(sizes.shape, generator=generator)
        p.grad = 0.01 * sizes * (noise + 0.3)
        if optimizer.rule.observe:
            optimizer.observe(scale=100.0)
        optimizer.gradients_made()
        optimizer.step()
    return p.detach() - start


@pytest.mark.parametrize("spec", [*IN_8_BITS, *slow(*IN_BF16)])
def test_short_runs_stay_close_to_fp32(spec):
    """20 steps end within the stated distance, and not at fp32's own place."""
    name, _, storage = spec.partition("@")
    exact, found = short_run(name), short_run(spec)
    assert 0 < (found - exact).norm() < SHORT[storage] * exact.norm()


# Hundreds of steps of every row in every storage.
@pytest.mark.slow
@pytest.mark.parametrize("spec", STORED)
def test_long_runs_stay_close_to_fp32(spec):
    """Rounding must not pile up: moments that could only grow would make the steps vanish."""
    name, _, storage = spec.partition("@")
    found = long_run(spec)
    exact = long_run(name)
    assert (found - exact).norm() < LONG[storage] * exact.norm()
    assert abs(found.norm() / exact.norm() - 1) < LONG_LENGTH


@pytest.mark.parametrize(
    ("spec", "bytes_per_element"),
    [("adamw", 8), ("adamw@bf16", 4), ("adamw@int8", 2), ("lion@int8", 1), ("adan@int8", 4)],
)
def test_state_is_as_small_as_it_says(spec, bytes_per_element):
    """8 bits cost one byte and one fp32 scale for 256 elements, second moments too."""
    p = nn.Parameter(torch.ones(64, BLOCK))
    p.grad = torch.ones_like(p)
    optimizer: Any = ob.create_optimizer([p], spec)
    optimizer.step()
    coded = bytes_per_element if spec.endswith("int8") else 0
    scales = 4 / BLOCK * coded
    assert optimizer.state_bytes() / p.numel() == bytes_per_element + scales


def test_small_tensors_stay_in_fp32_under_int8():
    """Norms and biases gain nothing and are often the delicate ones."""
    small, large = nn.Parameter(torch.ones(64)), nn.Parameter(torch.ones(SMALLEST_INT8))
    for p in (small, large):
        p.grad = torch.ones_like(p)
    optimizer = ob.create_optimizer([small, large], "adamw@int8")
    optimizer.step()
    assert optimizer.state[small]["exp_avg"].dtype is torch.float32
    assert optimizer.state[large]["exp_avg"].dtype is torch.int8


@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_second_moments_shrink_again(storage):
    """A step moves them by 0.1 %: rounded to nearest they would stay up for ever."""
    moments = {}
    for spec in ("adamw", f"adamw@{storage}"):
        p = nn.Parameter(torch.zeros(SMALLEST_INT8))
        optimizer = ob.create_optimizer([p], spec)
        for t in range(1500):
            p.grad = torch.full_like(p, 1.0 if t < 20 else 0.1)
            optimizer.step()
        (slot,) = [slot for slot in AdamW.slots if slot.name == "exp_avg_sq"]
        kept = storage_for(slot, spec.partition("@")[2] or "fp32", p.numel(), torch.float32)
        parts = [optimizer.state[p][slot.name + suffix] for suffix in kept.suffixes]
        moments[spec] = kept.decode(parts, p.detach())
    assert moments["adamw"].max() < 0.02
    assert abs(moments[f"adamw@{storage}"].mean() / moments["adamw"].mean() - 1) < 0.02


def test_centred_rmsprop_stays_finite_in_low_bits():
    """A rounded mean above the mean square would make the variance negative, and the root NaN."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(SMALLEST_INT8, generator=generator)
    p = nn.Parameter(torch.zeros(SMALLEST_INT8))
    optimizer = ob.create_optimizer([p], "rmsprop@int8", centered=True, momentum=0.9, lr=1e-4)
    for _ in range(60):
        p.grad = base + 0.02 * torch.randn(SMALLEST_INT8, generator=generator)
        optimizer.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize(
    ("spec", "slot"),
    [
        ("sgd-schedulefree@bf16", "z"),
        ("adagrad@int8", "sum"),
        ("adagrad@bf16", "sum"),
        ("madgrad@int8", "grad_sum_sq, grad_sum, x0"),
        ("rprop@int8", "step_size"),
    ],
)
def test_storage_without_effect_is_refused(spec, slot):
    """With the slots that cannot bear it, the reason, and the name to use instead."""
    name = spec.partition("@")[0]
    p = nn.Parameter(torch.ones(4))
    with pytest.raises(ValueError, match=rf"'{spec}'.*{slot} would lose.* Use {name}\."):
        ob.create_optimizer([p], spec)


def test_embeddings_may_stay_out_of_8_bits():
    """As bitsandbytes in the Trainer does; bf16 they bear."""
    p = torch.empty(SMALLEST_INT8)
    for storage, bits in (("int8", 32), ("bf16", 16)):
        kept = storage_for(Slot("exp_avg"), storage, p.numel(), torch.float32, embedding=True)
        assert 8 * kept.encode(p)[0].element_size() == bits


@pytest.mark.parametrize("spec", ["adamp@int8", "muon@int8", "adam-mini@int8", "soap@int8"])
@pytest.mark.parametrize("shape", [(96, 64), (65, 67)])
def test_rules_that_see_rows_or_matrices_keep_8_bits_too(spec, shape):
    """Their state lies flat: 20 steps end near fp32's, whatever the shape."""
    ends = {}
    for one in (spec.partition("@")[0], spec):
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(torch.randn(shape, generator=generator))
        start = p.detach().clone()
        optimizer = ob.create_optimizer([{"params": [p], "role": "matrix"}], one, engine="eager")
        for _ in range(20):
            p.grad = torch.randn(shape, generator=generator) + 0.3
            optimizer.step()
        ends[one] = p.detach() - start
    exact, found = ends.values()
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


def test_a_matrix_stored_the_other_way_round_has_the_same_8_bits():
    """Also where its rows, as the rule sees them, are as long as a block."""
    generator = torch.Generator().manual_seed(0)
    start, g = torch.randn(2, 64, BLOCK, generator=generator)
    ends = []
    for turned in (False, True):
        p = nn.Parameter(start.t().contiguous() if turned else start.clone())
        group = {"params": [p], "role": "matrix", "conv1d": turned}
        optimizer = ob.create_optimizer([group], "muon@int8", engine="eager")
        for _ in range(2):
            p.grad = g.t().contiguous() if turned else g
            optimizer.step()
        ends.append(p.detach().t() if turned else p.detach())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("spec", ["adamw@bf16", "adamw@int8"])
def test_a_resumed_run_rounds_as_the_uninterrupted_one(spec):
    """Bit for bit: the noise belongs to the step, not to the process."""

    def run(p: nn.Parameter, optimizer: Any, steps: range) -> torch.Tensor:
        for t in steps:
            generator = torch.Generator().manual_seed(t)
            p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        return p.detach().clone()

    p = nn.Parameter(torch.ones(SMALLEST_INT8))
    optimizer = ob.create_optimizer([p], spec)
    run(p, optimizer, range(5))
    q = nn.Parameter(p.detach().clone())
    resumed = ob.create_optimizer([q], spec)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(run(p, optimizer, range(5, 10)), run(q, resumed, range(5, 10)))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_of_a_model_keep_out_of_8_bits(tied):
    """As bitsandbytes does in the Trainer; whoever wants all in 8 bits passes parameters."""
    size = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128}
    counts = {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**size, **counts, tie_word_embeddings=tied))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for given, kept in ((model, torch.float32), (list(model.parameters()), torch.int8)):
        optimizer = ob.create_optimizer(given, "lion@int8")
        planned = optimizer.planned_state_bytes()
        optimizer.step()
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        assert optimizer.state[embedding]["exp_avg"].dtype is kept
        assert optimizer.state[head]["exp_avg"].dtype is (kept if tied else torch.int8)
        assert optimizer.state_bytes() == planned
