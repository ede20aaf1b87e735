"""results/ -> the tables and figures of the README and of docs/; and the one setting for the repository's address.

The pages hold pairs of lines such as <!-- steps --> and <!-- /steps -->; what stands between them is written here.
"""

import base64
import json
import re
from pathlib import Path

import utils
from utils import architecture, plotting, runs
from utils.cifar10.files import OTHERS
from utils.engine.checkpoints import verify, write_atomically
from utils.engine.records import read_table
from utils.errors import RunError
from utils.experiments import FINAL, FIVE, MAIN, RECORDS, experiment
from utils.report.publish import alone
from utils.report.tables import TABLES, lessons, markdown, published
from utils.study import ablation, statistics

PAGES = ("README.md", "docs/reference.md", "docs/teaching.md")
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")


def fill(text: str, marker: str, content: str) -> str:
    """`text` with `content` between the lines <!-- marker --> and <!-- /marker -->."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, rest = text.split(start, 1)
    return f"{before}{start}\n{content}\n{end}{rest.split(end, 1)[1]}"


def text_of(path: Path) -> str:
    """What a page says; RunError if it is not saved as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{path} is not saved as UTF-8; save it so in your editor.") from None


def place_of(marker: str, pages: dict[str, str]) -> str:
    """The page with the two lines of a table; RunError unless they stand once, in their order, on one of `pages`."""
    between = re.compile(f"<!-- {marker} -->.*?<!-- /{marker} -->", re.S)
    found = [page for page, text in pages.items() for _ in between.findall(text)]
    if len(found) != 1:
        raise RunError(
            f"The lines <!-- {marker} --> and <!-- /{marker} --> stand {len(found)} times on {' and '.join(pages)}; "
            "they must stand there once, in this order."
        )
    return found[0]


def notebook_figures() -> dict[str, bytes]:
    """The PNGs that need the images themselves: those of executed notebook cells with a tag such as images/cams.png."""
    found = {}
    for path, cells in lessons().items():
        if OTHERS in json.dumps([cell.get("outputs") for cell in cells]):
            raise RunError(f"notebooks/{path.name} was run without CIFAR-10, or on a part of it; run it again with it.")
        for cell in cells:
            pictures = [o["data"]["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            for tag in cell["metadata"].get("tags", []):
                if re.fullmatch(r"images/[\w-]+\.png", tag) and pictures:  # no path out of there
                    text = "".join(pictures[0])  # it may be kept as a list of its lines
                    found[tag.removeprefix("images/")] = plotting.shrunk(base64.b64decode(text))
    return found


@alone()
def write() -> None:
    """Bring the tables of PAGES and every figure in images/ up to date with results/ and the notebooks.

    RunError if a file in results/ is damaged, one of FIVE is missing, a network or a recipe in the code is not that of
    the run there, or the pages lack a marker.
    """
    results = utils.ROOT / "results"
    for folder in sorted({path.parent for path in results.rglob("[!.]*") if path.is_file()}):
        if "/." not in folder.as_posix().removeprefix(results.as_posix()):  # of a killed publishing, or of Jupyter
            verify(folder)  # in a second, also what no page shows
    if missing := [name for name in FIVE if not (results / name / "metrics.json").exists()]:
        raise RunError(f"results/ lacks {', '.join(missing)}, of which the pages tell; fetch results/ again.")
    loaded = {name: runs.load(name) for name in statistics.published().index}
    pages = {page: text_of(utils.ROOT / page) for page in PAGES}
    places, pictures = {marker: place_of(marker, pages) for marker in TABLES}, notebook_figures()
    for marker, page in places.items():
        pages[page] = fill(pages[page], marker, markdown(TABLES[marker]()))
    five, drawn = published(FIVE), published(MAIN + RECORDS)
    figures = {
        f"{FINAL}.png": plotting.curves(loaded[FINAL], experiment(FINAL).prior),
        "epochs.png": plotting.accuracy_against_epoch({name: loaded[name].history for name in five.index}),
        "landscape.png": plotting.landscape(drawn, [experiment(name).prior for name in drawn.index]),
        "cost.png": plotting.landscape(five, costs=("parameters", "macs")),
        "architecture.png": plotting.architecture(architecture.layer_table(loaded[FINAL].model)),
        "ablation.png": plotting.differences(
            statistics.against_base(ablation.judged("recipe", ("results",)), ablation.BASE),
            f"held-out accuracy after {ablation.RECIPE.epochs} epochs, against the recipe as it is",
        ),
        "benchmark.png": plotting.cost_growth(read_table(utils.ROOT / "results" / "benchmark" / "growth.csv")),
    }
    for page, text in pages.items():  # only now, when nothing else can be refused
        write_atomically(text.encode(), utils.ROOT / page)
    for file, figure in figures.items():
        plotting.save(figure, utils.ROOT / "images" / file)
    for file, png in pictures.items():
        write_atomically(png, utils.ROOT / "images" / file)
    print("README.md, docs/ and images/ agree with results/.")


@alone()
def set_links(repository: str) -> None:
    """Point every Colab badge and bootstrap cell at the GitHub repository "owner/name"; RunError if it is no such."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.git)", repository, re.ASCII):
        raise RunError(f"{repository!r} is not of the form owner/name; call it as: make links REPO=owner/name")
    paths = [utils.ROOT / "README.md", *sorted((utils.ROOT / "notebooks").glob("*.ipynb"))]
    texts = {path: text_of(path) for path in paths}  # all of them before any is written
    for path, text in texts.items():
        if old := BADGE.search(text):  # each file's own: an earlier call may have been stopped halfway
            text = re.sub(rf"(github(?:\.com)?/){re.escape(old[1])}(?![\w-])", rf"\g<1>{repository}", text)
            write_atomically(text.encode(), path)
    print(f"All links point to {repository}.")
