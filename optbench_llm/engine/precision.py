"""A step in the precision of its own tensors, whatever the training allows its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

#: Of products of fp32 matrices: TF32 has 10 bits of mantissa, oneDNN's bf16 has 7.
FULL, INHERITED = "ieee", "none"


#: Before 2.9 torch has one setting for all.
ONE_SETTING = not hasattr(torch.backends.cuda.matmul, "fp32_precision")
_NOTHING = nullcontext()


def full_precision() -> AbstractContextManager[None]:
    """No autocast and no TF32 within; afterwards both are as they were."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    autocast = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    reduced = [] if ONE_SETTING else _reduced()
    return _within(autocast, reduced) if ONE_SETTING or autocast or reduced else _NOTHING


@contextmanager
def _within(autocast: list[str], reduced: list[tuple[Any, str]]) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in autocast:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_of_all() if ONE_SETTING else _of_libraries(reduced))
        yield


@contextmanager
def _of_all() -> Iterator[None]:
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)


def _reduced() -> list[tuple[Any, str]]:
    """The libraries that may make products in less, and in what."""
    libraries: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # pyright: ignore
    return [
        (library, precision)
        for library in libraries
        if (precision := library.fp32_precision) not in (FULL, INHERITED)
    ]


@contextmanager
def _of_libraries(reduced: list[tuple[Any, str]]) -> Iterator[None]:
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
