"""Runs: what is published of them, keeping and loading, comparing, publishing."""

import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from utils import architecture, models, runs
from utils.__main__ import main
from utils.data import eval_loader
from utils.engine import checkpoints, records
from utils.engine.checkpoints import SUMS, save_atomically, seal
from utils.engine.records import read_history, read_metrics
from utils.engine.steps import epochs_to_target
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, FINAL, RECIPE, experiment
from utils.report import publish
from utils.report.publish import official_images, publish_run, publish_tables
from utils.runs import Run
from utils.study import benchmark, search, statistics
from utils.study.baselines import BASELINES, chosen
from utils.training import evaluate

from .conftest import random_images

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("**/metrics.json"))
WITH_WEIGHTS = [folder for folder in PUBLISHED if (folder / "weights.pt").exists()]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Nobody trained these runs; how a run is checked when it is published, test_trust.py tests."""
    monkeypatch.setattr(publish, "official_images", random_images)
    monkeypatch.setattr(publish, "check", lambda *_: None)


def finished_run(name=FINAL, network=None, recipe=None, seed=1, judged_on="test", source="original"):
    """A run as `runs.train` returns it, which nobody trained."""
    network, recipe = network or models.networks()[name], recipe or experiment(name).recipe
    model = records.build(network, seed)
    data = records.OFFICIAL | dict(source=source, judged_on=judged_on)
    identity = records.identity(model, asdict(recipe), data, seed)
    history = pd.DataFrame(dict(epoch=range(1, recipe.epochs + 1), lr=0.1, train_loss=0.5, train_accuracy=80.0))
    history[f"{judged_on}_loss"], history[f"{judged_on}_accuracy"], history["seconds"] = 0.5, 84.0, 1.0
    history.loc[0, f"{judged_on}_accuracy"] = 85.0
    metrics = dict(
        name=name,
        **architecture.totals(model),
        epochs=recipe.epochs,
        epochs_to_85=1,
        **{f"{judged_on}_accuracy_last": 84.0, f"{judged_on}_accuracy_best": 85.0},
        train_accuracy_last=80.0,
        seed=seed,
        data_source=source,
        evaluated_on=judged_on,
        recipe=asdict(recipe),
        built_by=records.built_by(network),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        run={key: identity[key] for key in ("network", "data", "code", "first_response", "classes")},
    )
    metrics["run"]["response"] = records.response(model)
    return Run(model.eval(), history, metrics)


def keep_checkpoint(run, folder):
    """What lies in runs/ after the last finished epoch."""
    response, weights = run.metrics["run"]["response"], run.model.state_dict()
    save_atomically(dict(identity=records.identity_of(run.metrics), response=response, model=weights), folder)


# ---------------------------------------------------------------- what is published


def test_the_table_holds_the_reference_figures():
    rows = {name: row.prior for name, row in EXPERIMENTS.items() if row.prior and row.prior.source == "reference"}
    assert {f"experiment_{number}" for number in range(1, 6)} <= rows.keys()
    for name, prior in rows.items():
        found = architecture.totals(models.build_model(name))
        assert (found["parameters"], found["receptive_field"]) == (prior.parameters, prior.receptive_field), name


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_published_metrics_agree_with_their_history_network_and_recipe(folder):
    metrics, history = read_metrics(folder), read_history(folder)
    split = "validation" if folder.name == "validation" else "test"
    assert metrics["evaluated_on"] == metrics["run"]["data"]["judged_on"] == split
    assert metrics["data_source"] == metrics["run"]["data"]["source"] == "original"

    accuracy = history[f"{split}_accuracy"]
    assert history.epoch.tolist() == list(range(1, metrics["epochs"] + 1))
    assert metrics[f"{split}_accuracy_last"] == pytest.approx(accuracy.iloc[-1], abs=1e-3)
    assert metrics[f"{split}_accuracy_best"] == pytest.approx(accuracy.max(), abs=1e-3)
    assert metrics["train_accuracy_last"] == pytest.approx(history.train_accuracy.iloc[-1], abs=1e-3)
    assert metrics["epochs_to_85"] == epochs_to_target(accuracy)
    assert metrics["seconds_per_epoch"] == pytest.approx(history.seconds.median(), abs=0.1)
    other = "test" if split == "validation" else "validation"
    assert not [key for key in [*metrics, *history] if key.startswith(other)]

    parts = folder.relative_to(ROOT / "results").parts  # compact_short was trained under the name of its network
    name = "/".join(parts[: 1 + (parts[0] == "baselines")])
    network, row = chosen(name)
    model = network() if name in BASELINES else records.builder(metrics, folder.name)()
    assert records.difference(dict(network=records.modules(model)), metrics["run"]) is None
    assert {key: metrics[key] for key in ("parameters", "macs", "receptive_field")} == architecture.totals(model)
    said = dict(part.rsplit("_", 1) for part in folder.relative_to(ROOT / "results").parts[1:] if "_" in part)
    recipe = row.recipe
    recipe = replace(recipe, epochs=int(said.get("epochs", recipe.epochs)))
    assert records.recipe_of(asdict(recipe)) == records.recipe_of(metrics["recipe"])  # the precision is a circumstance
    assert metrics["epochs"] == recipe.epochs
    assert metrics["seed"] == int(said.get("seed", 1))
    assert metrics["made_under"][0]["from_epoch"] == 1


@pytest.mark.parametrize("folder", WITH_WEIGHTS, ids=lambda path: path.name)
def test_published_weights_give_the_recorded_accuracy(folder, cifar10):
    """To the last image for the final network; for the others on the first 500, for the time it takes."""
    if cifar10.source != "original":
        pytest.skip("the published runs saw the original images")
    run = runs.load(folder.name)
    count, tolerance = (10_000, 0.05) if folder.name == FINAL else (500, 4)
    statistics = run.metrics["mean"], run.metrics["std"]
    _, accuracy = evaluate(
        run.model, eval_loader(cifar10.test_images[:count], cifar10.test_labels[:count], *statistics)
    )
    assert accuracy == pytest.approx(run.metrics["test_accuracy_last"], abs=tolerance)
    assert run.metrics["run"]["data"]["digest"] == cifar10.digest
    assert records.response(run.model) == pytest.approx(run.metrics["run"]["response"], abs=0.01)


# ---------------------------------------------------------------- names and places


def test_a_network_without_a_row_is_trained_with_the_usual_recipe(monkeypatch):
    assert experiment("small") is EXPERIMENTS["small"]
    monkeypatch.setattr(models, "experiment_6", lambda: models.experiment_5(), raising=False)
    assert experiment("experiment_6").recipe == RECIPE and experiment("experiment_6").prior is None


def test_unknown_networks_are_refused(root, capsys):
    for command in ("train", "publish", "search"):
        assert main([command, "experiment_9"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: There is no network 'experiment_9'") and error.count("\n") == 1


def test_a_network_whose_argument_has_no_default_is_told_apart(root, capsys, monkeypatch):
    monkeypatch.setattr(models, "mine", lambda width: models.accurate(width), raising=False)
    assert main(["train", "mine"]) == 2
    assert "Error: The network 'mine' of utils/models.py lacks defaults; give each of its" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "../mine", "/mine", "a b", "mine/", "mine/../../x", "-mine", "."])
def test_a_name_that_leads_out_of_runs_is_refused(root, name):
    run = finished_run()
    with pytest.raises(RunError, match="is no name for a run"):
        records.own_folder(name, records.identity_of(run.metrics), run.model)


def test_where_runs_lie_and_what_they_are_called(root):
    assert records.path_of("experiment_5/seed_2") == root / "results" / "experiment_5" / "seed_2"
    assert records.path_of("runs/mine-2") == root / "runs" / "mine-2"
    for name in ("experiment_5/seed_2", "runs/mine-2"):
        assert records.title_of(records.path_of(name)) == name
    assert records.title_of(finished_run().folder) == "this run"


def test_a_difference_is_named_and_the_rest_counted():
    wanted = dict(network={"layers.c1.conv": "Conv2d(3, 8)"}, recipe=dict(lr=0.1, flip=0.5), seed=1)
    assert records.difference(wanted, wanted) is None
    assert records.difference(wanted, wanted | dict(seed=2)) == "seed is 1 here, but 2 there"
    other = wanted | dict(recipe=dict(lr=0.2, flip=0.0), seed=2)
    assert records.difference(wanted, other) == "lr is 0.1 here, but 0.2 there (and 1 more)"
    other = dict(network={"layers.c1.conv": "Conv2d(3, 9)", "layers.c2": "Identity()"})
    assert records.difference(wanted, other) == "c1.conv is Conv2d(3, 8) here, but Conv2d(3, 9) there (and 1 more)"
    assert records.difference(wanted, {}) == "its network is not known there"


def test_what_an_older_pytorch_leaves_unsaid_is_no_difference():
    new, old, without = (
        dict(network={"norm": f"BatchNorm2d(8, affine=True{bias}, track_running_stats=True)"})
        for bias in (", bias=True", "", ", bias=False")
    )
    assert records.difference(new, old) is None is records.difference(old, new)
    assert "bias=False" in records.difference(new, without) and "bias=False" in records.difference(without, old)


def test_the_precision_is_no_part_of_what_a_run_is(root):
    run = finished_run()
    recipe = replace(experiment(FINAL).recipe, precision="float16")
    wanted = records.identity(records.build(models.experiment_5), asdict(recipe), run.metrics["run"]["data"], 1)
    assert records.difference(wanted, records.identity_of(run.metrics)) is None


def test_epochs_to_target():
    assert epochs_to_target(pd.Series([84.99, 85.0, 84.0])) == 2
    assert epochs_to_target(pd.Series([84.99])) is None


# ---------------------------------------------------------------- keeping, loading, comparing


def test_saved_and_loaded_runs_agree(root):
    run = finished_run()
    runs.save(run, root / "runs" / "mine")
    loaded = runs.load("runs/mine")
    assert loaded.metrics == run.metrics and loaded.folder == root / "runs" / "mine"
    pd.testing.assert_frame_equal(loaded.history, run.history, check_dtype=False)
    images = torch.randn(2, 3, 32, 32)
    assert not loaded.model.training and torch.equal(loaded.model(images), run.model(images))


def test_a_run_that_is_not_there_is_a_sentence(root):
    runs.save(finished_run("small"), root / "results" / "small")
    with pytest.raises(RunError, match=r"experiment_5 holds no finished run; results/ holds those of small\."):
        runs.load("experiment_5")
    (root / "results" / "small" / "weights.pt").unlink()
    seal(root / "results" / "small")
    with pytest.raises(RunError, match=r"small has no weights\.pt"):
        runs.load("small")


def test_what_is_published_stands_in_the_order_of_the_experiments(root):
    for name in ("strideless", "small", "experiment_5", "another", "experiment_4"):
        runs.save(finished_run(name, models.experiment_5, RECIPE), root / "results" / name)
    second = finished_run(seed=2)
    second.metrics["test_accuracy_last"] = 86.0  # the first has 84
    runs.save(second, root / "results" / "experiment_5" / "seed_2")
    found = statistics.published()
    assert list(found.index) == ["experiment_4", "experiment_5", "small", "strideless", "another"]
    assert found.seeds.tolist() == [1, 2, 1, 1, 1] and found.accuracy.tolist() == [84, 85, 84, 84, 84]
    assert found.deviation["experiment_5"] == pytest.approx(2**0.5) and np.isnan(found.deviation["small"])
    runs.save(finished_run(seed=10), root / "results" / "experiment_5" / "seed_10")
    assert list(statistics.seeds("experiment_5").test_accuracy_last.items()) == [(1, 84.0), (2, 86.0), (10, 84.0)]


def test_the_comparison_has_runs_names_and_prior_work(root):
    runs.save(finished_run(), root / "results" / "experiment_5")
    runs.save(finished_run(judged_on="validation"), root / "runs" / "mine")
    table = runs.compare(finished_run(), "experiment_5", "runs/mine", EXPERIMENTS[FINAL].prior, None)
    assert list(table.columns) == ["this run", "experiment_5", "runs/mine", "reference"]
    assert table.loc["test accuracy, last epoch"].tolist() == ["84.00 %", "84.00 %", "-", "-"]
    assert table.loc["test accuracy, in this epoch"].tolist() == ["-", "-", "-", "85.13 %"]
    two = runs.compare(finished_run(), finished_run("small"))
    assert list(two.columns) == ["this run", "this run, small"]
    before = runs.load("runs/mine")
    shutil.rmtree(before.folder)  # to train anew under the same name
    runs.save(finished_run("small"), root / "runs" / "mine")
    again = runs.compare(before, before, runs.load("runs/mine"))
    assert list(again.columns) == ["runs/mine", "runs/mine (2)"]
    assert again.loc["parameters"].nunique() == 2
    assert table.loc["validation accuracy, last epoch"].tolist() == ["-", "-", "84.00 %", "-"]
    assert table.loc["judged on"].tolist() == ["test", "test", "validation", "test"]
    assert table.loc["multiply-adds"].tolist() == ["10,774,848"] * 3 + ["-"]
    assert table.loc["first epoch at 85 %"].tolist() == [1, 1, 1, "-"]


def test_the_table_of_runs_shows_what_differs_between_their_recipes(root, capsys):
    assert main(["runs"]) == 0 and capsys.readouterr().out == "runs/ holds no finished run yet.\n"
    runs.save(finished_run(), root / "runs" / "mine")
    runs.save(finished_run(recipe=replace(RECIPE, lr=0.2)), root / "runs" / "search" / "mine-2")
    table = search.tries()
    assert sorted(table.index) == ["runs/mine", "runs/search/mine-2"]
    assert table.loc["runs/search/mine-2", "lr"] == 0.2 and not {"flip", "momentum"} & set(table)
    assert set(table.network) == {"experiment_5"} and set(table.accuracy) == {84.0} and set(table.epochs) == {24}
    assert [*table][:2] == ["accuracy", "network"], "what a page cuts off is on the right"
    assert main(["runs"]) == 0 and "runs/search/mine-2" in capsys.readouterr().out


# ---------------------------------------------------------------- publishing


def test_publish_copies_a_finished_run_and_nothing_else(root):
    run, folder, target = finished_run(), root / "runs" / "experiment_5", root / "results" / "experiment_5"
    runs.save(run, folder)
    keep_checkpoint(run, folder / "checkpoint.pt")
    (folder / "curves.png").touch()
    (target / "seed_2").mkdir(parents=True)
    (target / "calibration.json").touch()  # of the weights before
    assert publish_run("experiment_5") == target
    assert sorted(path.name for path in target.iterdir()) == sorted([*checkpoints.KEPT, SUMS, "seed_2"])
    for name in ("history.csv", "metrics.json", "weights.pt"):
        assert (target / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (dict(seed=2), "seed_2"),
        (dict(validation=True), "validation"),
        (dict(epochs=5), "epochs_5"),
        (dict(epochs=5, seed=3, validation=True), "epochs_5/seed_3/validation"),
    ],
)
def test_other_runs_of_a_network_are_published_below_it_without_weights(root, options, place):
    recipe = replace(experiment(FINAL).recipe, epochs=options.get("epochs", 24))
    judged_on = "validation" if options.get("validation") else "test"
    runs.save(finished_run(), root / "runs" / "experiment_5")
    runs.save(
        finished_run(recipe=recipe, seed=options.get("seed", 1), judged_on=judged_on),
        root / "runs" / "experiment_5-2",
    )
    target = publish_run("experiment_5", **options)
    assert target == root / "results" / "experiment_5" / place
    assert sorted(path.name for path in target.iterdir()) == [SUMS, "history.csv", "metrics.json"]
    assert (target / "metrics.json").read_bytes() == (root / "runs/experiment_5-2/metrics.json").read_bytes()


def test_another_seed_is_published_only_beside_a_first_one_of_the_same_network(root, monkeypatch):
    for seed in (1, 2):
        runs.save(finished_run(seed=seed), root / "runs" / f"experiment_5-{seed}")
    publish_run("experiment_5")
    publish_run("experiment_5", seed=2)
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, x: -self.linear(self.pool(self.layers(x)).flatten(1)))
    runs.save(finished_run(seed=2), root / "runs" / "experiment_5-3")
    with pytest.raises(RunError, match=r"The published experiment_5 is of another network or recipe \(.*computes"):
        publish_run("experiment_5", seed=2)
    runs.save(finished_run(), root / "runs" / "experiment_5-4")
    with pytest.raises(RunError, match=r"The published experiment_5/seed_2 is of another .*; delete results/exp"):
        publish_run("experiment_5")
    shutil.rmtree(root / "results" / "experiment_5" / "seed_2")
    publish_run("experiment_5")


def test_what_a_killed_publishing_left_is_removed_by_the_next(root):
    runs.save(finished_run(), root / "runs" / "experiment_5")
    target = publish_run("experiment_5")
    for place in (".new-seed_2", "seed_3/.new-epochs_5/validation"):
        (target / place).mkdir(parents=True)
        (target / place / "metrics.json").write_text("half", encoding="utf-8")
    shutil.copytree(target, copy := root / "copy")
    assert publish_run("experiment_5") == target
    shutil.rmtree(target)
    shutil.copytree(copy, target)
    target.rename(target.with_name(".old-experiment_5"))
    assert publish_run("experiment_5") == target
    assert {path.name for path in target.iterdir() if path.name != "seed_3"} == {*checkpoints.KEPT, SUMS}
    assert not [*root.glob("results/**/.*")]
    (note := root / "results" / ".new-idea.txt").write_text("mine", encoding="utf-8")
    assert publish_run("experiment_5") == target and note.exists()


def test_what_is_published_while_it_is_read_is_read_again(root):
    runs.save(finished_run(), folder := root / "results" / "experiment_5")
    (seal := folder / SUMS).write_text("of before", encoding="utf-8")
    answers = [RunError("of both"), "of both", "of one"]

    def read():
        answer = answers.pop(0)
        if answers:
            seal.write_text(f"{len(answers)}", encoding="utf-8")
        if isinstance(answer, RunError):
            raise answer
        return answer

    assert checkpoints.steadily(folder, read) == "of one" and not answers
    answers.append(RunError("damaged"))
    with pytest.raises(RunError, match="damaged"):
        checkpoints.steadily(folder, read)


def test_a_run_is_of_one_publishing(root, monkeypatch):
    """Its weights and its history are read one after the other."""
    runs.save(finished_run(), folder := root / "results" / "experiment_5")
    times, read = [], runs.read_history

    def published_meanwhile(run):
        times.append(run)
        if len(times) == 1:
            (folder / SUMS).write_bytes((folder / SUMS).read_bytes() + b" ")
        return read(run)

    monkeypatch.setattr(runs, "read_history", published_meanwhile)
    assert runs.load("experiment_5").folder == folder and len(times) == 2


def test_no_shorter_run_of_another_network_stays_below_a_published_one(root, monkeypatch):
    few = replace(experiment(FINAL).recipe, epochs=5)
    runs.save(finished_run(recipe=few, judged_on="validation"), root / "runs" / "experiment_5")
    shorter = publish_run("experiment_5", epochs=5, validation=True)
    runs.save(finished_run(), root / "runs" / "experiment_5-2")
    publish_run("experiment_5")
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, x: -self.linear(self.pool(self.layers(x)).flatten(1)))
    runs.save(finished_run(), root / "runs" / "experiment_5-3")
    with pytest.raises(RunError, match=r"The published experiment_5/epochs_5/validation is of another net"):
        publish_run("experiment_5")
    shutil.rmtree(shorter)
    publish_run("experiment_5")


def test_what_is_published_is_not_checked_on_the_few_images_of_a_fast_run(monkeypatch):
    data = random_images(source="original").few(50, 10)
    monkeypatch.setattr(publish, "load_cifar10", lambda: data)
    with pytest.raises(RunError, match="checked on CIFAR-10; .* no FAST_RUN"):
        official_images()


def test_a_link_in_the_place_of_a_published_folder_is_left_alone(root):
    runs.save(finished_run(), root / "runs" / "experiment_5")
    (root / "elsewhere").mkdir()
    (root / "results").mkdir()
    (root / "results" / ".new-experiment_5").symlink_to(root / "elsewhere")  # as an interrupted one may leave
    (root / "results" / ".old-experiment_5").write_text("", encoding="utf-8")
    publish_run("experiment_5")
    assert [path.name for path in (root / "results").iterdir()] == ["experiment_5"]


def test_publish_takes_the_folder_of_the_run_that_the_code_has(root):
    runs.save(finished_run(source="stand-in"), root / "runs" / "experiment_5")
    runs.save(finished_run(network=models.experiment_4), root / "runs" / "experiment_5-2")
    runs.save(finished_run(), root / "runs" / "experiment_5-10")
    runs.save(finished_run(), root / "runs" / "experiment_5_long")
    target = publish_run("experiment_5")
    assert (target / "weights.pt").read_bytes() == (root / "runs/experiment_5-10/weights.pt").read_bytes()
    with pytest.raises(RunError, match=r"runs/experiment_5_long: epochs is 60 here, but 24 there\)"):
        publish_run("experiment_5_long")


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (None, "there is no runs/experiment_5"),
        (dict(source="stand-in"), "source is original here, but stand-in there"),
        (dict(judged_on="validation"), "judged on is test here, but validation there"),
        (dict(seed=2), "seed is 1 here, but 2 there"),
        (dict(recipe=replace(RECIPE, lr=9.0)), "lr is 0.1 here, but 9.0 there"),
        (dict(recipe=replace(RECIPE, epochs=1)), "epochs is 24 here, but 1 there"),
        (dict(network=models.experiment_4), "c1_1x1.conv is Conv2d(64, 16"),
        ("unfinished", "it is not finished"),
    ],
    ids=["nothing", "stand-in", "validation", "seed", "recipe", "epochs", "network", "unfinished"],
)
def test_publish_refuses_anything_else_and_says_what_is_there(root, capsys, kept, sentence):
    folder = root / "runs" / "experiment_5"
    if kept == "unfinished":
        keep_checkpoint(finished_run(), folder / "checkpoint.pt")
    elif kept:
        runs.save(finished_run(**kept), folder)
    assert main(["publish", "experiment_5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: There is no finished run of experiment_5") and sentence in error
    assert error.count("\n") == 1
    assert not (root / "results").exists()


def test_of_several_seeds_on_held_out_images_the_first_is_shown_with_the_mean(root):
    folder = root / "results" / "experiment_5" / "epochs_5"
    for seed, path in ((1, folder / "validation"), (2, folder / "seed_2" / "validation")):
        run = finished_run(seed=seed, judged_on="validation", recipe=replace(RECIPE, epochs=5))
        runs.save(run, path)
    found = statistics.published(5)
    assert found.seed.to_dict() == {"experiment_5": 1} and found.seeds.tolist() == [2]
    with pytest.raises(RunError, match="No run of 10 epochs is published on held-out images; there are those of 5"):
        statistics.published(10)


def test_only_tables_measured_on_cifar10_are_published(root, capsys):
    with pytest.raises(RunError, match="runs/benchmark holds no table yet"):
        publish_tables("benchmark")
    folder = root / "runs" / "benchmark"
    folder.mkdir(parents=True)
    table = pd.read_csv(ROOT / "results" / "benchmark" / "minutes.csv")
    benchmark.kept("minutes", table.assign(data_source=["original"] * 5 + ["stand-in"]).to_dict("records"))
    assert main(["publish", "benchmark"]) == 2
    assert "Row 6 of runs/benchmark/minutes.csv was measured on the stand-in" in capsys.readouterr().err
    assert not (root / "results").exists()
    (folder / "minutes.csv").unlink()
    benchmark.kept("minutes", table.to_dict("records"))
    assert publish_tables("benchmark") == root / "results" / "benchmark"
    kept = pd.read_csv(root / "results" / "benchmark" / "minutes.csv")
    assert kept.equals(table.assign(cpu_threads=kept.cpu_threads))


def test_calibration_is_of_the_official_images_only(root, monkeypatch, capsys):
    from utils.cifar10.sources import stand_in
    from utils.report import publish

    runs.save(finished_run(), root / "results" / "experiment_5")
    monkeypatch.setattr(publish, "load_cifar10", stand_in)
    monkeypatch.setattr(publish, "official_images", official_images)
    assert main(["calibrate", "experiment_5"]) == 2
    assert re.fullmatch(r"Error: What is published is checked on CIFAR-10; .*\n", capsys.readouterr().err)
    assert not (root / "results" / "experiment_5" / "calibration.json").exists()


@pytest.mark.parametrize("folder", WITH_WEIGHTS, ids=lambda path: path.name)
def test_every_published_network_is_calibrated_on_the_official_images(folder):
    found = pd.read_json(folder / "calibration.json", typ="series")
    assert found.data_source == "original" and found.test_images == 10_000
    assert 0.3 < found.temperature < 3 and found.error_after < found.error_before + 1
    assert np.isfinite([found.error_before, found.error_after]).all()
