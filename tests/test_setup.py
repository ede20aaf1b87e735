import ast
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, posix
from utils import ROOMS


def names(text):
    return {m.lower().replace("_", "-") for m in re.findall(r"^([\w-]+)[=<>]", text, re.M)}


def test_conda_gets_the_same_as_pip():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()]
    pip = lines[lines.index("- pip:") + 1 :]
    assert pip == ["- -r requirements.txt", "- -r requirements-tools.txt", "- -c constraints.txt"]


def test_every_requirement_has_its_exact_version():
    required, tools, exact = (
        (ROOT / f"{f}.txt").read_text(encoding="utf-8") for f in ("requirements", "requirements-tools", "constraints")
    )
    assert names(required) | names(tools) <= names(exact)
    assert all(re.match(r"#|[\w.-]+==", line) for line in exact.splitlines())


def test_albumentations_stays_at_its_last_mit_release():
    assert re.search(r"^albumentations==2\.0\.8\b", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)


@pytest.fixture
def makefile(tmp_path):
    """The Makefile and what it reads, where nothing is installed."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt", "requirements-tools.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def fake_python(path, before):
    path.write_text(f"#!/bin/sh\n{before}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@posix
def test_an_old_python_is_refused_in_a_sentence(makefile):
    old = fake_python(
        makefile / "old",
        f"""exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 0); exec(sys.argv[1])' "$2" """,
    )
    result = subprocess.run(["make", "test", f"PYTHON={old}"], cwd=makefile, capture_output=True, encoding="utf-8")
    assert result.returncode != 0
    assert "Python 3.10 or newer is needed" in result.stderr
    assert not (makefile / ".venv").exists()


@posix
def test_an_environment_without_pip_is_mended_and_half_of_one_is_made_anew(makefile):
    """As where Python's venv package is not installed, or uv made the environment."""
    bin = makefile / ".venv" / "bin"
    fails = f"mkdir -p {bin}; touch {bin}/python; exit 1"
    half = fake_python(makefile / "half", f'case "$*" in *venv*) {fails};; esac')
    assert subprocess.run(["make", ".venv/installed", f"PYTHON={half}"], cwd=makefile, capture_output=True).returncode
    assert not (bin / "python").exists()
    log = makefile / "log"
    fake_python(bin / "python", f'echo "$*" >> {log}; [ "$*" != "-m pip --version" ]')
    subprocess.run(["make", ".venv/installed"], cwd=makefile, check=True, capture_output=True)
    pip = "-m pip install --quiet --requirement requirements.txt --constraint constraints.txt"
    assert log.read_text(encoding="utf-8").splitlines() == ["-m pip --version", "-m ensurepip", pip]


def test_an_old_python_is_refused_by_the_package_too():
    old = "import sys; sys.version_info = (3, 9, 18); import utils"
    result = subprocess.run([sys.executable, "-c", old], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("Error: Python 3.10 or newer is needed, ") and result.stderr.count("\n") == 1


def test_every_place_names_the_same_oldest_python():
    places = {
        "README.md": r"Python 3\.(\d+) or newer",
        "Makefile": r"version_info >= \(3, (\d+)\)",
        "utils/__init__.py": r"version_info < \(3, (\d+)\)",
        "pyproject.toml": r'target-version = "py3(\d+)"',
    }
    found = {place: re.findall(oldest, (ROOT / place).read_text(encoding="utf-8")) for place, oldest in places.items()}
    assert set(map(tuple, found.values())) == {("10",)}, found


def test_every_requirement_has_an_oldest_version():
    for name in ("requirements", "requirements-tools"):
        lines = (ROOT / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert all(re.match(r"#|[\w-]+[=>]=\d", line) for line in lines), name


def test_every_text_names_its_encoding():
    """That of Windows, and of LC_ALL=C, is not UTF-8."""
    for path in [*(ROOT / "utils").glob("**/*.py"), *(ROOT / "tests").glob("**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
            text = re.search(r"\.(read|write)_text$", called) or called == "open" and "b" not in mode
            assert "encoding" in given or not (text or "text" in given), f"{path}:{node.lineno}"


def test_a_second_call_installs_nothing(makefile):
    (makefile / ".venv").mkdir()
    (makefile / ".venv" / "installed").touch()

    def plan(*arguments):
        return subprocess.run(["make", "-n", *arguments], cwd=makefile, capture_output=True, encoding="utf-8").stdout

    assert "pip" not in plan("run", "EPOCHS=2", "SEED=3")
    for words, held_out in (
        (["VALIDATION=1"], True),
        (["VALIDATION=0"], False),
        (["VALIDATION=off"], False),
        (["VALIDATION=FALSE"], False),
        ([], False),
    ):
        assert ("--validation" in plan("run", *words)) == held_out
    assert "requirements-tools.txt" in plan("test") and "requirements-tools.txt" in plan("app")
    (makefile / ".venv" / "tools").touch()
    assert "pip" not in plan("test")
    for started in (plan("lab"), plan("notebooks")):  # a script of .venv names the folder in which it was made
        assert ".venv/bin/python -m " in started and "bin/jupyter" not in started


@posix
def test_what_make_is_given_reaches_the_command_as_it_is(makefile):
    python = makefile / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n', encoding="utf-8")
    python.chmod(0o755)
    (makefile / ".venv" / "installed").touch()

    def words(*arguments):
        command = ["make", "-s", *arguments]
        said = subprocess.run(command, cwd=makefile, capture_output=True, encoding="utf-8", check=True).stdout
        return re.findall("<(.*)>", said)[2:]

    assert words("run") == ["train", "experiment_5"]
    assert words("run", "EPOCHS=2", "SEED=3") == "train experiment_5 --epochs 2 --seed 3".split()
    assert words("run", "EXPERIMENT=a; touch b", "VALIDATION=1") == ["train", "a; touch b", "--validation"]
    assert words("run", "EPOCHS=2 b", "SEED=3 b")[2:] == ["--epochs", "2 b", "--seed", "3 b"]
    assert words("links", "REPO=a b") == ["links", "a b"] and words("links") == ["links"]
    assert words("predict", "IMAGE=my cat.jpg") == ["predict", "my cat.jpg"] and not (makefile / "b").exists()


def test_rooms_pull_in_only_what_they_need():
    def loaded(code, *modules):
        code += f"; import sys; print([m for m in {modules} if m in sys.modules])"
        return subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8"
        ).stdout.strip()

    heavy = ("torch", "albumentations", "cv2", "pandas", "matplotlib", "sklearn", "torchvision")
    assert loaded("import utils.models", *heavy[1:]) == "[]"
    assert loaded("from utils.__main__ import parse; parse(['train', 'experiment_5'])", *heavy) == "[]"
    assert loaded("import utils.data", *heavy[3:]) == "[]"


def test_no_import_asks_the_internet():
    """albumentations would, for its newest version, unless told before it is imported."""
    code = "import socket, sys; socket.getaddrinfo = lambda *_, **__: sys.exit('asked'); import utils.engine.batches"
    untold = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=untold, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr


def imported(text):
    """The rooms that a file imports from, wherever it does so and in whichever form."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "utils":
            found |= {f"utils.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write from utils.x import y"
            found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("utils.")} - {"ROOT", "FAST_RUN"}


@pytest.mark.parametrize(
    ("line", "rooms"),
    [
        ("import utils", set()),
        ("import utils.models", {"models"}),
        ("import utils.engine.speed as s, numpy", {"engine"}),
        ("from utils import runs, ROOT", {"runs"}),
        ("from utils import (\n    data,\n    runs as r,\n)", {"data", "runs"}),
        ("from utils.models import build_model", {"models"}),
        ("from utils.engine.speed import prepared", {"engine"}),
        ("def f():\n    if True:\n        from utils.study import search", {"study"}),
        ("from numpy import utils", set()),
    ],
)
def test_every_form_of_import_is_seen(line, rooms):
    assert imported(line) == rooms


def files(room):
    wing = ROOT / "utils" / room
    return sorted(wing.glob("**/*.py")) if wing.is_dir() else [wing.with_suffix(".py")]


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_from_one_after_it(room):
    before = set(ROOMS[: ROOMS.index(room)])
    for path in files(room):
        beyond = imported(path.read_text(encoding="utf-8")) - before - {room}
        assert not beyond, f"{path.relative_to(ROOT)} imports from {', '.join(beyond)}"


def test_the_rooms_are_what_utils_holds():
    shown = {path.stem for path in (ROOT / "utils").iterdir()} - {"__pycache__"}
    assert shown == {*ROOMS, "__init__"}
    assert len(shown) <= 16, "a hall that is taken in at a glance"
    assert not imported((ROOT / "utils" / "__init__.py").read_text(encoding="utf-8"))


def test_ruff_finds_nothing():
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stdout


def installed(*required):
    """The names of these packages and of all that they need here, as far as they are installed."""
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found, left = {}, {canonicalize_name(name) for name in required}
    while left:
        name = left.pop()
        try:
            found[name] = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        needs = [Requirement(line) for line in metadata.requires(name) or []]
        wanted = [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
        left |= {canonicalize_name(name) for name in wanted} - found.keys()
    return found


def test_everything_that_gets_installed_is_pinned_and_free():
    required, tools, exact = (
        names((ROOT / f"{file}.txt").read_text(encoding="utf-8"))
        for file in ("requirements", "requirements-tools", "constraints")
    )
    found = installed(*required, *tools)
    for name, data in found.items():
        licence = f"{data.get('License-Expression', '')} {data.get('License', '')[:50]} {data.get_all('Classifier')}"
        assert "AGPL" not in licence and "Affero" not in licence, name
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    others = [name for name, version in pinned.items() if name in found and found[name]["Version"] != version]
    if sys.version_info[:2] != (3, 11) or others:
        pytest.skip("constraints.txt is of Python 3.11, and other versions are installed here")
    machine = ("nvidia", "triton", "cuda")  # what torch brings along for a GPU
    loose = {name for name in found if not name.startswith(machine)} - exact
    assert not loose - {"pip", "setuptools"}, "pin them in constraints.txt"


def test_nothing_is_fetched_over_plain_http():
    places = [
        *(ROOT / "utils").glob("**/*.py"),
        ROOT / "Makefile",
        *ROOT.glob("*.txt"),
        *ROOT.glob("notebooks/*.ipynb"),
    ]
    for path in places:
        text = path.read_text(encoding="utf-8").replace(
            "http://www.w3.org", ""
        )  # the name of SVG, which nobody fetches
        assert "http://" not in text, path


def test_every_way_to_install_reads_the_same_two_files():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer read TOML")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dynamic = settings["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"]["file"] == ["requirements.txt"]
    assert dynamic["optional-dependencies"]["tools"]["file"] == ["requirements-tools.txt"]
    assert settings["tool"]["setuptools"]["packages"] == [] and not settings["tool"]["uv"]["package"]
    assert {"dependencies", "optional-dependencies"} == set(settings["project"]["dynamic"])
