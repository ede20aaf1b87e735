import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from utils import experiments, report
from utils.__main__ import main
from utils.errors import RunError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """README, results and notebooks in a folder of their own."""
    for folder in ("results", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    return tmp_path


def test_readme_agrees_with_results(copy):
    before = (copy / "README.md").read_text()
    assert main(["report"]) == 0
    assert (copy / "README.md").read_text() == before, "run make report"


def test_another_number_in_results_changes_the_readme(copy):
    path = copy / "results" / "experiment_5" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_accuracy_last": 12.34}))
    before = (copy / "README.md").read_text()
    report.write()
    assert (copy / "README.md").read_text() != before


def test_a_missing_marker_is_named(copy):
    (copy / "README.md").write_text("no markers")
    with pytest.raises(RunError, match="<!-- results -->"):
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
