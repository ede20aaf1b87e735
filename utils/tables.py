"""A run beside the published one; and results/ -> the README's tables in Markdown, no figure typed by hand."""

import contextlib
import io
import json
import re

import pandas as pd

from utils import architecture, experiments, plotting, training
from utils.experiments import EXPERIMENTS, ROOT
from utils.models import build_model

FINAL = "experiment_5"
FIVE = [f"experiment_{k}" for k in range(1, 6)]
MAIN = [*FIVE, "experiment_5_long"]  # the reference's networks
RECORDS = ["small", "tiny", "fast", "accurate", "strideless"]


def _column(metrics: dict) -> dict:
    return {
        "data": metrics["data_source"],
        "parameters": f"{metrics['parameters']:,}",
        "multiply-adds": f"{metrics['macs']:,}",
        "receptive field": metrics["receptive_field"],
        "epochs": metrics["epochs"],
        "first epoch at 85 %": metrics["epochs_to_85"] or "not reached",
        "training accuracy, last epoch": f"{metrics['train_accuracy_last']:.2f} %",
        f"{metrics['evaluated_on']} accuracy, last epoch": f"{metrics['test_accuracy_last']:.2f} %",
        "seconds an epoch": metrics["seconds_per_epoch"],
    }


def comparison(name: str, run: experiments.Run) -> pd.DataFrame:
    """This run beside the published one and the reference, one column each."""
    reference = EXPERIMENTS[name].reference
    columns = {"this run": _column(run.metrics)}
    published = ROOT / "results" / name / "metrics.json"
    if published.exists():
        columns["published"] = _column(json.loads(published.read_text()))
    columns[reference["source"]] = {
        "data": "original",
        "parameters": f"{reference['parameters']:,}",
        "receptive field": reference["receptive_field"],
        "epochs": reference["epochs"],
        "first epoch at 85 %": reference["epochs_to_85"],
        "test accuracy, last epoch": f"{reference['test_accuracy'] or training.TARGET:.2f} %",
    }
    return pd.DataFrame(columns).fillna("-")


def side_by_side(*folders: str) -> pd.DataFrame:
    """Published runs, one column each, such as side_by_side("experiment_4", "experiment_5/seed_2")."""
    columns = {
        folder: _column(json.loads((ROOT / "results" / folder / "metrics.json").read_text())) for folder in folders
    }
    return pd.DataFrame(columns)


def markdown(rows: list[dict]) -> str:
    """A table in Markdown; the keys of the first row are its head, columns of numbers stand to the right."""
    head = list(rows[0])
    right = [all(re.match(r"[-+]?\d|-?$", str(row[key])) for row in rows) for key in head]
    lines = [head, ["--:" if r else "---" for r in right], *([str(row[key]) for key in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def headline() -> str:
    """The result in one sentence."""
    m, reference = experiments.published().loc[FINAL], EXPERIMENTS[FINAL].reference
    share = m.parameters / architecture.MAX_PARAMETERS
    machine = f"{m.cpu_threads} CPU threads" if m.device == "cpu" else m.device
    return (
        f"**{m.test_accuracy_last:.2f} % of CIFAR-10's test images with {m.parameters:,} parameters after {m.epochs} "
        f"epochs.** That is\n{100 * share:.0f} % of the parameters that the assignment allows, trained at "
        f"{m.seconds_per_epoch:.0f} s an epoch on {machine}.\n85 % is first reached in epoch "
        f"{m.epochs_to_85:.0f}; the reference, with the same network, reached {reference['test_accuracy']:.2f} %\n"
        f"in epoch {reference['epochs_to_85']}."
    )


def results_table() -> str:
    """One row a published run of the reference's networks, beside the reference's figures."""
    return markdown(
        [
            {
                "experiment": _link(name),
                "parameters": f"{m.parameters:,}",
                "multiply-adds": f"{m.macs / 1e6:.1f} M",
                "receptive field": m.receptive_field,
                "first epoch at 85 %": f"{_first(m)} of {m.epochs}",
                "test accuracy, last epoch": f"{m.test_accuracy_last:.2f} %",
                "seconds an epoch": f"{m.seconds_per_epoch:.0f}",
                "reference at its first 85 %": "{test_accuracy:.2f} % in epoch {epochs_to_85}".format(
                    **EXPERIMENTS[name].reference
                ),
            }
            for name, m in experiments.published().iterrows()
            if name in MAIN
        ]
    )


def _link(name: str) -> str:
    notebook = next((ROOT / "notebooks").glob(f"*_{name}.ipynb"), None)
    return f"[{name}](notebooks/{notebook.name})" if notebook else name


def seeds_table() -> str:
    """The final network with every published seed, their mean and standard deviation."""
    paths = [ROOT / "results" / FINAL, *sorted((ROOT / "results" / FINAL).glob("seed_*"))]
    runs = pd.DataFrame([json.loads((path / "metrics.json").read_text()) for path in paths])
    accuracy = runs.test_accuracy_last
    head = ("seed", "test accuracy, last epoch", "first epoch at 85 %")
    rows = [(m.seed, f"{m.test_accuracy_last:.2f} %", _first(m)) for m in runs.itertuples()]
    rows.append(("mean ± standard deviation", f"{accuracy.mean():.2f} ± {accuracy.std():.2f} %", ""))
    return markdown([dict(zip(head, row, strict=True)) for row in rows])


def _first(m) -> str:
    return f"{m.epochs_to_85:.0f}" if m.epochs_to_85 > 0 else "not reached"


def records_table() -> str:
    """What goes beyond the reference, each beside the best that was found elsewhere."""
    published = experiments.published()
    return markdown(
        [
            {
                "record": _link(name),
                "parameters": f"{m.parameters:,}",
                "multiply-adds": f"{m.macs / 1e6:.1f} M",
                "epochs": m.epochs,
                "test accuracy, last epoch": f"{m.test_accuracy_last:.2f} %",
                "best elsewhere": _elsewhere(EXPERIMENTS[name].reference),
            }
            for name, m in published.loc[[name for name in RECORDS if name in published.index]].iterrows()
        ]
    )


def _elsewhere(reference: dict) -> str:
    accuracy = f"{reference['test_accuracy'] or training.TARGET:.4g} %"
    return f"{reference['parameters']:,} parameters, {accuracy} in epoch {reference['epochs']}"


def steps_table() -> str:
    """What each experiment changed against the one before."""
    rows, published = [], experiments.published()
    names = [name for name in FIVE if name in published.index]
    for before, name in zip(names, names[1:], strict=False):
        a, b = published.loc[before], published.loc[name]
        rows.append(
            {
                "step": f"{before[-1]} to {name[-1]}",
                "parameters": f"{b.parameters - a.parameters:+,}",
                "multiply-adds": f"{(b.macs - a.macs) / 1e6:+.1f} M",
                "receptive field": f"{b.receptive_field - a.receptive_field:+}",
                "test accuracy (points)": f"{b.test_accuracy_last - a.test_accuracy_last:+.2f}",
            }
        )
    return markdown(rows)


def layers_table() -> str:
    """Every layer of the final network."""
    table = architecture.main_layers(architecture.layer_table(build_model(FINAL)))
    return markdown(
        [
            {
                "layer": name,
                "kernel": "-" if row.kernel is None else f"{row.kernel}x{row.kernel}",
                "stride": "-" if row.stride is None else row.stride,
                "dilation": "-" if row.dilation is None else row.dilation,
                "channels": f"{row.in_channels} to {row.out_channels}",
                "size": f"{row.in_size} to {row.out_size}",
                "receptive field": row.receptive_field,
                "parameters": f"{row.parameters:,}",
                "multiply-adds": f"{row.macs:,}",
            }
            for name, row in table.astype(object).where(table.notna(), None).iterrows()
        ]
    )


def summary_text() -> str:
    """What torchsummary prints for the final network."""
    from torchsummary import summary

    with contextlib.redirect_stdout(io.StringIO()) as text:
        summary(build_model(FINAL), (3, 32, 32), device="cpu")
    return f"```\n{text.getvalue().strip()}\n```"


def log_excerpt() -> str:
    """The training log of the final network around the first epoch at 85 %, and its last line."""
    run = experiments.load(ROOT / "results" / FINAL)
    rows = run.history.to_dict("records")
    first = run.metrics["epochs_to_85"] or len(rows)
    shown = sorted({*range(max(1, first - 2), min(len(rows), first + 2) + 1), len(rows)})
    lines = [training.log_line(rows[:epoch], run.metrics["test_images"]) for epoch in shown]
    return "\n".join(["```", *lines, "```"])


def rules_table() -> str:
    """Every rule of the assignment with what the final network and its published run show."""
    rows = [
        {"rule": r.rule, "found": r.found, "passed": "yes" if r.passed else "NO"}
        for r in architecture.rules(build_model(FINAL)).itertuples()
    ]
    m = experiments.published().loc[FINAL]
    used = ", ".join(f"{key} p={m.recipe[key]}" for key in ("flip", "affine", "hole"))
    reached = m.test_accuracy_last >= training.TARGET
    all_three = min(m.recipe[key] for key in ("flip", "affine", "hole")) > 0
    rows.append({"rule": "albumentations", "found": used, "passed": "yes" if all_three else "NO"})
    rows.append(
        {
            "rule": f"test accuracy of at least {training.TARGET:g} %",
            "found": f"{m.test_accuracy_last:.2f} % after epoch {m.epochs}",
            "passed": "yes" if reached else "NO",
        }
    )
    return markdown(rows)


def normalisation_table() -> str:
    """Mean and standard deviation with which the final network's images were normalised."""
    m = experiments.published().loc[FINAL]
    return markdown(
        [
            {"channel": channel, "mean": f"{mean:.4f}", "standard deviation": f"{std:.4f}"}
            for channel, mean, std in zip(plotting.CHANNELS, m["mean"], m["std"], strict=True)
        ]
    )


def speed_table() -> str:
    """The plain loop and ours: what was measured in results/benchmark."""
    speed, accuracy = (pd.read_csv(ROOT / "results" / "benchmark" / f"{name}.csv") for name in ("speed", "accuracy"))
    by_round = speed.pivot(index="round", columns="loop", values="images_per_second")
    share = speed.groupby("loop")[["data", "random_numbers"]].median()
    ratio = by_round.our / by_round.plain
    reached = accuracy.groupby("variant").validation_accuracy.agg(["mean", "std"])
    precision = speed[speed.loop == "our"].precision.iloc[0]
    spread = f"{ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
    measured = {"plain": ("plain", "1"), precision: ("our", spread)}
    rows = []
    for variant in ("plain", "float32", "bfloat16"):
        loop, times = measured.get(variant, (None, "-"))
        rows.append(
            {
                "loop": "plain" if variant == "plain" else f"ours, {variant}",
                "images/s (median)": f"{by_round[loop].median():,.0f}" if loop else "-",
                "ratio: median (minimum to maximum)": times,
                "time in data": f"{share.data[loop]:.1f} %" if loop else "-",
                "time in random numbers": f"{share.random_numbers[loop]:.0f} %" if loop else "-",
                f"validation accuracy after {accuracy.epochs.iloc[0]} epochs, {accuracy.seed.nunique()} seeds": (
                    f"{reached['mean'][variant]:.2f} ± {reached['std'][variant]:.2f} %"
                ),
            }
        )
    return markdown(rows)


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
