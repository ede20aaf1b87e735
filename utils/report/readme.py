"""results/ -> the README's tables and figures; and the one setting for the repository's address.

The README holds pairs of lines such as <!-- steps --> and <!-- /steps -->; what stands between them is written here.
"""

import base64
import json
import re

import utils
from utils import architecture, plotting, runs
from utils.engine.records import read_table
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, FINAL, FIVE, MAIN, RECORDS
from utils.report.tables import TABLES, markdown, published

BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")


def fill(text: str, marker: str, content: str) -> str:
    """`text` with `content` between the lines <!-- marker --> and <!-- /marker -->."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if start not in text or end not in text:
        raise RunError(f"README.md lacks the line {start} or {end}; put both back where the table belongs.")
    before, rest = text.split(start, 1)
    return f"{before}{start}\n{content}\n{end}{rest.split(end, 1)[1]}"


def notebook_figures() -> dict[str, bytes]:
    """The PNGs that need the images themselves: those of executed notebook cells with a tag such as images/cams.png."""
    found = {}
    for path in sorted((utils.ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            pictures = [o["data"]["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            for tag in cell["metadata"].get("tags", []):
                if tag.startswith("images/") and pictures:
                    found[tag.removeprefix("images/")] = base64.b64decode(pictures[0])
    return found


def write() -> None:
    """Bring the README's tables and every figure in images/ up to date with results/ and the notebooks.

    RunError if a network or a recipe in the code is not that of the run in results/, or the README lacks a marker.
    """
    loaded = {name: runs.load(name) for name in runs.published().index}
    if FINAL not in loaded:
        raise RunError(f"results/ lacks {FINAL}, which the README is about; fetch that folder again.")
    readme = utils.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for marker, table in TABLES.items():
        text = fill(text, marker, markdown(table()))
    readme.write_text(text, encoding="utf-8", newline="\n")

    five, drawn = published(FIVE), published(MAIN + RECORDS)
    figures = {
        f"{FINAL}.png": plotting.curves(loaded[FINAL], EXPERIMENTS[FINAL].prior),
        "epochs.png": plotting.accuracy_against_epoch({name: loaded[name].history for name in five.index}),
        "landscape.png": plotting.landscape(drawn, [EXPERIMENTS[name].prior for name in drawn.index]),
        "cost.png": plotting.landscape(five, costs=("parameters", "macs")),
        "architecture.png": plotting.architecture(architecture.layer_table(loaded[FINAL].model)),
        "benchmark.png": plotting.cost_growth(read_table(utils.ROOT / "results" / "benchmark" / "growth.csv")),
    }
    for file, figure in figures.items():
        plotting.save(figure, utils.ROOT / "images" / file)
    for file, png in notebook_figures().items():
        plotting.shrink(png, utils.ROOT / "images" / file)
    print("README.md and images/ agree with results/.")


def set_links(repository: str) -> None:
    """Point every Colab badge and bootstrap cell at the GitHub repository "owner/name"; RunError if it is no such."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository):
        raise RunError(f"{repository!r} is not of the form owner/name; call it as: make links REPO=owner/name")
    readme = utils.ROOT / "README.md"
    old = BADGE.search(readme.read_text(encoding="utf-8"))[1]
    for path in (readme, *sorted((utils.ROOT / "notebooks").glob("*.ipynb"))):
        text = path.read_text(encoding="utf-8")
        for prefix in ("github/", "github.com/"):
            text = text.replace(prefix + old, prefix + repository)
        path.write_text(text, encoding="utf-8", newline="\n")
    print(f"All links point to {repository}.")
