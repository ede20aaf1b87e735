"""Figures of what a trained network sees and how it errs; each takes plain data and returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.plotting.concepts import picture_row
from utils.plotting.style import BLUE, GREEN, LINES, RED, legend_below, pictures, row_name, subplots


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """How many images of each true class (row) are taken for each class (column): int (10, 10)."""
    figure, ((axis,),) = subplots(size=(7, 6.2))
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    off = share - np.diag(np.diag(share))  # the mistakes decide the shades
    axis.imshow(off, cmap="Reds", vmin=0, vmax=max(off.max(), 1))
    for (i, j), value in np.ndenumerate(matrix):
        if i == j:
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#dbe9f6"))
        colour = "white" if off[i, j] > 0.6 * off.max() else "black"
        axis.text(j, i, f"{value:,}", ha="center", va="center", fontsize=9.5, color=colour)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set(xlabel="predicted class", ylabel="true class", title="number of images")
    axis.grid(False)
    return figure


def gallery(images: np.ndarray, truth: Sequence[str], predicted: Sequence[str], probability: Sequence[float]) -> Figure:
    """Images with predicted name, its probability and the label if it is another; green for hits, red for mistakes."""
    rows = -(-len(images) // 6)
    figure, axes = subplots(rows, 6, size=(9, 2.0 * rows))
    pictures(axes.flat, images)
    for axis, true, guess, p in zip(axes.flat, truth, predicted, probability, strict=False):
        title = f"{guess} {100 * p:.0f} %" + ("" if guess == true else f"\n(label: {true})")
        axis.set_title(title, fontsize=8.5, color=GREEN if guess == true else RED)
    return figure


def overlay(image: np.ndarray, heat: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """A map (32, 32) from 0 to 1 in colours over a uint8 image (32, 32, 3)."""
    colours = 255 * colormaps["inferno"](heat)[..., :3]
    return ((1 - alpha) * image + alpha * colours).astype(np.uint8)


def cams(images: np.ndarray, maps: np.ndarray, titles: Sequence[str]) -> Figure:
    """A column for each image: the image, its Grad-CAM, and both together; uint8 (N, 32, 32, 3), (N, 32, 32)."""
    figure, axes = subplots(3, len(images), size=(9, 9 * 3.5 / max(len(images), 4)))
    pictures(axes[0], images)
    pictures(axes[1], maps, cmap="inferno", vmin=0, vmax=1)
    pictures(axes[2], map(overlay, images, maps))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8.5)
    for axis, name in zip(axes[:, 0], ("image", "Grad-CAM\n(bright: much)", "overlay"), strict=True):
        row_name(axis, name, rotation=90)
    return figure


def reliability(tables: Mapping[str, pd.DataFrame], errors: Mapping[str, float]) -> Figure:
    """Accuracy against confidence for each table of `analysis.reliability`; a bar of few images is only outlined."""
    figure, (axes,) = subplots(1, len(tables), size=(9, 4), sharey=True)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        axis.plot([0, 100], [0, 100], color="black", ls="--", lw=1, label="confidence = accuracy")
        few = table.images < 20
        axis.bar(table.confidence, table.accuracy, 6, color=np.where(few, "white", BLUE), edgecolor=BLUE)
        for row, colour in zip(table.itertuples(), np.where(few, BLUE, "white"), strict=True):
            place = dict(ha="center", va="bottom", rotation=90, fontsize=9.5)
            axis.text(row.confidence, 2, f"{row.images:,}", color=colour, **place)
        axis.set(xlabel="confidence (%)", xlim=(0, 104), ylim=(0, 104))
        axis.set_title(f"{name}: calibration error {errors[name]:.2f} points")
    axes[0].set_ylabel("accuracy (%); in each bar: images")
    axes[0].legend(loc="upper left", fontsize=9)
    return figure


def fields(image: np.ndarray, maps: Mapping[str, np.ndarray], squares: Mapping[str, tuple[float, int]]) -> Figure:
    """Measured gradient of a central output of some layers (`analysis.effective_field`), and the theoretical field
    (`analysis.theoretical_field`) as a white square."""
    titles = {name: f"{name}: {side} px" for name, (_, side) in squares.items()}
    named = {titles[name]: np.sqrt(values) for name, values in maps.items()}  # the root shows the faint parts too
    squares = {titles[name]: square for name, square in squares.items()}
    return picture_row({"an image, for scale": image} | named, squares, cmap="inferno")


def robustness(table: pd.DataFrame) -> Figure:
    """Accuracy against the strength of each change, a line for each model: the table of `analysis.robustness`."""
    kinds = table.kind.unique()
    figure, (axes,) = subplots(1, len(kinds), size=(9, 3.6), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        lines = table[table.kind == kind].pivot(index="strength", columns="model", values="accuracy")
        for name, (colour, marker) in zip(table.model.unique(), LINES, strict=False):
            axis.plot(lines[name], color=colour, marker=marker, ms=4, label=name)
        axis.set_xticks(lines.index)
        axis.set_xlabel(kind)
        if kind == "flip":
            axis.set(xticks=[0, 1], xticklabels=["as it is", "flipped"], xlabel="", xlim=(-0.4, 1.4))
    axes[0].set_ylabel("test accuracy (%)")
    legend_below(figure, axes[0], columns=2)
    return figure


def filters(weights: np.ndarray) -> Figure:
    """The first layer's filters as colour images: float (C, 3, k, k), each scaled to its own range around grey."""
    figure, axes = subplots(2, -(-len(weights) // 2), size=(9, 1.5))
    pictures(axes.flat, (0.5 + 0.5 * w.transpose(1, 2, 0) / np.abs(w).max() for w in weights))
    return figure


def predictions(pixels: Sequence[np.ndarray], maps: Sequence[np.ndarray], best: Sequence[Mapping]) -> Figure:
    """A row for each picture: what the network saw, its Grad-CAM over it, and the best classes as bars."""
    figure, axes = subplots(len(pixels), 3, size=(8, 2.3 * len(pixels)), width_ratios=[1, 1, 2])
    pictures(axes[:, 0], pixels)
    pictures(axes[:, 1], map(overlay, pixels, maps))
    for axis, probabilities in zip(axes[:, 2], best, strict=True):
        bars = axis.barh(list(probabilities), [100 * p for p in probabilities.values()], color=BLUE)
        axis.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
        axis.set(xlim=(0, 115), xticks=[0, 25, 50, 75, 100])
        axis.invert_yaxis()  # the best class on top
        axis.grid(axis="y", visible=False)
    titles = ("what the network saw", "where it looked (bright)", "calibrated probability (%)")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9.5)
    return figure
