"""A step in the precision of its own tensors, whatever the training allows its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

#: Of products of fp32 matrices: TF32 has 10 bits of mantissa, oneDNN's bf16 has 7.
FULL, INHERITED = "ieee", "none"


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast and no TF32 within; afterwards both are as they were."""
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as stack:
        for device_type in ("cpu", *([accelerator.type] if accelerator else [])):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_full_products())
        yield


@contextmanager
def _full_products() -> Iterator[None]:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)
        return
    libraries: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # pyright: ignore
    reduced = [
        (library, precision)
        for library in libraries
        if (precision := library.fp32_precision) not in (FULL, INHERITED)
    ]
    for library, _ in reduced:
        library.fp32_precision = FULL
    try:
        yield
    finally:
        for library, precision in reduced:
            # What a library has from the setting of all must follow that one later, too.
            library.fp32_precision = INHERITED
            if library.fp32_precision != precision:
                library.fp32_precision = precision
