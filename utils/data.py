"""CIFAR-10 as arrays: loading, statistics, train/validation split and loaders."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

import utils
from utils import distributed, sources
from utils.files import ImageData, read_path
from utils.transforms import augmentations, compose, normalise_batch

PROJECT = Path(__file__).resolve().parent.parent
FAST_TRAIN, FAST_TEST = 512, 256  # images of each split under FAST_RUN

BANNER = """\
{line}
  STAND-IN DATA: handwritten digits, NOT CIFAR-10. {why}
  Everything runs, but no figure below says anything about CIFAR-10.
  For the real images set CIFAR10_PATH to a CIFAR-10 folder or tar archive.
{line}"""


def load_cifar10(path: str | Path | None = None) -> ImageData:
    """The images from `path` or CIFAR10_PATH, else the cache, else a download, else the stand-in.

    Under FAST_RUN nothing is downloaded and only a few hundred images are kept.

    Returns:
        An object with `train_images` uint8 (N, 32, 32, 3), `train_labels` int64 (N,), `test_images`,
        `test_labels`, `classes` (ten names) and `source` ("original", "folder" or "stand-in").

    Raises:
        DataError: if the given path does not hold a complete, readable CIFAR-10.
    """
    cache = sources.cache_folder()
    path = path or os.environ.get("CIFAR10_PATH")
    if path:
        path = Path(path).expanduser()
        if not path.exists() and (PROJECT / path).exists():
            path = PROJECT / path  # notebooks run in their own folder, where a relative path leads elsewhere
        data = read_path(path, cache)
    else:
        try:
            data = sources.read_cached(cache, fetch_it=not utils.FAST_RUN)
        except sources.Unreachable as error:
            print(BANNER.format(line="!" * 100, why=error), flush=True)
            data = sources.stand_in()
    if utils.FAST_RUN:
        few, fewer = (  # spread over all images: those of a class may lie together
            np.linspace(0, len(labels) - 1, min(count, len(labels)), dtype=int)
            for labels, count in ((data.train_labels, FAST_TRAIN), (data.test_labels, FAST_TEST))
        )
        data = replace(
            data,
            train_images=data.train_images[few],
            train_labels=data.train_labels[few],
            test_images=data.test_images[fewer],
            test_labels=data.test_labels[fewer],
        )
    return data


def channel_histograms(images: np.ndarray) -> np.ndarray:
    """How often each pixel value occurs: uint8 (N, 32, 32, 3) in, int64 (3, 256) out."""
    rows = images.reshape(-1, *images.shape[2:])  # as one tall image, whose pixels OpenCV counts without a copy
    return np.stack([cv2.calcHist([rows], [c], None, [256], [0, 256]).ravel() for c in range(3)]).astype(np.int64)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation over all pixels, per channel, in units of the full range (0 to 1)."""
    share = channel_histograms(images) / images[..., 0].size
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt(share @ values**2 - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())


def train_validation_split(labels: np.ndarray, validation: int = 5000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a stratified split of the training images: (training, validation), each int64 and sorted."""
    from sklearn.model_selection import train_test_split

    train, held_out = train_test_split(np.arange(len(labels)), test_size=validation, stratify=labels, random_state=seed)
    return np.sort(train), np.sort(held_out)


# ---------------------------------------------------------------- loaders


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

    Under torchrun, process k of n gets the images k, k + n, k + 2n, ... of each batch.
    """

    def __init__(self, size: int, batch_size: int, shuffle_seed: int | None = None) -> None:
        self.size, self.batch_size, self.shuffle_seed, self.epoch = size, batch_size, shuffle_seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch, as with PyTorch's DistributedSampler."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        order = np.arange(self.size)
        if self.shuffle_seed is not None:
            np.random.default_rng([self.shuffle_seed, self.epoch]).shuffle(order)
        rank, world = distributed.rank(), distributed.world_size()
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self.epoch, number * world + rank, batch[rank::world]


class Loader(DataLoader):
    """Yields batches (float32 (B, 3, 32, 32), int64 (B,)), but gets several at once from its workers.

    Each hand-over from another process costs about the same, however much is handed over.
    """

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels, sizes in super().__iter__():
            yield from zip(images.split(sizes), labels.split(sizes), strict=True)

    def __len__(self) -> int:
        return len(self.sampler)


def _normalised_together(batches: list, mean, std) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Several batches as one, normalised, and how many images each has."""
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return normalise_batch(images, mean, std), torch.from_numpy(labels), [len(part) for _, part in batches]


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer


def train_loader(
    images: np.ndarray,
    labels: np.ndarray,
    mean,
    std,
    batch_size: int = 128,
    seed: int = 1,
    workers: int = 2,
    **probabilities: float,
) -> Loader:
    """Shuffled, augmented batches (probabilities as in `transforms.augmentations`).

    Call `loader.sampler.set_epoch(epoch)` before each epoch.
    """
    augment = compose(list(augmentations(mean, **probabilities).values()))
    return _loader(
        Batches(images, labels, augment, seed), BatchSampler(len(images), batch_size, seed), mean, std, workers
    )


def eval_loader(images: np.ndarray, labels: np.ndarray, mean, std, batch_size: int = 500) -> Loader:
    """All images in order, normalised only."""
    return _loader(Batches(images, labels), BatchSampler(len(images), batch_size), mean, std, workers=0)


def _loader(batches: Batches, sampler: BatchSampler, mean, std, workers: int) -> Loader:
    return Loader(
        batches,
        sampler=sampler,
        batch_size=4 if workers else 1,  # batches handed over at once: what the sampler names is a batch already
        collate_fn=partial(_normalised_together, mean=mean, std=std),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )
