"""runs/ -> results/: only finished runs and tables measured on CIFAR-10 get there, and only from here."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from scipy.special import softmax

import utils
from utils import runs
from utils.data import load_cifar10
from utils.engine import records
from utils.errors import RunError
from utils.study import analysis, baselines


def publish_run(name: str, seed: int = 1, validation: bool = False, epochs: int | None = None) -> Path:
    """Copy the finished run of the experiment `name`, as it stands in the code, into results/; returns its folder.

    RunError if runs/ has no finished run on the official images of just this network, recipe and seed.
    """
    network, recipe = baselines.chosen(name)[0], baselines.chosen(name)[1].recipe
    target = utils.ROOT / "results" / name
    if epochs not in (None, recipe.epochs):
        target /= f"epochs_{epochs}"
        recipe = replace(recipe, epochs=epochs)
    if seed != 1:
        target /= f"seed_{seed}"
    if validation:
        target /= "validation"
    model = records.build(network, seed)
    images = dict(source="original", judged_on="validation" if validation else "test")
    source = records.find(name, records.identity(model, asdict(recipe), images, seed), model)
    with_weights = target.parent.name == "results"  # the first seed's
    files = ["history.csv", "metrics.json"] + ["weights.pt"] * with_weights
    _copy([source / file for file in files], target)
    (target / "calibration.json").unlink(missing_ok=True)  # it was of the weights that were there before
    return target


def publish_tables(folder: str) -> Path:
    """Copy the csv files of runs/`folder` into results/; RunError if any was not measured on CIFAR-10."""
    files = sorted((utils.ROOT / "runs" / folder).glob("*.csv"))
    if not files:
        raise RunError(f"runs/{folder} holds no table yet; make one with python -m utils (see --help).")
    for file in files:
        if other := set(pd.read_csv(file).data_source) - {"original"}:
            raise RunError(f"runs/{folder}/{file.name} was measured on the {other.pop()}; measure it on CIFAR-10.")
    return _copy(files, utils.ROOT / "results" / folder)


def _copy(files: list[Path], target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)
    return target


def calibrate(name: str) -> None:
    """Fit the temperature of a published run on the test images -> results/<name>/calibration.json, also printed.

    The network is too sure of the training images, which it has seen, so only the test images can tell. Its two
    expected calibration errors, in points, are of temperatures fitted on one half of them and judged on the other.
    RunError if the run is not published, or the official images are not there.
    """
    run, data = runs.load(name), load_cifar10()
    if data.source != "original":
        raise RunError("The temperature is fitted on CIFAR-10's test images; set CIFAR10_PATH to the official files.")
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
    text = json.dumps(found, indent=2)
    (run.folder / "calibration.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    print(text)
