import base64
import io
import itertools
import json
import re
import shutil
from urllib.parse import unquote

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

import utils
from tests.conftest import ROOT, random_images
from utils import architecture, models, plotting, runs
from utils.__main__ import main
from utils.cifar10 import sources
from utils.data import load_cifar10
from utils.engine import records
from utils.engine.checkpoints import seal
from utils.errors import NetworkError, RunError
from utils.experiments import EXPERIMENTS, FINAL, MAIN, RECORDS
from utils.plotting import style
from utils.report import readme, tables
from utils.study import statistics


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """README, results, images and notebooks in a folder of their own."""
    for folder in ("results", "images", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "docs").mkdir()
    for page in readme.PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_readme_and_images_agree_with_results(copy):
    before = {page: (copy / page).read_text(encoding="utf-8") for page in readme.PAGES}
    shutil.rmtree(copy / "images")
    own = pd.read_csv(copy / "results" / "ablation" / "recipe.csv")  # which is not published
    (copy / "runs" / "ablation").mkdir(parents=True)
    own.assign(validation_accuracy=own.validation_accuracy + 9.0 * (own.change == "no flip")).to_csv(
        copy / "runs" / "ablation" / "recipe.csv", index=False
    )
    assert main(["report"]) == 0
    assert {page: (copy / page).read_text(encoding="utf-8") for page in readme.PAGES} == before, "run make report"
    for path in set((ROOT / "images").glob("*.png")) - {ROOT / "images" / "app.png"}:  # that one is test_app.py's
        if Image.open(path).text["Software"] != Image.open(copy / "images" / path.name).text["Software"]:
            continue  # another matplotlib draws a little otherwise
        new, old = pixels(copy / "images" / path.name), pixels(path)
        assert new.shape == old.shape and np.abs(new - old).mean() < 0.5, f"{path.name}: run make report"


@pytest.mark.parametrize("path", [ROOT / "results" / name / "metrics.json" for name in MAIN], ids=lambda p: p.parts[-2])
def test_another_number_in_results_changes_the_readme(copy, path):
    path = copy / path.relative_to(ROOT)
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"test_accuracy_last": 12.34}), encoding="utf-8"
    )
    seal(path.parent)
    text = (copy / "README.md").read_text(encoding="utf-8")
    assert readme.fill(text, "results", tables.markdown(tables.results_table())) != text


SECTIONS = """Quick start | The course | The assignment | The five experiments | Beyond the reference
    | The final network | What it sees | How the figures are made | The code | Licence and credits"""


def test_every_section_is_there_in_its_order_and_in_the_contents():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.M) == [name.strip() for name in SECTIONS.split("|")]
    contents = re.findall(r"\[([^\]]+)\]\(#", text.split("**Contents:**")[1].split("\n\n")[0])
    assert contents == [name.strip() for name in SECTIONS.split("|")]


def test_the_front_page_is_short():
    words = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert len(words.split()) < 2_000


def test_every_table_and_picture_is_shown():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in readme.PAGES)
    for marker in tables.TABLES:
        inside = text.split(f"<!-- {marker} -->")[1].split(f"<!-- /{marker} -->")[0]
        assert len(inside.strip()) > 80, marker
    shown = set(re.findall(r"\]\((?:\.\./)?images/([\w.]+)\)", text))
    assert shown == {path.name for path in (ROOT / "images").glob("*.png")}


def points(axis):
    return {line.get_label(): sorted(zip(*line.get_data(), strict=True)) for line in axis.lines}


def test_the_picture_of_differences_shows_each_with_its_interval_on_the_right_side():
    table = pd.DataFrame(
        dict(difference=[1.0, -1.0, 0.1], low=[0.5, -1.5, -0.4], high=[1.5, -0.5, 0.6]), index=["a", "b", "c"]
    )
    (axis,) = plotting.differences(table).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    *drawn, zero = axis.lines
    intervals, points = drawn[::2], drawn[1::2]
    assert [tuple(line.get_xdata()) for line in intervals] == list(zip(table.low, table.high, strict=True))
    assert [line.get_xdata()[0] for line in points] == table.difference.tolist()
    places = [line.get_ydata()[0] for line in points]
    assert places == sorted(places, reverse=True) == [line.get_ydata()[0] for line in intervals]
    assert len({line.get_color() for line in points}) == 3 and set(zero.get_xdata()) == {0}


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([21, 21], "21 of 24"),
        ([22, 20, 21], "20 to 22 of 24"),
        ([None, None], "not reached"),
        ([20, None, None], "not reached by 2 of 3"),
    ],
)
def test_the_first_epochs_of_several_seeds(monkeypatch, epochs, said):
    monkeypatch.setattr(
        statistics, "seeds", lambda name: pd.DataFrame(dict(epochs_to_85=pd.Series(epochs, dtype=float), epochs=24))
    )
    assert tables.first_epochs("any") == said


def test_the_picture_of_all_networks_shows_each_run_and_what_others_reached():
    published = statistics.published()
    names = [name for name in MAIN + RECORDS if name in published.index]
    shown, priors = published.loc[names], [EXPERIMENTS[name].prior for name in MAIN + RECORDS]
    for axis, cost in zip(plotting.landscape(shown, priors).axes, ("parameters", "epochs"), strict=True):
        labels = {text.get_text() for text in axis.texts}
        assert labels == {name.removeprefix("experiment_").replace("_", " ") for name in names}
        whole = [text.get_window_extent() for text in axis.texts]  # with the line to its point
        boxes = [Text.get_window_extent(text) for text in axis.texts]
        assert all(box.x0 <= own.x0 and own.x1 <= box.x1 for box, own in zip(whole, boxes, strict=True))
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)), "names on each other"
        assert all(axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1 for box in boxes), "a name leaves its panel"
        drawn = points(axis)
        assert len(drawn["reference, at its first 85 %"]) == 5
        assert drawn["ours, last epoch"] == sorted(zip(shown[cost], shown.accuracy, strict=True))
        bars = axis.collections[0].get_segments()
        assert sum(len(bar) == 2 for bar in bars) == (shown.seeds > 2).sum()
        others = drawn["others, an epoch chosen on the test images"]
        small, fast = EXPERIMENTS["small"].prior, EXPERIMENTS["fast"].prior
        at = {prior: prior.epoch if cost == "epochs" else prior.parameters for prior in (small, fast)}
        assert len(others) == 4 and {(at[small], small.accuracy), (at[fast], 85)} <= set(others)


def test_a_run_of_ones_own_is_a_star_among_the_others():
    own = dict(
        parameters=5_000, macs=None, epochs=3, evaluated_on="test", test_accuracy_last=70.0, data_source="folder"
    )
    figure = plotting.landscape(statistics.published(), own={"mine": own}, costs=("parameters", "macs"))
    parameters, macs = map(points, figure.axes)
    assert parameters["mine: 70.00 %, test on own class folders"] == [(5_000, 70.0)]
    assert "mine: 70.00 %, test on own class folders" not in macs, "where its cost is not known it is not drawn"


@pytest.mark.parametrize("name", ["experiment_5", "experiment_5/validation"])
def test_curves_show_what_the_run_was_judged_on(name):
    metrics, history = records.read_metrics(name), records.read_history(name)
    prior = EXPERIMENTS["experiment_5"].prior
    figure = plotting.curves(runs.Run(None, history, metrics), prior)
    split, (loss, accuracy, rate) = metrics["evaluated_on"], figure.axes
    assert len(loss.lines) == 2 and len(rate.lines) == 1
    assert {"training", split} <= points(accuracy).keys()
    for axis, measure in ((loss, "loss"), (accuracy, "accuracy")):
        ends = {history[f"{part}_{measure}"].iloc[-1] for part in ("train", split)}
        assert [text.get_va() for text in sorted(axis.texts, key=lambda t: t.xy[1])] == ["top", "bottom"]
        assert {text.get_text() for text in axis.texts} == {f"{end:.2f}" for end in ends}
    named = plotting.curves(name)
    assert named.get_suptitle() == f"{name}: 92,394 parameters, CIFAR-10"
    assert list(named.axes[1].lines[1].get_ydata()) == history[f"{split}_accuracy"].tolist()
    first = metrics["epochs_to_85"]
    said = f"★ first at 85 %: epoch {first}" if first else "85 % not reached"
    assert accuracy.get_title() == f"{said}\nreference: 85.13 %, epoch 69"
    figure.draw_without_rendering()
    assert all(text.get_window_extent().x0 > text.axes.bbox.x1 for text in (*loss.texts, *accuracy.texts)), "on a line"
    assert f"{metrics['parameters']:,} parameters, CIFAR-10" in figure.get_suptitle()


def test_tagged_cells_of_notebooks_are_pictures_of_the_readme(copy):
    def cell(colour, *tags):
        Image.new("RGB", (2, 2), colour).save(png := io.BytesIO(), "png")
        outputs = [{"data": {"text/plain": "x"}}, {"data": {"image/png": base64.b64encode(png.getvalue()).decode()}}]
        return bare | {"metadata": {"tags": list(tags)} if tags else {}, "outputs": outputs}

    bare = {"cell_type": "code", "source": "", "metadata": {}}

    shutil.rmtree(copy / "notebooks")
    (copy / "notebooks").mkdir()
    not_run = bare | {"metadata": {"tags": ["images/c.png"]}, "outputs": []}
    cells = [cell("red", "images/a.png"), cell("blue"), cell("green", "parameters"), not_run, bare]
    first = {"cell_type": "markdown", "metadata": {}, "source": ["[![badge]()]()\n", "\n", "# 1. One"]}
    cells[0]["outputs"][1]["data"]["image/png"] = cells[0]["outputs"][1]["data"]["image/png"].splitlines(keepends=True)
    (copy / "notebooks" / "01_one.ipynb").write_text(json.dumps({"cells": [first, *cells]}), encoding="utf-8")
    ((name, png),) = readme.notebook_figures().items()
    assert name == "a.png" and Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_notebooks_of_ones_own_are_no_lessons_and_a_damaged_one_is_named(copy):
    before, path = tables.course_table(), copy / "notebooks" / "05_experiment_1.ipynb"
    for name in ("Untitled.ipynb", "05_experiment_1-Copy1.ipynb", "mine.ipynb"):
        (copy / "notebooks" / name).write_text('{"cells": []}', encoding="utf-8")
    assert tables.course_table() == before
    assert tables.notebook_links(["experiment_1", "mine", "experiment_5_long"]) == [
        "[experiment_1](notebooks/05_experiment_1.ipynb)",
        "mine",
        "[experiment_5_long](notebooks/09_experiment_5.ipynb)",
    ]
    path.write_text(path.read_text(encoding="utf-8")[:-500], encoding="utf-8")
    for asked in (tables.course_table, readme.notebook_figures):
        with pytest.raises(RunError, match=r"^notebooks/05_experiment_1.ipynb cannot be read .*; mend it, or let"):
            asked()


def test_pictures_are_small_enough_for_a_web_page():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "images").glob("*.png")}
    assert max(sizes.values()) < 400_000 and sum(sizes.values()) < 2_000_000, sizes


def test_a_notebook_shows_two_dots_for_each_pixel_of_its_page(monkeypatch):
    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.update(options, **data))
    plotting.lines([1, 2], {"a": [3, 4]})._ipython_display_()
    drawn = Image.open(io.BytesIO(base64.b64decode(shown["image/png"])))
    assert shown["raw"] and shown["metadata"]["image/png"]["width"] == drawn.width // 2 in range(800, 900)


def test_a_chart_is_saved_with_few_colours_and_photographs_keep_all_of_theirs(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    figures = {"P": plotting.bars({"a": {"b": 1.0}}), "RGB": plotting.augmentation_sheet({"photographs": noise})}
    for mode, figure in figures.items():
        plotting.save(figure, str(tmp_path / "a.png"))
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
        assert plotting.shrunk((tmp_path / "a.png").read_bytes()) == (tmp_path / "a.png").read_bytes()


def test_a_calibration_bar_of_few_images_is_only_outlined():
    table = pd.DataFrame(dict(confidence=[25.0, 85.0], accuracy=[100.0, 84.0], images=[1, 900]))
    (axis,) = plotting.reliability({"after": table}, {"after": 1.0}).axes
    few, many = axis.patches
    assert few.get_facecolor() == (1, 1, 1, 1) and many.get_facecolor() == matplotlib.colors.to_rgba(plotting.BLUE)
    assert [text.get_text() for text in axis.texts] == ["1", "900"]
    assert all(text.get_position()[1] < 5 for text in axis.texts), "at the foot, not on the diagonal"


def test_a_network_without_a_row_gets_into_the_tables(monkeypatch):
    monkeypatch.delitem(EXPERIMENTS, "quick")
    table = tables.records_table()
    (place,) = [k for k, link in enumerate(table["record"]) if "quick" in link]
    assert table["best of others"][place] == "-"


@pytest.mark.parametrize("seeds, said", [(1, "94.09 % (one seed)"), (2, "94.09 % (two seeds)")])
def test_fewer_than_three_seeds_have_no_deviation(seeds, said):
    assert tables.plus_minus(94.09, 0.09, seeds) == said and tables.plus_minus(94.09, 0.09, 3) == "94.09 ± 0.09 %"
    runs = statistics.published().loc[["experiment_5", "small"]].assign(seeds=[3, seeds], deviation=[0.2, 0.1])
    (spread,) = plotting.landscape(runs).axes[0].containers
    drawn = [segment for segment in spread[2][0].get_segments() if np.isfinite(segment).all() and len(segment)]
    assert len(drawn) == 1


def test_stars_of_several_runs_of_ones_own_are_told_apart():
    metrics = records.read_metrics("small")
    figure = plotting.landscape(statistics.published(), own=dict(one=metrics, other=metrics))
    colours = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert len(colours) == len({*colours}) == 2


def test_runs_judged_on_held_out_images_are_drawn_but_not_beside_others():
    held_out = {name: records.read_history(f"{name}/epochs_5/validation") for name in ("experiment_4", "experiment_5")}
    assert plotting.accuracy_against_epoch(held_out).axes[0].get_ylabel() == "validation accuracy (%)"
    with pytest.raises(RunError, match="judged on different images"):
        plotting.accuracy_against_epoch(held_out | dict(test=records.read_history("experiment_5")))


def test_each_network_is_drawn_once_before_all_others():
    histories = {name: records.read_history(name) for name in ("experiment_4", "experiment_5")}
    four, five, end = plotting.accuracy_against_epoch(histories).axes
    assert [axis.get_title() for axis in (four, five)] == ["experiment 4", "experiment 5"]
    for axis, name in ((four, "experiment_4"), (five, "experiment_5")):
        *_, coloured, target = axis.lines
        assert list(coloured.get_ydata()) == histories[name].test_accuracy.tolist() and target.get_ydata()[0] == 85
    assert points(end).keys() > {"experiment 4", "experiment 5"}


def test_channels_have_the_same_width_in_the_pictures_of_all_experiments():
    def widths(name):
        figure = plotting.architecture(architecture.layer_table(models.build_model(name)))
        (axis,) = figure.axes
        figure.canvas.draw()
        (row,) = {text.get_position()[1] for text in axis.texts if text.get_text() == "channels"}
        channels = [text.get_text() for text in axis.texts if text.get_position()[1] == row]
        channels.remove("channels")  # the heading
        return {int(c): box.get_window_extent().width for c, box in zip(channels, axis.patches, strict=True)}

    one, five = widths("experiment_1"), widths("experiment_5")
    both = one.keys() & five.keys()
    assert [one[c] for c in both] == pytest.approx([five[c] for c in both], rel=0.01)
    assert five[64] == pytest.approx(4 * five[16]) and five[3] < five[10] < five[16]


def test_the_drawn_network_names_every_layer_and_its_receptive_field():
    (axis,) = plotting.architecture(architecture.layer_table(models.build_model("experiment_5"))).axes
    five = models.ConvNet(8, c1=models.conv(3, 8, kernel=5), c2=torch.nn.Conv2d(8, 8, 7, groups=8))
    (legend,) = plotting.architecture(architecture.layer_table(five)).legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["5x5", "depthwise 7x7"]
    uneven = models.ConvNet(8, c1=torch.nn.Conv2d(3, 8, 3, padding=(1, 2), dilation=(1, 2)))
    assert plotting.architecture(architecture.layer_table(uneven)).axes
    with pytest.raises(NetworkError, match="none is known"):
        plotting.architecture(architecture.layer_table(five).assign(out_size=pd.NA))
    colours = [
        tuple(box.get_facecolor()) for box in plotting.architecture(architecture.layer_table(five)).axes[0].patches
    ]
    assert len({*colours}) == len(colours) == 4, "each kind has its colour"
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(4, 4, 3))
    own.extend([torch.nn.Flatten(), torch.nn.Linear(4 * 58 * 58, 10)])
    drawn = plotting.architecture(architecture.layer_table(own))
    assert "linear" in {text.get_text() for text in drawn.legends[0].get_texts()}, "there is no average"
    shown = {text.get_text() for text in drawn.axes[0].texts}
    assert {"3", "-"} < shown and not shown & {"nan", "3.0"}
    said = [text.get_text() for text in axis.texts]
    assert {"input", "c1_1", "c5", "linear", "32x32", "6x6", "61"} < set(said) and {"c2_2 dw", "c2_2 pw"} < set(said)
    assert "105" not in said and said[-1] == "-", "what the average adds is no receptive field of a convolution"
    arrows = [text for text in axis.texts if getattr(text, "arrow_patch", None)]
    assert len(axis.patches) == 14 and len(arrows) == 13
    assert {"depthwise 3x3", "3x3, dilated"} < {text.get_text() for text in axis.figure.legends[0].get_texts()}


def test_a_missing_marker_and_a_table_that_stands_there_twice_are_named(copy):
    whole = (copy / "README.md").read_text(encoding="utf-8")
    for text in ("no markers", "<!-- /headline --> <!-- headline -->"):
        with pytest.raises(RunError, match="<!-- headline -->.* stand 0 times .* once, in this order"):
            readme.place_of("headline", {"README.md": text})
    twice = whole + "\n<!-- headline -->\n99.99 %\n<!-- /headline -->\n"
    (copy / "README.md").write_text(twice, encoding="utf-8")
    with pytest.raises(RunError, match="<!-- headline -->.* stand 2 times .* once, in this order"):
        readme.write()
    assert (copy / "README.md").read_text(encoding="utf-8") == twice


def test_a_record_that_was_taught_names_its_teacher(monkeypatch):
    epochs = dict(zip(RECORDS, tables.records_table()["epochs"], strict=True))
    assert epochs["compact_distilled"] == "80, taught by accurate_long" and epochs["fast"] == "3"
    monkeypatch.setattr(records, "weights_of", lambda name: "0123456789abcdef")  # it was trained anew
    epochs = dict(zip(RECORDS, tables.records_table()["epochs"], strict=True))
    assert epochs["compact_distilled"] == "80, taught by an earlier accurate_long"
    all_of_them = statistics.published()
    monkeypatch.setattr(
        statistics, "published", lambda: all_of_them.drop(index=["accurate", "accurate_long", "accurate_longest"])
    )
    assert tables.headline()["epochs"][0] == "80, taught by an earlier accurate_long"


def test_what_is_no_published_run_stops_no_report(copy):
    """A seed judged on held-out images only, what a killed publishing leaves, and what Jupyter puts beside a table."""
    small = copy / "results" / "small"
    shutil.copytree(small / "seed_2", small / "seed_9" / "validation")
    assert 9 not in statistics.seeds("small").index
    shutil.rmtree(small / "seed_9")
    for hidden in (".new-seed_2", ".ipynb_checkpoints", ".new-epochs_5/validation", ".a-b"):
        shutil.copytree(small / "seed_2", small / hidden)
    assert "small" in statistics.published(5).index
    (copy / "README.md").write_text("no markers", encoding="utf-8")  # comes after all folders were looked at
    with pytest.raises(RunError, match="<!-- headline -->"):
        readme.write()
    assert (small / ".a-b").is_dir() and not (small / ".new-seed_2").exists()
    (small / "seed_2" / "metrics.json").unlink()
    with pytest.raises(RunError, match="seed_2 holds no finished run"):
        statistics.seeds("small")


def test_a_report_that_is_refused_at_its_last_figure_writes_nothing(copy, monkeypatch):
    page = copy / "README.md"
    before = re.sub(r"\d\d\.\d\d ± ", "12.34 ± ", page.read_text(encoding="utf-8"))
    page.write_text(before, encoding="utf-8")

    def damaged(*arguments):
        raise RunError("growth.csv cannot be read.")

    monkeypatch.setattr(readme, "read_table", damaged)
    with pytest.raises(RunError, match="growth"):
        readme.write()
    assert page.read_text(encoding="utf-8") == before


def test_a_report_without_the_five_experiments_is_refused(copy):
    shutil.rmtree(copy / "results" / "experiment_1")
    before = (copy / "README.md").read_bytes()
    with pytest.raises(RunError, match="^results/ lacks experiment_1, of which the pages tell; fetch results/ again"):
        readme.write()
    shutil.rmtree(copy / "results")
    with pytest.raises(RunError, match="^results/ lacks experiment_1, experiment_2, experiment_3, "):
        readme.write()
    assert (copy / "README.md").read_bytes() == before


def test_a_weak_final_network_is_left_out_of_the_headline(monkeypatch):
    table = statistics.published()
    table.loc[FINAL, "accuracy"] = 50.0
    monkeypatch.setattr(statistics, "published", lambda: table)
    assert len(tables.headline()["network"]) == 3


DOCUMENTS = [*(ROOT / page for page in readme.PAGES), ROOT / "CONTRIBUTING.md", *(ROOT / "notebooks").glob("*.ipynb")]


@pytest.mark.parametrize("path", sorted(DOCUMENTS), ids=lambda path: path.name)
def test_relative_links_and_pictures_exist(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    relative = [t for t in targets if not re.match(r"\w+:|#", t)]
    assert relative
    for target in relative:
        assert (path.parent / unquote(target.split("#")[0])).exists(), target


def test_pictures_have_an_alternative_text():
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in readme.PAGES)
    texts = re.findall(r"!\[([^\]]*)\]\(", pages)
    assert texts and all(texts)


def test_no_picture_of_other_images_gets_into_the_readme(copy, class_folders, cache, capsys):
    load_cifar10(class_folders)
    random_images().few(50, 10)
    of_class_folders, of_a_part = capsys.readouterr().out.splitlines()[-2:]
    path = min(path for path in (copy / "notebooks").glob("*.ipynb") if '"images/' in path.read_text(encoding="utf-8"))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    before = {path: path.read_bytes() for path in (copy / "images").iterdir()}
    for said in (of_class_folders, of_a_part, sources.BANNER.format(line="!", why="Nobody answers.")):
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": said.splitlines(True)}]
        path.write_text(json.dumps(notebook), encoding="utf-8")
        with pytest.raises(RunError, match=f"^notebooks/{path.name} was run without CIFAR-10"):
            readme.notebook_figures()
    assert main(["report"]) == 2 and "was run without CIFAR-10" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def executed(*times):
    cells = [{"cell_type": "code", "metadata": {"execution": dict(zip(KEYS, both, strict=True))}} for both in times]
    return tables.running_minutes(cells)


KEYS = ("iopub.status.busy", "iopub.status.idle")


def test_the_minutes_of_a_notebook_are_those_of_its_cells():
    one, two = ("2026-01-01T10:00:00Z", "2026-01-01T10:01:00Z"), ("2026-01-01T10:01:01Z", "2026-01-01T10:02:30Z")
    assert executed(one, two) == executed(two, one) == "3 min"
    assert tables.running_minutes([{"cell_type": "code", "metadata": {"execution": {KEYS[0]: one[0]}}}]) == "-"


def test_links_change_all_or_nothing(copy, capsys):
    (copy / "notebooks" / "zz.ipynb").mkdir()  # cannot be read
    before = (copy / "README.md").read_bytes()
    assert main(["links", "someone/else"]) == 2
    assert "zz.ipynb cannot be" in capsys.readouterr().err and (copy / "README.md").read_bytes() == before


def test_a_page_that_is_not_utf_8_is_named(copy, capsys):
    with open(copy / "README.md", "ab") as page:
        page.write(b"caf\xe9")
    for command in (["links", "someone/else"], ["report"]):
        assert main(command) == 2
        assert "README.md is not saved as UTF-8; save it so in your editor" in capsys.readouterr().err


@pytest.mark.parametrize("content", [[], {}, {"cells": []}, {"cells": [{"cell_type": "code", "source": "1"}]}])
def test_a_notebook_of_ones_own_that_is_numbered_is_named(copy, content):
    (copy / "notebooks" / "18_mine.ipynb").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        RunError, match="^notebooks/18_mine.ipynb cannot be read .*; mend it, or let the name of one of"
    ):
        tables.course_table()


def test_a_number_has_the_same_colour_in_all_grids():
    figure = plotting.grids(("one", np.ones((1, 1))), "=", ("other", np.full((2, 2), 3.0)))
    assert {axis.images[0].get_clim() for axis in figure.axes if axis.images} == {(-6, 6)}


def test_no_two_lines_look_the_same():
    assert len(set(style.LINES)) == 36 and style.LINES[:2] == [(style.BLUE, "o"), (style.ORANGE, "s")]


def test_one_experiment_alone_has_no_step(monkeypatch):
    monkeypatch.setattr(tables, "FIVE", [FINAL])
    assert tables.markdown(tables.steps_table()).count("\n") == 1, "the head alone"


def test_one_call_moves_every_link(copy, capsys):
    assert main(["links", "someone/else.where"]) == 0
    documents = [copy / "README.md", *sorted((copy / "notebooks").glob("*.ipynb"))]
    for path in documents:
        text = path.read_text(encoding="utf-8")
        addresses = set(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text))
        assert addresses == {"someone/else.where"}, path.name
        if path.suffix == ".ipynb":
            assert '"https://github.com/someone/else.where.git\\"' in text.replace('\\"https', '"https')
    main(["links", "owner/name"])
    assert all("someone" not in path.read_text(encoding="utf-8") for path in documents)


def test_a_wrong_address_is_refused(copy, capsys):
    assert main(["links", "https://github.com/owner/name"]) == 2
    assert main(["links", "owner/name.git"]) == 2
    assert main(["links"]) == 2
    assert "owner/name" in capsys.readouterr().err
