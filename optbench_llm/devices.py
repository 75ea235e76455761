"""What torch calls differently for each kind of accelerator: CUDA and ROCm, XPU, MPS."""

from __future__ import annotations

import torch


def gpus() -> tuple[str, int]:
    """How many GPUs processes can have one each of, and the variable that lets one see only some.

    Of CUDA, ROCm or XPU; a Mac's GPU is one for all. Asking initializes none of them.
    """
    if count := torch.cuda.device_count():
        return "HIP_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES", count
    return "ZE_AFFINITY_MASK", torch.xpu.device_count()


def device_name() -> str:
    """The GPU's, or the type of the device that training uses here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    module = torch.get_device_module(accelerator)
    return module.get_device_name() if hasattr(module, "get_device_name") else accelerator.type


def free_cached_memory() -> None:
    """Give memory that torch keeps for later back to the accelerator, if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        torch.get_device_module(accelerator).empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
