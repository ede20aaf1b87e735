"""results/ -> the README's tables and figures; and the one setting for the repository's address.

The README holds pairs of lines such as <!-- steps --> and <!-- /steps -->; what stands between them is written here.
"""

import base64
import json
import re

import pandas as pd

from utils import architecture, charts, experiments, plotting
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, ROOT
from utils.models import build_model
from utils.tables import FINAL, FIVE, MAIN, RECORDS, TABLES

README = ROOT / "README.md"
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")

# Figures that need the images themselves are those of the executed notebooks: file, notebook, the call that drew it.
FROM_NOTEBOOKS = {
    "classes.png": ("01_data_exploration", "plotting.class_grid("),
    "normalisation.png": ("01_data_exploration", "plotting.channel_histograms("),
    "augmentation.png": ("02_augmentation", "plotting.augmentation_sheet("),
    "cams.png": ("13_what_it_sees", "views.cams("),
}


def fill(text: str, marker: str, content: str) -> str:
    """`text` with `content` between the lines <!-- marker --> and <!-- /marker -->."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if start not in text or end not in text:
        raise RunError(f"README.md lacks the line {start} or {end}; put both back where the table belongs.")
    before, rest = text.split(start, 1)
    return f"{before}{start}\n{content}\n{end}{rest.split(end, 1)[1]}"


def notebook_figure(notebook: str, call: str) -> bytes:
    """The PNG that the cell with `call` shows in an executed notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    cell = next(c for c in cells if c["cell_type"] == "code" and call in "".join(c["source"]))
    return base64.b64decode(next(o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})))


def write() -> None:
    """Bring the README's tables and every figure in images/ up to date with results/ and the notebooks."""
    text = README.read_text()
    for marker, table in TABLES.items():
        text = fill(text, marker, table())
    README.write_text(text)

    images, published = ROOT / "images", experiments.published()
    for file, (notebook, call) in FROM_NOTEBOOKS.items():
        plotting.shrink(notebook_figure(notebook, call), images / file)
    shown = [name for name in FIVE if name in published.index]
    histories = {name: pd.read_csv(ROOT / "results" / name / "history.csv") for name in shown}
    references = {name: EXPERIMENTS[name].reference for name in shown}
    figures = {
        f"{FINAL}.png": charts.curves(histories[FINAL], published.loc[FINAL], references[FINAL]),
        "epochs.png": charts.accuracy_against_epoch(histories),
        "landscape.png": charts.landscape(
            published.loc[[name for name in MAIN + RECORDS if name in published.index]],
            {name: EXPERIMENTS[name].reference for name in MAIN + RECORDS},
        ),
        "cost.png": charts.accuracy_against_cost(published.loc[shown], references),
        "architecture.png": charts.architecture(architecture.layer_table(build_model(FINAL))),
        "benchmark.png": charts.cost_growth(pd.read_csv(ROOT / "results" / "benchmark" / "growth.csv")),
    }
    for file, figure in figures.items():
        plotting.save(figure, images / file)
    print("README.md and images/ agree with results/.")


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
