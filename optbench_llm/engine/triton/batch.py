"""Tensors that are stepped by the same launches, and what lies on their device for these."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optbench_llm.engine.bound import BoundUnit, Work
from optbench_llm.engine.triton.availability import DEVICES
from optbench_llm.engine.triton.kernels import Variant, add_up, made, source_of, take_over
from optbench_llm.engine.triton.templates import HEADER, Form

#: Rows and columns of a tile. A flat one has as many elements, of whole blocks of a blockwise
#: storage; of a matrix it is longest in the direction of memory: along its rows or not.
TILES = {
    (Form.FLAT, True): (4, 256),
    (Form.BLOCKS, True): (4, 256),
    (Form.CHANNELS, True): (4, 256),
    (Form.CHANNELS, False): (64, 16),
}
WARPS = 4
#: Partial sums that one program adds up at a time.
SUMS_TILE = 1024
#: Bytes from which a pointer allows the widest loads.
ALIGNMENT = 16


class Numbers(NamedTuple):
    """What is new in a step, on the device: the tensors' gradients and their scalars.

    ``aligned`` says that every gradient begins at a multiple of 16 bytes.
    """

    of_tensors: Tensor
    scalars: Tensor
    aligned: bool


class Batch:
    """Units of one variant. A stage of all of them is one launch.

    Their tables stay on the device as long as their memory is where it was.
    """

    def __init__(self, variant: Variant, bounds: Sequence[BoundUnit]) -> None:
        self.units, self._variant = len(bounds), variant
        self.device = bounds[0].p.device
        rows = [_row(bound, variant.form) for bound in bounds]
        self._row_major = variant.form is not Form.CHANNELS or rows[0][3] == 1
        self.tile = TILES[variant.form, self._row_major]
        counts = np.array([self._tiles(row) for row in rows])
        first = np.concatenate([[0], counts.cumsum()])
        self._count = int(first[-1])
        tensors = np.repeat(np.arange(len(rows)), counts)
        tiles = np.stack([tensors, np.arange(self._count) - first[tensors]], 1)
        table = np.array(rows, dtype=np.int64)
        self._aligned = self._all_aligned(table)
        self._table = _on(self.device, table)
        self._tiles_of = _on(self.device, tiles.astype(np.int32))
        self._first = _on(self.device, first.astype(np.int32))
        self._stream = current_stream(self.device)
        self._kernels: dict[str, tuple[Any, Any]] = {}
        self._launched: set[tuple[str, bool]] = set()
        self.compile_s = 0.0

    def _tiles(self, row: Sequence[int]) -> int:
        rows, columns = row[:2]
        if self._variant.form is Form.CHANNELS:
            return -(-rows // self.tile[0])
        return -(-columns // (self.tile[0] * self.tile[1]))

    def _all_aligned(self, table: np.ndarray) -> bool:
        """Whether all that lies here allows the widest loads."""
        aligned = not (table[:, len(HEADER) :] % ALIGNMENT).any()
        if self._variant.form is Form.CHANNELS:
            # Of rows, or columns, of which some begin elsewhere, none is known to be aligned.
            length, stride = (1, 2) if self._row_major else (0, 3)
            aligned = aligned and not (table[:, [length, stride]] % ALIGNMENT).any()
        return aligned

    def gradient(self, work: Work) -> Tensor:
        """A work's gradient, as the kernels take it: in memory as the parameter is."""
        g, p = work.g, work.bound.p
        if g.stride() == p.stride() or (work.bound.flat and g.is_contiguous()):
            return g
        return torch.empty_like(p, dtype=g.dtype).copy_(g)

    def run(self, phase: str, numbers: Numbers, sums: Tensor | None) -> Tensor | None:
        """Run a stage of every unit; for ``measure`` the sums of each, a row for each unit.

        ``sums`` are what the update knows of the sums: a row for each unit, or one for all.
        """
        source, kernel = self._kernel(phase)
        stream = current_stream(self.device)
        if stream != self._stream:
            for table in (self._table, self._tiles_of, self._first):
                # So that nothing else gets their memory before this launch is over.
                table.record_stream(stream)
        units = self.units
        out = kept = self._table
        if source.sums:
            out = self._empty(source.sums, self._count)
        if source.kept:
            kept = self._empty(units, len(source.kept))
        stride = 0 if sums is None or sums.ndim == 1 else sums.shape[1]
        aligned = self._aligned and numbers.aligned
        began = time.perf_counter()
        launch(
            kernel, self.device, (self._count,),
            self._table, self._tiles_of, numbers.of_tensors, numbers.scalars,
            self._table if sums is None else sums, kept, out, stride, *self.tile,
            aligned, self._row_major,
        )  # fmt: skip
        if (phase, aligned) not in self._launched:
            # Triton compiles a kernel when it is first launched.
            self._launched.add((phase, aligned))
            self.compile_s += time.perf_counter() - began
        for number, part in enumerate(source.kept):
            place, width = len(HEADER) + 1 + part, self._table.shape[1]
            shape = (place, number, width, len(source.kept))
            launch(take_over, self.device, (units,), self._table, kept, *shape)
        if not source.sums:
            return None
        found = self._empty(units, source.sums)
        grid, sizes = (units, source.sums), (source.sums, SUMS_TILE)
        launch(add_up, self.device, grid, out, self._first, found, *sizes)
        return found

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def make(self, phases: Sequence[str]) -> None:
        """Emit the kernels of these phases.

        Raises Unsupported where one of them is none.
        """
        for phase in phases:
            self._kernel(phase)

    def _kernel(self, phase: str) -> tuple[Any, Any]:
        if phase not in self._kernels:
            source = source_of(self._variant, phase)
            self._kernels[phase] = (source, made(source))
        return self._kernels[phase]


def _row(bound: BoundUnit, form: Form) -> list[int]:
    """A unit's row in the table."""
    p = bound.p
    if form is Form.CHANNELS:
        columns = p.numel() // p.shape[0]
        strides = p.stride() if p.ndim == 2 else (columns, 1)
        header = [p.shape[0], columns, *strides]
    else:
        header = [1, p.numel(), p.numel(), 1]
    pointers = [p.data_ptr(), *(tensor.data_ptr() for tensor in bound.tensors)]
    return [*header, bound.origin, *pointers]


def launch(kernel: Any, device: torch.device, grid: tuple[int, ...], *given: Any) -> None:
    """Start a kernel on a device, which need not be the current one."""
    if device.type == "cpu":
        kernel[grid](*given)
        return
    with torch.get_device_module(device).device(device):
        kernel[grid](*given, num_warps=WARPS)


def current_stream(device: torch.device) -> Any:
    """What launches on a device queue up in; None where there is nothing of the kind."""
    return (
        torch.get_device_module(device).current_stream(device) if device.type in DEVICES else None
    )


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return sent(np.ascontiguousarray(array), device)


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """Numbers of the host's on a device, which nobody waits for.

    They go out of pinned memory, which torch keeps until they have arrived.
    """
    host = torch.from_numpy(array)
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)
