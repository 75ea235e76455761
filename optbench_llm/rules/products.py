"""Products of matrices by the faster of the libraries that torch links."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices.

    In fp32 on an AMD processor oneDNN multiplies: torch's own choice, MKL, uses half of its vector
    width there, at half the speed (768 x 768 on two Zen 5 cores: 4.1 ms and 1.8 ms). On Intel's MKL
    is as fast, twice as fast where a matrix is transposed, and four times at 128 x 128.
    """
    wanted = a.device.type == "cpu" and a.element_size() == 4 and is_amd()
    by_onednn = onednn_product() if wanted else None
    return a @ b if by_onednn is None else by_onednn(a, b)


@cache
def onednn_product() -> Callable[[Tensor, Tensor], Tensor] | None:
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
    def operation(a: Any, b: Any) -> Any:
        # Parts of a turned fused weight have gaps between their rows: oneDNN is 100 times slower.
        dense = b if b.t().is_contiguous() else b.contiguous()
        return linear(a.contiguous(), dense.t(), None, "none", [], "")

    @operation.register_fake
    def _(a: Any, b: Any) -> Any:
        return a.new_empty((a.shape[0], b.shape[1]))

    @operation.register_vmap
    def _(info: Any, in_dims: Any, a: Any, b: Any) -> Any:
        a, b = (
            x if dim is None else x.movedim(dim, 0)
            for x, dim in zip((a, b), in_dims[:2], strict=True)
        )
        return a @ b, 0

    return operation


@cache
def is_amd() -> bool:
    """Whether this machine's processor is AMD's."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux
        about = platform.processor()
    return "AuthenticAMD" in about
