"""One change at a time: what the changes are, and that the command trains what is missing and nothing else."""

import re
import shutil
from dataclasses import replace
from types import FunctionType

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from scipy import stats
from torch import nn

import utils
from tests.test_notebooks import cells, source
from utils import ROOT, models, runs
from utils.architecture import layer_table
from utils.engine import checkpoints, records
from utils.engine.code import code
from utils.engine.records import read_table
from utils.errors import RunError
from utils.experiments import FINAL, FIVE
from utils.report.publish import publish_tables
from utils.study import ablation, statistics

from .conftest import random_images

pytestmark = pytest.mark.usefixtures("one_thread")


def differing(first, second):
    """The layers in which two networks differ."""
    both = [layer_table(model).set_index("layer") for model in (first, second)]
    columns = "kernel stride padding dilation groups in_channels out_channels".split()
    shared = both[0].index.intersection(both[1].index)
    changed = [layer for layer in shared if not both[0].loc[layer, columns].equals(both[1].loc[layer, columns])]
    found = set(changed) | set(both[0].index.symmetric_difference(both[1].index))
    return sorted({layer.split(".")[0] for layer in found})


def network(study, change):
    build, _ = ablation.studies()[study][change]
    torch.manual_seed(1)
    return build()


def test_each_recipe_changes_what_it_names():
    study = ablation.studies()["recipe"]
    for change, fields in ablation.RECIPES.items():
        assert study[change][1] == replace(ablation.RECIPE, **fields) != ablation.RECIPE, change
        assert not differing(study[change][0](), models.build_model(FINAL))
    assert ablation.RECIPE.epochs >= 12 and next(iter(study)) == ablation.BASE
    for change, (_, recipe) in ablation.studies()["longer"].items():
        assert recipe == replace(study[change.removesuffix(", 24 epochs")][1], epochs=24), change


def test_each_network_differs_in_the_layers_it_names():
    base = network("network", ablation.BASE)
    for change, layers in ablation.NETWORKS.items():
        model = network("network", change)
        assert differing(base, model) == sorted(layers), change
        layers_there = dict(model.layers.named_children())
        for name, layer in base.layers.named_children():
            if name not in layers:  # with the same first weights
                pairs = zip(layer.parameters(), layers_there[name].parameters(), strict=True)
                assert all(torch.equal(first, second) for first, second in pairs), (change, name)
    sizes = [layer_table(network("network", change)).out_size for change in (ablation.BASE, "c5 not dilated")]
    assert sizes[0].tolist() == sizes[1].tolist()


def test_the_steps_lead_from_experiment_1_to_3():
    steps = list(ablation.STEPS)
    for number, change in enumerate(steps[1:], 1):
        layers = differing(network("steps", steps[number - 1]), network("steps", change))
        assert set(layers) <= set(ablation.STEPS[change]) and layers, change
    assert not differing(network("steps", steps[0]), models.experiment_1())
    assert not differing(network("steps", "c5 stride 1, padding 1"), models.experiment_2())
    assert not differing(network("steps", steps[-1]), models.experiment_3())


@pytest.fixture
def few(root, monkeypatch):
    """An empty project where three changes are trained for an epoch with one seed."""
    monkeypatch.setattr(ablation, "SEEDS", (1,))
    monkeypatch.setattr(ablation, "RECIPE", replace(ablation.RECIPE, epochs=1, precision="float32"))
    monkeypatch.setattr(ablation, "RECIPES", {"learning rate 0.2": dict(lr=0.2)})
    monkeypatch.setattr(ablation, "NETWORKS", {})
    monkeypatch.setattr(ablation, "AGAIN", ())
    monkeypatch.setattr(ablation, "STEPS", {})
    return random_images()


def rows(place="runs"):
    return pd.read_csv(utils.ROOT / place / "ablation" / "recipe.csv")


def test_each_change_gets_its_seeds_before_the_next(root):
    todo = ablation.missing(random_images())
    seeds = [seed for _, _, seed in todo]
    assert seeds == [1, 2, 3] * (len(todo) // 3) and len(todo) == len(set(todo))
    assert [change for _, change, _ in todo].count(ablation.BASE) == 6  # in two tables, trained once
    assert {change for _, change, _ in todo[:6]} == {ablation.BASE}


def test_what_is_missing_is_trained_and_nothing_twice(few, monkeypatch, capsys):
    trained, train = [], runs.train

    def stopped(*arguments, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(options["name"])
        return train(*arguments, **options)

    monkeypatch.setattr(runs, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        ablation.ablate(few)
    assert rows().change.tolist() == [ablation.BASE]

    monkeypatch.setattr(runs, "train", train)
    ablation.ablate(few)
    assert rows().change.tolist() == [ablation.BASE, "learning rate 0.2"]
    assert rows().epochs.dtype == "int64", "a count is not written as 1.0"
    found = rows().iloc[1]
    metrics = runs.read_metrics("runs/ablation/learning_rate_0.2/seed_1")
    assert found.validation_accuracy == metrics["validation_accuracy_last"] and metrics["recipe"]["lr"] == 0.2
    assert metrics["evaluated_on"] == "validation"
    capsys.readouterr()
    ablation.ablate(few)
    assert "0 runs are missing" in capsys.readouterr().out


def test_two_ablations_at_once_lose_no_row(few, monkeypatch):
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.1)
    (folder := utils.ROOT / "runs" / "ablation").mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(RunError, match="Another process is training in .*ablation"):
        ablation.ablate(few)
    assert not list(folder.glob("*.csv"))
    ablation.ablate(few)
    assert len(rows()) == 2


def test_a_row_of_another_network_or_recipe_is_made_again(few, monkeypatch):
    ablation.ablate(few)
    before = rows()
    monkeypatch.setattr(ablation, "RECIPES", {"learning rate 0.2": dict(lr=0.3)})
    assert ablation.missing(few) == [("recipe", "learning rate 0.2", 1)]
    ablation.ablate(few)
    assert rows().change.tolist() == before.change.tolist() and rows().run[0] == before.run[0]
    assert rows().run[1] != before.run[1]


def test_published_rows_are_kept_and_those_that_no_run_made_are_refused(few, monkeypatch):
    ablation.ablate(few)
    with pytest.raises(RunError, match="was measured on the stand-in"):
        publish_tables("ablation")
    tables = list((utils.ROOT / "runs" / "ablation").glob("*.csv"))
    for path in tables:
        pd.read_csv(path).assign(data_source="original").to_csv(path, index=False)
    with pytest.raises(RunError, match=r"There is no finished run of ablation/as_it_is/seed_1 to publish"):
        publish_tables("ablation")
    for path in tables:
        path.unlink()
    official = random_images(seed=1, source="original")
    monkeypatch.setitem(records.OFFICIAL, "digest", official.digest)
    ablation.ablate(official)
    path = utils.ROOT / "runs" / "ablation" / "recipe.csv"
    honest, table = path.read_bytes(), rows()
    for column, value in (("validation_accuracy", 92.14), ("change", "learning rate 0.2"), ("change", "gone")):
        table.assign(**{column: [value, table[column][1] if column != "change" else "as it is"]}).to_csv(
            path, index=False
        )
        with pytest.raises(RunError, match="Row 1 of runs/ablation/recipe.csv is of no|'gone' is no change"):
            publish_tables("ablation")
    table.assign(seed=[1, 1], change="as it is").to_csv(path, index=False)
    with pytest.raises(RunError, match=r"recipe.csv lacks a column or a number, or has a row twice"):
        publish_tables("ablation")
    path.write_bytes(honest)
    backup = path.with_name("recipe (copy).csv")
    backup.write_bytes(honest)
    with pytest.raises(RunError, match=r"recipe \(copy\).csv is no table of utils/study/ablation.py"):
        publish_tables("ablation")
    backup.unlink()
    target = publish_tables("ablation")
    rows().iloc[[1]].to_csv(path, index=False)
    with pytest.raises(RunError, match="recipe.csv lacks published rows"):
        publish_tables("ablation")
    shutil.rmtree(utils.ROOT / "runs" / "ablation")
    assert ablation.missing(official) == [] and len(read_table(target / "recipe.csv")) == 2


def test_a_network_that_cannot_be_traced_may_be_a_change(few, monkeypatch):
    class Untraced(models.ConvNet):
        def forward(self, x):
            return super().forward(x if x.mean() < 1e9 else -x)

    monkeypatch.setitem(ablation.NETWORKS, "untraced", {})
    network = lambda *_: Untraced(8, c1=models.conv(3, 8, stride=4))  # noqa: E731
    monkeypatch.setattr(ablation, "changed", network)
    ablation.ablate(few)
    path = utils.ROOT / "runs" / "ablation" / "network.csv"
    table = read_table(path)
    table.assign(seed=table.seed.astype(float)).to_csv(path, index=False)  # as other programs write it
    assert ablation.missing(few) == [] and pd.isna(ablation.kept("network").macs).all()


def test_a_row_is_of_today_under_an_older_pytorch_too(few, monkeypatch):
    ablation.ablate(few)
    said = nn.BatchNorm2d.extra_repr
    older = lambda self: said(self).replace(", bias=True", "")  # noqa: E731
    # there it is PyTorch's own
    older = FunctionType(older.__code__, {"__name__": said.__module__}, closure=older.__closure__)
    monkeypatch.setattr(nn.BatchNorm2d, "extra_repr", older)
    ablation.modules.cache_clear()  # it is another process there
    assert ablation.missing(few) == []


def test_a_row_of_another_forward_is_not_of_today(few, monkeypatch):
    ablation.ablate(few)
    assert ablation.missing(few) == []
    forward = models.ConvNet.forward
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, x: -forward(self, x))
    ablation.first_response.cache_clear()  # a changed file is read in a new process
    assert len(ablation.missing(few)) == 3


def test_a_row_of_another_class_that_shows_in_no_image_is_not_of_today(few, monkeypatch):
    ablation.ablate(few)
    forward = models.ConvNet.forward
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, x: forward(self, x))
    ablation.modules.cache_clear()
    assert len(ablation.missing(few)) == 3
    ablation.ablate(few)
    assert ablation.missing(few) == []


@pytest.mark.parametrize("damage", ["twice", "no column", "semicolons", "no seed", "no number"])
def test_a_damaged_table_is_a_sentence(root, damage):
    path, table = root / "runs" / "ablation" / "recipe.csv", pd.read_csv(ROOT / "results" / "ablation" / "recipe.csv")
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)
    assert len(ablation.kept("recipe")) == len(table)
    if damage == "twice":
        table = pd.concat([table, table.iloc[:1].assign(validation_accuracy=99.0)])
    elif damage == "no column":
        table = table.drop(columns="first_response")
    elif damage in ("no seed", "no number"):
        column, value = ("seed", None) if damage == "no seed" else ("first_response", "x")
        table[column] = table[column].astype(object).where(table.index > 0, value)
    table.to_csv(path, index=False, sep=";" if damage == "semicolons" else ",")
    with pytest.raises(RunError, match="recipe.csv lacks a column or a number, or has a row twice"):
        ablation.missing(random_images())


def test_a_published_table_that_is_gone_is_a_sentence(root):
    with pytest.raises(RunError, match="No change in ablation/recipe.csv has all its seeds; go on"):
        ablation.judged("recipe")


def test_only_changes_with_all_their_seeds_are_judged_and_only_those_of_today(root, monkeypatch, capsys):
    monkeypatch.setattr(records, "once", print)
    folder = utils.ROOT / "runs" / "ablation"
    folder.mkdir(parents=True)
    digest, rows = records.OFFICIAL["digest"], []
    for change, how in list(ablation.studies()["recipe"].items())[:3]:
        same = dict.fromkeys(ablation.KEPT, 1) | dict(change=change, run=ablation.fingerprint(*how, digest))
        for seed in ablation.SEEDS:
            response = " ".join(map(str, ablation.first_response(how[0], seed)))
            measured = dict(first_response=response, code=records.digest_of(code()))
            rows.append(same | measured | dict(seed=seed, validation_accuracy=80 + seed))
    pd.DataFrame(rows[3:5] + rows[6:] + rows[:3]).to_csv(folder / "recipe.csv", index=False)
    assert (
        ablation.judged("recipe").change.tolist() == [ablation.BASE] * 3 + ["no affine"] * 3
    )  # "no flip" lacks a seed
    assert "These are the rows of runs/ablation/recipe.csv, not the published ones." in capsys.readouterr().out
    with monkeypatch.context() as other, pytest.raises(RunError, match="is of another network, recipe or training"):
        other.setattr(ablation, "code", lambda: code() | {"data.py": "00000000"})
        ablation.judged("recipe")
    with pytest.raises(RunError, match="'no affine' in ablation/recipe.csv is of another network"):
        monkeypatch.setitem(ablation.RECIPES, "no affine", dict(affine=0.1))
        ablation.judged("recipe")
    with pytest.raises(RunError, match="'as it is' in ablation/recipe.csv"):
        monkeypatch.setattr(models, "experiment_5", models.experiment_4)
        ablation.judged("recipe")


def published(name):
    return read_table(ROOT / "results" / "ablation" / f"{name}.csv")


@pytest.mark.parametrize("notebook", ["02_augmentation", "11_ablation", "17_your_own_network"])
def test_the_differences_that_the_prose_quotes_are_those_of_the_tables(notebook):
    """Each is written as: 0.98 points (0.31 to 1.65); of any two changes."""
    text = "\n".join(source(cell) for cell in cells(ROOT / "notebooks" / f"{notebook}.ipynb", "markdown"))
    said = re.findall(r"(-?\d+\.\d\d) points \((-?\d+\.\d\d) to (-?\d+\.\d\d)\)", text)
    recipe, network = published("recipe"), published("network")
    both = pd.concat([recipe, network[network.change != ablation.BASE]])
    pairs = [(table, base) for table in (recipe, both, published("steps")) for base in table.change.unique()]
    found = [*(statistics.against_base(*pair) for pair in pairs), statistics.steps(FIVE)]
    found = pd.concat(found)[["difference", "low", "high"]]
    rows = {tuple(f"{value:.2f}" for value in row) for row in found.to_numpy()}
    assert said and set(said) <= rows, set(said) - rows


def test_the_counts_and_quantiles_of_the_prose_are_those_of_the_tables():
    table = statistics.against_base(published("recipe"), ablation.BASE)
    words = {9: "nine", 16: "sixteen"}
    grey = int(((table.low <= 0) & (table.high >= 0)).sum())
    text = "\n".join(source(cell) for cell in cells(ROOT / "notebooks" / "11_ablation.ipynb", "markdown"))
    for page in (text, (ROOT / "README.md").read_text(encoding="utf-8")):
        assert f"{words[grey]} of the {words[len(table)]} intervals hold 0" in page.replace("Nine", "nine")
    freedom, differences = len(table) * 2, np.array([0.52, 0.92, 1.50])
    t = stats.t.ppf(0.975, freedom)
    assert f"{t:.2f} standard errors" in text and f"= {freedom}$ degrees" in text and f"$t = {t:.2f}$" in text
    assert f"{stats.t.ppf(1 - 0.025 / len(table), freedom):.1f} instead of" in text
    alone, error = stats.t.ppf(0.975, 2), differences.std(ddof=1) / 3**0.5
    assert f"{alone:.2f} \\cdot {error:.2f} = {alone * error:.1f}$ points" in text
