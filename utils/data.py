"""CIFAR-10 as arrays: loading, statistics, the held-out split and loaders."""

import os
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import DataLoader

import utils
from utils.cifar10 import sources
from utils.cifar10.files import ImageData, read_path
from utils.engine.batches import Batches, loader
from utils.errors import DataError, first_line
from utils.transforms import augmentations, compose

FAST_TRAIN, FAST_TEST = 512, 256  # images of each split under FAST_RUN


def load_cifar10(path: str | Path | None = None) -> ImageData:
    """The images from `path` or CIFAR10_PATH, else the cache, else a download, else the stand-in.

    Under FAST_RUN nothing is downloaded and only a few hundred images are kept. DataError if the given path does not
    hold a complete, readable CIFAR-10.
    """
    cache = sources.cache_folder()
    path = path or os.environ.get("CIFAR10_PATH")
    if path:
        path = Path(os.path.expanduser(path))
        if not os.path.exists(path) and os.path.exists(utils.ROOT / path):
            path = utils.ROOT / path  # notebooks run in their own folder, where a relative path leads elsewhere
        data = read_path(path, cache)
    else:
        try:
            data = sources.read_cached(cache, fetch_it=not utils.FAST_RUN)
        except sources.Unreachable as error:
            print(sources.BANNER.format(line="!" * 100, why=error), flush=True)
            data = sources.stand_in()
    return data.few(FAST_TRAIN, FAST_TEST) if utils.FAST_RUN else data


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

    try:
        every = np.arange(len(labels))
        train, held_out = train_test_split(every, test_size=validation, stratify=labels, random_state=seed)
    except ValueError as error:
        raise DataError(f"Too few images to hold some of each class out ({first_line(error)}); add images.") from None
    return np.sort(train), np.sort(held_out)


def hold_out(data: ImageData) -> ImageData:
    """The training images alone, cut in two: nine in ten stay for training, one in ten takes the test images' place.

    This is what recipes and networks are compared on, so that the test images stay unseen until the end.
    """
    rest, held_out = train_validation_split(data.train_labels, validation=len(data.train_labels) // 10)
    x, y = data.train_images, data.train_labels
    return ImageData(x[rest], y[rest], x[held_out], y[held_out], data.classes, data.source)


# ---------------------------------------------------------------- loaders


def train_loader(
    images: np.ndarray,
    labels: np.ndarray,
    mean,
    std,
    batch_size: int = 128,
    seed: int = 1,
    workers: int = 2,
    **probabilities: float,
) -> DataLoader:
    """Shuffled, augmented batches; before each epoch call `loader.sampler.set_epoch(epoch)`."""
    augment = compose(list(augmentations(mean, **probabilities).values()))
    return loader(Batches(images, labels, augment, seed), batch_size, seed, mean, std, workers)


def eval_loader(images: np.ndarray, labels: np.ndarray, mean, std, batch_size: int = 500) -> DataLoader:
    """All images in order, normalised only."""
    return loader(Batches(images, labels), batch_size, None, mean, std, workers=0)


def loaders(data: ImageData, batch_size: int, seed: int, **probabilities: float) -> tuple:
    """What a network is trained on, what it is judged on, and the mean and std that both are normalised with: those of
    the training images."""
    mean, std = channel_statistics(data.train_images)
    train = train_loader(data.train_images, data.train_labels, mean, std, batch_size, seed, **probabilities)
    return train, eval_loader(data.test_images, data.test_labels, mean, std), mean, std
