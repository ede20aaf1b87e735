"""The one style of every figure, and how a figure becomes a file."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.errors import ProjectError

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
LINES = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"), ("#CC79A7", "v"), ("#56B4E9", "P")]  # with markers
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


def pictures(axes: Iterable[Axes], images: Iterable[np.ndarray], **options) -> None:
    """An image on each of the axes, which lose their frames; axes that are left over stay empty."""
    axes = list(axes)
    for axis in axes:
        axis.axis("off")
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image, interpolation="nearest", **options)


def row_name(axis: Axes, name: str, rotation: float = 0) -> None:
    """The name of a row of pictures, to the left of its first one."""
    axis.text(-0.1, 0.5, name, transform=axis.transAxes, ha="right", va="center", rotation=rotation)


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """One legend for all axes, that of `axis`, under them."""
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9, frameon=False
    )


def paired_bars(names: Sequence[str], values: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Two bars for each name, with their values on top: {"left": ..., "right": ...}."""
    figure, ((axis,),) = subplots(size=(8.5, 3.5))
    for offset, colour, (label, heights) in zip((-0.2, 0.2), (BLUE, ORANGE), values.items(), strict=True):
        bars = axis.bar(np.arange(len(names)) + offset, heights, 0.4, color=colour, label=label)
        axis.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    axis.set_xticks(range(len(names)), names, fontsize=9)
    axis.set_ylabel(unit)
    axis.grid(axis="x", visible=False)
    legend_below(figure, axis, columns=2)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, small enough for a web page."""
    with io.BytesIO() as png:
        figure.savefig(png, dpi=100)
        shrink(png.getvalue(), path)


def shrink(png: bytes, path: Path) -> None:
    """Write a PNG with at most 255 colours, which a chart does not miss; it names the matplotlib that drew it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if path.suffix.lower() != ".png":
        raise ProjectError(f"{path} does not end in .png; name the picture so.")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn, about = Image.open(io.BytesIO(png)), PngInfo()
    about.add_text("Software", drawn.info.get("Software", ""))
    drawn.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True, pnginfo=about)
