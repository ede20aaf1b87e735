"""Figures of runs and networks; each takes plain data and returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.architecture import MAX_PARAMETERS, TARGET
from utils.engine.records import title_of
from utils.plotting.style import BLUE, GREEN, GREY, LINES, ORANGE, RED, legend_below, subplots


def curves(run: Any, prior: Any = None) -> Figure:
    """Loss and accuracy against the epoch, training and judged images in one panel each, and the learning rate.

    Args:
        run: a `runs.Run`.
        prior: an `experiments.PriorWork` to name beside it.
    """
    history, metrics = run.history, run.metrics
    split, first = metrics["evaluated_on"], metrics["epochs_to_85"]
    figure, ((loss, accuracy, rate),) = subplots(1, 3, size=(9, 3.6), width_ratios=[1, 1.25, 0.8])
    for axis, measure, corner in ((loss, "loss", "upper right"), (accuracy, "accuracy", "lower right")):
        parts = {"training": history[f"train_{measure}"], split: history[f"{split}_{measure}"]}
        upper = max(values.iloc[-1] for values in parts.values())
        for (part, values), (colour, marker) in zip(parts.items(), LINES, strict=False):
            axis.plot(history.epoch, values, color=colour, marker=marker, ms=3, label=part)
            end = values.iloc[-1]
            beside = dict(xytext=(7, 0), textcoords="offset points", va="bottom" if end == upper else "top")
            axis.annotate(f"{end:.2f}", (history.epoch.iloc[-1], end), color=colour, fontsize=9, **beside)
        axis.legend(fontsize=9, loc=corner)
    accuracy.axhline(TARGET, color=GREY, ls="--", lw=1, zorder=0)
    accuracy.set_ylim(history[["train_accuracy", f"{split}_accuracy"]].min().min() // 10 * 10, 100)
    said = [f"first at {TARGET:g} %: epoch {first}" if first else f"{TARGET:g} % not reached"]
    if first:
        accuracy.plot(first, history[f"{split}_accuracy"][first - 1], "*", color=RED, ms=13, zorder=3)
    if prior:
        said.append(f"{prior.source}: {prior.accuracy:g} %, epoch {prior.epoch}")
    rate.plot(history.epoch, history.lr, color=GREEN)
    loss.set(title="loss", ylabel="cross-entropy per image")
    accuracy.set_ylabel("accuracy (%)")
    accuracy.set_title("; ".join(said), fontsize=9)
    rate.set(title="learning rate", ylim=(0, None))
    for axis in (loss, accuracy, rate):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    images = "handwritten digits, NOT CIFAR-10" if metrics["data_source"] == "stand-in" else "CIFAR-10"
    title = title_of(run.folder) if run.folder else metrics["name"]
    figure.suptitle(f"{title}: {metrics['parameters']:,} parameters, {images}", fontsize=11.5)
    return figure


def cost_growth(table: pd.DataFrame) -> Figure:
    """Seconds an epoch and peak memory of a network against batch size and images: results/benchmark/growth.csv."""
    varied = {"batch_size": "batch size", "images": "images in an epoch"}
    network, table = table.network.mode()[0], table[table.network == table.network.mode()[0]]
    usual = {name: table[name].mode()[0] for name in varied}  # what stays the same while the other varies
    figure, axes = subplots(2, 2, size=(8, 5), sharex="col", sharey="row")
    for column, (name, label), other in zip(axes.T, varied.items(), reversed(varied), strict=True):
        part = table[table[other] == usual[other]].sort_values(name)
        for axis, (value, colour) in zip(column, (("seconds", BLUE), ("peak_mib", ORANGE)), strict=True):
            axis.plot(part[name], part[value], color=colour, marker="o", ms=4)
            axis.set_ylim(0, 1.1 * table[value].max())
        column[1].set(xlabel=label, xlim=(0, None))
        column[1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes[0, 0].set(ylabel="seconds an epoch", title=f"{usual['images']:,} images")
    axes[0, 1].set_title(f"batches of {usual['batch_size']}")
    axes[1, 0].set_ylabel("peak memory (MiB)")
    figure.suptitle(f"What an epoch of {network} costs on {table.cpu_threads.iloc[0]} CPU threads", fontsize=11)
    return figure


def accuracy_against_epoch(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Test accuracy of several runs against the epoch; on the right the part near the target, enlarged."""
    figure, ((whole, end),) = subplots(1, 2, size=(8, 4))
    bottom = TARGET - 5
    for axis in (whole, end):
        for (name, history), (colour, marker) in zip(histories.items(), LINES, strict=False):
            axis.plot(history.epoch, history.test_accuracy, color=colour, marker=marker, ms=3.5, lw=1.2, label=name)
        axis.axhline(TARGET, color=GREY, ls="--", lw=1)
        axis.set_xlabel("epoch")
    whole.set(ylabel="test accuracy (%)", title="whole run")
    whole.text(1, TARGET + 0.6, f"{TARGET:g} %", color=GREY, fontsize=9)
    end.set(title=f"above {bottom:g} %", ylim=(bottom, None))
    together = pd.concat(histories.values())
    near = together.epoch[together.test_accuracy >= bottom]
    if len(near):
        end.set_xlim(near.min() - 0.5)
    end.legend(fontsize=9, loc="lower right")
    return figure


COSTS = {  # column of the table of runs -> name on the axis, unit, and where a `PriorWork` has the same
    "parameters": (f"parameters (thousands); fewer than {MAX_PARAMETERS / 1e3:g}", 1e3, "parameters"),
    "macs": ("multiply-adds an image (millions)", 1e6, None),
    "epochs": ("epochs", 1, "epoch"),
}
NAMED_BEFORE = "experiment_1 experiment_3 accurate strideless small".split()  # others are in the way behind

OTHERS = {  # source of a `PriorWork` -> how it is drawn
    "reference": dict(marker="x", color=GREY, label="reference, at its first 85 %"),
    "best elsewhere": dict(marker="D", color=GREEN, mfc="none", label="others, best epoch on the test set"),
}


def landscape(
    runs: pd.DataFrame,
    priors: Sequence[Any] = (),
    own: Mapping[str, Mapping] | None = None,
    costs: tuple[str, str] = ("parameters", "epochs"),
) -> Figure:
    """Accuracy after the last epoch against two costs, both on a log axis.

    Args:
        runs: one row a name, as `runs.published` gives; all judged on the same images.
        priors: `PriorWork` to draw beside them where its cost is known.
        own: title -> metrics of runs of one's own, drawn as stars.
        costs: of COSTS.
    """
    figure, (axes,) = subplots(1, 2, size=(9, 5.6), sharey=True)
    split = runs.evaluated_on.iloc[0]
    for axis, cost in zip(axes, costs, strict=True):
        title, unit, of_prior = COSTS[cost]
        for source, style in OTHERS.items():
            points = {(getattr(p, of_prior), p.accuracy) for p in priors if of_prior and p and p.source == source}
            if points:
                axis.plot(*zip(*sorted(points), strict=True), ls="", ms=7, **style)
        axis.plot(runs[cost], runs.accuracy, "o", color=BLUE, ms=7, label="ours, last epoch")
        axis.errorbar(runs[cost], runs.accuracy, runs.deviation, fmt="none", ecolor=BLUE, capsize=4)
        for name, x, y in zip(runs.index, runs[cost], runs.accuracy, strict=True):
            before = name in NAMED_BEFORE
            text = name.removeprefix("experiment_").replace("_", " ")
            place = dict(xytext=(-7 if before else 7, 0), textcoords="offset points", ha="right" if before else "left")
            axis.annotate(text, (x, y), va="center", fontsize=9, color=BLUE, **place)
        for name, metrics in (own or {}).items():
            if metrics[cost] is not None:
                value = metrics[f"{metrics['evaluated_on']}_accuracy_last"]
                images = "" if metrics["data_source"] == "original" else f" on the {metrics['data_source']}"
                label = f"{name}: {value:.2f} %, {metrics['evaluated_on']}{images}"
                axis.plot(metrics[cost], value, "*", color=RED, ms=15, label=label, zorder=3)
        if split == "test":
            axis.axhline(TARGET, color=GREY, ls="--", lw=1)
        if cost == "parameters":
            axis.axvline(MAX_PARAMETERS, color=GREY, ls=":", lw=1)
        axis.set(xscale="log", xlabel=title)
        axis.margins(x=0.16)
        wide = runs[cost].max() > 5 * runs[cost].min()
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 5, 7)))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _, unit=unit: f"{value / unit:g}")
    axes[0].set_ylabel(f"{split} accuracy (%)")
    legend_below(figure, axes[0], columns=3)
    images = "test images" if split == "test" else f"held-out images, {runs.epochs.iloc[0]} epochs each"
    several = "mean and standard deviation over the seeds" if runs.seeds.max() > 1 else "one seed each"
    figure.suptitle(f"CIFAR-10, {images}, {several}; 1 to 5 are the experiments", fontsize=11)
    return figure


def differences(table: pd.DataFrame, title: str = "") -> Figure:
    """Each row of `statistics.against_base` as a point with its 95 % interval, to the right of 0 where it is better."""
    figure, ((axis,),) = subplots(size=(8, 1 + 0.32 * len(table)))
    places = range(len(table), 0, -1)
    for place, row in zip(places, table.itertuples(), strict=True):
        colour = GREEN if row.low > 0 else RED if row.high < 0 else GREY
        axis.plot((row.low, row.high), (place, place), color=colour)
        axis.plot(row.difference, place, "o", color=colour, ms=6)
    axis.axvline(0, color="black", lw=1)
    axis.set_yticks(places, table.index)
    axis.set(
        xlabel="difference in accuracy (points), with its 95 % interval", title=title, ylim=(0.4, len(table) + 0.6)
    )
    return figure


def architecture(table: pd.DataFrame) -> Figure:
    """The network as boxes: height is the side of the layer's output, width its channels, colour its kind."""
    convs = table[table.kind.isin(["Conv2d", "Linear"])]
    figure, ((axis,),) = subplots(size=(8, 3.6))
    x, kinds = 0.0, {}
    for row in convs.itertuples():
        if row.kind == "Linear":
            kind, colour = "global average, linear", GREY
        elif row.groups > 1:
            kind, colour = "depthwise 3x3", GREEN
        elif row.kernel == 1:
            kind, colour = "1x1", ORANGE
        else:
            kind, colour = (f"{row.kernel}x{row.kernel}, dilated", RED) if row.dilation > 1 else ("3x3", BLUE)
        kinds[kind] = colour
        width, height = row.out_channels / 8, row.out_size
        axis.add_patch(Rectangle((x, -height / 2), width, height, facecolor=colour, edgecolor="white"))
        size = f"{row.out_channels}" + (f"\n{height}x{height}" if height > 1 else "")
        axis.text(x + width / 2, height / 2 + 0.8, size, ha="center", fontsize=8)
        name = row.layer.split(".")[0] + ("" if row.kind == "Linear" else f"\nRF {row.receptive_field:.0f}")
        axis.text(x + width / 2, -18.5, name, ha="center", va="top", fontsize=8, rotation=90)
        x += width + 3
    axis.set(xlim=(-1, x - 1), ylim=(-30, 23))
    axis.axis("off")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour) for colour in kinds.values()]
    figure.legend(handles, kinds, loc="outside lower center", ncols=len(kinds), fontsize=9, frameon=False)
    return figure
