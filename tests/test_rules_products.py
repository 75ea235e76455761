"""oneDNN's product, which AMD processors get, against torch's own."""

from __future__ import annotations

import pytest
import torch

from optbench_llm.rules.products import onednn_product, product


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_onednn_multiplies_as_torch_does(compiled: bool) -> None:
    by_onednn = onednn_product()
    if by_onednn is None:
        pytest.skip("this torch has no oneDNN")
    a, b, wide = torch.randn(5, 7), torch.randn(7, 3), torch.randn(7, 9)
    multiply = torch.compile(by_onednn) if compiled else by_onednn
    for left, right in [(a, b), (a, b.t().contiguous().t()), (b.t(), a.t()), (a, wide[:, 3:6])]:
        torch.testing.assert_close(multiply(left, right), left @ right)


def test_product_multiplies_in_every_arithmetic() -> None:
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(product(a.to(dtype), b.to(dtype)), a.to(dtype) @ b.to(dtype))
