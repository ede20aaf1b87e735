"""The albumentations pipelines for training and evaluation.

Images are uint8 arrays (32, 32, 3) in RGB; `mean` and `std` are three numbers each from 0 to 1 (of the full range).
"""

import warnings
from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2

HOLE = 16  # side of the square that coarse dropout cuts, in pixels

Channels = Sequence[float]


def compose(transforms: Sequence[A.BasicTransform]) -> A.Compose:
    """A.Compose without its shape check, which only matters for images with masks."""
    return A.Compose(list(transforms), is_check_shapes=False)


def augmentations(
    mean: Channels, flip: float = 0.5, affine: float = 0.5, hole: float = 0.5
) -> dict[str, A.BasicTransform]:
    """The three augmentations of the assignment by name, in the order in which they are applied, with these
    probabilities; `mean` is the data set's mean colour, which fills the hole."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an argument it does not know is only warned of: the hole would be missing
        return {
            "horizontal flip": A.HorizontalFlip(p=flip),
            # Shift by up to 6.25 % of 32 px, new for every image; what comes into view is black. In pixels,
            # because albumentations truncates a percentage towards zero: 0.0625 would hardly ever be 2 px.
            "shift-scale-rotate": A.Affine(translate_px=(-2, 2), scale=(0.9, 1.1), rotate=(-15, 15), fill=0, p=affine),
            "coarse dropout": A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(HOLE, HOLE),
                hole_width_range=(HOLE, HOLE),
                fill=tuple(round(255 * m) for m in mean),
                fill_mask=None,
                p=hole,
            ),
        }


def train_transform(mean: Channels, std: Channels, **probabilities: float) -> A.Compose:
    """Augment, normalise, convert: `pipeline(image=uint8 HWC)["image"]` is a float32 tensor (3, 32, 32). It is what
    training does to one image; `data.train_loader` does the same to batches and builds on `augmentations` itself.

    `probabilities` are those of `augmentations`. `pipeline.set_random_seed(k)` makes it repeatable.
    """
    return compose([*augmentations(mean, **probabilities).values(), A.Normalize(mean, std), ToTensorV2()])


def eval_transform(mean: Channels, std: Channels) -> A.Compose:
    """Normalise and convert only: `pipeline(image=uint8 HWC)["image"]` is a float32 tensor (3, 32, 32). In training
    `normalise_batch` takes its place."""
    return compose([A.Normalize(mean, std), ToTensorV2()])


def normalise_batch(images: np.ndarray, mean: Channels, std: Channels) -> torch.Tensor:
    """What `eval_transform` does, for a whole batch at once and without its cost for each image: uint8 (N, 32, 32, 3)
    to float32 (N, 3, 32, 32) in channels-last memory order."""
    values = np.arange(256, dtype=np.float32)[:, None]
    table = ((values - np.float32(mean) * 255) / (np.float32(std) * 255)).reshape(1, 256, 3)
    normalised = cv2.LUT(images.reshape(-1, 32, 3), table)  # a pixel has only 256 values
    return torch.from_numpy(normalised.reshape(images.shape)).permute(0, 3, 1, 2)
