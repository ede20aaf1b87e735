"""Figures that show images; each takes plain data and returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from utils.plotting.style import CHANNELS, GREY, legend_below, pictures, row_name, subplots


def augmentation_sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """A named row of images for each entry, as `analysis.augmentation_examples` gives them."""
    columns = max(len(images) for images in rows.values())
    figure, axes = subplots(len(rows), columns, size=(8, 8 * len(rows) / (columns + 2)))
    for axis_row, (name, images) in zip(axes, rows.items(), strict=True):
        pictures(axis_row, images)
        row_name(axis_row[0], name.replace(" ", "\n", 1))
    return figure


def class_grid(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Ten random images of each class, a row a class: uint8 (N, 32, 32, 3), int64 (N,)."""
    rng = np.random.default_rng(0)
    chosen = (rng.permutation(np.flatnonzero(labels == label))[:10] for label in range(len(classes)))
    return augmentation_sheet({name: images[some] for name, some in zip(classes, chosen, strict=True)})


def channel_histograms(counts: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Figure:
    """Pixel values per channel before and after normalisation: counts (3, 256), mean and std in 0 to 1."""
    figure, ((before, after),) = subplots(1, 2, size=(8, 3.4))
    values, shares = np.arange(256), 100 * counts / counts.sum(1, keepdims=True)
    for (name, colour), share, m, s in zip(CHANNELS.items(), shares, mean, std, strict=True):
        before.plot(values, share, color=colour, label=name, lw=1.2)
        before.axvline(255 * m, color=colour, ls="--", lw=1)
        after.plot((values / 255 - m) / s, share, color=colour, lw=1.2)
    after.axvline(0, color=GREY, ls="--", lw=1)
    top = 1.2 * np.sort(shares, axis=1)[:, -2].max()  # 255 alone would press everything else flat
    before.set(xlabel="pixel value (0 to 255)", ylabel="share of pixels (%)", title="as stored; dashed: channel means")
    after.set(xlabel="standard deviations from the mean", title="normalised: mean 0, deviation 1")
    said = f"255: up to {shares[:, -1].max():.1f} %,\noff the top →" if shares[:, -1].max() > top else ""
    for axis in (before, after):
        axis.set_ylim(0, top)
        axis.text(0.9, 0.97, said, transform=axis.transAxes, ha="right", va="top", fontsize=9)
    legend_below(figure, before, columns=3)
    return figure
