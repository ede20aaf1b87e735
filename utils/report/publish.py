"""runs/ -> results/: only finished runs and tables measured on CIFAR-10 get there, and only from here."""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

import utils
from utils import architecture, models, runs, training
from utils.cifar10.files import ImageData
from utils.data import eval_loader, hold_out, load_cifar10
from utils.engine import records
from utils.engine.checkpoints import read_checkpoint, save_json, seal
from utils.errors import RunError, first_line
from utils.experiments import experiment
from utils.study import analysis


def publish_run(name: str, seed: int = 1, validation: bool = False, epochs: int | None = None) -> Path:
    """Copy the finished run of the experiment `name`, as it stands in the code, into results/; returns its folder.

    RunError if runs/ has no finished run on the official images of just this network, recipe and seed, or anything in
    it does not fit together; results/ is then as it was.
    """
    recipe = experiment(name).recipe
    target = utils.ROOT / "results" / name
    if epochs not in (None, recipe.epochs):
        target /= f"epochs_{epochs}"
        recipe = replace(recipe, epochs=epochs)
    if seed != 1:
        target /= f"seed_{seed}"
    if validation:
        target /= "validation"
    network = models.networks()[name]
    model = records.build(network, seed)
    wanted = records.identity(
        model, asdict(recipe), records.OFFICIAL | dict(judged_on="validation" if validation else "test"), seed
    )
    source = records.find(name, wanted, model)
    if why := records.difference(wanted, records.identity_of(records.read_metrics(source))):
        raise RunError(f"{source / 'metrics.json'} is of another run: {why}. Delete that folder and train it anew.")
    if faults := inconsistencies(source, model, official_images("A run")):
        raise RunError(f"{source} does not fit together: {'; '.join(faults)}. Delete that folder and train it anew.")
    with_weights = target.parent.name == "results"  # the first seed's
    _publish([source / file for file in runs.KEPT if with_weights or file != "weights.pt"], target)
    return target


def official_images(what: str) -> ImageData:
    """All of CIFAR-10; RunError if other images are there."""
    data = load_cifar10()
    if dict(source=data.source, digest=data.digest) != records.OFFICIAL:
        raise RunError(f"{what} is checked against CIFAR-10's images; set CIFAR10_PATH to the official files.")
    return data


def inconsistencies(folder: Path, model: torch.nn.Module, data: ImageData) -> list[str]:
    """In words what in the run in `folder` does not fit the network `model`, its weights, or the rest of it."""
    metrics, history = records.read_metrics(folder), records.read_history(folder)
    weights, judged_on = read_checkpoint(folder / "weights.pt"), metrics["evaluated_on"]
    try:
        model.load_state_dict(weights)
        recorded = {key: metrics[key] for key in ("parameters", "macs", "receptive_field")}
        said = training.figures(history, judged_on)
        same_figures = all(np.isclose(value or 0, metrics[key] or 0, rtol=0, atol=0.051) for key, value in said.items())
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        return [f"something is missing in it or has another shape ({first_line(error)})"]
    part = data if judged_on == "test" else hold_out(data)
    judged = eval_loader(part.test_images, part.test_labels, metrics["mean"], metrics["std"])
    loss, accuracy = training.evaluate(model.eval(), judged)
    claimed = records.last_accuracy(metrics)
    fits = {
        "history.csv lacks an epoch": history.epoch.tolist() == list(range(1, metrics["epochs"] + 1)),
        "history.csv holds something that is no number": np.isfinite(history.to_numpy(dtype=float)).all(),
        "metrics.json has other figures than history.csv": same_figures,
        "metrics.json has another size of the network": recorded == architecture.totals(model),
        "weights.pt holds something that is no number": np.isfinite(loss),
        f"weights.pt reaches {accuracy:.2f} %, but {claimed:.2f} % is recorded": abs(accuracy - claimed) < 0.1,
    }
    return [fault for fault, fit in fits.items() if not fit]


def publish_tables(folder: str) -> Path:
    """Copy the csv files of runs/`folder` into results/; RunError if any was not measured on CIFAR-10."""
    files = sorted((utils.ROOT / "runs" / folder).glob("*.csv"))
    if not files:
        raise RunError(f"runs/{folder} holds no table yet; make one with python -m utils (see --help).")
    for file in files:
        sources = set(records.read_table(file).get("data_source", ["unknown images"]))
        if other := sources - {"original"}:
            raise RunError(f"runs/{folder}/{file.name} was measured on the {other.pop()}; measure it on CIFAR-10.")
    return _publish(files, utils.ROOT / "results" / folder)


def _publish(files: list[Path], target: Path) -> Path:
    with renewed(target) as work:
        (work / "calibration.json").unlink(missing_ok=True)  # it is of the weights that were there before
        for file in files:
            shutil.copyfile(file, work / file.name)
    return target


@contextmanager
def renewed(target: Path) -> Iterator[Path]:
    """A copy of the folder `target` to be changed; sealed, it takes the place of `target` in one step when the block
    ends well. A process killed before leaves what was there, and a copy that the next call removes."""
    results, aside = utils.ROOT / "results", target.with_name(f".replaced-{target.name}")
    work = results / f".unfinished-{os.getpid()}"

    def clean() -> None:
        if aside.exists() and not target.exists():
            aside.rename(target)
        for leftover in (aside, *results.glob(".unfinished-*")):
            shutil.rmtree(leftover, ignore_errors=True)

    clean()
    try:
        if target.exists():
            shutil.copytree(target, work)
        work.mkdir(parents=True, exist_ok=True)
        yield work
        seal(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not exchanged(work, target):
            target.rename(aside)
        if not target.exists():
            work.rename(target)
    finally:
        clean()


def exchanged(one: Path, other: Path) -> bool:
    """Whether the system, Linux, gave each folder the other's name in one step; see renameat2(2)."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "renameat2"):
        return False
    AT_FDCWD, RENAME_EXCHANGE = -100, 2
    return libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def calibrate(name: str) -> None:
    """Fit the temperature of a published run on the test images -> results/<name>/calibration.json, also printed.

    The network is too sure of the training images, which it has seen, so only the test images can tell. Its two
    expected calibration errors, in points, are of temperatures fitted on one half of them and judged on the other.
    RunError if the run is not published, or the official images are not there.
    """
    run, data = runs.load(name), official_images("A temperature")
    if utils.ROOT / "results" not in run.folder.parents:
        raise RunError(f"{name} is not published; publish it first.")
    logits = analysis.logits(run.model, data.test_images, run.metrics["mean"], run.metrics["std"])
    before, after = (
        round(analysis.calibration_error(analysis.reliability(probabilities, data.test_labels)), 3)
        for probabilities in (softmax(logits, axis=1), analysis.cross_fitted(logits, data.test_labels)[0])
    )
    found = dict(
        temperature=round(analysis.temperature(logits, data.test_labels), 4),
        error_before=before,
        error_after=after,
        test_images=len(data.test_labels),
        data_source=data.source,
    )
    with renewed(run.folder) as work:
        save_json(found, work / "calibration.json")
    print(json.dumps(found, indent=2))
