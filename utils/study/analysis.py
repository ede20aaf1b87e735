"""What a trained network gets right and wrong, how sure it is, and what it looks at; numbers only, no figures."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import precision_recall_fscore_support
from torch import nn
from torch.nn import functional as F

from utils.architecture import layer_table
from utils.engine.graphs import called, trace
from utils.errors import NetworkError, RunError
from utils.transforms import augmentations, compose, normalise_batch


@torch.no_grad()
def logits(model: nn.Module, images: np.ndarray, mean, std, batch_size: int = 500) -> np.ndarray:
    """float32 (N, 10) for uint8 images (N, 32, 32, 3); `model` is put into eval mode."""
    model.eval()
    parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    with torch.autocast("cpu", enabled=False):  # which a cell may have left on
        return np.concatenate([model(normalise_batch(part, mean, std)).numpy() for part in parts])


def per_class(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall and F1 of each class in percent, and how many images it has."""
    known = dict(labels=range(len(classes)), zero_division=0)
    *shares, images = precision_recall_fscore_support(labels, predicted, **known)
    table = pd.DataFrame(dict(zip(("precision", "recall", "F1"), shares, strict=True)), index=list(classes))
    return (100 * table).round(1).assign(images=images)


def confused_pairs(matrix: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Every mistake "true taken for predicted" with its count, the most frequent first."""
    table = pd.DataFrame(matrix, pd.Index(classes, name="true"), pd.Index(classes, name="predicted"))
    pairs = table.stack().rename("images").reset_index()
    return pairs[pairs.true != pairs.predicted].sort_values("images", ascending=False, ignore_index=True)


# ---------------------------------------------------------------- how sure it is
# Guo et al., "On Calibration of Modern Neural Networks", 2017 (temperature); Naeini et al., "Obtaining Well Calibrated
# Probabilities Using Bayesian Binning", 2015 (expected calibration error)


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The number to divide logits (N, 10) by that makes the cross-entropy on these labels (N,) smallest."""
    if len(scores) != len(labels):
        raise RunError(f"There are {len(scores)} rows of logits and {len(labels)} labels; give a label for each row.")

    def loss(log_t: float) -> float:
        return -log_softmax(scores / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def cross_fitted(scores: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, list[float]]:
    """Calibrated probabilities (N, 10) from logits (N, 10), and the temperatures of two random halves of the images:
    each is judged with the temperature of the other, so that no image helps to choose its own."""
    halves = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    probabilities, found = np.empty(scores.shape), []
    for half, other in (halves, halves[::-1]):
        found.append(temperature(scores[half], labels[half]))
        probabilities[other] = softmax(scores[other] / found[-1], axis=1)
    return probabilities, found


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Images by the probability of their predicted class, in equal bins: confidence and accuracy in percent, images."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": number, "confidence": 100 * confidence, "accuracy": 100.0 * right, "images": 1})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "images": "sum"})


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error in points: the mean distance of confidence and accuracy, weighted by images."""
    return float(np.average((table.confidence - table.accuracy).abs(), weights=table.images))


# ---------------------------------------------------------------- what it looks at


def grad_cam(model: nn.Module, batch: torch.Tensor, classes: Sequence[int], layer: nn.Module) -> np.ndarray:
    """Where `layer` speaks for the given class of each image of a normalised batch: (N, 32, 32), from 0 to 1.

    Its output, (N, C, h, w), is weighted by the mean gradient of each channel (Selvaraju et al., "Grad-CAM", 2017).
    """
    from captum.attr import LayerGradCam

    maps = LayerGradCam(model.eval(), layer).attribute(batch, target=torch.as_tensor(classes), relu_attributions=True)
    maps = F.interpolate(maps.detach(), batch.shape[-2:], mode="bilinear")[:, 0]
    return (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()


def cam_layer(model: nn.Module, size: int = 8) -> str:
    """The name of the last layer, of `model.layers` or the network, with a convolution whose output still has `size` x
    `size` positions or more; NetworkError if there is none."""
    table = layer_table(model)
    names = table[(table.kind == "Conv2d") & (table.out_size >= size).fillna(False)].layer
    if names.empty:
        raise NetworkError(f"No convolution of the network is known to have {size}x{size} outputs to look at.")
    return names.iloc[-1].split(".")[0]


@torch.enable_grad()
def effective_field(model: nn.Module, batch: torch.Tensor, layer: nn.Module) -> np.ndarray:
    """How strongly each input pixel moves the layer's central output: mean size of the gradient, (32, 32), sums to 1.

    Source: Luo et al., "Understanding the Effective Receptive Field in Deep CNNs", 2016.
    """
    batch, outputs = batch.clone().requires_grad_(), []
    with layer.register_forward_hook(lambda *arguments: outputs.append(arguments[-1].clone())):
        model.eval()(batch)
    middle = outputs[0].shape[-1] // 2
    (gradient,) = torch.autograd.grad(outputs[0][:, :, middle, middle].sum(), batch)
    field = gradient.abs().sum((0, 1)).numpy()
    return field / field.sum()


def theoretical_field(model: nn.Module, layer: str) -> tuple[float, int]:
    """Centre and side, in pixels of the input, of what the central output of `layer` can see; the same in x and y.
    NetworkError if there is no such layer, or that is not known of it."""
    table = layer_table(model)
    own = table.index[table.layer.str.split(".").str[0] == layer]
    if own.empty:
        raise NetworkError(f"The network has no layer {layer!r}; layers.table(model) names those that it has.")
    rows = table[: own[-1] + 1]
    seeing = rows[rows.kernel.notna()].fillna({"dilation": 1})  # poolings, too
    unknown = seeing.empty or rows.receptive_field.isna().any() or rows.kind.str.contains("Pad|Adaptive").any()
    unknown |= (rows.in_size == 1).any()  # what has seen the whole map looks nowhere
    if unknown or any("pad" in called(node) for node in trace(model).graph.nodes):
        raise NetworkError(f"It is not known where in the image {layer} looks.")
    jump = seeing.jump // seeing.stride.astype(int)  # before the layer
    shift = (((seeing.kernel - 1) / 2 * seeing.dilation - seeing.padding) * jump).sum()
    last = seeing.loc[seeing.receptive_field.astype(float).idxmax()]  # not a shortcut that is called later
    return float(shift + last.out_size // 2 * last.jump), int(last.receptive_field)


# ---------------------------------------------------------------- what augmentation taught


def augmentation_examples(images: np.ndarray, mean: Sequence[float], seed: int = 0) -> dict[str, Sequence]:
    """The images, under each augmentation alone, and under all: name -> uint8 images.

    Every augmentation is applied for certain here, but for the flip in the last row: all together.
    """
    each = {name: [augmentation] for name, augmentation in augmentations(mean, flip=1, affine=1, hole=1).items()}
    together = augmentations(mean, flip=0.5, affine=1, hole=1).values()
    rows = {"original": images}
    for row, (name, transforms) in enumerate((each | {"all together": together}).items()):
        pipeline = compose(transforms)
        pipeline.set_random_seed(seed + row)  # with one seed for all, the rows would share their holes
        rows[name] = [pipeline(image=image)["image"] for image in images]
    return rows


CHANGES = {
    "flip": (0, 1),
    "shift (px)": (0, 1, 2, 3, 4, 6, 8),
    "rotation (degrees)": (0, 5, 10, 15, 20, 25, 30),
    "hole (px)": (0, 4, 8, 12, 16),
}


def changed(images: np.ndarray, kind: str, strength: int, mean: Sequence[float], seed: int = 0) -> np.ndarray:
    """The images with one change of CHANGES: shifts and rotations in a random direction, holes at a random place. What
    comes into view is black and holes have the mean colour, as in training."""
    if kind not in CHANGES:
        raise RunError(f"There is no change {kind!r}; there are {', '.join(CHANGES)}.")
    if strength == 0:
        return images
    if kind == "flip":
        return np.ascontiguousarray(images[:, :, ::-1])
    rng = np.random.default_rng(seed)
    if kind == "hole (px)":
        images, fill = images.copy(), np.round(255 * np.asarray(mean)).astype(np.uint8)
        for image, (y, x) in zip(images, rng.integers(0, 32 - strength + 1, (len(images), 2)), strict=True):
            image[y : y + strength, x : x + strength] = fill
        return images
    moved = []
    for image in images:
        if kind == "rotation (degrees)":
            matrix = cv2.getRotationMatrix2D((15.5, 15.5), float(strength * rng.choice((-1, 1))), 1)
        else:
            dx, dy = strength * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])[rng.integers(4)]
            matrix = np.float32([[1, 0, dx], [0, 1, dy]])
        moved.append(cv2.warpAffine(image, matrix, (32, 32)))
    return np.stack(moved)


def robustness(models: Mapping[str, nn.Module], images: np.ndarray, labels: np.ndarray, mean, std) -> pd.DataFrame:
    """Accuracy in percent of each model under each change: columns kind, strength, model, accuracy."""
    rows = []
    for kind, strengths in CHANGES.items():
        for strength in strengths:
            seen = changed(images, kind, strength, mean)
            for name, model in models.items():
                right = logits(model, seen, mean, std).argmax(1) == labels
                rows.append(dict(kind=kind, strength=strength, model=name, accuracy=100 * right.mean()))
    return pd.DataFrame(rows)


def shares(model: nn.Module) -> pd.DataFrame:
    """Percent of the parameters and of the multiply-adds in each block (c1, c2, ..., linear); "other" are parameters
    that are no layer's."""
    table = layer_table(model)
    block = table.layer.str.split(r"[._]", regex=True).str[0]
    sums = table.groupby(block, sort=False)[["parameters", "macs"]].sum()
    sums["macs"] = sums.macs if table.macs.notna().all() else float("nan")  # not known of all
    sums.loc["other"] = sum(p.numel() for p in model.parameters()) - table.parameters.sum(), 0
    sums = sums[(sums.parameters > 0) | (sums.macs > 0)].rename(columns={"macs": "multiply-adds"}).rename_axis("block")
    return 100 * sums / sums.sum()
