"""Drawings that explain what a network is built of; each takes plain numbers and returns a matplotlib Figure."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.plotting.style import BLUE, GREEN, GREY, LINES, ORANGE, RED, legend_below, pictures, subplots

WIDTH = 8.5  # inches, of a figure that fills the page


def grids(*parts: str | tuple, cell: float = 0.4) -> Figure:
    """Arrays side by side with the number in each cell, positive blue and negative red; NaN stays empty.

    Args:
        *parts: a sign such as "=" or (title, array (H, W), frame, ...), where a frame (row, column, height, width)
            is drawn around cells.
        cell: side of a cell in inches, if the page is wide enough.
    """
    widths = [0.8 if isinstance(part, str) else part[1].shape[1] for part in parts]
    rows = max(part[1].shape[0] for part in parts if not isinstance(part, str))
    cell = min(cell, WIDTH / (sum(widths) + 0.5 * len(parts)))
    size = cell * (sum(widths) + 0.5 * len(parts)), cell * rows + 0.6
    figure, (axes,) = subplots(1, len(parts), size=size, width_ratios=widths)
    for axis, part in zip(axes, parts, strict=True):
        axis.grid(False)
        if isinstance(part, str):
            axis.axis("off")
            axis.text(0.5, 0.5, part, transform=axis.transAxes, ha="center", va="center", fontsize=18)
            continue
        title, values, *frames = part
        limit = 2 * max(np.nanmax(np.abs(values)), 1e-9)  # pale, so that the numbers can be read
        axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=9.5)
        axis.set_xticks(np.arange(-0.5, values.shape[1]), [])
        axis.set_yticks(np.arange(-0.5, values.shape[0]), [])
        axis.grid(True, color=GREY, lw=0.5)
        axis.tick_params(length=0)
        axis.spines[["top", "right"]].set_visible(True)
        for row, column, height, width in frames:
            corner = column - 0.5, row - 0.5
            axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=ORANGE, lw=3, zorder=3))
        axis.set_title(title, fontsize=10)
    return figure


def picture_row(named: Mapping[str, np.ndarray], squares: Mapping[str, tuple] = {}, cmap: str = "gray") -> Figure:
    """Named pictures in a row: colour (H, W, 3) or a map (H, W); squares: name -> centre (row = column) and side."""
    figure, (axes,) = subplots(1, len(named), size=(WIDTH, WIDTH / len(named) + 0.4))
    pictures(axes, named.values(), cmap=cmap)
    for axis, name in zip(axes, named, strict=True):
        axis.set_title(name, fontsize=10)
        if name in squares:
            centre, side = squares[name]
            corner = centre - side / 2, centre - side / 2
            axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", lw=1.5))
    return figure


def channels(panels: Mapping[str, Sequence[tuple[str, np.ndarray]]]) -> Figure:
    """Each channel a box, each kernel a line from an input channel to an output channel.

    Args:
        panels: title -> layers, each a kernel's name and which input (column) reaches which output (row): bool (O, I).
    """
    figure, (axes,) = subplots(1, len(panels), size=(WIDTH, 3.4), width_ratios=[len(p) + 0.5 for p in panels.values()])
    for axis, (title, layers) in zip(axes, panels.items(), strict=True):
        counts = [layers[0][1].shape[1], *(links.shape[0] for _, links in layers)]
        for x, count in enumerate(counts):
            for i in range(count):
                axis.add_patch(Rectangle((x - 0.1, i - count / 2), 0.2, 0.8, facecolor="#dbe9f6", edgecolor=GREY))
            side = "input" if x == 0 else "output" if x == len(layers) else "between"
            axis.text(x, -max(counts) / 2 - 0.5, f"{side}: {count}", ha="center", va="top", fontsize=9.5)
        for x, (kernel, links) in enumerate(layers):
            colour = BLUE if kernel.startswith("3") else ORANGE
            for o, i in zip(*np.nonzero(links), strict=True):
                ends = i - counts[x] / 2 + 0.4, o - counts[x + 1] / 2 + 0.4
                axis.plot([x + 0.1, x + 0.9], ends, color=colour, lw=1.2)
            said = f"{links.sum()} kernels\nof {kernel}"
            axis.text(x + 0.5, max(counts) / 2 + 0.1, said, ha="center", va="bottom", fontsize=9.5, color=colour)
        axis.set(xlim=(-0.5, len(layers) + 0.5), ylim=(-max(counts) / 2 - 1.3, max(counts) / 2 + 1.6))
        axis.axis("off")
        axis.set_title(title, fontsize=10.5)
    return figure


def reach(panels: Mapping[str, Sequence[tuple[int, int, int]]]) -> Figure:
    """One output position and all that it sees below, in one dimension; title -> (kernel, stride, dilation) of layers.

    A row of dots is the output of a layer; those that the topmost position depends on are blue.
    """
    figure, (axes,) = subplots(1, len(panels), size=(WIDTH, 3.2))
    for axis, (title, layers) in zip(axes, panels.items(), strict=True):
        jumps = np.cumprod([1, *(stride for _, stride, _ in layers)])
        seen, width = {len(layers): {0.0}}, 0.0
        for level in range(len(layers), 0, -1):
            kernel, _, dilation = layers[level - 1]
            taps = (np.arange(kernel) - (kernel - 1) / 2) * dilation * jumps[level - 1]
            seen[level - 1] = {position + tap for position in seen[level] for tap in taps}
            lines = [([p, p + tap], [level, level - 1]) for p in seen[level] for tap in taps]
            for ends, heights in lines:
                axis.plot(ends, heights, color=BLUE, lw=0.7, alpha=0.6)
        width = max(seen[0]) + 1.6
        for level, positions in seen.items():
            first = min(positions) % jumps[level] - jumps[level] * (width // jumps[level] + 1)
            row = np.arange(first, width, jumps[level])
            row = row[np.abs(row) <= width]
            axis.plot(row, np.full(len(row), level), "o", color="#c8c8c8", ms=5)
            axis.plot(sorted(positions), np.full(len(positions), level), "o", color=BLUE, ms=6)
        names = ["input"] + [f"k={k}, s={s}, d={d}" for k, s, d in layers]
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set(xlim=(-width, width), xlabel="pixels of the input")
        axis.grid(False)
        axis.set_title(title, fontsize=10)
    return figure


def lines(x: Sequence, named: Mapping[str, Sequence], marked: Sequence[float] = (), **labels) -> Figure:
    """A line for each name over x; `marked` are dashed verticals; labels as for `Axes.set`."""
    figure, ((axis,),) = subplots(size=(WIDTH, 3.2))
    for (name, y), (colour, _) in zip(named.items(), LINES, strict=False):
        axis.plot(x, y, color=colour, label=name)
    for position in marked:
        axis.axvline(position, color=GREY, ls="--", lw=1)
    axis.set(**labels)
    if len(named) > 1:
        legend_below(figure, axis, columns=len(named))
    return figure


def bars(panels: Mapping[str, Mapping[str, float]], digits: int = 2) -> Figure:
    """A panel of horizontal bars with their values for each title: title -> name -> value."""
    rows = max(map(len, panels.values()))
    figure, (axes,) = subplots(1, len(panels), size=(WIDTH, 0.28 * rows + 0.9))
    for axis, (title, values), (colour, _) in zip(axes, panels.items(), LINES, strict=False):
        drawn = axis.barh(list(values), list(values.values()), color=colour)
        axis.bar_label(drawn, fmt=f"{{:,.{digits}f}}", padding=3, fontsize=9)
        axis.margins(x=0.22)
        axis.invert_yaxis()
        axis.tick_params(labelsize=9)
        axis.grid(axis="y", visible=False)
        axis.set_title(title, fontsize=10)
    return figure


def histograms(panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str) -> Figure:
    """How often each value occurs, a line for each name, a panel for each title; all with the same axes."""
    figure, (axes,) = subplots(1, len(panels), size=(WIDTH, 3.2), sharey=True, sharex=True)
    ends = np.percentile(np.concatenate([v.ravel() for p in panels.values() for v in p.values()]), (0.5, 99.5))
    for axis, (title, named) in zip(axes, panels.items(), strict=True):
        for (name, values), (colour, _) in zip(named.items(), LINES, strict=False):
            axis.hist(values.ravel(), np.linspace(*ends, 60), density=True, histtype="step", color=colour, label=name)
        axis.set(xlabel=xlabel, yticks=[])
        axis.set_title(title, fontsize=10)
    legend_below(figure, axes[0], columns=len(named))
    return figure


def descent(loss: Callable, w: np.ndarray, paths: Mapping[str, Sequence[float]]) -> Figure:
    """The loss over one weight, and a panel for each path of weights that a descent took: title -> weights."""
    figure, (axes,) = subplots(1, len(paths), size=(WIDTH, 3.2), sharey=True)
    for axis, (title, path) in zip(axes, paths.items(), strict=True):
        axis.plot(w, [loss(value) for value in w], color=GREY)
        axis.plot(path, [loss(value) for value in path], "o-", color=BLUE, ms=4, lw=1)
        axis.plot(path[0], loss(path[0]), "o", color=GREEN, ms=8)
        axis.plot(path[-1], loss(path[-1]), "*", color=RED, ms=12)
        axis.set(xlabel="weight $w$", xlim=(w[0], w[-1]))
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("loss $L(w)$")
    return figure


def valley(height: Callable, paths: Mapping[str, np.ndarray]) -> Figure:
    """Lines of equal height over two weights, a panel for each path (steps, 2) that a descent took."""
    figure, (axes,) = subplots(1, len(paths), size=(WIDTH, 2.8), sharey=True)
    across, up = np.meshgrid(np.linspace(-10.5, 2, 200), np.linspace(-2.2, 2.2, 200))
    for axis, (title, path) in zip(axes, paths.items(), strict=True):
        axis.contour(across, up, height(across, up), 18, cmap="Blues_r", linewidths=0.7)
        axis.plot(*path.T, "o-", color=RED, ms=3, lw=1)
        axis.set(xlabel="$w_1$", xlim=(-10.5, 2), ylim=(-2.2, 2.2))
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("$w_2$")
    return figure
