"""Whole batches from worker processes: in the order, and with the augmentations, that seed and epoch decide."""

import multiprocessing.queues
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.engine import distributed
from utils.errors import DataError
from utils.transforms import normalise_batch


class Batches(Dataset):
    """Whole batches, augmented: `batches[(epoch, number, indices)]` -> uint8 (B, 32, 32, 3), int64 (B,). The
    augmentations are seeded from (seed, epoch, number), so they differ between epochs and batches and are the same
    again for any number of workers."""

    def __init__(self, images, labels, augment: A.Compose | None = None, seed: int = 0) -> None:
        self.images, self.labels, self.augment, self.seed = images, labels, augment, seed

    def __getitem__(self, batch: tuple[int, int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        epoch, number, indices = batch
        images = self.images[indices]
        if self.augment is not None:
            self.augment.set_random_seed(int(np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0]))
            images = np.stack([self.augment(image=image)["image"] for image in images])
        return images, self.labels[indices]


class BatchSampler(Sampler):
    """Names the batches of an epoch; shuffled anew for each epoch where `shuffle_seed` is given. Of several processes,
    number `rank` of `world` gets the images rank, rank + world, ... of each batch."""

    def __init__(
        self, size: int, batch_size: int, shuffle_seed: int | None = None, rank: int = 0, world: int = 1
    ) -> None:
        self.size, self.batch_size, self.shuffle_seed, self.epoch = size, batch_size, shuffle_seed, 0
        self.rank, self.world = rank, world

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch, as with PyTorch's DistributedSampler."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        order = np.arange(self.size)
        if self.shuffle_seed is not None:
            np.random.default_rng([self.shuffle_seed, self.epoch]).shuffle(order)
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self.epoch, number * self.world + self.rank, batch[self.rank :: self.world]


def _tensors(batch: tuple[np.ndarray, np.ndarray], mean, std) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch
    return normalise_batch(images, mean, std), torch.from_numpy(labels)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    sys.excepthook = lambda *_: None  # of the thread that hands over tensors, when the main process has stopped
    # Where a batch cannot be handed over (a container's /dev/shm is full) the main process would wait for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))


def loader(batches: Batches, batch_size: int, shuffle_seed: int | None, mean, std, workers: int) -> DataLoader:
    """Yields float32 (B, 3, 32, 32), normalised, and int64 (B,); under torchrun each process its share of a batch.
    DataError if a deviation is 0."""
    if not min(std) > 1e-6:
        raise DataError("A colour is the same in all pixels of all training images; nothing can be divided by that.")
    share = distributed.rank(), distributed.world_size()
    serves = workers and multiprocessing.get_start_method() == "forkserver"  # as on Linux from Python 3.14 on
    return DataLoader(
        batches,
        sampler=BatchSampler(len(batches.images), batch_size, shuffle_seed, *share),
        batch_size=None,  # what the sampler names is a batch already
        collate_fn=partial(_tensors, mean=mean, std=std),
        num_workers=workers,
        multiprocessing_context="fork" if serves else None,  # the server outlives a training that is killed
        persistent_workers=workers > 0,
        prefetch_factor=min(8, max(2, 1024 // batch_size)) if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of its own: whether the workers were just started must not move the dropout
    )
