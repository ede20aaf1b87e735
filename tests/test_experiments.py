import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from utils import experiments, tables
from utils.__main__ import main
from utils.architecture import layer_table, receptive_field
from utils.data import channel_statistics, eval_loader
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, Run, epochs_to_target, save, variant
from utils.models import build_model
from utils.publish import publish_run, publish_tables
from utils.sources import stand_in
from utils.training import evaluate

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = sorted(p.parent for p in (ROOT / "results").glob("*/**/metrics.json"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path


def finished_run(name="experiment_5", **metrics):
    history = pd.DataFrame(
        dict(
            epoch=[1, 2],
            lr=0.1,
            train_loss=0.5,
            train_accuracy=80.0,
            test_loss=0.5,
            test_accuracy=[85.0, 84.0],
            seconds=1.0,
        )
    )
    known = dict(
        name=name,
        parameters=92_394,
        receptive_field=61,
        epochs=2,
        epochs_to_85=1,
        macs=10_774_848,
        train_accuracy_last=80.0,
        test_accuracy_last=84.0,
        data_source="original",
        evaluated_on="test",
        test_images=10_000,
        seconds_per_epoch=1.0,
        recipe=asdict(EXPERIMENTS[name].recipe),
    )
    return Run(build_model(name), history, known | metrics)


def test_the_table_holds_the_reference_figures():
    for name, row in EXPERIMENTS.items():
        if not name.startswith("experiment_"):
            continue
        table = layer_table(build_model(name))
        assert row.reference["parameters"] == table.parameters.sum(), name
        assert row.reference["receptive_field"] == receptive_field(table), name


def test_where_runs_lie():
    epochs = EXPERIMENTS["experiment_5"].recipe.epochs
    assert variant("experiment_5", epochs=epochs) == Path("experiment_5")
    assert variant("experiment_5", epochs=2, seed=3) == Path("experiment_5/epochs_2/seed_3")
    assert variant("experiment_5", validation=True) == Path("experiment_5/validation")
    assert experiments.run_folder("experiment_5", "stand-in").parts[-3:] == ("runs", "experiment_5", "stand-in")


def test_epochs_to_target():
    assert epochs_to_target(pd.DataFrame(dict(epoch=[1, 2, 3], test_accuracy=[84.99, 85.0, 84.0]))) == 2
    assert epochs_to_target(pd.DataFrame(dict(epoch=[1], test_accuracy=[84.99]))) is None


def test_saved_and_loaded_runs_agree(root):
    run = finished_run()
    save(run, root / "runs" / "experiment_5")
    loaded = experiments.load(root / "runs" / "experiment_5")
    assert loaded.metrics == run.metrics
    pd.testing.assert_frame_equal(loaded.history, run.history, check_dtype=False)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(x), run.model.eval()(x))


def test_publish_copies_a_finished_run(root):
    save(finished_run(), root / "runs" / "experiment_5")
    (root / "results" / "experiment_5").mkdir(parents=True)
    (root / "results" / "experiment_5" / "calibration.json").touch()  # of the weights before
    target = publish_run("experiment_5")
    assert {p.name for p in target.iterdir()} == {"history.csv", "metrics.json", "weights.pt"}
    save(finished_run(), root / "runs" / "experiment_5" / "seed_2")
    assert {p.name for p in publish_run("experiment_5", seed=2).iterdir()} == {"history.csv", "metrics.json"}


def test_publish_refuses_the_unfinished_the_stand_in_and_another_recipe(root, capsys):
    with pytest.raises(RunError, match="no finished run"):
        publish_run("experiment_5")
    save(finished_run(data_source="stand-in"), root / "runs" / "experiment_5" / "stand-in")
    with pytest.raises(RunError, match="only a run on the stand-in data"):
        publish_run("experiment_5")
    save(finished_run(recipe=asdict(EXPERIMENTS["experiment_5"].recipe) | {"lr": 9}), root / "runs" / "experiment_5")
    with pytest.raises(RunError, match="another recipe"):
        publish_run("experiment_5")
    assert not (root / "results").exists()
    assert main(["publish", "experiment_5"]) == 2
    assert capsys.readouterr().err.startswith("Error: runs/experiment_5")


def test_unknown_experiments_are_refused(capsys):
    assert main(["train", "experiment_9"]) == 2
    assert "no experiment 'experiment_9'" in capsys.readouterr().err


def test_fast_mode_trains_an_epoch_and_writes_nothing(root, monkeypatch, capsys):
    monkeypatch.setattr(experiments.utils, "FAST_RUN", True)
    data = stand_in()
    run = experiments.run("experiment_5", data)
    assert len(run.history) == 1 and run.metrics["data_source"] == "stand-in"
    assert list(root.iterdir()) == []


def test_a_published_run_is_shown_at_once_and_retrained_on_request(root, monkeypatch, capsys):
    monkeypatch.setattr(experiments.utils, "FAST_RUN", False)
    save(finished_run(seed=1), root / "results" / "experiment_5")
    monkeypatch.setattr(experiments, "train", lambda name, data, progress: "trained")
    shown = experiments.run("experiment_5", stand_in())
    assert shown.metrics["test_accuracy_last"] == 84.0
    assert "first epoch at 85 %" in capsys.readouterr().out
    assert experiments.run("experiment_5", stand_in(), retrain=True) == "trained"
    assert experiments.run("experiment_4", stand_in()) == "trained"


def test_the_comparison_has_this_run_the_published_one_and_the_reference(root):
    save(finished_run(), root / "results" / "experiment_5")
    table = tables.comparison("experiment_5", finished_run(test_accuracy_last=80.0))
    assert list(table.columns) == ["this run", "published", "reference"]
    assert table.loc["test accuracy, last epoch"].tolist() == ["80.00 %", "84.00 %", "85.13 %"]


def test_validation_never_touches_the_test_images(root, monkeypatch):
    data = stand_in()
    seen = {}

    def fit(model, recipe, train, test, **_):
        seen.update(train=train.dataset, test=test.dataset)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments.training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        experiments.train("experiment_5", data, validation=True)
    assert len(seen["train"].images) == 1350 and len(seen["test"].images) == 150
    together = {image.tobytes() for image in (*seen["train"].images, *seen["test"].images)}
    assert together == {image.tobytes() for image in data.train_images}


# ---------------------------------------------------------------- what is published


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: str(p.relative_to(ROOT / "results")))
def test_published_metrics_agree_with_their_history(folder):
    metrics, history = json.loads((folder / "metrics.json").read_text()), pd.read_csv(folder / "history.csv")
    assert metrics["data_source"] in ("original", "folder")
    assert history.epoch.tolist() == list(range(1, metrics["epochs"] + 1))
    assert metrics["test_accuracy_last"] == pytest.approx(history.test_accuracy.iloc[-1], abs=1e-3)
    assert metrics["test_accuracy_best"] == pytest.approx(history.test_accuracy.max(), abs=1e-3)
    assert metrics["epochs_to_85"] == epochs_to_target(history)
    assert metrics["seconds_per_epoch"] == pytest.approx(history.seconds.median(), abs=0.1)
    table = layer_table(build_model(metrics["name"]))
    assert (metrics["parameters"], metrics["macs"]) == (table.parameters.sum(), table.macs.sum())
    assert metrics["receptive_field"] == receptive_field(table)
    assert {"name", "seed", "recipe", "device", "torch_version"} <= metrics.keys()


@pytest.mark.parametrize("folder", [p for p in PUBLISHED if (p / "weights.pt").exists()], ids=lambda p: p.name)
def test_published_weights_give_the_recorded_accuracy(folder, cifar10):
    if cifar10.source != "original":
        pytest.skip("the published runs saw the original images")
    run = experiments.load(folder)
    batches = eval_loader(cifar10.test_images, cifar10.test_labels, *channel_statistics(cifar10.train_images))
    _, correct, images = evaluate(run.model, batches, torch.device("cpu"))
    assert 100 * correct / images == pytest.approx(run.metrics["test_accuracy_last"], abs=0.05)


def test_only_tables_measured_on_cifar10_are_published(root, capsys):
    with pytest.raises(RunError, match="runs/benchmark holds no table yet"):
        publish_tables("benchmark")
    runs = root / "runs" / "benchmark"
    runs.mkdir(parents=True)
    table = pd.DataFrame(dict(seconds=[1.0], data_source=["stand-in"]))
    table.to_csv(runs / "growth.csv", index=False)
    assert main(["publish", "benchmark"]) == 2
    assert "growth.csv was measured on the stand-in" in capsys.readouterr().err
    assert not (root / "results").exists()
    table.assign(data_source="original").to_csv(runs / "growth.csv", index=False)
    assert publish_tables("benchmark") == root / "results" / "benchmark"
    assert pd.read_csv(root / "results" / "benchmark" / "growth.csv").seconds.tolist() == [1.0]
