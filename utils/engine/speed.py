"""What makes a training step fast, apart from the loop: memory layout, precision, memory that is kept."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

PRECISIONS = ("float32", "bfloat16", "float16")


@contextmanager
def prepared(model: nn.Module, device: torch.device) -> Iterator[None]:
    """`model` on the device for as long as the block lasts, in the memory layout that is fast there; on a CPU with the
    two measures below. Afterwards it is on the CPU again, as it was built."""
    changed = []
    if device.type == "cpu":
        keep_freed_memory()
        changed = [module for module in kept_in_float32(model) if "forward" not in vars(module)]
        for module in changed:
            module.forward = partial(_forward_in_float32, module)
    model.to(device)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):  # other weights may have as many dimensions
            module.to(memory_format=memory_format(device))
    try:
        yield
    finally:
        for module in changed:
            del module.forward
        model.to("cpu", memory_format=torch.contiguous_format)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last, which convolutions prefer on a CPU and on CUDA."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for the forward pass, or nothing for "float32"."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def suitable_precision(device: torch.device) -> str:
    """The precision in which to train on this device: what its hardware computes fast, whatever else runs on it."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    return "bfloat16" if device.type == "cpu" and native_bfloat16() else "float32"


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX-512 BF16 or AMX); one that does not is many times slower.
    Asked of PyTorch, or of Linux where PyTorch is older than `torch.cpu.get_capabilities`; else the answer is no."""
    names, cpuinfo = ("avx512_bf16", "amx_bf16"), Path("/proc/cpuinfo")
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in names)
    return cpuinfo.exists() and any(name in cpuinfo.read_text(encoding="utf-8") for name in names)


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks, such as every activation of a step, instead of handing each back to the
    kernel and faulting it in again page by page: see mallopt(3). Elsewhere than on Linux with glibc nothing happens."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def kept_in_float32(model: nn.Module) -> Iterator[nn.Conv2d]:
    """The convolutions of `model` that bfloat16 does not suit on a CPU: depthwise ones with a stride or dilation, for
    which PyTorch has no fast gradient in bfloat16, and dilated ones whose input channels are no multiple of 16: their
    gradient is not a number (oneDNN 3.12, 24 channels at 32x32, dilation 2)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            slow = module.groups > 1 and (module.stride, module.dilation) != ((1, 1), (1, 1))
            wrong = module.dilation != (1, 1) and module.in_channels % 16
            if slow or wrong:
                yield module


def _forward_in_float32(module: nn.Conv2d, input: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return type(module).forward(module, input.to(module.weight.dtype), *others, **named)
