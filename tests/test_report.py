import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from utils import charts, experiments, report, tables
from utils.__main__ import main
from utils.errors import RunError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """README, results, images and notebooks in a folder of their own."""
    for folder in ("results", "images", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_readme_and_images_agree_with_results(copy):
    before = (copy / "README.md").read_text()
    shutil.rmtree(copy / "images")
    assert main(["report"]) == 0
    assert (copy / "README.md").read_text() == before, "run make report"
    for path in set((ROOT / "images").glob("*.png")) - {ROOT / "images" / "app.png"}:  # that one is test_app.py's
        new, old = pixels(copy / "images" / path.name), pixels(path)
        assert new.shape == old.shape and np.abs(new - old).mean() < 0.5, f"{path.name}: run make report"


@pytest.mark.parametrize(
    "path", [ROOT / "results" / name / "metrics.json" for name in tables.MAIN], ids=lambda p: p.parts[-2]
)
def test_another_number_in_results_changes_the_readme(copy, path):
    path = copy / path.relative_to(ROOT)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_accuracy_last": 12.34}))
    text = (copy / "README.md").read_text()
    assert report.fill(text, "results", tables.results_table()) != text


SECTIONS = """Quick start | Objective | The data | The experiments | Analysis | Beyond the reference | The final network
    | How it was trained | What it sees | Speed | Against the rules | Repeating it | Licence and credits"""


def test_every_section_is_there_in_its_order():
    found = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(), re.M)
    assert found == [name.strip() for name in SECTIONS.split("|")]


def test_every_table_and_picture_is_shown():
    text = (ROOT / "README.md").read_text()
    for marker in tables.TABLES:
        inside = text.split(f"<!-- {marker} -->")[1].split(f"<!-- /{marker} -->")[0]
        assert len(inside.strip()) > 80, marker
    shown = set(re.findall(r"\]\(images/([\w.]+)\)", text))
    always = {"classes.png", "normalisation.png", "augmentation.png", "landscape.png", "cost.png", "epochs.png"}
    assert shown >= always | {"architecture.png", "experiment_5.png", "benchmark.png", "cams.png", "app.png"}


def test_the_picture_of_all_networks_shows_each_run_and_what_others_reached():
    published = experiments.published()
    names = [name for name in tables.MAIN + tables.RECORDS if name in published.index]
    references = {name: experiments.EXPERIMENTS[name].reference for name in tables.MAIN + tables.RECORDS}
    runs = published.loc[names]
    for axis, cost in zip(charts.landscape(runs, references).axes, ("parameters", "epochs"), strict=True):
        labels = {text.get_text() for text in axis.texts}
        assert labels == {name.removeprefix("experiment_").replace("_", " ") for name in names}
        points = {line.get_label(): sorted(zip(*line.get_data(), strict=True)) for line in axis.lines}
        assert len(points["reference, at its first 85 %"]) == 5
        assert points["ours, last epoch"] == sorted(zip(runs[cost], runs.test_accuracy_last, strict=True))
        others, small, fast = points["others, best epoch on the test set"], references["small"], references["fast"]
        assert len(others) == 4
        assert {(small[cost], small["test_accuracy"]), (fast[cost], 85)} <= set(others)


def test_pictures_are_small_enough_for_a_web_page():
    for path in (ROOT / "images").glob("*.png"):
        assert path.stat().st_size < 160_000 and Image.open(path).width <= 1100, path.name


def test_a_missing_marker_is_named(copy):
    (copy / "README.md").write_text("no markers")
    with pytest.raises(RunError, match="<!-- headline -->"):
        report.write()
    assert (copy / "README.md").read_text() == "no markers"


@pytest.mark.parametrize("document", ["README.md", *sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))])
def test_relative_links_and_pictures_exist(document):
    path = ROOT / document if document == "README.md" else ROOT / "notebooks" / document
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    relative = [t for t in targets if not re.match(r"\w+:|#", t)]
    assert relative
    for target in relative:
        assert (path.parent / unquote(target.split("#")[0])).exists(), target


def test_pictures_have_an_alternative_text():
    texts = re.findall(r"!\[([^\]]*)\]\(", (ROOT / "README.md").read_text())
    assert texts and all(texts)


def test_one_call_moves_every_link(copy, capsys):
    assert main(["links", "someone/else.where"]) == 0
    documents = [copy / "README.md", *sorted((copy / "notebooks").glob("*.ipynb"))]
    for path in documents:
        text = path.read_text()
        addresses = set(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text))
        assert addresses == {"someone/else.where"}, path.name
        if path.suffix == ".ipynb":
            assert '"https://github.com/someone/else.where.git\\"' in text.replace('\\"https', '"https')
    main(["links", "owner/name"])
    assert all("someone" not in path.read_text() for path in documents)


def test_a_wrong_address_is_refused(copy, capsys):
    assert main(["links", "https://github.com/owner/name"]) == 2
    assert main(["links"]) == 2
    assert "owner/name" in capsys.readouterr().err
