"""results/ -> the README's tables in Markdown, no figure typed by hand."""

import contextlib
import io
from collections.abc import Iterable, Mapping

import pandas as pd

import utils
from utils import architecture, models, plotting, runs, training
from utils.engine.records import read_history, read_metrics, read_table
from utils.experiments import EXPERIMENTS, FINAL, FIVE, MAIN, RECORDS


def markdown(columns: Mapping[str, Iterable] | str) -> str:
    """A table in Markdown from its columns; those of numbers stand to the right. A text stays as it is."""
    if isinstance(columns, str):
        return columns
    table = pd.DataFrame(columns).astype(str)
    right = [table[name].str.match(r"[-+]?\d|-?$").all() for name in table]
    lines = [list(table), ["--:" if r else "---" for r in right], *table.values.tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def first_epoch(runs: pd.DataFrame) -> pd.Series:
    return runs.epochs_to_85.map(lambda epoch: f"{epoch:.0f}" if epoch > 0 else "not reached")


def published(names: list[str]) -> pd.DataFrame:
    """The published ones of these runs, a row each."""
    table = runs.published()
    return table.loc[[name for name in names if name in table.index]]


def notebook_links(names: Iterable[str]) -> list[str]:
    """Each name as a link to its notebook, where it has one."""
    found = {name: next((utils.ROOT / "notebooks").glob(f"*_{name}.ipynb"), None) for name in names}
    return [f"[{name}](notebooks/{path.name})" if path else name for name, path in found.items()]


# ---------------------------------------------------------------- the tables


def headline() -> str:
    """The result in one sentence."""
    m, reference = runs.published().loc[FINAL], EXPERIMENTS[FINAL].prior
    share = m.parameters / architecture.MAX_PARAMETERS
    machine = f"{m.cpu_threads} CPU threads" if m.device == "cpu" else m.device
    return (
        f"**{m.test_accuracy_last:.2f} % of CIFAR-10's test images with {m.parameters:,} parameters after {m.epochs} "
        f"epochs.** That is\n{100 * share:.0f} % of the parameters that the assignment allows, trained at "
        f"{m.seconds_per_epoch:.0f} s an epoch on {machine}.\n85 % is first reached in epoch "
        f"{m.epochs_to_85:.0f}; the reference, with the same network, reached {reference.accuracy:.2f} %\n"
        f"in epoch {reference.epoch}."
    )


def results_table() -> dict:
    """One row a published run of the reference's networks, beside the reference's figures."""
    m = published(MAIN)
    priors = [EXPERIMENTS[name].prior for name in m.index]
    return {
        "experiment": notebook_links(m.index),
        "parameters": m.parameters.map("{:,}".format),
        "multiply-adds": (m.macs / 1e6).map("{:.1f} M".format),
        "receptive field": m.receptive_field,
        "first epoch at 85 %": first_epoch(m) + " of " + m.epochs.astype(str),
        "test accuracy, last epoch": m.test_accuracy_last.map("{:.2f} %".format),
        "seconds an epoch": m.seconds_per_epoch.map("{:.0f}".format),
        "reference at its first 85 %": [f"{prior.accuracy:.2f} % in epoch {prior.epoch}" for prior in priors],
    }


def records_table() -> dict:
    """What goes beyond the reference, each beside the best that was found elsewhere."""
    m = published(RECORDS)
    return {
        "record": notebook_links(m.index),
        "parameters": m.parameters.map("{:,}".format),
        "multiply-adds": (m.macs / 1e6).map("{:.1f} M".format),
        "epochs": m.epochs,
        "test accuracy, last epoch": m.test_accuracy_last.map("{:.2f} %".format),
        "best elsewhere": [EXPERIMENTS[name].prior for name in m.index],
    }


def steps_table() -> dict:
    """What each experiment changed against the one before."""
    m = published(FIVE)
    change = m[["parameters", "macs", "receptive_field", "test_accuracy_last"]].diff()[1:]
    return {
        "step": [f"{before[-1]} to {name[-1]}" for before, name in zip(m.index, m.index[1:], strict=False)],
        "parameters": change.parameters.map("{:+,.0f}".format),
        "multiply-adds": (change.macs / 1e6).map("{:+.1f} M".format),
        "receptive field": change.receptive_field.map("{:+.0f}".format),
        "test accuracy (points)": change.test_accuracy_last.map("{:+.2f}".format),
    }


def seeds_table() -> dict:
    """The final network with every published seed, their mean and standard deviation."""
    names = [FINAL, *sorted(f"{FINAL}/{path.name}" for path in (utils.ROOT / "results" / FINAL).glob("seed_*"))]
    m = pd.DataFrame([read_metrics(name) for name in names])
    accuracy = m.test_accuracy_last
    return {
        "seed": [*m.seed, "mean ± standard deviation"],
        "test accuracy, last epoch": [
            *accuracy.map("{:.2f} %".format),
            f"{accuracy.mean():.2f} ± {accuracy.std():.2f} %",
        ],
        "first epoch at 85 %": [*first_epoch(m), ""],
    }


def layers_table() -> dict:
    """Every layer of the final network."""
    table = architecture.main_layers(architecture.layer_table(models.build_model(FINAL)))
    some = table[["kernel", "stride", "dilation"]].astype(object).fillna("-")  # what only convolutions have
    return {
        "layer": table.index,
        "kernel": some.kernel.map(lambda side: "-" if side == "-" else f"{side}x{side}"),
        "stride": some.stride,
        "dilation": some.dilation,
        "channels": [f"{row.in_channels} to {row.out_channels}" for row in table.itertuples()],
        "size": [f"{row.in_size} to {row.out_size}" for row in table.itertuples()],
        "receptive field": table.receptive_field,
        "parameters": table.parameters.map("{:,}".format),
        "multiply-adds": table.macs.map("{:,}".format),
    }


def summary_text() -> str:
    """What torchsummary prints for the final network."""
    from torchsummary import summary

    with contextlib.redirect_stdout(io.StringIO()) as text:
        summary(models.build_model(FINAL), (3, 32, 32), device="cpu")
    return f"```\n{text.getvalue().strip()}\n```"


def log_excerpt() -> str:
    """The training log of the final network around the first epoch at 85 %, and its last line."""
    rows, metrics = read_history(FINAL).to_dict("records"), read_metrics(FINAL)
    first = metrics["epochs_to_85"] or len(rows)
    shown = sorted({*range(max(1, first - 2), min(len(rows), first + 2) + 1), len(rows)})
    return "\n".join(["```", *(training.log_line(rows[:epoch], "test") for epoch in shown), "```"])


def rules_table() -> pd.DataFrame:
    """Every rule of the assignment with what the final network and its published run show."""
    rules, m = architecture.rules(models.build_model(FINAL)), runs.published().loc[FINAL]
    used = {key: m.recipe[key] for key in ("flip", "affine", "hole")}
    found = ", ".join(f"{key} p={probability}" for key, probability in used.items())
    rules.loc[len(rules)] = "albumentations", found, min(used.values()) > 0
    found, reached = f"{m.test_accuracy_last:.2f} % after epoch {m.epochs}", m.test_accuracy_last >= architecture.TARGET
    rules.loc[len(rules)] = f"test accuracy of at least {architecture.TARGET:g} %", found, reached
    return rules.assign(passed=rules.passed.map({True: "yes", False: "NO"}))


def normalisation_table() -> dict:
    """Mean and standard deviation with which the final network's images were normalised."""
    m = runs.published().loc[FINAL]
    mean, std = ([f"{value:.4f}" for value in values] for values in (m["mean"], m["std"]))
    return {"channel": list(plotting.CHANNELS), "mean": mean, "standard deviation": std}


def speed_table() -> pd.DataFrame:
    """The plain loop and ours: what was measured in results/benchmark."""
    folder = utils.ROOT / "results" / "benchmark"
    speed, accuracy = (read_table(folder / f"{name}.csv") for name in ("speed", "accuracy"))
    by_round = speed.pivot(index="round", columns="loop", values="images_per_second")
    ratio = by_round.our / by_round.plain
    medians = speed.groupby("loop")[["images_per_second", "data", "random_numbers"]].median()
    spread = f"{ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
    table = pd.DataFrame(
        {
            "images/s (median)": medians.images_per_second.map("{:,.0f}".format),
            "ratio: median (minimum to maximum)": pd.Series({"plain": "1", "our": spread}),
            "time in data": medians.data.map("{:.1f} %".format),
            "time in random numbers": medians.random_numbers.map("{:.0f} %".format),
        }
    )
    table = table.rename(index={"our": speed[speed.loop == "our"].precision.iloc[0]})  # the only one that was timed
    table = table.reindex(["plain", "float32", "bfloat16"], fill_value="-")
    table.insert(0, "loop", ["plain", "ours, float32", "ours, bfloat16"])
    reached = accuracy.groupby("variant").validation_accuracy.agg(["mean", "std"]).loc[table.index]
    after = f"validation accuracy after {accuracy.epochs[0]} epochs, {accuracy.seed.nunique()} seeds"
    table[after] = [f"{row.mean:.2f} ± {row.std:.2f} %" for row in reached.itertuples()]
    return table


TABLES = {
    "headline": headline,
    "results": results_table,
    "normalisation": normalisation_table,
    "records": records_table,
    "steps": steps_table,
    "seeds": seeds_table,
    "summary": summary_text,
    "layers": layers_table,
    "log": log_excerpt,
    "rules": rules_table,
    "speed": speed_table,
}
