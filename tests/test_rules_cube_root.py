"""The cube root from the bits of numbers, against numpy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optbench_llm.rules.madgrad import SMALLEST, cube_root


def numbers() -> torch.Tensor:
    """Of all magnitudes of fp32, some of them powers of 2 and their neighbours."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.empty(200_000, dtype=torch.float64).uniform_(-122, 127, generator=generator)
    exact = torch.arange(-122, 128, dtype=torch.float64).exp2().float()
    near = [exact.nextafter(torch.tensor(end)) for end in (0.0, torch.inf)]
    return torch.cat([spread.exp2().float(), exact, *near])


def relative_error(found: torch.Tensor, x: torch.Tensor) -> float:
    exact = np.cbrt(x.double().numpy())
    return float(np.abs(found.double().numpy() / exact - 1).max())


def test_cube_roots_are_right_to_the_last_bits():
    x = numbers()
    assert relative_error(cube_root(x), x) < 1.5e-7
    assert relative_error(cube_root(x.double()), x) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_at_the_ends(dtype):
    """0 has a root, NaN is not hidden; what is too small for its bits counts as small."""
    zero, missing, small = cube_root(torch.tensor([0.0, torch.nan, 1e-42], dtype=dtype)).tolist()
    assert zero == 0
    assert missing != missing
    assert 0 < small <= SMALLEST ** (1 / 3) * 1.001
