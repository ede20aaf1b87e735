"""runs/ -> results/: only finished runs and tables measured on CIFAR-10 get there, and only from here."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from utils import experiments
from utils.errors import RunError


def publish_run(name: str, seed: int = experiments.SEED, validation: bool = False) -> Path:
    """Copy a finished run on real data from runs/ into results/; returns the folder in results/.

    Raises:
        RunError: if the run is unfinished, was trained on the stand-in, or with another recipe than the table's.
    """
    path = experiments.variant(name, seed=seed, validation=validation)
    source, target = experiments.ROOT / "runs" / path, experiments.ROOT / "results" / path
    if not (source / "metrics.json").exists():
        on_stand_in = (source / "stand-in" / "metrics.json").exists()
        what = "only a run on the stand-in data" if on_stand_in else "no finished run"
        raise RunError(f"runs/{path} holds {what}; train {name} to its end on CIFAR-10 before publishing it.")
    metrics = json.loads((source / "metrics.json").read_text())
    if metrics["recipe"] != asdict(experiments.experiment(name).recipe):
        raise RunError(
            f"runs/{path} was trained with another recipe than the table's; delete it and train {name} anew."
        )
    target.mkdir(parents=True, exist_ok=True)
    files = ["history.csv", "metrics.json"] + (["weights.pt"] if path == Path(name) else [])
    for file in files:
        shutil.copyfile(source / file, target / file)
    (target / "calibration.json").unlink(missing_ok=True)  # it was of the weights that were there before
    return target


def publish_tables(folder: str) -> Path:
    """Copy every csv file of runs/`folder` that was measured on CIFAR-10 into results/; returns the folder there.

    Raises:
        RunError: if there is none yet, or any of it was measured on the stand-in.
    """
    files = sorted((experiments.ROOT / "runs" / folder).glob("*.csv"))
    if not files:
        raise RunError(f"runs/{folder} holds no table yet; make one with python -m utils (see --help).")
    for file in files:
        if "stand-in" in set(pd.read_csv(file).data_source):
            raise RunError(f"runs/{folder}/{file.name} was measured on the stand-in; measure it on CIFAR-10.")
    target = experiments.ROOT / "results" / folder
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)
    return target
