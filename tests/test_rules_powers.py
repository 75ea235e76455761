"""Powers from the bits of numbers, against numpy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optbench_llm.rules.powers import SMALLEST, cube_root, power


def numbers() -> torch.Tensor:
    """Of all magnitudes of fp32, some of them powers of 2 and their neighbours."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.empty(200_000, dtype=torch.float64).uniform_(-122, 127, generator=generator)
    exact = torch.arange(-122, 128, dtype=torch.float64).exp2().float()
    near = [exact.nextafter(torch.tensor(end)) for end in (0.0, torch.inf)]
    return torch.cat([spread.exp2().float(), exact, *near])


def relative_error(found: torch.Tensor, x: torch.Tensor, exponent: float) -> float:
    exact = np.power(x.double().numpy(), exponent)
    return float(np.abs(found.double().numpy() / exact - 1).max())


def test_cube_roots_are_right_to_the_last_bits():
    x = numbers()
    assert relative_error(cube_root(x), x, 1 / 3) < 1.5e-7
    assert relative_error(cube_root(x.double()), x, 1 / 3) < 1e-14


@pytest.mark.parametrize("exponent", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_powers_are_as_exact_as_their_logarithm(exponent):
    """Which has as many digits less as it has before the point."""
    x = numbers()
    known = torch.tensor(exponent, dtype=torch.float64)
    assert relative_error(power(x, known.float()), x, exponent) < 3e-7 + 7e-6 * exponent
    assert relative_error(power(x.double(), known), x, exponent) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_at_the_ends(dtype):
    """0 has a root; what is not finite stays so; what is too small for its bits counts as small."""
    x = torch.tensor([0.0, torch.inf, torch.nan, 1e-42], dtype=dtype)
    half = torch.tensor(0.5, dtype=dtype)
    zero, infinite, missing, small = power(x, half).tolist()
    assert infinite == torch.inf
    assert missing != missing
    assert zero == small == pytest.approx(SMALLEST**0.5)
    zero, _, missing, small = cube_root(x).tolist()
    assert zero == 0
    assert missing != missing
    assert 0 < small <= SMALLEST ** (1 / 3) * 1.001
