"""The one style of every figure, and how a figure becomes a file."""

import io
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils.engine.checkpoints import write_atomically
from utils.errors import ProjectError

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
COLOURS, MARKERS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9"), "os^DvP"
LINES = [(COLOURS[k % 6], MARKERS[(k + k // 6) % 6]) for k in range(36)]  # no two look the same
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


class Drawing(Figure):
    """A figure that a notebook shows with two dots for each pixel of the page, so that it is sharp on dense screens."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        png = as_png(self)
        size = {"width": Image.open(io.BytesIO(png)).width // 2}
        shown = {"image/png": b64encode(png).decode(), "text/plain": repr(self)}
        display(shown, metadata={"image/png": size}, raw=True)


def subplots(rows: int = 1, columns: int = 1, size: tuple = (8, 4), **options) -> tuple[Figure, np.ndarray]:
    """plt.subplots in the one style; closed, so that a notebook shows the figure once, as a cell's value."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, FigureClass=Drawing, **options)
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
    named = axis.get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def name_points(axis: Axes, names: Iterable[str], x: Iterable[float], y: Iterable[float]) -> None:
    """A name beside each point, where it hides neither a point or bar nor another name."""
    axis.figure.draw_without_rendering()  # only then is known where everything lies
    axis.figure.set_layout_engine("none")  # and there it stays: names that move the panels would meet
    taken, named = [], []
    for line in axis.lines:
        at = line.get_transform().transform(line.get_xydata())
        taken += [Bbox([at[0], at[-1]])] if line.get_linestyle() != "None" else [Bbox([p - 6, p + 6]) for p in at]
    for bars in axis.collections:
        taken += [Bbox(axis.transData.transform(bar)) for bar in bars.get_segments() if len(bar)]
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]  # the best first
    places = [(*side, away) for away in (8, 15, 22, 29, 36) for side in sides]  # points; the far ones with a line
    to_point = dict(arrowstyle="-", color=GREY, lw=0.8, shrinkA=0, shrinkB=4)
    highest_first = sorted(zip(names, zip(x, y, strict=True), strict=True), key=lambda named: -named[1][1])
    for name, point in highest_first:  # or lines to the lower ones would cross the names above them
        look = dict(textcoords="offset points", fontsize=9, color=BLUE, arrowprops=to_point)
        text = axis.annotate(name, point, (0, 0), **look)
        text.get_window_extent()  # from which on it knows its point

        def crowded(place: tuple[int, int, int], text: Annotation = text) -> int:
            around = _place(text, *place).padded(3)
            outside = any(around.min < axis.bbox.min) or any(around.max > axis.bbox.max)
            return around.count_overlaps(taken) + 9 * (around.count_overlaps(named) + outside)

        named.append(_place(text, *min(places, key=crowded)))


def _place(text: Annotation, right: int, up: int, away: int) -> Bbox:
    """Put a name so many points away from what it names, with a line unless it stands right beside it; returns where it
    lies."""
    text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
    text.set_position((away * right, away * up))
    text.arrow_patch.set_visible(away > 8 or bool(right and up))
    return Text.get_window_extent(text)  # without the line


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG with 200 dots an inch."""
    with io.BytesIO() as png:
        figure.savefig(png, dpi=200, bbox_inches="tight")
        return shrunk(png.getvalue())


def shrunk(png: bytes) -> bytes:
    """The PNG with at most 255 colours if the eye does not miss the others, as in a chart; it names its matplotlib."""
    drawn, about = Image.open(io.BytesIO(png)), PngInfo()
    about.add_text("Software", drawn.info.get("Software", ""))
    drawn = drawn.convert("RGB")
    few = drawn.quantize(255, dither=Image.Dither.NONE)
    lost = np.abs(np.asarray(few.convert("RGB"), float) - np.asarray(drawn)).mean()
    with io.BytesIO() as smaller:
        (few if lost < 0.5 else drawn).save(smaller, "png", optimize=True, pnginfo=about)
        return smaller.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, small enough for a web page."""
    if (path := Path(path)).suffix.lower() != ".png":
        raise ProjectError(f"{path} does not end in .png; name the picture so.")
    write_atomically(as_png(figure), path)
