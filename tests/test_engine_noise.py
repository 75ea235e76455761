"""Random bits of stochastic rounding: uniform, independent, the same however a value is cut."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from optbench_llm.engine.graphs import Layout, compile_graph
from optbench_llm.engine.noise import Noise, noise_key

ELEMENTS = 1 << 16


def uniform(t: int = 1, place: tuple[int, ...] = (0, 0), stream: str = "update", start: int = 0):
    """Random bits as numbers from 0 to 1."""
    noise = Noise(noise_key(t, *place), stream, start)
    return noise.bits(torch.empty(ELEMENTS), 16).double() / (1 << 16)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def test_bits_are_uniform():
    """Chi-squared over 256 bins, 20 steps: within 5 standard deviations of its mean."""
    drawn = torch.cat([uniform(t) for t in range(1, 21)])
    counts = torch.histc(drawn, 256, 0, 1)
    expected = len(drawn) / 256
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * (2 * 255) ** 0.5


def test_steps_places_and_streams_are_independent():
    """No two of them correlate by more than 5 standard errors."""
    drawn = [uniform(t, (0, p), s) for t in (1, 2) for p in (0, 1) for s in ("update", "update/v")]
    worst = max(abs(correlation(a, b)) for a, b in combinations(drawn, 2))
    assert worst < 5 / ELEMENTS**0.5


@pytest.mark.parametrize("lag", [1, 16, 256, 768, 4096])
def test_neighbours_are_independent(lag):
    """Along a row, a block or a column."""
    drawn = uniform()
    assert abs(correlation(drawn[lag:], drawn[:-lag])) < 5 / ELEMENTS**0.5


def test_a_piece_has_the_bits_of_its_place():
    """However the value is cut or shaped."""
    like, noise = torch.empty(1024), Noise(noise_key(3, 1), "update/v")
    whole = noise.bits(like, 19)
    assert torch.equal(noise.bits(like.view(4, 256), 19).view(-1), whole)
    assert torch.equal(noise.from_position(512).bits(like[512:], 19), whole[512:])


def test_compiled_bits_are_the_eager_ones():
    """Bit for bit, for any length; the key comes among fp32 scalars."""
    key = torch.tensor(noise_key(5, 2, 1), dtype=torch.float32)

    def fill(out: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
        out.copy_(Noise(key, "update/v").bits(out, 19))
        return []

    out = torch.empty(70_001, dtype=torch.int32)
    layouts = (Layout.of(out), Layout.of(key))
    compile_graph(fill, layouts)([out, key])
    assert torch.equal(out, Noise(noise_key(5, 2, 1), "update/v").bits(out, 19))
