"""Figures of runs and networks; each takes plain data and returns a matplotlib Figure."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.architecture import MAX_PARAMETERS
from utils.plotting import BLUE, GREEN, GREY, ORANGE, RED, subplots

# Okabe and Ito again; with markers, so that lines differ without colour too.
LINES = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"), ("#CC79A7", "v"), ("#56B4E9", "P")]


def curves(history: pd.DataFrame, metrics: Mapping, reference: Mapping, target: float = 85.0) -> Figure:
    """Four graphs against the epoch: loss and accuracy, training and test, with the target and the reference."""
    split = metrics["evaluated_on"]
    figure, axes = subplots(2, 2, size=(8, 6), sharex=True)
    axes[0, 1].sharey(axes[0, 0])  # before anything is drawn, so that both losses fit
    panels = [("train_loss", BLUE, "Training loss"), ("test_loss", ORANGE, f"{split.capitalize()} loss")]
    panels += [
        ("train_accuracy", BLUE, "Training accuracy"),
        ("test_accuracy", ORANGE, f"{split.capitalize()} accuracy"),
    ]
    for axis, (column, colour, title) in zip(axes.flat, panels, strict=True):
        axis.plot(history.epoch, history[column], color=colour, marker="o", ms=3)
        axis.set(title=title, ylabel="accuracy (%)" if "accuracy" in column else "cross-entropy per image")
        axis.annotate(
            f"{history[column].iloc[-1]:.2f}",
            (history.epoch.iloc[-1], history[column].iloc[-1]),
            xytext=(0, -14 if "accuracy" in column else 8),
            textcoords="offset points",
            ha="right",
        )
    for axis in axes[1]:
        axis.set_xlabel("epoch")
        low = history[["train_accuracy", "test_accuracy"]].min().min()
        axis.set_ylim(10 * np.floor(low / 10), 100)
    accuracy = axes[1, 1]
    accuracy.axhline(target, color=GREY, ls="--", lw=1)
    accuracy.text(history.epoch.iloc[0], target + 0.8, f"{target:g} %", color=GREY, fontsize=9)
    first = metrics["epochs_to_85"]
    if first:
        value = history.test_accuracy[history.epoch == first].iloc[0]
        accuracy.plot(first, value, "*", color=RED, ms=13, zorder=3)
    accuracy.text(
        0.98,
        0.06,
        (f"★ first at {target:g} %: epoch {first:.0f}\n" if first else f"{target:g} % not reached\n")
        + f"{reference['source']}: {reference['test_accuracy'] or target:g} %, epoch {reference['epochs']}",
        transform=accuracy.transAxes,
        ha="right",
        fontsize=9,
    )
    figure.suptitle(
        f"{metrics['name']}: {metrics['parameters']:,} parameters, {metrics['data_source']} "
        + ("data, NOT CIFAR-10" if metrics["data_source"] == "stand-in" else "CIFAR-10"),
        fontsize=11.5,
    )
    return figure


def cost_growth(table: pd.DataFrame) -> Figure:
    """Seconds an epoch and peak memory against batch size, images and parameters, from results/benchmark/growth.csv."""
    varied = {"batch_size": "batch size", "images": "images in an epoch", "parameters": "parameters"}
    usual = {name: table[name].mode()[0] for name in varied}  # what stays the same while another thing varies
    figure, axes = subplots(2, 3, size=(8, 5), sharex="col", sharey="row")
    for column, (name, label) in zip(axes.T, varied.items(), strict=True):
        fixed = [other for other in varied if other != name]
        part = table[(table[fixed] == [usual[other] for other in fixed]).all(axis=1)].sort_values(name)
        for axis, (value, colour) in zip(column, (("seconds", BLUE), ("peak_mib", ORANGE)), strict=True):
            axis.plot(part[name], part[value], color=colour, marker="o", ms=4, ls="-" if name != "parameters" else "")
            axis.set_ylim(0, 1.1 * table[value].max())
        column[1].set_xlabel(label)
        column[1].set_xlim(0)
        column[1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        column[1].tick_params(axis="x", labelsize=8.5)
    axes[0, 0].set_ylabel("seconds an epoch")
    axes[1, 0].set_ylabel("peak memory (MiB)")
    figure.suptitle(
        f"{table.network.mode()[0]}, {table.cpu_threads[0]} CPU threads; where not varied: "
        f"batch {usual['batch_size']}, {usual['images']:,} images",
        fontsize=11,
    )
    return figure


def accuracy_against_epoch(histories: Mapping[str, pd.DataFrame], target: float = 85.0) -> Figure:
    """Test accuracy of several runs against the epoch; on the right the part near the target, enlarged."""
    figure, ((whole, end),) = subplots(1, 2, size=(8, 4))
    bottom = target - 5
    near = [history.epoch[history.test_accuracy >= bottom].min() for history in histories.values()]
    for (name, history), (colour, marker) in zip(histories.items(), LINES, strict=False):
        for axis in (whole, end):
            axis.plot(history.epoch, history.test_accuracy, color=colour, marker=marker, ms=3.5, lw=1.2, label=name)
    for axis in (whole, end):
        axis.axhline(target, color=GREY, ls="--", lw=1)
        axis.set_xlabel("epoch")
    whole.set(ylabel="test accuracy (%)", title="whole run")
    whole.text(1, target + 0.6, f"{target:g} %", color=GREY, fontsize=9)
    end.set(title=f"above {bottom:g} %", ylim=(bottom, None))
    if not np.isnan(near).all():
        end.set_xlim(np.nanmin(near) - 0.5)
    end.legend(fontsize=9, loc="lower right")
    return figure


def accuracy_against_cost(runs: pd.DataFrame, references: Mapping[str, Mapping], target: float = 85.0) -> Figure:
    """Test accuracy against parameters and against multiply-adds: `runs` has one row a name, as `published` gives."""
    figure, ((left, right),) = subplots(1, 2, size=(8, 4), sharey=True)
    for (name, run), (colour, marker) in zip(runs.iterrows(), LINES, strict=False):
        for axis, cost in ((left, run.parameters / 1e3), (right, run.macs / 1e6)):
            axis.plot(cost, run.test_accuracy_last, color=colour, marker=marker, ms=8, ls="", label=name)
    reference = runs.loc[list(references)]  # the same networks, so the same cost
    accuracy = [r["test_accuracy"] for r in references.values()]
    for axis, cost in ((left, reference.parameters / 1e3), (right, reference.macs / 1e6)):
        axis.plot(cost, accuracy, "x", color=GREY, ms=7, label="reference, at its first 85 %")
        axis.axhline(target, color=GREY, ls="--", lw=1)
        axis.margins(y=0.15)
        axis.set_xlim(0, 1.15 * cost.max())
    left.set(xlabel="parameters (thousands)", ylabel="test accuracy at the last epoch (%)")
    right.set(xlabel="multiply-adds an image (millions)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def landscape(runs: pd.DataFrame, references: Mapping[str, Mapping], target: float = 85.0) -> Figure:
    """Test accuracy against parameters and against epochs, both on a log axis: our runs, one row a name as `published`
    gives, beside the runs in `references` (name -> as in EXPERIMENTS)."""
    figure, ((left, right),) = subplots(1, 2, size=(8, 5.6), sharey=True)
    others = pd.DataFrame(references).T.drop_duplicates()
    others["test_accuracy"] = others.test_accuracy.fillna(target)  # known is only that it got there
    styles = {
        "reference": dict(marker="x", color=GREY, label="reference, at its first 85 %"),
        "best elsewhere": dict(marker="D", color=GREEN, mfc="none", label="others, best epoch on the test set"),
    }
    for axis, cost in ((left, "parameters"), (right, "epochs")):
        for source, style in styles.items():
            part = others[others.source == source]
            axis.plot(part[cost], part.test_accuracy, ls="", ms=7, **style)
        axis.plot(runs[cost], runs.test_accuracy_last, "o", color=BLUE, ms=7, label="ours, last epoch")
        for name, run in runs.iterrows():
            before = name in ("experiment_1", "accurate", "strideless")  # where a neighbour has its name behind it
            axis.annotate(
                name.removeprefix("experiment_").replace("_", " "),
                (run[cost], run.test_accuracy_last),
                xytext=(-7 if before else 7, 0),
                textcoords="offset points",
                ha="right" if before else "left",
                va="center",
                fontsize=9,
                color=BLUE,
            )
        axis.axhline(target, color=GREY, ls="--", lw=1)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_locator(ticker.NullLocator())
    left.axvline(MAX_PARAMETERS, color=GREY, ls=":", lw=1)
    left.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
    left.set_xlim(6_000, 330_000)
    right.set_xlim(3, 400)
    left.set(xlabel=f"parameters (thousands; fewer than {MAX_PARAMETERS / 1000:g})", ylabel="test accuracy (%)")
    right.set(xlabel="epochs")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.suptitle("Original CIFAR-10 images, single runs; 1 to 5 are the experiments", fontsize=11)
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
        side = f"{row.out_size}x{row.out_size}" if row.out_size > 1 else ""
        axis.text(x + width / 2, height / 2 + 0.8, f"{row.out_channels}\n{side}".strip(), ha="center", fontsize=8)
        name = row.layer.split(".")[0] + ("" if row.kind == "Linear" else f"\nRF {row.receptive_field:.0f}")
        axis.text(x + width / 2, -18.5, name, ha="center", va="top", fontsize=8, rotation=90)
        x += width + 3
    axis.set(xlim=(-1, x - 1), ylim=(-30, 23))
    axis.axis("off")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour) for colour in kinds.values()]
    figure.legend(handles, kinds, loc="outside lower center", ncols=len(kinds), fontsize=9, frameon=False)
    return figure
