"""The website's and the workflows' own tests: what they name is there."""

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_website_needs_no_torch_and_has_its_exact_versions(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements-site.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    plan = subprocess.run(["make", "-n", "site"], cwd=tmp_path, capture_output=True, encoding="utf-8").stdout
    assert "requirements-site.txt --constraint constraints.txt" in plan and "requirements.txt" not in plan
    required = (ROOT / "requirements-site.txt").read_text(encoding="utf-8")
    exact = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in re.findall(r"^[\w-]+", required, re.M):
        assert re.search(rf"^{name}==", exact, re.M), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_is_there(path):
    commands = re.findall(r"\brun: (.+)", path.read_text(encoding="utf-8"))
    targets = [target for line in commands for target in re.findall(r"^make (\w+)", line)]
    assert targets and all(re.search(rf"^{target}:", MAKEFILE, re.M) for target in targets)
    assert all((ROOT / file).is_file() for line in commands for file in re.findall(r"\S+\.txt", line))
    assert all(line.split("python ")[1] in MAKEFILE for line in commands if "pytest" in line), "as `make test` does"
