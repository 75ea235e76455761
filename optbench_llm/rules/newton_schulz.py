"""The Newton-Schulz iteration that Muon and Scion take for an orthogonalisation."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 5
#: Coefficients of x, x^3 and x^5: steep at 0, so that small singular values grow fast, at the price
#: of a wobble around 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
#: From this ratio of the longer side to the shorter on it takes fewer products to step on x x'.
LONG = 2
#: How many steps x x' is good for: bfloat16's rounding of it swallows small singular values, unless
#: it is made anew once they have grown.
STRETCHES = (3, 2)
#: Any of these will do: Intel's, AMD's or ARM's.
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def orthogonalise(matrix: Tensor) -> Tensor:
    """The matrix with its singular values pushed to about 1 (0.7 to 1.2), its vectors kept.

    Five steps of the quintic iteration of https://kellerjordan.github.io/posts/muon/, in bfloat16
    as there, which leaves errors of some percent; in fp32 on a CPU without such instructions, in
    float64 for a float64 matrix. Singular values below about 1/500 of the Frobenius norm stay
    smaller.
    """
    import torch

    if torch._C._functorch.is_batchedtensor(matrix):  # pyright: ignore
        return _for_vmap().apply(matrix)
    return _orthogonalised(matrix)


@cache
def _for_vmap() -> Any:
    """:func:`_orthogonalised` as a function that torch.vmap hands the whole stack.

    By itself vmap makes three operations of each product with a term added, two of them on
    temporaries as large as the stack. Code that is traced for a compiler cannot contain it.
    """
    import torch

    class Orthogonalise(torch.autograd.Function):
        @staticmethod
        def forward(matrices: Tensor) -> Tensor:
            return _orthogonalised(matrices)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int, ...], matrices: Tensor) -> tuple[Tensor, int]:
            return _orthogonalised(matrices.movedim(in_dims[0], 0)), 0

    return Orthogonalise


def _orthogonalised(matrices: Tensor) -> Tensor:
    """The same of one matrix, or of each of a stack of them."""
    rows, columns = matrices.shape[-2:]
    if rows > columns:
        return _orthogonalised(matrices.mT).mT
    size = (matrices * matrices).sum((-2, -1), keepdim=True).sqrt()
    x = narrow(matrices / (size + EPS))
    if columns < LONG * rows:
        x = _step(x, STEPS)
    else:
        for steps in STRETCHES:
            x = _step_on_gram_matrix(x, steps)
    return x.to(matrices.dtype)


def narrow(x: Tensor) -> Tensor:
    """fp32 numbers in bfloat16, where the device multiplies such; the oracles do without."""
    if x.element_size() != 4 or (x.device.type == "cpu" and not cpu_has_bfloat16()):
        return x
    return x.bfloat16()


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16; others emulate it at a quarter of fp32's speed.

    Where torch does not tell, it is taken for one that does.
    """
    import torch

    able = getattr(torch.cpu, "get_capabilities", dict)()
    return not able or any(able.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


def _step(x: Tensor, steps: int) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = _sum(a, x, 1.0, _sum(b, gram, c, gram, gram), x)
    return x


def _step_on_gram_matrix(x: Tensor, steps: int) -> Tensor:
    """The same: a step multiplies x by a polynomial of x x', and that by it from both sides."""
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    unit = gram.new_ones(gram.shape[-1]).diag()
    factor = unit
    for step in range(steps):
        polynomial = _sum(b, gram, c, gram, gram) + unit * a
        factor = polynomial @ factor if step else polynomial
        if step < steps - 1:
            gram = polynomial @ (polynomial @ gram)
    return factor @ x


def _sum(beta: float, x: Tensor, alpha: float, a: Tensor, b: Tensor) -> Tensor:
    """``beta x + alpha a b`` of matrices or of stacks."""
    return (x.addmm if x.ndim == 2 else x.baddbmm)(a, b, beta=beta, alpha=alpha)
