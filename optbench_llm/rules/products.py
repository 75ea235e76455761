"""Products of matrices by the faster of the libraries that torch links."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices.

    In fp32 on a CPU oneDNN multiplies: torch's own choice, MKL, uses half the vector width of an
    AMD processor, at half the speed (768 x 768 on two Zen 5 cores: 4.1 ms and 1.8 ms).
    """
    by_onednn = _onednn() if a.device.type == "cpu" and a.element_size() == 4 else None
    return a @ b if by_onednn is None else by_onednn(a, b)


@cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's product as an operation that inductor leaves alone; None without oneDNN.

    Inductor's own lowering of torch's ``mkldnn`` operation wants weights that are constants.
    """
    import torch

    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    linear: Any = torch.ops.mkldnn._linear_pointwise.default

    @torch.library.custom_op(
        "optbench_llm::product", mutates_args=(), schema="(Tensor a, Tensor b) -> Tensor"
    )
    def onednn_product(a: Any, b: Any) -> Any:
        # Parts of a turned fused weight have gaps between their rows: oneDNN is 100 times slower.
        dense = b if b.t().is_contiguous() else b.contiguous()
        return linear(a.contiguous(), dense.t(), None, "none", [], "")

    @onednn_product.register_fake
    def _(a: Any, b: Any) -> Any:
        return a.new_empty((a.shape[0], b.shape[1]))

    return onednn_product
