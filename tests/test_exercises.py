"""The answers of the exercises in the notebooks of the five experiments, computed from the code and from results/."""

import math
import re
from copy import deepcopy

import pandas as pd
import pytest
from scipy import stats
from torch import nn

from tests.test_notebooks import NOTEBOOKS, cells, source
from utils import ROOT
from utils.architecture import layer_table, totals
from utils.engine.records import read_history, read_metrics
from utils.experiments import FIVE
from utils.models import build_model, conv, conv1x1, small
from utils.study import layers, statistics
from utils.study.layers import changes
from utils.training import Recipe


def text_of(name):
    """All Markdown of the experiment's notebook."""
    (path,) = [p for p in NOTEBOOKS if p.stem.endswith(f"_{name}")]
    return "\n".join(source(c) for c in cells(path, "markdown"))


def answers(name):
    """Those of its exercises, thousands without braces."""
    return [
        a.replace("{,}", ",")
        for a in re.findall(r"<summary>Answer</summary>\n\n(.+?)\n\n</details>", text_of(name), re.S)
    ]


def sides(formula):
    """The values of those sides of an equation that are pure arithmetic, and how exactly the last one is given."""
    formula = formula.replace("\\cdot", "*").replace("\\sqrt{2}", "2**0.5").replace(",", "")
    parts = [re.sub(r"\\sqrt\{(.+)\}", r"(\1)**0.5", part) for part in formula.split("=")]
    values = [eval(part, {"__builtins__": {}}) for part in parts if re.fullmatch(r"[-+*/(). \d]+", part)]
    return values, 0.5 * 10.0 ** -len(parts[-1].strip().partition(".")[2])


OTHERS = "data_exploration augmentation comparison ablation accurate fast small strideless".split()
OTHERS += ["what_it_sees", "your_own_network"]


@pytest.mark.parametrize("name", FIVE + OTHERS)
def test_every_equation_in_the_answers_is_true(name):
    equations = [f for answer in answers(name) for f in re.findall(r"\$(.+?)\$", answer) if "=" in f]
    compared = 0
    for equation in equations:
        values, exact = sides(equation)
        assert all(abs(value - values[0]) <= exact * 1.01 for value in values[1:]), equation
        compared += len(values) > 1
    assert compared >= 1


def test_the_steps_that_the_prose_quotes_are_those_of_results():
    """Difference and interval, in points, in the notebook of each experiment."""
    for name, row in zip(FIVE[1:], statistics.steps(FIVE).itertuples(), strict=True):
        for value in (row.difference, row.low, row.high):
            assert f"{abs(value):.2f}" in text_of(name), f"{name}: {value:.2f}"


def number(name, layer, column):
    """A number of the layer table."""
    return int(layers.table(build_model(name)).loc[layer, column].replace(",", ""))


def changed(name, layer, **arguments):
    """The network with other arguments of a convolution."""
    model = build_model(name)
    for key, value in arguments.items():
        setattr(getattr(model.layers, layer).conv, key, (value, value))
    return model


def test_every_answer_is_folded_so_that_its_markdown_is_rendered():
    for name in FIVE + OTHERS:
        text = text_of(name)
        questions = re.findall(r"^\*\*\d\.\*\* ", text, re.M)
        assert 2 <= len(questions) <= 4 and len(answers(name)) == len(questions) == text.count("<details>")
        assert text.count("**Predict first.**") >= (2 if name in FIVE else 1)


def test_experiment_1():
    ordinary, receptive, short = answers("experiment_1")
    for name, channels, fits in (("c2_1", 32, True), ("c2_2", 64, False)):
        model = build_model("experiment_1")
        setattr(model.layers, name, conv(channels, 64))
        count = sum(p.numel() for p in model.parameters())
        assert f"= {count:,}$" in ordinary and (count < 200_000) is fits
    table = layer_table(build_model("experiment_1"))
    seen = table[table.kind.eq("Conv2d") & table.kernel.gt(1)].receptive_field.tolist()
    assert [int(r) for r in re.findall(r"` (\d+)(?=[ ,])", receptive)] == seen[:6]
    assert f"= {seen[6]}$, `c5`" in receptive and receptive.endswith(f"= {seen[7]}$.") and len(seen) == 8
    metrics = read_metrics("experiment_1/epochs_5/validation")
    assert short.startswith(f"Much higher: {metrics['validation_accuracy_last']:.2f} %")
    history = read_history("experiment_1")
    assert f"epoch 5 has {history.test_accuracy[4]:.2f} %" in text_of("experiment_1")
    assert history.lr.idxmax() in (3, 4, 5)


def test_experiment_2():
    padding, stride, cost, trained = answers("experiment_2")
    table = changes(build_model("experiment_1"), build_model("experiment_2"))
    assert f"= {table.loc['c4_1', 'multiply-adds']}$" in padding and "368,640" in table.loc["c4_1", "multiply-adds"]
    fields = {totals(changed("experiment_2", "c5", stride=s))["receptive_field"] for s in (1, 2)}
    assert fields == {77} and "= 77$ with either stride" in stride
    assert f"= {6 * 3 * 24 * 30:,}$ seconds, {6 * 3 * 24 * 30 / 3600:.1f} hours" in cost
    share = read_metrics("experiment_2/epochs_5/validation")["validation_accuracy_last"] / 100
    assert rf"$\sqrt{{{share:.3f} \cdot {1 - share:.3f} / 5,000}} = 0.0059$, 0.59 points" in trained
    seeds = ["", "seed_2/", "seed_3/", "seed_4/", "seed_5/"]
    found = [read_metrics(f"experiment_5/epochs_5/{s}validation")["validation_accuracy_last"] for s in seeds]
    deviation = pd.Series(found).std()
    listed = ", ".join(f"{share:.2f}" for share in found[:-1]) + f" and {found[-1]:.2f} % after five epochs"
    assert listed in text_of("experiment_2") and f"deviation of {deviation:.2f} points" in trained
    assert stats.t.ppf(0.975, 4) * math.sqrt(2) * deviation == pytest.approx(2.0, abs=0.05)
    back = changes(build_model("experiment_2"), changed("experiment_2", "c4_1", padding=2))
    for layer in ("c4_1", "c5"):
        assert back.loc[layer, "multiply-adds"].removeprefix("+") + " m" in trained
    assert back.loc["c5", ["before", "after"]].tolist() == ["size 4 to 2", "size 6 to 4"]


def test_experiment_3():
    fields, stride, _ = answers("experiment_3")
    for name in ("experiment_2", "experiment_3"):
        for layer in ("c4_1", "c5"):
            assert f"= {number(name, layer, 'receptive field')}$" in fields
    found = totals(changed("experiment_2", "c3_2", stride=1))
    more = found["macs"] - totals(build_model("experiment_2"))["macs"]
    back = found["macs"] - totals(build_model("experiment_3"))["macs"]
    assert stride.startswith(f"{found['parameters']:,} parameters, as before")
    assert f"= {more:,}$. " in stride and f"= {found['macs']:,}$. " in stride
    assert f"takes {back:,} of these back" in stride
    text = text_of("experiment_3")
    both = [read_metrics(f"experiment_{k}/epochs_5/validation")["validation_accuracy_last"] for k in (2, 3)]
    assert "have {:.2f} and {:.2f} % there".format(*both) in text


def test_experiment_4():
    added, _, more, dilated = answers("experiment_4")
    before, after = (totals(build_model(name)) for name in ("experiment_3", "experiment_4"))
    parameters, macs = (after[key] - before[key] for key in ("parameters", "macs"))
    assert f"= {parameters:,}$, " in added and f"= {4 * macs:,}$, " in added
    assert f"= {(after['receptive_field'] - before['receptive_field']) // 2}$, " in added
    fit = (199_999 - after["parameters"]) / parameters
    assert f"= {fit:.2f}$: six" in more and int(fit) == 6
    assert f"= {after['parameters'] + 6 * parameters:,}$ parameters" in more and "= 109$" in more
    deeper = build_model("experiment_4")
    parts = dict(deeper.layers.named_children())
    deeper.layers = nn.Sequential(
        *[deepcopy(part) for name in parts for part in [parts[name]] * (7 if name == "c4_1" else 1)]
    )
    assert totals(deeper)["receptive_field"] == 109
    factor = stats.t.ppf(0.975, 9 - 1)  # paired by seed
    limit = factor * 0.5 * math.sqrt(2 / 9)
    assert limit > 0.5 and f"= {limit:.2f}$ points" in dilated
    shown = 1 - stats.nct.cdf(factor, 9 - 1, factor)
    assert shown == pytest.approx(0.5, abs=0.03) and "nine seeds show it every second time" in dilated
    wider = changed("experiment_3", "c4_1", dilation=2, padding=2)
    assert totals(wider) == before | {"receptive_field": 61} and "`c5` 61" in dilated


def test_experiment_5():
    bottleneck, padding, spread, dropout = answers("experiment_5")
    narrow = sum(p.numel() for layer in (conv1x1(64, 24), conv(24, 32)) for p in (layer.conv.weight,))
    assert f"= {narrow:,}$. Directly $9 \\cdot 64 \\cdot 32 = 18,432$; $18,432 / {narrow:,} = 2.2$ times" in bottleneck
    narrow = sum(number("experiment_5", layer, "parameters") for layer in ("c3_1x1", "c4_1"))
    assert f"(with 16 it is {18_432 / narrow:.1f} times)" in bottleneck
    kept = layers.table(changed("experiment_5", "c5", padding=2)).loc["c5"]
    assert kept["size"] == "8 to 8" and kept["receptive field"] == "61" and f"= {kept['multiply-adds']}$" in padding
    seeds = ["experiment_5_short", "experiment_5_short/seed_2", "experiment_5_short/seed_3"]
    accuracy = pd.Series([read_metrics(name)["test_accuracy_last"] for name in seeds])
    said = f"mean is {accuracy.mean():.2f} %, the standard deviation {accuracy.std():.2f} points"
    assert (
        said in spread
        and f"\\cdot {accuracy.std():.3f} = {math.sqrt(2) * round(accuracy.std(), 3):.3f}$ points" in spread
    )
    tried = pd.read_csv(ROOT / "results" / "search" / "experiment_5.csv")
    tried = tried[tried.batch_size == 128].set_index("dropout")
    without, with_it = tried.loc[0.0], tried.loc[0.05]
    less = without.validation_accuracy - with_it.validation_accuracy
    assert f"had {with_it.validation_accuracy:.2f} %, {less:.1f} points less" in dropout
    assert f"{with_it.seconds_per_epoch} seconds instead of {without.seconds_per_epoch}" in dropout


def test_comparison():
    *_, seeds, _ = answers("comparison")
    limits = {n: stats.t.ppf(0.975, n - 1) * 0.2 * math.sqrt(2 / n) for n in (5, 6)}
    assert limits[5] > 0.3 > limits[6] and f"= {limits[6]:.3f}$ will just do. Six seeds." in seeds
    unpaired = [stats.t.ppf(0.975, 2 * (n - 1)) * 0.2 * math.sqrt(2 / n) for n in (4, 5)]
    assert unpaired[0] > 0.3 > unpaired[1] and f"= {unpaired[1]:.3f}$, and five would do" in seeds


def test_small():
    *_, widened = answers("small")
    before, after = totals(small()), totals(small(c1=24))
    added = {key: after[key] - before[key] for key in ("parameters", "macs")}
    assert f"{added['parameters']:,} = {after['parameters']:,}$ parameters in all, 9 % more" in widened
    assert added["parameters"] / before["parameters"] == pytest.approx(0.09, abs=0.005)
    assert f"= {added['macs']:,}$ multiply-adds, a third more" in widened
    assert added["macs"] / before["macs"] == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("name", FIVE)
def test_the_code_of_the_exercises_runs(name):
    """All but the training, which is replaced by a look at what would be trained."""
    text, trained = text_of(name).split("## Exercises")[1], []

    class Runs:
        @staticmethod
        def train(network, recipe, data, *, name):
            assert isinstance(recipe, Recipe) and totals(network())["parameters"] < 200_000 and data == "images"
            trained.append(name)

    from utils import models, plotting

    class Plotting:
        curves = staticmethod(lambda run: plotting.curves)

    known = dict(layers=layers, models=models, runs=Runs, plotting=Plotting, data="images")
    known["NETWORK"] = models.networks()[name]
    snippets = re.findall(r"```python\n(.+?)```", text, re.S)
    for snippet in snippets:
        exec(snippet, known)
    assert len(trained) == text.count("runs.train(") and len(snippets) >= 1
