"""Every figure in the prose is one that a run, a network or the notebook's own output gives.

Checked are percentages with decimals, such as 86.14 %, and counts of five digits and more, such as 92,394, in the
README, in docs/ and in the Markdown cells of the notebooks.
"""

import json
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from utils import architecture, models
from utils.experiments import EXPERIMENTS
from utils.study import statistics

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
NUMBER = re.compile(r"(?<![\w.,])(?:(\d+\.\d+)(?= %)|(\d{2,3}(?:,\d{3})+|\d{1,3}(?:,\d{3}){2,}|\d{5,})(?![\w.,]*\d))")

ELSEWHERE = {  # figure -> where it can be looked up
    "60,000": "CIFAR-10: images",
    "50,000": "CIFAR-10: training images",
    "45,000": "the held-out split: nine in ten of the training images",
    "10,000": "CIFAR-10: test images",
    "200,000": "the assignment's limit of parameters",
    "25,000": "what notebook 15 wants to stay below",
    "171,840": "jyanivaddi/ERA_V1, session_9",
    "198,660": "garima-mahato/ERA_V3, Session8",
    "6.25": "the largest shift: 2 of 32 pixels",
    "29500": "a port",
    "85.66": "garima-mahato/ERA_V3, Session8: README",
    "91.91": "Sagar063/week7_ERAV4_CIFAR_10_Model_Experiments: last epoch",
    "200.03": "the same: millions of multiply-adds",
    "97,530": "xvel/cifar10-tiniest",
    "94.4": "xvel/cifar10-tiniest",
    "270,000": "He et al. 2016, ResNet-20: 0.27 M",
    "91.25": "He et al. 2016, ResNet-20",
    "20,000": "Haase & Amthor 2020: WRN-16-1, about",
    "40,000": "Haase & Amthor 2020: WRN-28-1, about",
    "87.3": "Haase & Amthor 2020",
    "90.2": "Haase & Amthor 2020",
}


def prose(path):
    """The text that somebody wrote: of a notebook its Markdown, of a page what no report fills in."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        text = re.sub(r"\$[^$\n]*=[^$\n]*\$", "", text)  # equations, which test_exercises.py computes
    text = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", text, flags=re.S)
    return re.sub(r"https?://\S+", "", text)


def numbers(text):
    return [percent or count for percent, count in NUMBER.findall(text)]


def outputs(path):
    """Every number that the notebook itself printed or showed in a table."""
    if path.suffix != ".ipynb":
        return set()
    shown = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    text = "\n".join("".join(part) for part in shown)
    return {float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*\.?\d*", text)}


@cache
def recorded():
    """What results/ and the networks hold: accuracies, their means and deviations, calibration, counts, tables."""
    found = set()

    def numeric(value):
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                numeric(inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.add(float(value))

    for path in (ROOT / "results").glob("**/*.json"):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        numeric({key: value for key, value in metrics.items() if key not in ("run", "made_under")})
    for path in (ROOT / "results").glob("*/*.csv"):
        if path.parent.name in ("search", "benchmark", "ablation"):
            found |= set(pd.read_csv(path).select_dtypes("number").to_numpy().ravel())
    for published in (statistics.published(), statistics.published(held_out=5)):
        found |= {*published.accuracy, *published.deviation}
    for prior in {row.prior for row in EXPERIMENTS.values() if row.prior}:
        numeric([prior.parameters, prior.accuracy])
    for name in models.networks():
        table = architecture.layer_table(models.build_model(name))
        numeric([*architecture.totals(models.build_model(name)).values(), *table.parameters, *table.macs])
        convs = table[table.kind == "Conv2d"]
        blocks = convs.groupby(convs.layer.str[:2])[["parameters", "macs"]].sum()
        numeric([*blocks.parameters.tolist(), *blocks.macs.tolist()])
    return np.array(sorted(value for value in found if value == value))


def is_known(number, own):
    """Whether something recorded or shown in the notebook itself is this number, rounded as it is."""
    decimals = len(number.partition(".")[2])
    value, tolerance = float(number.replace(",", "")), 0.5 * 10.0**-decimals + 1e-9
    return number in ELSEWHERE or bool((np.abs(np.array([*recorded(), *own]) - value) <= tolerance).any())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_figure_in_the_prose_has_its_source(path):
    own = outputs(path)
    unknown = [number for number in numbers(prose(path)) if not is_known(number, own)]
    assert not unknown, f"{path.name}: no run, network or output gives {', '.join(unknown)}"


@pytest.mark.parametrize("page", ["README.md", "notebooks/13_fast.ipynb"])
def test_the_share_of_the_time_that_the_prose_quotes_is_that_of_the_table(page):
    seconds = pd.read_csv(ROOT / "results" / "benchmark" / "minutes.csv").pivot(
        index="round", columns="network", values="seconds"
    )
    share = seconds.quick / seconds.experiment_5
    rounds = r"\(the median of three\s+rounds,\s+(\S+) to (\S+?)\)"
    said = re.findall(
        rf"(0\.\d\d)\s+of\s+the\s+time\s+of\s+experiment\s+5(?:'s\s+24\s+epochs)?\s+{rounds}", prose(ROOT / page)
    )
    assert said == [tuple(f"{value:.2f}" for value in (share.median(), share.min(), share.max()))]


def test_a_changed_digit_is_noticed():
    assert numbers("86.05 % of 10,000 images, 1.5 points, 92394 and 2,3") == ["86.05", "10,000", "92394"]
    for right, wrong in (("93.05", "93.15"), ("92,394", "92,384"), ("195,114", "195,144")):
        assert is_known(right, ()) and not is_known(wrong, ()), right
    assert is_known("12.34", {12.34}) and not is_known("12.34", {12.35})


def test_each_word_of_the_glossary_stands_in_the_notebook_that_explains_it():
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| \[(\d+)\]\(\.\./notebooks/(.+?)\)",
        (ROOT / "docs/glossary.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) > 60 and [row[0].lower() for row in rows] == sorted(row[0].lower() for row in rows)
    for word, number, file in rows:
        cells = json.loads((ROOT / "notebooks" / file).read_text(encoding="utf-8"))["cells"]
        text = " ".join("".join(cell["source"]) for cell in cells).lower().replace("_", " ")
        name = re.sub(r" \(.*\)", "", word).lower().replace("_", " ")
        assert name in text and file.startswith(f"{int(number):02}"), word
