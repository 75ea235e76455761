"""Powers of numbers >= 0 that are no square roots, in fp32 from their bits.

Vector code of a processor has neither powers nor logarithms: libraries take as long for one as all
the rest of a rule does.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: fp32 numbers below this count as it: those below 1.2e-38 have fewer bits.
SMALLEST = 1e-37
#: Two thirds of the bits of 1, less what makes :func:`cube_root`'s guess err as much to both sides.
TWO_THIRDS = 709_958_130.0
#: Of the Taylor series of the cube root at 1, from the last one.
ROOT_SERIES = (22 / 729, -10 / 243, 5 / 81, -1 / 9, 1 / 3)
#: Of log2(1 + r) / r by r, from sqrt(1/2) - 1 to sqrt(2) - 1 within 1e-7 of log2, and of 2**f by f,
#: from the last one.
LOG_SERIES = (
    -0.14620353, 0.23420985, -0.24882181, 0.28707561, -0.36024199, 0.48092404, -0.72135276,
    1.44269496,
)  # fmt: skip
EXP_SERIES = (
    1.5403530393381608e-04, 1.3333558146428443e-03, 9.6181291076284772e-03,
    5.5504108664821580e-02, 2.4022650695910072e-01, 6.9314718055994531e-01, 1.0,
)  # fmt: skip
MANTISSA_BITS = 23
#: The bits of sqrt(1/2): mantissas are taken from there to sqrt(2).
ROOT_OF_HALF = 0x3F3504F3


def cube_root(x: Tensor) -> Tensor:
    """The cube root; in fp32 within 1.3e-7 of itself, 0 of 0."""
    from torch import float32, int32

    if x.dtype != float32:
        root = (x.log() * (1 / 3)).exp()
        return (root - (root - x / (root * root)) * (1 / 3)).where(x > 0, x)
    bounded = x.clamp(min=SMALLEST)
    # The bits of a number are nearly its logarithm: a third of them is a root that is 3 % off.
    guess = (bounded.view(int32).to(float32) * (1 / 3) + TWO_THIRDS).to(int32).view(float32)
    rest = bounded / (guess * guess * guess) - 1
    return (guess + guess * (_series(ROOT_SERIES, rest) * rest)).where(x > 0, x)


def power(x: Tensor, exponent: Tensor) -> Tensor:
    """``x ** exponent`` for exponents from 0 to 1; in fp32 within 8e-6 of itself."""
    from torch import float32, int32

    bounded = x.clamp(min=SMALLEST)
    if x.dtype != float32:
        return (bounded.log() * exponent).exp()
    bits = bounded.view(int32) - ROOT_OF_HALF
    whole = bits >> MANTISSA_BITS
    rest = (bits - (whole << MANTISSA_BITS) + ROOT_OF_HALF).view(float32) - 1
    logarithm = whole.to(float32) + rest * _series(LOG_SERIES, rest)
    scaled = logarithm * exponent
    nearest = scaled.round()
    fraction = _series(EXP_SERIES, scaled - nearest)
    found = (fraction.view(int32) + (nearest.to(int32) << MANTISSA_BITS)).view(float32)
    # What has no logarithm is not hidden.
    return found.where(x < inf, x)


def _series(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """The polynomial with these coefficients, from that of the highest power."""
    first, second, *rest = coefficients
    total = x * first + second
    for coefficient in rest:
        total = total * x + coefficient
    return total
