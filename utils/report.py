"""results/ -> the README's tables and figures; and the one setting for the repository's address."""

import json
import re

import pandas as pd

from utils import plotting
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, ROOT

README = ROOT / "README.md"
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")


def results_table() -> str:
    """One row an experiment that has been published, beside the reference's figures."""
    lines = [
        "| experiment | parameters | receptive field | first epoch at 85 % | test accuracy, last epoch "
        "| reference: first epoch at 85 % | reference: accuracy there |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, experiment in EXPERIMENTS.items():
        path = ROOT / "results" / name / "metrics.json"
        if not path.exists():
            continue
        m, reference = json.loads(path.read_text()), experiment.reference
        number = list(EXPERIMENTS).index(name) + 3
        lines.append(
            f"| [{name}](notebooks/{number:02}_{name}.ipynb) | {m['parameters']:,} | {m['receptive_field']} "
            f"| {m['epochs_to_85']} of {m['epochs']} | {m['test_accuracy_last']:.2f} % "
            f"| {reference['epochs_to_85']} | {reference['test_accuracy']:.2f} % |"
        )
    return "\n".join(lines)


def fill(text: str, marker: str, content: str) -> str:
    """`text` with `content` between the lines <!-- marker --> and <!-- /marker -->."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if start not in text or end not in text:
        raise RunError(f"README.md lacks the line {start} or {end}; put both back where the table belongs.")
    before, rest = text.split(start, 1)
    return f"{before}{start}\n{content}\n{end}{rest.split(end, 1)[1]}"


def write() -> None:
    """Bring the README's tables and the figures that several runs share up to date with results/."""
    growth = ROOT / "results" / "benchmark" / "growth.csv"
    if growth.exists():
        plotting.save(plotting.cost_growth(pd.read_csv(growth)), ROOT / "images" / "benchmark.png")
    README.write_text(fill(README.read_text(), "results", results_table()))
    print("README.md agrees with results/.")


def set_links(repository: str) -> None:
    """Point every Colab badge and bootstrap cell at the GitHub repository "owner/name".

    Raises:
        RunError: if `repository` is not of that form.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise RunError(f"{repository!r} is not of the form owner/name; call it as: make links REPO=owner/name")
    old = BADGE.search(README.read_text())[1]
    for path in (README, *sorted((ROOT / "notebooks").glob("*.ipynb"))):
        text = path.read_text()
        for prefix in ("github/", "github.com/"):
            text = text.replace(prefix + old, prefix + repository)
        path.write_text(text)
    print(f"All links point to {repository}.")
