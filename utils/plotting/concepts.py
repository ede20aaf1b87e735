"""Drawings that explain what a network is built of and how it is trained; plain numbers in, a matplotlib Figure out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from utils.plotting.style import BLUE, GREEN, GREY, LINES, ORANGE, RED, legend_below, pictures, subplots

WIDTH = 8.5  # inches, of a figure that fills the page


def grids(*parts: str | tuple, cell: float = 0.4) -> Figure:
    """Arrays side by side with the number in each cell, positive blue and negative red, in all of them alike; NaN
    stays empty.

    A part is a sign such as "=", or (title, array (H, W), frame, ...), where a frame (row, column, height, width) is
    drawn around cells; `cell` is the side of a cell in inches, if the page is wide enough.
    """
    widths = [0.8 if isinstance(part, str) else part[1].shape[1] for part in parts]
    arrays, columns = [part[1] for part in parts if not isinstance(part, str)], sum(widths) + 0.5 * len(parts)
    cell, rows = min(cell, WIDTH / columns), max(map(len, arrays))
    limit = 2 * max(*(np.nanmax(np.abs(values)) for values in arrays), 1e-9)  # pale: the numbers can be read
    figure, (axes,) = subplots(1, len(parts), size=(cell * columns, cell * rows + 0.6), width_ratios=widths)
    for axis, part in zip(axes, parts, strict=True):
        if isinstance(part, str):
            axis.axis("off")
            axis.text(0.5, 0.5, part, transform=axis.transAxes, ha="center", va="center", fontsize=18)
            continue
        title, values, *frames = part
        axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=9.5)
        for row, column, height, width in [(0, 0, *values.shape), *frames]:
            style = dict(edgecolor=ORANGE, lw=3, zorder=3) if (row, column, height, width) in frames else dict(lw=1)
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), width, height, fill=False, clip_on=False, **style))
        axis.set_xticks(np.arange(-0.5, values.shape[1]), [])
        axis.set_yticks(np.arange(-0.5, values.shape[0]), [])
        axis.grid(True, color=GREY, lw=0.5)
        axis.tick_params(length=0)
        axis.set_title(title, fontsize=10)
    return figure


def picture_row(named: Mapping[str, np.ndarray], squares: Mapping[str, tuple] = {}, cmap: str = "gray") -> Figure:
    """Named pictures in a row: colours (H, W, 3) or a map (H, W), in which 0 is black, or the middle if it has a sign.

    `squares` are drawn on the pictures of that name, given as centre (row = column) and side in pixels.
    """
    figure, panels = _panels(named, WIDTH / len(named) + 0.4)
    for axis, name, values in panels:
        limit = np.abs(values).max()
        pictures([axis], [values], cmap=cmap, vmin=-limit if values.min() < 0 else 0, vmax=limit)
        if name in squares:
            centre, side = squares[name]
            corner = centre - side / 2, centre - side / 2
            axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", lw=1.5))
    return figure


def channels(layers: Mapping[str, Sequence[tuple[str, np.ndarray]]]) -> Figure:
    """Each channel a box, each kernel a line from an input channel to an output channel: title -> steps, each a
    kernel's name and which input (column) reaches which output (row), (O, I)."""
    figure, panels = _panels(layers, 3.4, width_ratios=[len(steps) + 0.5 for steps in layers.values()])
    for axis, _, steps in panels:
        counts = [steps[0][1].shape[1], *(len(links) for _, links in steps)]
        top = max(counts) / 2
        for x, count in enumerate(counts):
            for i in range(count):
                axis.add_patch(Rectangle((x - 0.1, i - count / 2), 0.2, 0.8, facecolor="#dbe9f6", edgecolor=GREY))
            side = {0: "input", len(steps): "output"}.get(x, "between")
            axis.text(x, -top - 0.5, f"{side}: {count}", ha="center", va="top", fontsize=9.5)
        for x, ((kernel, links), colour) in enumerate(zip(steps, cycle((BLUE, RED, GREEN)), strict=False)):
            for o, i in np.argwhere(links):
                ends = i - counts[x] / 2 + 0.4, o - counts[x + 1] / 2 + 0.4
                axis.plot([x + 0.1, x + 0.9], ends, color=colour, lw=1.2)
            said = f"{np.count_nonzero(links)} kernels\nof {kernel}"
            axis.text(x + 0.5, top + 0.1, said, ha="center", va="bottom", fontsize=9.5, color=colour)
        axis.set(xlim=(-0.5, len(steps) + 0.5), ylim=(-top - 1.3, top + 1.6))
        axis.axis("off")
    return figure


def reach(stacks: Mapping[str, Sequence[tuple[int, int, int]]]) -> Figure:
    """One output position and all that it sees below, in one dimension; title -> (kernel, stride, dilation) of layers.
    A row of dots is the output of a layer; those that the topmost position depends on are blue."""
    figure, panels = _panels(stacks, 3.2)
    for axis, _, layers in panels:
        jumps, seen = np.cumprod([1, *(stride for _, stride, _ in layers)]), [{0.0}]
        for level, (kernel, _, dilation) in reversed(list(enumerate(layers))):
            ways = list(product(seen[0], (np.arange(kernel) - (kernel - 1) / 2) * dilation * jumps[level]))
            for position, tap in ways:
                axis.plot([position, position + tap], [level + 1, level], color=BLUE, lw=0.7, alpha=0.6)
            seen.insert(0, {position + tap for position, tap in ways})
        width = int(max(seen[0])) + 2
        for level, positions in enumerate(seen):
            row = np.arange(-(width // jumps[level]), width // jumps[level] + 1) * jumps[level]
            row = row + min(positions) % jumps[level]  # of an even kernel the positions lie between
            axis.plot(row, np.full(len(row), level), "o", color="#c8c8c8", ms=5)
            axis.plot(list(positions), np.full(len(positions), level), "o", color=BLUE, ms=6)
        names = [f"k={k}" + f", s={s}" * (s > 1) + f", d={d}" * (d > 1) for k, s, d in layers]
        axis.set_yticks(range(len(seen)), ["input", *names], fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axis.set_xlabel("pixels of the input", fontsize=9.5)
        axis.grid(False)
    return figure


def lines(x: Sequence, named: Mapping[str, Sequence], marked: Sequence[float] = (), **labels) -> Figure:
    """A line for each name over x; `marked` are dashed verticals; labels as for `Axes.set`."""
    figure, ((axis,),) = subplots(size=(WIDTH, 3.2))
    for (name, y), (colour, marker) in zip(named.items(), LINES, strict=False):
        axis.plot(x, y, color=colour, marker=marker if len(x) < 50 and len(named) > 1 else "", ms=4, label=name)
    for position in marked:
        axis.axvline(position, color=GREY, ls="--", lw=1)
    axis.set(**labels)
    if len(named) > 1:
        legend_below(figure, axis, columns=len(named))
    return figure


def bars(values: Mapping[str, Mapping[str, float]], digits: int = 2, sharex: bool = False) -> Figure:
    """A panel of horizontal bars with their values for each title: title -> name -> value; `sharex` where all have the
    same unit."""
    figure, panels = _panels(values, 0.28 * max(map(len, values.values())) + 0.9, sharex=sharex)
    for (axis, _, named), (colour, _) in zip(panels, LINES, strict=False):
        drawn = axis.barh(list(named), list(named.values()), color=colour)
        axis.bar_label(drawn, fmt=f"{{:,.{digits}f}}", padding=3, fontsize=9)
        axis.margins(x=0.22)
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.invert_yaxis()
        axis.tick_params(labelsize=9)
        axis.grid(axis="y", visible=False)
    for axis in figure.axes:  # which may share their ticks
        end = max(bar.get_width() for other in (figure.axes if sharex else [axis]) for bar in other.patches)
        axis.set_xticks([tick for tick in axis.get_xticks() if tick <= round(end, digits)])  # nothing has 120 %
    return figure


def histograms(values: Mapping[str, Mapping[str, np.ndarray]], xlabel: str) -> Figure:
    """How often each value occurs, a line for each name, a panel for each title; all with the same axes."""
    figure, panels = _panels(values, 3.2, sharey=True, sharex=True)
    ends = np.percentile(np.concatenate([v.ravel() for named in values.values() for v in named.values()]), (0.5, 99.5))
    for axis, _, named in panels:
        for (name, some), (colour, _) in zip(named.items(), LINES, strict=False):
            axis.hist(some.ravel(), np.linspace(*ends, 60), density=True, histtype="step", color=colour, label=name)
        axis.set(xlabel=xlabel, yticks=[])
    figure.axes[0].set_ylabel("how often")
    legend_below(figure, axis, columns=len(named))
    return figure


def descent(loss: Callable, w: np.ndarray, paths: Mapping[str, Sequence[float]]) -> Figure:
    """The loss over one weight, and a panel for each path of weights: a dot where it starts, a star where it ends."""
    figure, panels = _panels(paths, 3.2, sharey=True)
    for axis, _, path in panels:
        axis.plot(w, [loss(value) for value in w], color=GREY)
        axis.plot(path, [loss(value) for value in path], "o-", color=BLUE, ms=4, lw=1)
        axis.plot(path[0], loss(path[0]), "o", color=GREEN, ms=8)
        axis.plot(path[-1], loss(path[-1]), "*", color=RED, ms=12)
        axis.set(xlabel="weight $w$", xlim=(w[0], w[-1]))
    figure.axes[0].set_ylabel("loss $L(w)$")
    return figure


def valley(height: Callable, paths: Mapping[str, np.ndarray], xlim: tuple, ylim: tuple) -> Figure:
    """Lines of equal height over two weights, a panel for each path (steps, 2) that a descent took."""
    figure, panels = _panels(paths, 2.8, sharey=True)
    plane = np.meshgrid(np.linspace(*xlim, 200), np.linspace(*ylim, 200))
    for axis, _, path in panels:
        axis.contour(*plane, height(*plane), 18, cmap="Blues_r", linewidths=0.7)
        axis.plot(*path.T, "o-", color=RED, ms=3, lw=1)
        axis.set(xlabel="$w_1$", xlim=xlim, ylim=ylim)
    figure.axes[0].set_ylabel("$w_2$")
    return figure


def _panels(named: Mapping, height: float, **options) -> tuple[Figure, Iterator[tuple[Axes, str, object]]]:
    """A figure with a titled panel for each entry, and (panel, title, value) of each."""
    figure, (axes,) = subplots(1, len(named), size=(WIDTH, height), **options)
    for axis, title in zip(axes, named, strict=True):
        axis.set_title(title, fontsize=10)
    return figure, zip(axes, named.keys(), named.values(), strict=True)
