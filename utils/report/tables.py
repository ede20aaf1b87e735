"""results/ -> the tables of the README and of docs/ in Markdown, no figure typed by hand."""

import contextlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd

import utils
from utils import architecture, models, plotting
from utils.engine.records import last_accuracy, read_history, read_metrics, read_table, taught_by
from utils.engine.steps import TARGET, log_line
from utils.errors import RunError, first_line
from utils.experiments import FINAL, FIVE, MAIN, RECORDS, experiment
from utils.study import layers, statistics
from utils.study.benchmark import USUAL

TOLD_WITH = dict(tiny="small", compact="accurate", quick="fast")  # in whose notebook other networks are told


def markdown(columns: Mapping[str, Iterable] | str) -> str:
    """A table in Markdown from its columns; those of numbers stand to the right. A text stays as it is."""
    if isinstance(columns, str):
        return columns
    table = pd.DataFrame(columns).astype(str)
    right = [table[name].str.match(r"[-+]?\d|-?$").all() for name in table]
    lines = [list(table), ["--:" if r else "---" for r in right], *table.values.tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def published(names: list[str]) -> pd.DataFrame:
    """The published ones of these runs, a row each."""
    table = statistics.published()
    return table.loc[[name for name in names if name in table.index]]


def lessons() -> dict[Path, list[dict]]:
    """The cells of each notebook of the course, such as 01_data_exploration.ipynb, in their order; others in the folder
    are not its own. RunError if one cannot be read, or does not begin as they do."""
    found = {}
    for path in sorted((utils.ROOT / "notebooks").glob("*.ipynb")):
        if re.fullmatch(r"\d\d_\w+", path.stem):  # and no 05_experiment_1-Copy1
            try:
                found[path] = json.loads(path.read_text(encoding="utf-8"))["cells"]
                if not re.search(r"^\[!\[.*\n+# \S", "".join(found[path][0]["source"])):
                    raise ValueError("its first cell is not a badge and a heading")
            except (IndexError, KeyError, TypeError, ValueError) as error:
                why = first_line(error)
                raise RunError(
                    f"notebooks/{path.name} cannot be read as a notebook of the course ({why}); mend it, or let the "
                    "name of one of your own begin with a letter."
                ) from None
    return found


def notebook_links(names: Iterable[str]) -> list[str]:
    """Each name as a link to its notebook, or to the one that tells of its network, where there is one."""
    found = {path.stem[3:]: path.name for path in lessons()}
    functions = {name: network.__name__ for name, network in models.networks().items()}
    told_in = {name: found.get(function) or found.get(TOLD_WITH.get(function)) for name, function in functions.items()}
    pages = ((name, found.get(name) or told_in.get(name)) for name in names)
    return [f"[{name}](notebooks/{page})" if page else name for name, page in pages]


# ---------------------------------------------------------------- the tables


def plus_minus(mean: float, deviation: float, seeds: int) -> str:
    """Mean and standard deviation over seeds, in percent; fewer than three, whose deviation says next to nothing, are
    named instead."""
    spread, few = f" ± {deviation:.2f}" if seeds > 2 else "", {1: " (one seed)", 2: " (two seeds)"}
    return f"{mean:.2f}{spread} %{few.get(seeds, '')}"


def accuracies(runs: pd.DataFrame) -> list[str]:
    return list(map(plus_minus, runs.accuracy, runs.deviation, runs.seeds))


def epochs_and_teachers(runs: pd.DataFrame) -> list[str]:
    taught = {name: f", taught by {teacher}" for name in runs.index if (teacher := taught_by(read_metrics(name)))}
    return [f"{epochs}{taught.get(name, '')}" for name, epochs in runs.epochs.items()]


def first_epochs(name: str) -> str:
    """In which of its epochs the seeds of a run reach 85 % for the first time."""
    seeds = statistics.seeds(name)
    epochs = seeds.epochs_to_85
    if epochs.isna().any():
        return "not reached" if epochs.isna().all() else f"not reached by {epochs.isna().sum()} of {len(epochs)}"
    low, high = int(epochs.min()), int(epochs.max())
    return f"{low} of {seeds.epochs.max()}" if low == high else f"{low} to {high} of {seeds.epochs.max()}"


def headline() -> dict:
    """The four results that count, each the best of its kind among the published networks."""
    m = statistics.published()
    m = m[m.index.isin(MAIN + RECORDS) & (m.parameters < architecture.MAX_PARAMETERS) & (m.accuracy >= TARGET)]
    best = {
        "most accurate": m.accuracy.idxmax(),
        "fewest parameters": m.parameters.idxmin(),
        "fewest epochs": m.epochs.idxmin(),
        "the course's final network": FINAL,
    }
    best = {kind: name for kind, name in best.items() if name in m.index}  # the last may not be among them
    m = m.loc[list(best.values())]
    return {
        "goal": list(best),
        "network": notebook_links(m.index),
        "parameters": m.parameters.map("{:,}".format),
        "epochs": epochs_and_teachers(m),
        "test accuracy": accuracies(m),
        "best of others": [experiment(name).prior or "-" for name in m.index],
    }


def course_table() -> dict:
    """Every notebook by its title, with its badge for Colab and the minutes that it takes."""
    books = lessons()
    firsts = ["".join(cells[0]["source"]) for cells in books.values()]
    titles = [re.search(r"^# (?:\d+\. )?(.+)", first, re.M)[1] for first in firsts]
    return {
        "": [path.name[:2] for path in books],
        "notebook": [f"[{title}](notebooks/{path.name})" for title, path in zip(titles, books, strict=True)],
        "reading": [f"{reading_minutes(cells)} min" for cells in books.values()],
        "running": [running_minutes(cells) for cells in books.values()],
        "in Colab": [first.splitlines()[0] for first in firsts],
    }


def reading_minutes(cells: list[dict]) -> int:
    """At 100 words a minute outside the folded answers, pictures and code included; whole steps of five."""
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    words = re.sub(r"<details>.*?</details>", "", prose, flags=re.S).split()
    return 5 * math.ceil(len(words) / 500)


def running_minutes(cells: list[dict]) -> str:
    """What all cells took together, as Jupyter recorded it when the notebook was run."""
    times = [cell["metadata"].get("execution") for cell in cells if cell["cell_type"] == "code"]
    try:
        ends = [[datetime.fromisoformat(t[f"iopub.status.{word}"][:19]) for word in ("busy", "idle")] for t in times]
    except (KeyError, TypeError):  # not told
        return "-"
    return f"{math.ceil(sum((end - start).total_seconds() for start, end in ends) / 60)} min"


def sizes(runs: pd.DataFrame) -> dict:
    """The two columns that tell how large networks are."""
    millions = (runs.macs / 1e6).map("{:.1f} M".format)
    return {"parameters": runs.parameters.map("{:,}".format), "multiply-adds": millions}


def results_table() -> dict:
    """One row a published run of the reference's networks, beside the reference's figures."""
    m = published(MAIN)
    priors = [experiment(name).prior for name in m.index]
    return {
        "experiment": notebook_links(m.index),
        **sizes(m),
        "receptive field": m.receptive_field,
        "test accuracy": accuracies(m),
        "first epoch at 85 %": [first_epochs(name) for name in m.index],
        "reference at its first 85 %": [f"{prior.accuracy:.2f} % in epoch {prior.epoch}" for prior in priors],
    }


def records_table() -> dict:
    """What goes beyond the reference, each beside the best of others."""
    m = published(RECORDS)
    others = [experiment(name).prior or "-" for name in m.index]
    known = {"epochs": epochs_and_teachers(m), "test accuracy": accuracies(m), "best of others": others}
    return {"record": notebook_links(m.index), **sizes(m), **known}


def steps_table() -> dict:
    """What each experiment changed against the one before, and what it is worth, with its 95 % interval."""
    m = published(FIVE)
    worth = statistics.steps(m.index)
    change = m[["parameters", "macs", "receptive_field"]].diff()[1:].set_axis(worth.index)
    return {
        "step": worth.index,
        "parameters": change.parameters.map("{:+,.0f}".format),
        "multiply-adds": (change.macs / 1e6).map("{:+.1f} M".format),
        "receptive field": change.receptive_field.map("{:+.0f}".format),
        "test accuracy (points)": worth.difference.map("{:+.2f}".format),
        "95 % interval": ["-" if pd.isna(s.low) else f"{s.low:+.2f} to {s.high:+.2f}" for s in worth.itertuples()],
    }


def seeds_table() -> pd.DataFrame:
    """What was trained with several seeds, seed by seed, and in which precision, if not in bfloat16."""
    rows = []
    for name, run in published(MAIN + RECORDS).query("seeds > 1").iterrows():
        runs = statistics.seeds(name)
        precision = runs.precision.map({"bfloat16": ""}).fillna(" (" + runs.precision + ")")
        cells = runs.apply(last_accuracy, axis=1).map("{:.2f} %".format) + precision
        mean = plus_minus(run.accuracy, run.deviation, run.seeds)
        rows.append({"network": name, "mean ± standard deviation": mean, **cells.add_prefix("seed ")})
    return pd.DataFrame(rows).fillna("-")


def layers_table() -> pd.DataFrame:
    """Every layer of the final network."""
    return layers.table(models.build_model(FINAL)).reset_index()


def summary_table() -> str:
    """What torchsummary prints for the final network."""
    from torchsummary import summary

    with contextlib.redirect_stdout(io.StringIO()) as text:
        summary(models.build_model(FINAL), (3, 32, 32), device="cpu")
    return f"```\n{text.getvalue().strip()}\n```"


def log_table() -> str:
    """The training log of the final network around the first epoch at 85 %, and its last line."""
    rows, metrics = read_history(FINAL).to_dict("records"), read_metrics(FINAL)
    first = metrics["epochs_to_85"] or len(rows)
    shown = sorted({*range(max(1, first - 2), min(len(rows), first + 2) + 1), len(rows)})
    return "\n".join(["```", *(log_line(rows[:epoch], "test") for epoch in shown), "```"])


def rules_table() -> pd.DataFrame:
    """Every rule of the assignment with what the final network and its published run show."""
    rules, m = architecture.rules(models.build_model(FINAL)), statistics.published().loc[FINAL]
    used = {key: m.recipe[key] for key in ("flip", "affine", "hole")}
    found = ", ".join(f"{key} p={probability}" for key, probability in used.items())
    rules.loc[len(rules)] = "albumentations", found, min(used.values()) > 0
    found, reached = f"{m.accuracy:.2f} % after epoch {m.epochs}, mean of {m.seeds} seeds", m.accuracy >= TARGET
    rules.loc[len(rules)] = f"test accuracy of at least {TARGET:g} %", found, reached
    return rules.assign(passed=rules.passed.map({True: "yes", False: "NO"}))


def normalisation_table() -> dict:
    """Mean and standard deviation with which the final network's images were normalised."""
    m = statistics.published().loc[FINAL]
    mean, std = ([f"{value:.4f}" for value in values] for values in (m["mean"], m["std"]))
    return {"channel": list(plotting.CHANNELS), "mean": mean, "standard deviation": std}


def speed_table() -> pd.DataFrame:
    """The plain loop, with and without dropout, and ours: what was measured in results/benchmark."""
    folder = utils.ROOT / "results" / "benchmark"
    speed, accuracy = (read_table(folder / f"{name}.csv") for name in ("speed", "accuracy"))
    by_round = speed.pivot(index="round", columns="loop", values="images_per_second")
    ratios = by_round.div(by_round.plain, axis=0).agg(["median", "min", "max"]).T
    spread = {loop: f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for loop, r in ratios.iterrows()}
    medians = speed.groupby("loop")[["images_per_second", "data", "random_numbers", "product_share"]].median()
    table = pd.DataFrame(
        {
            "images/s (median)": medians.images_per_second.map("{:,.0f}".format),
            "ratio: median (minimum to maximum)": pd.Series(spread | {"plain": "1"}),
            "time in data": medians.data.map("{:.1f} %".format),
            "time in random numbers": medians.random_numbers.map("{:.0f} %".format),
            "of a matrix product's rate": medians.product_share.map("{:.0f} %".format),
        }
    )
    table = table.rename(index={"our": speed[speed.loop == "our"].precision.iloc[0]})  # the only one that was timed
    table = table.reindex(["plain", "no dropout", "float32", "bfloat16"], fill_value="-")
    table.insert(0, "loop", ["plain", "plain, no dropout", "ours, float32", "ours, bfloat16"])
    reached = accuracy.groupby("variant").validation_accuracy.agg(["mean", "std"])
    after = f"validation accuracy after {accuracy.epochs[0]} epochs, {accuracy.seed.nunique()} seeds"
    reached = pd.Series({row.Index: f"{row.mean:.2f} ± {row.std:.2f} %" for row in reached.itertuples()})
    return table.assign(**{after: reached.reindex(table.index, fill_value="-")})


def cost_table() -> dict:
    """What an epoch of each network costs: all measured in one run on one machine (`bench --growth`)."""
    m = read_table(utils.ROOT / "results" / "benchmark" / "growth.csv")
    m = m[(m[list(USUAL)] == pd.Series(USUAL)).all(axis=1)].sort_values("macs")
    return {
        "network": m.network.str.removeprefix("baselines/"),
        **sizes(m),
        "seconds for 50,000 images": (m.seconds * 50_000 / m.images).map("{:.0f}".format),
        f"peak memory ({USUAL['images']:,} images)": m.peak_mib.map("{:,.0f} MiB".format),
    }


def faults_table() -> pd.DataFrame:
    """What `make faults` did to all of this, how often, and what held."""
    return read_table(utils.ROOT / "results" / "faults.csv")


MADE = [headline, course_table, results_table, normalisation_table, records_table, steps_table, seeds_table]
MADE += [summary_table, layers_table, log_table, rules_table, speed_table, cost_table, faults_table]
TABLES = {table.__name__.removesuffix("_table"): table for table in MADE}  # marker on the pages -> what stands there
