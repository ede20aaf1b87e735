"""What the course says and draws: numbers in answers against the cells that compute them, drawings against numbers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from utils import ROOT, plotting

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def exercises(name):
    """label -> (question, answer)"""
    cells = [
        c for c in json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"
    ]
    found = {}
    for text in ("".join(cell["source"]) for cell in cells):
        if label := re.match(r"\*\*([A-Z]\d)\.\*\* ", text):
            question, answer = text.split("<details><summary>Answer</summary>")
            found[label[1]] = question, answer.split("</details>")[0]
    return found


def computed(name):
    """label -> the numbers that the last cell of answers printed for it"""
    cells = [c for c in json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    (cell,) = (c for c in cells if "answers = {" in "".join(c["source"]))
    assert "nbval-check-output" in cell["metadata"]["tags"]  # so that it is compared when it is run again
    lines = "".join(cell["outputs"][0]["text"]).splitlines()
    return {label: [number(n) for n in rest] for label, *rest in map(str.split, lines)}


def number(text):
    return float(text.replace(",", ""))


def results(text):
    """The numbers that an answer states: not in code or links, and of a calculation what stands behind the last =."""
    text = re.sub(r"```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)", " ", text, flags=re.S).replace("{,}", ",")
    for formula in re.findall(r"\$([^$]+)\$", text):
        plain = "=" in formula or re.fullmatch(r"[\d.,-]+", formula)
        text = text.replace(f"${formula}$", formula.rsplit("=", 1)[-1] if plain else " ")
    return [n for n in re.findall(r"(?<!\w)-?\d[\d,]*(?:\.\d+)?", text) if "." in n or number(n) >= 10]


@pytest.mark.parametrize(("name", "least"), [("03_building_blocks", 15), ("04_training_loop", 5)])
def test_every_number_of_an_answer_is_computed_by_a_cell(name, least):
    cells, asked = computed(name), exercises(name)
    assert len(asked) >= least
    for label, (question, answer) in asked.items():
        for stated in results(answer):
            digits = len(stated.rstrip(",").partition(".")[2])
            known = [*cells.get(label, []), *map(number, results(question.replace("$", " ")))]
            assert number(stated) in [round(n, digits) for n in known], f"{label}: {stated}"


STACKS = {"plain": [(3, 1, 1)] * 3, "with holes": [(3, 1, 2)] * 3, "strided": [(3, 2, 1), (3, 2, 1), (3, 1, 1)]}
DRAWINGS = {
    "grids": lambda: plotting.grids(("two", np.array([[1.0, np.nan]]), (0, 0, 1, 1)), "=", ("one", np.array([[-2.5]]))),
    "picture_row": lambda: plotting.picture_row(
        {"colours": np.zeros((4, 4, 3), np.uint8), "map": np.eye(4) - 0.5}, {"map": (2, 3)}
    ),
    "channels": lambda: plotting.channels({"both": [("3x3", np.eye(4)), ("1x1", np.ones((6, 4)))]}),
    "reach": lambda: plotting.reach(STACKS),
    "lines": lambda: plotting.lines([1, 2], {"a": [3, 4], "b": [4, 3]}, marked=[1.5], xlabel="x"),
    "bars": lambda: plotting.bars({"left": {"a": 1234.0}, "right": {"b": 0.5}}, digits=1),
    "histograms": lambda: plotting.histograms({"panel": {"a": np.arange(9), "b": np.arange(5)}}, "value"),
    "descent": lambda: plotting.descent(lambda w: w * w, np.linspace(-2, 2, 9), {"path": [1, 0.5, 0.1]}),
    "valley": lambda: plotting.valley(lambda a, b: a * a + b * b, {"path": np.ones((3, 2))}, (-1, 1), (-1, 1)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_letters_can_be_read_and_lie_inside_the_figure(name):
    figure = DRAWINGS[name]()
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 9
    drawn, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert -0.02 <= drawn.x0 and drawn.x1 <= width + 0.02 and -0.02 <= drawn.y0 and drawn.y1 <= height + 0.02


def test_a_grid_shows_each_number_and_leaves_nan_empty():
    numbers = [t.get_text() for axis in DRAWINGS["grids"]().axes for t in axis.texts]
    assert numbers == ["1", "=", "-2.5"]


def test_a_kernel_is_a_line():
    (axis,) = DRAWINGS["channels"]().axes
    assert len(axis.lines) == 4 + 4 * 6 and len(axis.patches) == 4 + 4 + 6
    assert {"4 kernels\nof 3x3", "24 kernels\nof 1x1"} <= {t.get_text() for t in axis.texts}


def test_each_step_of_the_channels_has_its_lines():
    steps = [("1x1", np.ones((4, 2))), ("3x3", np.eye(4)), ("1x1", np.ones((2, 4)))]
    (axis,) = plotting.channels({"inverted": steps}).axes
    assert len(axis.lines) == 8 + 4 + 8 and len({line.get_color() for line in axis.lines}) == 3


def test_an_even_kernel_looks_at_points_that_are_there():
    (axis,) = plotting.reach({"pool": [(2, 2, 1)]}).axes
    rows = [line.get_xdata() for line in axis.lines if line.get_marker() == "o" and line.get_ydata()[0] == 0]
    assert {*rows[1]} == {-0.5, 0.5} < {*rows[0]}


@pytest.mark.parametrize("rest, said", [(0, True), (1, False)])
def test_a_bar_is_only_said_to_be_off_the_top_where_it_is(rest, said):
    counts = np.ones((3, 256))
    counts[:, -1] += 0 if rest else 500
    figure = plotting.channel_histograms(counts, (0.5,) * 3, (0.2,) * 3)
    assert any("off the top" in text.get_text() for text in figure.axes[0].texts) is said


@pytest.mark.parametrize(("panel", "pixels", "field"), [(0, 7, 7), (1, 7, 13), (2, 15, 15)])
def test_the_blue_points_are_the_pixels_that_one_output_depends_on(panel, pixels, field):
    points = [
        line
        for line in DRAWINGS["reach"]().axes[panel].lines
        if line.get_marker() == "o" and line.get_color() == plotting.BLUE
    ]
    seen = points[0].get_xdata()  # the first row is the image
    assert len(seen) == pixels and np.ptp(seen) + 1 == field


def test_bars_carry_their_values():
    assert [t.get_text() for axis in DRAWINGS["bars"]().axes for t in axis.texts] == ["1,234.0", "0.5"]


def test_bars_of_one_unit_have_one_scale_that_ends_at_the_longest():
    left, right = plotting.bars({"left": {"a": 99.97}, "right": {"a": 77.0}}, digits=1, sharex=True).axes
    assert left.get_xlim() == right.get_xlim() and max(left.get_xticks()) == max(right.get_xticks()) == 100
    left, right = plotting.bars({"left": {"a": 100.0}, "right": {"a": 1.0}}).axes
    assert max(right.get_xticks()) <= 1 < max(left.get_xticks())


def test_the_class_draws_every_seed_once(tmp_path, monkeypatch, capsys):
    """The cell of the teachers' page, on what thirty students might hand in."""
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    (cell,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "handed_in" in code)
    place = Path("results/experiment_5/epochs_5/validation/metrics.json")
    (tmp_path / place).parent.mkdir(parents=True)
    shutil.copy(ROOT / place, tmp_path / place)
    own = json.loads((ROOT / place).read_text(encoding="utf-8"))
    older = {name: text.replace(", bias=True", "") for name, text in own["run"]["network"].items()}  # of PyTorch
    assert older != own["run"]["network"]
    handed_in = [
        own | dict(seed=1),
        own | dict(seed=2, run=own["run"] | dict(network=older)),
        own | dict(seed=1),
        own | dict(seed=4, epochs=24),
    ]
    handed_in.append(own | dict(seed=5, run=own["run"] | dict(network=own["run"]["network"] | dict(new="Conv2d()"))))
    handed_in.append(own | dict(seed=6, recipe=own["recipe"] | dict(lr=0.2)))
    handed_in.append({key: value for key, value in own.items() if key not in ("run", "recipe")} | dict(seed=7))
    for number, metrics in enumerate(handed_in, 1):
        folder = tmp_path / "handed_in" / str(number)
        folder.mkdir(parents=True)
        text = json.dumps(metrics | dict(validation_accuracy_last=70.0 + number))
        (folder / "metrics.json").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(cell, scope)
    assert scope["found"] == {1: 71.0, 2: 72.0}
    assert capsys.readouterr().out.count("left out") == 5


def test_the_lines_that_recompute_an_accuracy_name_what_there_is():
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    (cell,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "runs.evaluate" in code)
    imports = "".join(line + "\n" for line in cell.splitlines() if "import" in line)
    scope = {}
    exec(imports, scope)
    assert callable(scope["runs"].evaluate) and callable(scope["runs"].load) and callable(scope["hold_out"])
