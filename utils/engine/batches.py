"""Whole batches from worker processes: in the order, and with the augmentations, that seed and epoch decide."""

import multiprocessing.queues
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from copy import copy
from functools import partial

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.engine import distributed
from utils.engine.checkpoints import rng_from
from utils.errors import DataError
from utils.transforms import normalise_batch


class Batches(Dataset):
    """Whole batches, augmented: `batches[(epoch, number, indices)]` -> uint8 (B, 32, 32, 3), int64 (B,).

    The augmentations are seeded from (seed, epoch, number), so they differ between epochs and
    batches and are the same again for any number of workers.
    """

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
    """Names the batches of an epoch; shuffled anew for each epoch where `shuffle_seed` is given.

    Of several processes, number `rank` of `world` gets the images rank, rank + world, ... of each batch.
    """

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


def fed(train: DataLoader, judged: DataLoader, epochs: int, seed: int) -> list[float]:
    """What a network is fed by these loaders, in numbers, the same for any number of processes: how many batches, what
    tells all their images and labels from others, and those of the first three batches and of the last one, as they
    come; of the batches that it is trained on, in the first and in the last epoch."""
    weights, found = _weights(), []
    with rng_from(seed):
        for loader, epoch in ((train, 1), (train, epochs), (judged, 0)):
            sampler = copy(loader.sampler)
            sampler.rank, sampler.world = 0, 1
            sampler.set_epoch(epoch)
            which = list(sampler)
            found.append(len(which))
            for array in (loader.dataset.images, loader.dataset.labels):
                whole = zlib.crc32(np.ascontiguousarray(array))
                found += [whole % 1009, whole // 1009 % 1013]  # small enough to be told apart as the others are
            for x, y in (loader.collate_fn(loader.dataset[key]) for key in (*which[:3], which[-1])):
                x, y = np.asarray(x, float).transpose(0, 2, 3, 1), np.asarray(y, float).ravel()
                sums = [part.sum() / 3072 for part in np.array_split((x * np.resize(weights, x.shape)).ravel(), 8)]
                found += [len(x), x.mean(), *sums, 10 * (y * np.cos(np.arange(y.size))).mean()]
    return [round(float(value), 3) for value in found]


def _weights() -> np.ndarray:
    """What to weigh the pixels of an image with, coarse and fine, so that their mean tells what was done to it."""
    y, x = np.mgrid[:32, :32]
    coarse = np.stack([np.sin(2 * np.pi * (x + channel * y) / 32) for channel in range(3)], axis=-1)
    return coarse + 0.5 * (-1.0) ** (x + y)[..., None]
