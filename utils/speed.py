"""What makes a training step fast, apart from the loop: memory layout, precision, memory that is kept."""

import ctypes
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn


def prepare(model: nn.Module, device: torch.device) -> None:
    """Move `model` to the device, in the memory layout that is fast there; on a CPU with the two measures below."""
    if device.type == "cpu":
        keep_freed_memory()
        float32_where_needed(model)
    model.to(device, memory_format=memory_format(device))


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last, which convolutions prefer on a CPU and on CUDA."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for the forward pass, or nothing for "float32"."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def fastest_precision(model: nn.Module, images: torch.Tensor, device: torch.device) -> str:
    """The precision in which a training step of `model` is fastest here, said in one line.

    On CUDA bfloat16 where the hardware has it, else float16. On a CPU it depends on processor and
    network: without hardware for bfloat16 it is many times slower, so a few steps of each are timed.
    """
    if device.type != "cpu":
        precision = (
            "float32" if device.type == "mps" else "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
        )
        print(f"Precision: {precision} on {device.type}.")
        return precision
    images, before = images.to(memory_format=torch.channels_last), {k: v.clone() for k, v in model.state_dict().items()}
    seconds = {"float32": [], "bfloat16": []}
    model.train()
    for _ in range(6):  # in turn, so that a disturbance meets both
        for precision, taken in seconds.items():
            start = time.perf_counter()
            with autocast(device, precision):
                model(images).float().sum().backward()
            taken.append(time.perf_counter() - start)
        if max(map(min, seconds.values())) > 3 * min(map(min, seconds.values())):
            break  # no doubt left
    model.load_state_dict(before)  # the norms' running statistics have moved
    model.zero_grad(set_to_none=True)
    best = min(seconds, key=lambda p: min(seconds[p]))
    times = ", ".join(f"{p} {1000 * min(s):.0f} ms" for p, s in seconds.items())
    print(f"Precision: {best} (a step of {len(images)} images: {times}).", flush=True)
    return best


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of handing each back to the kernel.

    Every activation of a step is a block of megabytes; by default each is returned when freed and
    faulted in again page by page. See mallopt(3). Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def float32_where_needed(model: nn.Module) -> None:
    """Let the convolutions of `model` that bfloat16 does not suit on a CPU stay in float32 under autocast.

    Those are depthwise ones with a stride or dilation, for which PyTorch has no fast gradient in bfloat16, and
    dilated ones whose input channels are no multiple of 16: their gradient is not a number (oneDNN 3.12, 24
    channels at 32x32, dilation 2).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            slow = module.groups > 1 and (module.stride, module.dilation) != ((1, 1), (1, 1))
            wrong = module.dilation != (1, 1) and module.in_channels % 16
            if slow or wrong:
                module.forward = partial(_forward_in_float32, module)


def _forward_in_float32(module: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return type(module).forward(module, images.float())
