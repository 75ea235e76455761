"""Both sides of a matrix: their second moments, eigenbases and inverse roots.

Factorisations are torch.linalg's in the arithmetic of the state, fp32, as in the authors' code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optbench_llm.rules.products import product
from optbench_llm.rules.rule import Slot, ema

if TYPE_CHECKING:
    from torch import Tensor


def without_large_sides(
    slots: tuple[Slot, ...], shape: tuple[int, ...], limit: int
) -> tuple[Slot, ...]:
    """The slots without the square ones of a side that is longer than ``limit``."""
    return tuple(
        slot
        for slot in slots
        if slot.shape not in ("left", "right") or slot.shape_for(shape)[0] <= limit
    )


def second_moments(g: Tensor, s: Any, weight: Any) -> dict[str, Tensor]:
    """The averages of G G' in ``left`` and G' G in ``right``, for the sides that are kept."""
    new = {}
    if s.left is not None:
        new["left"] = ema(s.left, product(g, g.mT), weight)
    if s.right is not None:
        new["right"] = ema(s.right, product(g.mT, g), weight)
    return new


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix in ascending order, and its eigenvectors as columns.

    An entry that is not finite counts as 0, since eigh would raise: the gradient it came from
    carries it into the parameter, where it is found.
    """
    from torch.linalg import eigh

    return eigh(matrix.nan_to_num(0.0, 0.0, 0.0))


def inverse_root(matrix: Tensor, eps: Any, halvings: int) -> Tensor:
    """``(matrix + eps I) ** -(1 / 2**halvings)`` of a positive semi-definite matrix.

    Eigenvalues that rounding made negative count as 0.
    """
    values, vectors = eigen(matrix)
    roots = (values.clamp(min=0) + eps).rsqrt()
    for _ in range(halvings - 1):
        roots = roots.sqrt()
    return product(vectors * roots, vectors.mT)


def between(left: Tensor | None, g: Tensor, right: Tensor | None) -> Tensor:
    """``left' g right``; None stands for the identity."""
    g = g if left is None else product(left.mT, g)
    return g if right is None else product(g, right)


def turned(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A basis after one power iteration and QR, and the order its columns were put in before.

    The order is that of falling eigenvalues, as the old basis estimates them.
    """
    from torch.linalg import qr

    powered = product(matrix, basis)
    order = (basis * powered).sum(0).argsort(descending=True)
    return qr(powered[:, order])[0], order
