"""The notebooks as files: what a reader on the web finds. What they do when run is nbval's to test."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from utils import ROOT
from utils.experiments import EXPERIMENTS

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRESENTATIONS = [p for p in NOTEBOOKS if p.stem.split("_", 1)[1] in EXPERIMENTS]


def cells(path, kind):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def texts(path):
    """Every textual output of the notebook."""
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            yield "".join(output.get("text", []))
            for kind, content in output.get("data", {}).items():
                if not kind.startswith("image/"):
                    yield "".join(content)


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return request.param


def test_it_opens_with_badge_title_and_goal(notebook):
    first = source(cells(notebook, "markdown")[0])
    badge = rf"\[!\[Open in Colab\]\(.+\)\]\(https://colab\.research\.google\.com/github/.+/blob/main/notebooks/{notebook.name}\)"
    assert re.match(badge + r"\n\n# .+\n\n\*\*Goal\.\*\* .+", first)


def test_it_closes_with_what_it_shows_and_the_next_step(notebook):
    prose = [source(c) for c in cells(notebook, "markdown")]
    assert any("**What this shows.**" in text for text in prose)
    assert prose[-1].startswith("Next: [") or notebook == NOTEBOOKS[-1]


def test_the_bootstrap_cell_is_the_same_in_all():
    (first,) = {source(cells(path, "code")[0]) for path in NOTEBOOKS}
    assert "git" in first and len([line for line in first.splitlines() if line]) <= 10


def test_no_other_cell_is_the_same_in_nine_notebooks():
    counts = Counter(text for path in NOTEBOOKS for text in {source(c) for c in cells(path, "code")[1:]})
    text, count = counts.most_common(1)[0]
    assert count < 9, text


def test_no_line_of_code_is_cut_on_a_web_page(notebook):
    lines = [line for cell in cells(notebook, "code") for line in source(cell).splitlines()]
    assert max(map(len, lines)) <= 100


def test_it_was_run_from_top_to_bottom(notebook):
    counts = [c["execution_count"] for c in cells(notebook, "code")]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [o for c in cells(notebook, "code") for o in c["outputs"]]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert "widgets" not in json.loads(notebook.read_text(encoding="utf-8"))["metadata"]


def test_its_outputs_are_clean(notebook):
    for cell in cells(notebook, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", "".join(output["text"])
    everything = "\n".join(texts(notebook))
    assert not re.search(r"/(?:home|root|tmp|work|Users|content)/|\x1b\[|\r|it/s\]|Warning", everything)


def test_it_shows_the_real_images(notebook):
    assert "STAND-IN" not in "\n".join(texts(notebook))


@pytest.mark.parametrize("path", PRESENTATIONS, ids=lambda p: p.stem)
def test_only_deterministic_cells_are_compared(path):
    tagged = [c for c in cells(path, "code") if "nbval-check-output" in c["metadata"].get("tags", [])]
    compared = "\n".join(map(source, tagged))
    assert all(word in compared for word in ("summary(", "check_rules("))
    assert "layers.table(model)" in compared or "layers.changes(" in compared
    assert "show(" not in compared and "NBVAL" not in "".join(map(source, cells(path, "code")))


def test_the_bootstrap_cell_fetches_the_project_into_an_empty_folder(tmp_path):
    """As on Colab, but from a local clone: git is told to find the address there."""
    bootstrap = source(cells(NOTEBOOKS[0], "code")[0])
    address = re.search(r"https://github\.com/[^\"]+\.git", bootstrap)[0]
    environment = {
        **os.environ,
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
        "PIP_NO_INDEX": "1",  # whatever is there already must not be fetched again
    }
    environment.pop("PYTHONPATH", None)
    check = "\nimport utils.models\nprint(Path(utils.models.__file__).relative_to(Path.cwd()))\n"
    for _ in range(2):  # the second time it finds its own clone
        result = subprocess.run(
            [sys.executable, "-c", bootstrap + check],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "cifar10-notebooks/utils/models.py"
