import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def names(text):
    return {m.lower().replace("_", "-") for m in re.findall(r"^([\w-]+)[=<>]", text, re.M)}


def test_conda_gets_the_same_as_pip():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    pip = lines[lines.index("- pip:") + 1 :]
    assert pip == ["- -r requirements.txt", "- -c constraints.txt"]


def test_every_requirement_has_its_exact_version():
    required, app, exact = (
        (ROOT / f"{f}.txt").read_text() for f in ("requirements", "requirements-app", "constraints")
    )
    assert names(required) | names(app) <= names(exact)
    assert all(re.match(r"#|[\w.-]+==", line) for line in exact.splitlines())


def test_albumentations_stays_at_its_last_mit_release():
    assert re.search(r"^albumentations==2\.0\.8\b", (ROOT / "requirements.txt").read_text(), re.M)


@pytest.fixture
def project(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements-app.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def fake_python(path, before):
    path.write_text(f"#!/bin/sh\n{before}\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_refused_in_a_sentence(project):
    old = fake_python(
        project / "old",
        f"""exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 0); exec(sys.argv[1])' "$2" """,
    )
    result = subprocess.run(["make", "test", f"PYTHON={old}"], cwd=project, capture_output=True, text=True)
    assert result.returncode != 0
    assert "Python 3.10 or newer is needed" in result.stderr
    assert not (project / ".venv").exists()


def test_a_second_call_installs_nothing(project):
    (project / ".venv").mkdir()
    (project / ".venv" / "installed").touch()

    def plan(*arguments):
        return subprocess.run(["make", "-n", *arguments], cwd=project, capture_output=True, text=True).stdout

    assert "pip" not in plan("run", "EPOCHS=2", "SEED=3")
    assert "train experiment_5 --epochs 2 --seed 3" in plan("run", "EPOCHS=2", "SEED=3")
    assert "requirements-app.txt" in plan("test") and "requirements-app.txt" in plan("app")
    (project / ".venv" / "app").touch()
    assert "pip" not in plan("test")


def test_rooms_pull_in_only_what_they_need():
    def loaded(code, *modules):
        code += f"; import sys; print([m for m in {modules} if m in sys.modules])"
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    heavy = ("torch", "albumentations", "cv2", "pandas", "matplotlib", "sklearn", "torchvision")
    assert loaded("import utils.models", *heavy[1:]) == "[]"
    assert loaded("from utils.__main__ import parse; parse(['train', 'experiment_5'])", *heavy) == "[]"
    assert loaded("import utils.data", *heavy[3:]) == "[]"


ROOMS = """errors distributed transforms files sources data blocks models architecture checkpoints speed training
    experiments search publish analysis predict export plotting charts views app tables report benchmark
    __main__""".split()


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_upward_or_grows_too_large(room):
    text = (ROOT / "utils" / f"{room}.py").read_text()
    imported = set(re.findall(r"from utils\.(\w+) import", text))
    for line in re.findall(r"^\s*from utils import (.+)$", text, re.M):
        imported |= {part.split(" as ")[0].strip() for part in line.split(",")}
    assert imported <= set(ROOMS[: ROOMS.index(room)])
    assert len(text.splitlines()) <= 280


def test_the_rooms_are_the_files():
    assert {p.stem for p in (ROOT / "utils").glob("*.py")} == {*ROOMS, "__init__"}


def test_ruff_finds_nothing():
    result = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
