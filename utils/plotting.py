"""The one style, and the figures that show images; each takes plain data and returns a matplotlib Figure."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
CHANNELS = {"red": RED, "green": GREEN, "blue": BLUE}

STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def subplots(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 4), **options
) -> tuple[Figure, np.ndarray]:
    """plt.subplots in the one style; closed, so that a notebook shows the figure once, as a cell's value."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    plt.close(figure)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, small enough for a web page."""
    with io.BytesIO() as png:
        figure.savefig(png, dpi=100)
        shrink(png.getvalue(), path)


def shrink(png: bytes, path: Path) -> None:
    """Write a PNG with at most 255 colours, which a chart does not miss."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def _image(axis, pixels: np.ndarray, title: str = "") -> None:
    axis.imshow(pixels, interpolation="nearest")
    axis.set_title(title, fontsize=9.5)
    axis.axis("off")


def class_grid(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], columns: int = 10, seed: int = 0
) -> Figure:
    """Random images of each class, a row a class: uint8 (N, 32, 32, 3), int64 (N,)."""
    rng = np.random.default_rng(seed)
    figure, axes = subplots(len(classes), columns, size=(8, 8 * len(classes) / (columns + 1.6)))
    for row, (axis_row, name) in enumerate(zip(axes, classes, strict=True)):
        of_class = np.flatnonzero(labels == row)
        for axis, index in zip(axis_row, rng.permutation(of_class)[:columns], strict=False):
            axis.imshow(images[index], interpolation="nearest")
        for axis in axis_row:
            axis.axis("off")
        axis_row[0].text(-0.15, 0.5, name, transform=axis_row[0].transAxes, ha="right", va="center")
    return figure


def class_counts(train_labels: np.ndarray, test_labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """How many training and test images each class has."""
    figure, ((axis,),) = subplots(size=(8, 3.6))
    position = np.arange(len(classes))
    for offset, (name, labels, colour) in zip(
        (-0.2, 0.2), (("training", train_labels, BLUE), ("test", test_labels, ORANGE)), strict=True
    ):
        bars = axis.bar(position + offset, np.bincount(labels, minlength=len(classes)), 0.4, color=colour, label=name)
        axis.bar_label(bars, fontsize=8, padding=1)
    axis.set_xticks(position, classes, rotation=30, ha="right")
    axis.set_ylabel("images")
    axis.grid(axis="x", visible=False)
    axis.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def channel_histograms(counts: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Figure:
    """Pixel values per channel before and after normalisation: counts (3, 256), mean and std in 0 to 1."""
    figure, ((before, after),) = subplots(1, 2, size=(8, 3.4), sharey=False)
    values = np.arange(256)
    for (name, colour), share, m, s in zip(
        CHANNELS.items(), counts / counts.sum(1, keepdims=True), mean, std, strict=True
    ):
        before.plot(values, 100 * share, color=colour, label=name, lw=1.2)
        before.axvline(255 * m, color=colour, ls="--", lw=1)
        after.plot((values / 255 - m) / s, 100 * share, color=colour, lw=1.2)
    after.axvline(0, color=GREY, ls="--", lw=1)
    before.set(xlabel="pixel value (0 to 255)", ylabel="share of pixels (%)", title="as stored; dashed: channel means")
    after.set(xlabel="standard deviations from the mean", title="normalised: mean 0, deviation 1")
    for axis in (before, after):
        axis.set_ylim(0, 1.2 * np.sort(100 * counts / counts.sum(1, keepdims=True), axis=1)[:, -2].max())
    before.legend(loc="upper left", fontsize=9)
    return figure


def augmentation_sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """One labelled row of images for each entry: original, each augmentation alone, all together."""
    columns = max(len(images) for images in rows.values())
    figure, axes = subplots(len(rows), columns, size=(8, 8 * len(rows) / (columns + 2.2)))
    for axis_row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in axis_row:
            axis.axis("off")
        for axis, image in zip(axis_row, images, strict=False):
            axis.imshow(image, interpolation="nearest")
        axis_row[0].text(
            -0.15, 0.5, name.replace(" ", "\n", 1), transform=axis_row[0].transAxes, ha="right", va="center"
        )
    return figure
