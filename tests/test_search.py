from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import utils
from utils import architecture, models
from utils.__main__ import main
from utils.cifar10.sources import stand_in
from utils.engine import records
from utils.engine.checkpoints import seal
from utils.engine.code import code
from utils.errors import RunError
from utils.experiments import EXPERIMENTS
from utils.report.publish import publish_tables
from utils.study import search
from utils.training import Recipe

from .conftest import random_images


def test_changes_are_read_with_the_type_of_what_they_change():
    recipe, channels = search.parse("fast", ["c2=40", "lr=0.2", "epochs=1", "precision=bfloat16"])
    assert recipe == replace(EXPERIMENTS["fast"].recipe, lr=0.2, epochs=1, precision="bfloat16")
    assert channels == {"c2": 40} and type(channels["c2"]) is int
    assert search.parse("fast", ["teacher=accurate"])[0] == replace(EXPERIMENTS["fast"].recipe, teacher="accurate")
    assert search.parse("compact_distilled", ["teacher=None"])[0].teacher is None
    assert search.parse("fast", []) == (EXPERIMENTS["fast"].recipe, {})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("c9=40", "changes nothing of fast"),
        ("lr", "lr must be of the kind of"),
        ("lr=0.1 c2=40 lr=0.2", "lr is given twice; one run has one value."),
        ("c2=wide", "c2 must be of the kind of"),
        ("epochs=0", "epochs is 0, but must be a whole number of at least 1"),
        ("batch_size=-1", "batch_size is -1"),
        ("batch_size=1.5", "batch_size must be of the kind of"),
        ("precision=float8", "precision is .float8., but must be None or float32"),
        ("flip=2", "flip is 2.0, but must be between 0 and 1"),
        ("warmup=5", "warmup is 5.0"),
        ("lr=nan", "lr is nan"),
    ],
)
def test_a_wrong_change_is_named(change, sentence, capsys):
    with pytest.raises(RunError, match=sentence):
        search.parse("fast", change.split())
    assert main(["search", "fast", *change.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and err.count("\n") == 1


def test_a_number_is_of_the_kind_of_its_field(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "small", replace(EXPERIMENTS["small"], recipe=Recipe(2, lr=1, weight_decay=0)))
    recipe, _ = search.parse("small", ["lr=0.5", "weight_decay=1e-4", "epochs=3"])
    assert (recipe.lr, recipe.weight_decay, recipe.epochs) == (0.5, 1e-4, 3)
    with pytest.raises(RunError, match="epochs must be of the kind of 2"):
        search.parse("small", ["epochs=0.5"])


def test_what_is_not_kept_and_what_is_published_whole_are_said(tmp_path, monkeypatch, cache, capsys):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    monkeypatch.setattr(utils, "FAST_RUN", True)
    assert main(["search", "small", "c1=4", "c2=8", "c3=8"]) == 0
    assert "All tries of small, not kept, as FAST_RUN is set:" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "search" / "small.csv").exists()
    for option in (["--seed", "3"], ["--epochs", "5"], ["--validation"]):
        assert main(["publish", "search", *option]) == 2
        assert "search is published whole" in capsys.readouterr().err


def test_every_try_adds_a_row_and_says_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    data = stand_in()
    few = replace(data, train_images=data.train_images[:200], train_labels=data.train_labels[:200])
    small = ["c1=4", "c2=8", "c3=8", "epochs=1"]
    search.attempt("small", small, few)
    monkeypatch.delattr(pd.DataFrame, "map", raising=False)  # which the oldest pandas lacks
    table = search.attempt("small", [*small, "lr=0.05"], few)
    assert {"modules", "first_response", "code"} < {*table}
    assert table.lr.tolist() == [0.1, 0.05] and set(table.c3) == {8} and table.parameters.nunique() == 1
    assert table.parameters[0] < 4_000 and set(table.data_source) == {"stand-in"}
    again = search.attempt("small", small, few)
    assert len(again) == 2, "a finished try is not repeated"
    assert len(pd.read_csv(tmp_path / "runs" / "search" / "small.csv")) == 2
    path = tmp_path / "runs" / "search" / "small.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",0.05,", ",0.05000000000000001,"), encoding="utf-8")
    table = search.attempt("small", [*small, "lr=0.05"], few)
    assert len(table) == 2, "an older pandas reads a last digit otherwise than it was written"
    with pytest.raises(RunError, match="stand-in"):
        publish_tables("search")
    (tmp_path / "results" / "search").mkdir(parents=True)
    path.rename(tmp_path / "results" / "search" / "small.csv")
    seal(tmp_path / "results" / "search")
    assert len(search.attempt("small", [*small, "lr=0.02"], few)) == 3, "what is published is gone on with"


def test_a_damaged_table_is_said_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    (tmp_path / "runs" / "search").mkdir(parents=True)
    (tmp_path / "runs" / "search" / "small.csv").write_text("epochs,lr\n12,0.1\n", encoding="utf-8")
    monkeypatch.setattr(search.runs, "train", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(RunError, match=r"small.csv lacks the column"):
        search.attempt("small", ["epochs=1"], random_images())


def test_what_the_command_made_is_published(tmp_path, monkeypatch):
    """Each row as it is, with the channels that were changed and those that were not."""
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    few = random_images(source="original")
    monkeypatch.setattr(records, "OFFICIAL", dict(source="original", digest=few.digest))
    for rows, change in enumerate(["c2=8", "lr=0.05", "batch_size=32"], 1):
        search.attempt("small", ["c1=8", "epochs=1", change], few)
        if rows > 1:
            target = publish_tables("search")
            assert len(pd.read_csv(target / "small.csv")) == rows


def test_a_try_is_published_after_a_default_of_its_network_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    few = random_images(source="original")
    monkeypatch.setattr(records, "OFFICIAL", dict(source="original", digest=few.digest))
    search.attempt("small", ["c1=8", "c2=8", "epochs=1"], few)
    monkeypatch.setattr(models.small, "__defaults__", tuple(2 * default for default in models.small.__defaults__))
    assert len(pd.read_csv(publish_tables("search") / "small.csv")) == 1


def test_a_list_as_a_default_is_a_word_in_the_table(tmp_path, monkeypatch):
    def mine(widths=[8, 8]):  # noqa: B006 (as a student may write it)
        return models.ConvNet(widths[0], c1=models.conv(3, widths[0]))

    mine.__module__ = "utils.models"
    monkeypatch.setattr(models, "mine", mine, raising=False)
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    for lr in (0.1, 0.2, 0.2):
        table = search.attempt("mine", ["epochs=1", f"lr={lr}"], random_images())
    assert table.widths.tolist() == ["[8, 8]"] * 2


def test_a_part_of_the_images_is_not_published_as_all(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    table = search.attempt("small", ["c1=8", "c2=8", "epochs=1"], random_images(source="original"))
    assert table.data_source.tolist() == ["original, not all"]
    with pytest.raises(RunError, match="Row 1 .* was measured on the original, not all; delete it"):
        publish_tables("search")


DAMAGES = {
    "a value too many": lambda head, rows: [head, *(f"{row},7" for row in rows)],
    "semicolons": lambda head, rows: [line.replace(",", ";") for line in (head, *rows)],
    "no header": lambda head, rows: rows,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_a_sentence_and_stays_as_it_is(tmp_path, monkeypatch, damage):
    head, *rows = (utils.ROOT / "results" / "search" / "quick.csv").read_text(encoding="utf-8").splitlines()
    metrics = records.read_metrics("quick/epochs_5/validation")
    monkeypatch.setattr(utils, "ROOT", tmp_path)
    (path := tmp_path / "runs" / "search" / "quick.csv").parent.mkdir(parents=True)
    path.write_text("\n".join(DAMAGES[damage](head, rows)), encoding="utf-8")
    before = path.read_bytes()
    monkeypatch.setattr(search.runs, "train", lambda *arguments, **options: search.runs.Run(None, None, metrics))
    with pytest.raises(RunError, match="quick.csv"):
        search.attempt("quick", [], None)
    assert path.read_bytes() == before


def test_tries_are_shown_the_best_first_with_whole_numbers_and_two_digits():
    tries = pd.DataFrame(
        dict(
            validation_accuracy=[84.5, 85.04],
            n=[2, None],
            lr=[0.1, 0.03],
            parameters=[9786, 12345],
            macs=[2.25e6, None],
        )
    )
    shown = search.shown(tries, n="pairs", lr="lr", parameters="parameters", macs="multiply-adds")
    assert shown.index.name == "held out (%)" and [*shown] == ["pairs", "lr", "parameters", "multiply-adds"]
    best, other = shown.reset_index().values.tolist()
    assert best == ["85.04", "-", 0.03, "12,345", "-"] and other == ["84.50", "2", 0.1, "9,786", "2.2 M"]


def test_a_try_of_an_earlier_network_is_marked(tmp_path, monkeypatch):
    """One with other layers by its size; the same size with another activation by its modules, where they are kept."""

    def mine(c: int = 4):
        return models.ConvNet(c, c1=models.conv(3, c, stride=4))

    monkeypatch.setattr(models, "mine", mine, raising=False)
    model = mine(8)
    now = architecture.totals(model) | dict(modules=records.digest_of(records.modules(model)))
    rows = [
        dict(c=8, **now),
        dict(c=8, **now) | dict(modules=None),
        dict(c=np.nan, **now),
        dict(c=8, **now) | dict(parameters=now["parameters"] + 1, modules=None),
        dict(c=8, **now) | dict(modules="12345678"),
    ]
    found = search.tried("mine", pd.DataFrame(rows)).network
    assert found.tolist() == ["now", "now", "earlier", "earlier", "earlier"]
    first = " ".join(map(str, records.response(records.build(lambda: mine(8), 3))))
    rows = [dict(c=8, **now, seed=seed, first_response=first) for seed in (3, 2)] + [dict(c=8, **now, seed=2)]
    found = search.tried("mine", pd.DataFrame(rows))
    assert found.network.tolist() == ["now", "earlier", "now"] and not {*search.COMPARED} & {*found}
    of_today = records.digest_of(code())
    for digest, said in ((of_today, "now"), (None, "now"), ("00000000", "earlier"), ("not known", "earlier")):
        assert search.tried("mine", pd.DataFrame([rows[0] | dict(code=digest)])).network.tolist() == [said]
    assert search.tried("mine", pd.DataFrame([rows[0] | dict(first_response=1.5)])).network.tolist() == ["earlier"]
    forward, row = models.ConvNet.forward, [dict(c=8, **now), dict(c=8, **now) | dict(modules=None)]
    with monkeypatch.context() as edit:
        edit.setattr(models.ConvNet, "forward", lambda self, x: forward(self, x))  # which shows in no image
        assert search.tried("mine", pd.DataFrame(row)).network.tolist() == ["earlier", "earlier"]
        run = dict(network=records.modules(model), classes=records.classes_of(model))
        of_it = records.row_of(records.read_metrics("fast") | dict(run=run))["modules"]
        assert search.tried("mine", pd.DataFrame(row).assign(modules=of_it)).network.tolist() == ["now", "now"]
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, x: self.linear(self.layers(x).mean((2, 3))) + x.mean())
    assert search.tried("mine", pd.DataFrame(rows[:1])).network.tolist() == ["earlier"], "a changed forward"
    assert search.tried("mine", pd.DataFrame([rows[0] | dict(c="x")])).network.tolist() == ["earlier"], "no number"
    monkeypatch.setattr(models, "mine", lambda c=4: models.conv(3, c).shape, raising=False)
    assert set(search.tried("mine", pd.DataFrame(rows)).network) == {"earlier"}, "a function that fails today"
    assert search.tried("fast").network.isin(["now", "earlier"]).all()
