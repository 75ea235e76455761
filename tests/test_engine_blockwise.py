"""8-bit codes: bounds of the error, unbiased rounding, odd sizes, odd values."""

from __future__ import annotations

import re

import pytest
import torch
from torch._inductor.utils import fresh_cache

import optbench_llm as ob
from optbench_llm.engine import compiled
from optbench_llm.engine.blockwise import TINY
from optbench_llm.engine.graphs import Layout, compile_graph
from optbench_llm.engine.noise import Noise, noise_key
from optbench_llm.engine.storage import BLOCK, Blockwise, Plain

SIZES = [1, 255, 256, 257, 5000]
KINDS = pytest.mark.parametrize("positive", [False, True])


@pytest.fixture
def instructions(request, monkeypatch):
    """Let inductor write for this instruction set of the processor, where it has that."""
    if request.param == "avx2":
        if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
            pytest.skip("the processor does not have AVX2")
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    return request.param


INSTRUCTIONS = pytest.mark.parametrize("instructions", ["all", "avx2"], indirect=True)


def numbers(numel: int, positive: bool) -> torch.Tensor:
    """Of many magnitudes."""
    generator = torch.Generator().manual_seed(numel)
    values = torch.randn(numel, generator=generator) * torch.randn(numel, generator=generator).exp()
    return values * values if positive else values


def round_trip(values: torch.Tensor, positive: bool, noise: Noise | None = None) -> torch.Tensor:
    storage = Blockwise(positive)
    return storage.decode(storage.encode(values, noise), values)


def draw(t: int) -> Noise:
    return Noise(noise_key(t, 0), "update/v")


@KINDS
@pytest.mark.parametrize("numel", SIZES)
def test_errors_are_a_small_part_of_the_number(positive, numel):
    """At most 1/32 of it or, near 0, half the smallest code; a block's extreme comes back."""
    values = numbers(numel, positive)
    codes, scales = Blockwise(positive).encode(values)
    assert codes.shape == values.shape
    assert scales.shape == (-(-numel // BLOCK),)
    largest = scales.repeat_interleave(BLOCK)[:numel]
    error = (round_trip(values, positive) - values).abs()
    smallest = 2**-19 if positive else 2**-12
    assert (error <= values.abs() / 31 + largest * smallest).all()
    extremes = values.abs() == largest
    assert (error[extremes] <= values.abs()[extremes] * 1e-6).all()


@KINDS
def test_codes_keep_the_order(positive):
    """A larger number never decodes to a smaller one."""
    values = numbers(BLOCK, positive).sort().values
    assert (round_trip(values, positive).diff() >= 0).all()


def test_stochastic_codes_are_right_in_the_mean():
    """Errors of the mean of 1,000 draws have the spread that a fair coin gives, and no bias."""
    draws = 1000
    values = numbers(4 * BLOCK, True)
    results = torch.stack([round_trip(values, True, draw(t)) for t in range(draws)]).double()
    low, high = results.min(0).values, results.max(0).values
    share = (values - low) / (high - low)
    fair = (share > 0.02) & (share < 0.98) & (values > values.view(4, -1).amax(1).max() * 2**-16)
    assert fair.sum() > 700
    spread = (high - low) * (share * (1 - share) / draws).sqrt()
    error = ((results.mean(0) - values) / spread)[fair]
    assert error.abs().max() < 5
    assert abs(error.mean()) < 5 / len(error) ** 0.5
    assert 0.9 < error.std() < 1.1


def test_positive_numbers_never_become_0():
    """A step divides by their root."""
    values = torch.full((BLOCK,), 1e-30)
    values[0], values[1] = 1.0, 0.0
    for noise in (None, *map(draw, range(20))):
        back = round_trip(values, True, noise)
        assert (back[2:] > 0).all()
        assert back[1] == 0


@KINDS
def test_zeros_and_denormals(positive):
    """Zeros stay zeros; the smallest numbers come back finite, of their size or 0."""
    zeros = torch.zeros(2 * BLOCK)
    assert torch.equal(round_trip(zeros, positive), zeros)
    small = torch.full((BLOCK,), TINY / 64)
    back = round_trip(small, positive)
    assert (back - small).abs().max() <= TINY / 256


@KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(positive, bad):
    """It reaches the scale, so that a look at the scales is enough; other blocks keep theirs."""
    values = numbers(3 * BLOCK, positive)
    values[BLOCK + 5] = bad
    codes, scales = Blockwise(positive).encode(values)
    assert scales.isfinite().tolist() == [True, False, True]
    back = Blockwise(positive).decode((codes, scales), values)
    assert not back[BLOCK : 2 * BLOCK].isfinite().any() or not back[BLOCK + 5].isfinite()
    assert back[:BLOCK].isfinite().all()


@KINDS
def test_zeros_are_what_encoding_makes_of_zeros(positive):
    storage = Blockwise(positive)
    value = torch.zeros(3, 100)
    for found, expected in zip(storage.zeros(value), storage.encode(value), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@INSTRUCTIONS
@pytest.mark.parametrize("storage", [Blockwise(), Blockwise(True), Plain(torch.bfloat16, True)])
def test_compiled_codes_are_the_eager_ones(storage, instructions):
    """Bit for bit, both ways, in rows of a block as the engine passes them."""
    signed = storage == Blockwise()
    values = numbers(128 * BLOCK, not signed).view(-1, BLOCK)
    values[3, 5], values[7] = 0.0, 0.0
    expected = storage.encode(values, draw(7))
    expected = (*expected, storage.decode(expected, values))
    outputs = [torch.empty_like(part) for part in expected]
    key = torch.tensor(noise_key(7, 0), dtype=torch.float32)

    def encode(values: torch.Tensor, key: torch.Tensor, *outputs: torch.Tensor):
        parts = outputs[:-1]
        for output, part in zip(parts, storage.encode(values, Noise(key, "update/v")), strict=True):
            output.copy_(part.view(output.shape))
        return []

    def decode(values: torch.Tensor, *outputs: torch.Tensor):
        *parts, back = outputs
        rows = [parts[0].view(values.shape), *parts[1:]]
        back.copy_(storage.decode(rows, values).view(back.shape))
        return []

    for function, inputs in ((encode, (values, key, *outputs)), (decode, (values, *outputs))):
        compile_graph(function, [Layout.of(tensor) for tensor in inputs])([*inputs])
    for output, part in zip(outputs, expected, strict=True):
        assert torch.equal(output, part)


@pytest.mark.parametrize("storage", [Blockwise(True), Plain(torch.bfloat16, True)])
def test_slow_averages_decay_in_the_mean(storage):
    """3,000 steps of a factor 0.999: to nearest they would stay where they began."""
    values = torch.ones(4 * BLOCK)
    values[::BLOCK] = 4.0  # A larger neighbour, so that the others are no block's extreme.
    kept, stuck = storage.encode(values), storage.encode(values)
    for t in range(3000):
        kept = storage.encode(storage.decode(kept, values) * 0.999 + values * 1e-6, draw(t))
        stuck = storage.encode(storage.decode(stuck, values) * 0.999 + values * 1e-6)
    exact = 0.999**3000 * (1 - 1e-3) + 1e-3
    mean = storage.decode(kept, values).view(-1, BLOCK)[:, 1:].mean()
    assert abs(mean / exact - 1) < 0.05
    if isinstance(storage, Plain):
        assert storage.decode(stuck, values)[1] > 0.9


# Each cache that begins empty costs seconds.
@pytest.mark.parametrize(
    ("spec", "instructions"),
    [
        ("lion@int8", "avx2"),
        pytest.param("lion@int8", "all", marks=pytest.mark.slow),
        pytest.param("adamw@int8", "avx2", marks=pytest.mark.slow),
    ],
    indirect=["instructions"],
)
def test_compiled_codes_never_pass_through_memory(spec, instructions, tmp_path, monkeypatch):
    """Bits and codes stay in vector registers: through buffers they take most of the step."""
    monkeypatch.setattr(compiled, "_FUNCTIONS", {})
    p = torch.nn.Parameter(torch.ones(2**14))
    p.grad = torch.ones(2**14)
    with fresh_cache(dir=str(tmp_path), delete=False):
        ob.create_optimizer([p], spec, engine="compiled").step()
    code = "".join(path.read_text() for path in tmp_path.rglob("*.cpp"))
    assert "__builtin_bit_cast(at::vec" in code
    assert "tmpbuf" not in code
    if instructions == "avx2":
        # What torch's headers do on the stack, since they lack instructions for it.
        assert "::loadu_one_fourth(" in code
        assert not re.search(r"Vectorized<u?int8_t>::loadu\(", code)
        assert not re.search(r"convert<u?int8_t>\(tmp", code)


# Its cache begins empty.
@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="has vectors of one length"
)
def test_the_compilers_cache_keeps_instruction_sets_apart(tmp_path, monkeypatch):
    """Loops in steps of 8, built for vectors of 16, write beyond the ends of tensors."""
    x = torch.ones(2**14)

    def double(x: torch.Tensor):
        return [x * 2]

    with fresh_cache(dir=str(tmp_path), delete=False):
        for capability in ("avx2", "avx512"):
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
            compile_graph(double, [Layout.of(x)])
    code = "".join(path.read_text() for path in tmp_path.rglob("*.cpp"))
    assert "static_cast<int64_t>(8L)" in code
    assert "static_cast<int64_t>(16L)" in code
