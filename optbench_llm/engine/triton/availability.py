"""Whether Triton's kernels can step parameters here."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
from collections.abc import Collection

import torch

#: Kinds of devices that Triton has a compiler for, by torch's names.
DEVICES = ("cuda", "xpu")
#: NVIDIA's compute capability from which Triton compiles, and from which it does for bf16.
LEAST, LEAST_FOR_BF16 = (7, 0), (8, 0)


def triton_failure(devices: Collection[torch.device], *, bf16: bool) -> str | None:
    """Why kernels cannot step parameters on these devices; None where they can.

    ``bf16`` says that parameters or state lie in it.
    """
    kinds = {device.type for device in devices}
    unknown = sorted(kinds - {*DEVICES, "cpu"})
    if unknown:
        return f"Triton has no kernels for {', '.join(unknown)}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if kinds == {"cpu"}:
        return None if interpreted() else (
            "on a CPU they run in Triton's interpreter alone: set TRITON_INTERPRET=1 in the"
            " environment before Python starts"
        )  # fmt: skip
    if "cpu" in kinds:
        return "some of them are on a CPU"
    for device in devices:
        if device.type == "cuda" and torch.version.hip is None:
            capability = torch.cuda.get_device_capability(device)
            if capability < LEAST:
                return f"{device} has compute capability {_dotted(capability)}, Triton takes 7.0"
            if bf16 and capability < LEAST_FOR_BF16:
                return (
                    f"{device} has compute capability {_dotted(capability)}, and for bf16 Triton"
                    " takes 8.0"
                )
    return next(filter(None, map(launch_failure, devices)), None)


@functools.cache
def launch_failure(device: torch.device) -> str | None:
    """Why a kernel of one line does not run on a device, where Triton builds it with a C compiler.

    None where it does. Raises torch.OutOfMemoryError, which says nothing of Triton.
    """
    from triton.errors import TritonError

    from optbench_llm.engine.triton.batch import launch
    from optbench_llm.engine.triton.kernels import count_up

    counted = torch.zeros(4, dtype=torch.int32, device=device)
    try:
        launch(count_up, device, (1,), counted)
    except torch.OutOfMemoryError:
        raise
    except (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        lines = str(error).strip().splitlines()
        told = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        advice = (
            "a newer Triton may know this device"
            if isinstance(error, TritonError)
            else "install gcc and Python's headers, or set CC"
        )
        return f"Triton cannot build a kernel ({told}); {advice}"
    return None


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, which must be said before it is imported."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
