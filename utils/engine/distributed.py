"""More than one process: what `torchrun` starts, through torch.distributed. Alone, nothing here does anything.

`torchrun --nproc_per_node=2 -m utils train experiment_5` runs the same code in every process. Each takes its share of
every batch, DistributedDataParallel averages the gradients, and the first process alone prints and writes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn

from utils.errors import RunError

Value = TypeVar("Value")


@contextmanager
def process_group(device: str | None = None) -> Iterator[None]:
    """Join the processes that torchrun started (NCCL on CUDA, else Gloo), for as long as the block lasts; RunError if
    there are more of them than GPUs. `device` as in `steps.device_to_use`."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    cuda = device in (None, "cuda") and torch.cuda.is_available()
    if cuda:
        if (number := int(os.environ["LOCAL_RANK"])) >= (gpus := torch.cuda.device_count()):
            raise RunError(f"There is a GPU for {gpus} processes; start no more of them, or train with --device cpu.")
        torch.cuda.set_device(number)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))  # a download
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            with redirect_stdout(nowhere) if rank() > 0 else nullcontext():
                yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def parallel(model: nn.Module) -> nn.Module:
    """`model` in DistributedDataParallel, or itself where there is one process."""
    return nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model


def from_first(make: Callable[[], Value]) -> Value:
    """What `make` returns in the first process, in all of them."""
    value = [make() if rank() == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(value)
    return value[0]


def totals(*numbers: float | torch.Tensor, device: torch.device) -> list[float]:
    """The sum of each number over all processes."""
    if not dist.is_initialized():
        return [float(n) for n in numbers]
    sums = torch.stack([torch.as_tensor(n, dtype=torch.float64, device=device) for n in numbers])
    dist.all_reduce(sums)
    return sums.tolist()
