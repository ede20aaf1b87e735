"""Figures of runs and networks; each takes plain data and returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.architecture import MAX_PARAMETERS
from utils.engine.records import a_run, images_of, read_history, read_metrics, title_of
from utils.engine.steps import TARGET
from utils.errors import NetworkError, RunError
from utils.plotting.style import BLUE, GREEN, GREY, LINES, ORANGE, RED, legend_below, name_points, subplots

IMAGES = {  # what tables call them -> what a title does
    "original": "CIFAR-10",
    "original, not all": "a part of CIFAR-10",
    "stand-in": "handwritten digits, NOT CIFAR-10",
    "folder": "own class folders",
}


def curves(run: Any, prior: Any = None) -> Figure:
    """Loss and accuracy of a `runs.Run`, or of the run of that name, such as "runs/mine", against the epoch, and the
    learning rate; `prior` is an `experiments.PriorWork` to name beside it."""
    named = isinstance(run, str)
    history, metrics = (read_history(run), read_metrics(run)) if named else (a_run(run).history, run.metrics)
    split, first, teacher = metrics["evaluated_on"], metrics["epochs_to_85"], metrics["recipe"].get("teacher")
    figure, ((loss, accuracy, rate),) = subplots(1, 3, size=(9, 3.6), width_ratios=[1, 1.25, 0.8])
    for axis, measure, corner in ((loss, "loss", "upper right"), (accuracy, "accuracy", "lower right")):
        mixed = ",\nwith its teacher" if measure == "loss" and teacher else ""
        parts = {f"training{mixed}": history[f"train_{measure}"], split: history[f"{split}_{measure}"]}
        upper = max(values.iloc[-1] for values in parts.values())
        for (part, values), (colour, marker) in zip(parts.items(), LINES, strict=False):
            axis.plot(history.epoch, values, color=colour, marker=marker, ms=3, label=part)
            end = values.iloc[-1]
            beside = dict(xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points")
            side = "bottom" if end == upper else "top"
            axis.annotate(f"{end:.2f}", (1, end), color=colour, fontsize=9, va=side, **beside)
        axis.legend(fontsize=9, loc=corner)
    accuracy.axhline(TARGET, color=GREY, ls="--", lw=1, zorder=0)
    accuracy.set_ylim(history[["train_accuracy", f"{split}_accuracy"]].min().min() // 10 * 10, 100)
    said = [f"★ first at {TARGET:g} %: epoch {first}" if first else f"{TARGET:g} % not reached"]
    if first:
        accuracy.plot(first, history[f"{split}_accuracy"][first - 1], "*", color=RED, ms=13, zorder=3)
    if prior:
        said.append(f"{prior.source}: {prior.accuracy:.2f} %, epoch {prior.epoch}")
    rate.plot(history.epoch - 1, history.lr, "-" if len(history) > 1 else "o", color=GREEN)  # of the epoch's first step
    loss.set(title="loss", ylabel="loss per image" if teacher else "cross-entropy per image")
    accuracy.set_ylabel("accuracy (%)")
    accuracy.set_title("\n".join(said), fontsize=9.5)
    rate.set(title="learning rate", ylim=(0, None))
    for axis in (loss, accuracy, rate):
        axis.set_xlabel("epochs done" if axis is rate else "epoch")
        axis.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    images = IMAGES.get(images_of(metrics), images_of(metrics))
    title = run if named else title_of(run.folder) if run.folder else metrics["name"]
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
            axis.yaxis.set_major_formatter("{x:,g}")
        column[1].set(xlabel=label, xlim=(0, None))
        column[1].xaxis.set_major_formatter("{x:,g}")
    axes[0, 0].set(ylabel="seconds an epoch", title=f"larger batches, {usual['images']:,} images")
    axes[0, 1].set_title(f"more images, batches of {usual['batch_size']}")
    axes[1, 0].set_ylabel("peak memory (MiB)")
    figure.align_ylabels()
    said = f"Training of {network.replace('_', ' ')} on {table.cpu_threads.iloc[0]} CPU threads, the faster of two runs"
    figure.suptitle(said, fontsize=11)
    return figure


def accuracy_against_epoch(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy of several runs against the epoch: each before the others, and all of them near the target; RunError
    if they were judged on different images."""
    kinds = {column for history in histories.values() for column in history if column.endswith("_accuracy")}
    if len(kinds := kinds - {"train_accuracy"}) != 1:
        raise RunError("There are no runs, or they were judged on different images; draw those of one kind.")
    (judged,) = kinds
    figure, axes = subplots(2, len(histories), size=(9, 6), height_ratios=[1, 1.6], sharey="row")
    for axis in axes[1, 1:]:
        axis.remove()
    end = axes[1, 0]
    end.set_subplotspec(end.get_gridspec()[1, :])  # the whole width
    for axis, own, (colour, marker) in zip(axes[0], histories, LINES, strict=False):
        for history in histories.values():
            axis.plot(history.epoch, history[judged], color="#c8c8c8", lw=1)
        run = histories[own].epoch, histories[own][judged]
        axis.plot(*run, color=colour, lw=2)
        end.plot(*run, color=colour, marker=marker, ms=4, lw=1.2, label=own.replace("_", " "))
        axis.set_title(own.replace("_", " "), fontsize=10)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        axis.tick_params(labelsize=9)
    for axis in (*axes[0], end):
        axis.axhline(TARGET, color=GREY, ls="--", lw=1)
        axis.set_xlabel("epoch")
    together = pd.concat(histories.values())
    bottom = min(TARGET - 5, together[judged].max() - 5)
    near = together.epoch[together[judged] >= bottom]
    end.set(title=f"enlarged: above {bottom:g} %", ylim=(bottom, None), xlim=(near.min() - 0.5, near.max() + 0.5))
    for axis in (axes[0, 0], end):
        axis.set_ylabel(f"{judged.replace('_', ' ')} (%)")
    legend_below(figure, end, columns=len(histories))
    return figure


COSTS = {  # column of the table of runs -> name on the axis, unit, and where a `PriorWork` has the same
    "parameters": (f"parameters (thousands, log scale); fewer than {MAX_PARAMETERS / 1e3:g}", 1e3, "parameters"),
    "macs": ("multiply-adds an image (millions, log scale)", 1e6, None),
    "epochs": ("epochs (log scale)", 1, "epoch"),
}
OTHERS = {  # source of a `PriorWork` -> how it is drawn
    "reference": dict(marker="x", color=GREY, label="reference, at its first 85 %"),
    "elsewhere": dict(marker="D", color=GREEN, mfc="none", label="others, an epoch chosen on the test images"),
}


def landscape(
    runs: pd.DataFrame,
    priors: Sequence[Any] = (),
    own: Mapping[str, Mapping] | None = None,
    costs: tuple[str, str] = ("parameters", "epochs"),
) -> Figure:
    """Accuracy after the last epoch against two of COSTS, both on a log axis: of `runs`, one row a name, as
    `statistics.published` gives them, all judged on the same images; of `priors`, each a `PriorWork`, where its cost is
    known; and, as stars, of runs of one's `own`, title -> metrics."""
    figure, (axes,) = subplots(1, 2, size=(9, 7.2), sharey=True)
    split = runs.evaluated_on.iloc[0]
    for axis, cost in zip(axes, costs, strict=True):
        title, unit, of_prior = COSTS[cost]
        for source, style in OTHERS.items():
            points = {(getattr(p, of_prior), p.accuracy) for p in priors if of_prior and p and p.source == source}
            if points:
                axis.plot(*zip(*sorted(points), strict=True), ls="", ms=7, **style)
        axis.plot(runs[cost], runs.accuracy, "o", color=BLUE, ms=7, label="ours, last epoch")
        spread = runs.deviation.where(runs.seeds > 2)  # that of two says next to nothing
        axis.errorbar(runs[cost], runs.accuracy, spread, fmt="none", ecolor=BLUE, capsize=4)
        for (name, metrics), (colour, _) in zip((own or {}).items(), cycle(LINES[3:]), strict=False):
            if metrics[cost] is not None:
                value = metrics[f"{metrics['evaluated_on']}_accuracy_last"]
                images = "" if images_of(metrics) == "original" else f" on {IMAGES.get(images_of(metrics), 'others')}"
                others = metrics["evaluated_on"] != "test" and metrics["epochs"] != runs.epochs.iloc[0]
                label = f"{name}: {value:.2f} %, {metrics['evaluated_on']}{images}"
                label += f", {metrics['epochs']} epochs" if others else ""
                axis.plot(metrics[cost], value, "*", color=colour, ms=15, label=label, zorder=3)
        if split == "test":
            axis.axhline(TARGET, color=GREY, ls="--", lw=1)
        if cost == "parameters":
            axis.axvline(MAX_PARAMETERS, color=GREY, ls=":", lw=1)
        axis.set(xscale="log", xlabel=title)
        axis.margins(x=0.16, y=0.08)
        wide = runs[cost].max() > 5 * runs[cost].min()
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if wide else (1, 1.2, 1.5, 2, 3, 5, 7)))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _, unit=unit: f"{value / unit:g}")
    axes[0].set_ylabel(f"{split} accuracy (%)")
    legend_below(figure, axes[0], columns=3)
    images = "test images" if split == "test" else f"held-out images, {runs.epochs.iloc[0]} epochs each"
    several = "mean ± standard deviation (no bar: one or two seeds)" if runs.seeds.max() > 1 else "one seed each"
    figure.suptitle(f"CIFAR-10, {images}, {several}; 1 to 5 are the experiments", fontsize=11)
    for axis, cost in zip(axes, costs, strict=True):
        names = [name.removeprefix("experiment_").replace("_", " ") for name in runs.index]
        name_points(axis, names, runs[cost], runs.accuracy)
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
    said = "difference in accuracy (points) with its 95 % interval; grey: it holds 0"
    axis.set(xlabel=said, title=title, ylim=(0.4, len(table) + 0.6))
    return figure


KINDS = {"input": GREY, "3x3": BLUE, "1x1": ORANGE, "depthwise 3x3": GREEN, "3x3, dilated": RED}
FURTHER = "#CC79A7", "black", "#56B4E9", "#8B4513", "#F0E442"  # the linear layers, and what other networks have


def architecture(table: pd.DataFrame) -> Figure:
    """The network as boxes: height is the side of the layer's output, width its channels, colour its kind; the
    same width is the same number in any two pictures of networks with at most 14 layers of at most 128 channels."""
    layers = table[table.kind.isin(["Conv2d", "Linear"])]
    if layers.empty or layers.out_size.isna().any():
        raise NetworkError("Only a network with a layer table of convolutions can be drawn; of this one none is known.")
    image = layers[:1].assign(layer="input", kind="input", stride=layers.stride[:1].shift(), receptive_field=1)
    layers = pd.concat([image.assign(out_channels=image.in_channels, out_size=image.in_size), layers])
    titles = "layer", "stride", "channels", "size", "receptive field"
    figure, ((axis,),) = subplots(size=(9, 4.4))
    widest = max(128, layers.out_channels.max())
    kinds = dict(KINDS)
    linear = "global average, linear" if table.kind.str.contains("AdaptiveAvg").any() else "linear"
    kinds[linear] = FURTHER[0]
    for place, row in enumerate(layers.itertuples()):
        x, width = 11 * place, 8 * row.out_channels / widest  # 11: the widest box and an arrow
        form = "uneven kernel" if pd.isna(row.kernel) else f"{row.kernel}x{row.kernel}"
        kind = {"input": "input", "Linear": linear}.get(row.kind, form)
        if row.kind == "Conv2d":
            kind = f"depthwise {kind}" if row.groups == row.in_channels > 1 else kind
            kind = f"{kind}, dilated" if not pd.isna(row.dilation) and row.dilation > 1 else kind
        kinds.setdefault(kind, FURTHER[1 + (len(kinds) - len(KINDS) - 1) % 4])
        axis.add_patch(Rectangle((x - width / 2, -row.out_size / 2), width, row.out_size, color=kinds[kind]))
        if place:  # an arrow, from behind the box before
            axis.annotate("", (x - width / 2, 0), (x - 11, 0), arrowprops=dict(arrowstyle="->", color=GREY), zorder=0)
        name, *parts = row.layer.split(".")
        name += {"depthwise": " dw", "pointwise": " pw"}.get(parts[-1] if parts else "", "")
        stride = "" if pd.isna(row.stride) else row.stride
        sees = "-" if row.kind == "Linear" or pd.isna(row.receptive_field) else f"{row.receptive_field:.0f}"
        said = name, stride, row.out_channels, f"{row.out_size}x{row.out_size}", sees
        for y, title, text in zip(range(-20, -40, -4), titles, said, strict=True):
            axis.text(x, y, text, ha="center", va="center", fontsize=8 if str(text).endswith((" dw", " pw")) else 9)
            if not place:
                axis.text(-6, y, title, ha="right", va="center", fontsize=9, color=GREY)
    axis.set(xlim=(-30, max(x, 11 * 14) + 6), ylim=(-38, 17))
    axis.set_title("height: side of the image, width: channels; dw: depthwise, pw: pointwise", fontsize=9, color=GREY)
    axis.axis("off")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour) for colour in kinds.values()]
    figure.legend(handles, kinds, loc="outside lower center", ncols=len(KINDS) + 1, fontsize=9, frameon=False)
    return figure
