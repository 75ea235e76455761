"""The Newton-Schulz iteration that Muon and Scion take for an orthogonalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 5
#: Coefficients of x, x^3 and x^5: steep at 0, so that small singular values grow fast, at the price
#: of a wobble around 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


def orthogonalise(matrix: Tensor) -> Tensor:
    """The matrix with its singular values pushed to about 1 (0.7 to 1.2), its vectors kept.

    Five steps of the quintic iteration of https://kellerjordan.github.io/posts/muon/, in the
    matrix's own dtype. Singular values below about 1/500 of the Frobenius norm stay smaller.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalise(matrix.t()).t()
    a, b, c = COEFFICIENTS
    x = matrix / ((matrix * matrix).sum().sqrt() + EPS)
    for _ in range(STEPS):
        gram = x @ x.t()
        x = x * a + (gram * b + gram @ gram * c) @ x
    return x
