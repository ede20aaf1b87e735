"""The notebooks as files: what a reader on the web finds. What they do when run is nbval's to test."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from utils import ROOT
from utils.cifar10.files import CLASSES
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


def test_no_cell_looks_for_a_class_by_its_name(notebook):
    """The stand-in has no cats: without CIFAR-10 such a cell would fail."""
    code = "\n".join(source(cell) for cell in cells(notebook, "code"))
    assert not re.search(rf"""(\.index\(|==|\bin) *["']({"|".join(CLASSES)})["']""", code)


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
    assert "layers.table(" in compared or "layers.changes(" in compared
    assert "show(" not in compared and "NBVAL" not in "".join(map(source, cells(path, "code")))


@pytest.fixture
def bootstrap(tmp_path):
    """Run the first cell and what is `after` it in an empty folder, as on Colab; git finds `address` at `remote`."""
    cell, address = source(cells(NOTEBOOKS[0], "code")[0]), "https://github.com/someone/cifar10-notebooks.git"

    def run(after="", remote=f"file://{ROOT}", owner="someone"):
        settings = {f"url.{remote}.insteadOf": address, "safe.directory": "*"}
        environment = {**os.environ, "GIT_CONFIG_COUNT": str(len(settings)), "PIP_NO_INDEX": "1"}  # all is there
        for number, (key, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", cell.replace("github.com/OWNER", f"github.com/{owner}") + f"\n{after}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=60)

    run.folder = tmp_path / "cifar10-notebooks"
    return run


def test_the_bootstrap_cell_fetches_the_project_into_an_empty_folder(bootstrap):
    for _ in range(2):  # the second time it finds its own clone
        result = bootstrap("import utils\nprint(utils.ROOT == root, root.relative_to(Path.cwd()))")
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "True cifar10-notebooks"


def test_the_bootstrap_cell_refuses_the_placeholder_before_it_asks_anybody(bootstrap):
    result = bootstrap(owner="OWNER")
    assert result.returncode == 1 and result.stderr.startswith("Cannot fetch https://github.com/OWNER/")
    assert "make links" in result.stderr and not bootstrap.folder.exists()


@pytest.mark.parametrize("remote", ["file:///nowhere", "https://localhost:1"])
def test_the_bootstrap_cell_says_that_an_address_is_no_good(bootstrap, remote):
    result = bootstrap(remote=remote)
    assert result.returncode == 1 and "Cannot fetch" in result.stderr and "Traceback" not in result.stderr
    assert not bootstrap.folder.exists(), "the next try would find half a clone"


def test_the_bootstrap_cell_asks_for_no_password(bootstrap):
    """A private repository: the server wants to know who asks, and git must not wait for an answer."""
    with HTTPServer(("localhost", 0), WhoAreYou) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        result = bootstrap(remote=f"http://localhost:{server.server_port}/private")
        server.shutdown()
    assert result.returncode == 1 and "Cannot fetch" in result.stderr and "Traceback" not in result.stderr


class WhoAreYou(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic realm=private")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_bootstrap_cell_says_what_to_do_with_half_a_clone(bootstrap):
    (bootstrap.folder / "utils").mkdir(parents=True)
    (bootstrap.folder / "utils" / "models.py").touch()
    result = bootstrap()
    assert result.returncode == 1 and f"or delete {bootstrap.folder}." in result.stderr
    assert "Traceback" not in result.stderr


def test_runs_are_kept_on_drive_when_asked_for(tmp_path, monkeypatch):
    """With a Drive of our own in place of Google's."""
    from types import ModuleType, SimpleNamespace

    (cell,) = (source(c) for c in cells(NOTEBOOKS[-1], "code") if "KEEP_ON_DRIVE" in source(c))
    mounted, colab = [], ModuleType("google.colab")
    colab.drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    runs = tmp_path / "project" / "runs"
    runs.parent.mkdir()
    monkeypatch.setattr("utils.ROOT", runs.parent)
    cell = cell.replace("/content/drive", str(tmp_path / "drive"))
    exec(cell, {"Path": Path})
    assert not mounted and not runs.exists()
    for _ in range(2):  # a second time it is there already
        exec(cell.replace("False", "True"), {"Path": Path})
        (runs / "mine").mkdir(exist_ok=True)
    runs.unlink()
    runs.mkdir()  # something was trained before
    with pytest.raises(SystemExit, match="Runs were kept in .*: move them to .*, delete that folder, repeat"):
        exec(cell.replace("False", "True"), {"Path": Path, "sys": sys})
    assert mounted and (tmp_path / "drive" / "MyDrive" / "cifar10-notebooks" / "runs" / "mine").is_dir()
