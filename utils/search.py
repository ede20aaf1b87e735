"""How a recipe or a network was found: something changed, judged on the held-out images, one row a try.

`python -m utils search fast c2=48 lr=0.2` trains `fast` with those changes on the training part of the
validation split and adds a row to runs/search/fast.csv; the notebooks read what is published of it.
"""

import inspect
from dataclasses import asdict, replace

import pandas as pd

import utils
from utils import data as datasets
from utils import experiments
from utils.errors import RunError
from utils.models import NETWORKS


def choices(name: str) -> dict:
    """What can be changed of `name` and its values now: the recipe's fields and its network's arguments."""
    recipe = asdict(experiments.experiment(name).recipe)
    return recipe | {key: p.default for key, p in inspect.signature(NETWORKS[name]).parameters.items()}


def parse(name: str, changes: list[str]) -> dict:
    """["c2=48", "lr=0.2"] as {"c2": 48, "lr": 0.2}; RunError says what is wrong with it."""
    now, parsed = choices(name), {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in now:
            raise RunError(f"{change!r} changes nothing of {name}; write NAME=VALUE with one of {', '.join(now)}.")
        try:
            parsed[key] = type(now[key])(value)
        except ValueError:
            raise RunError(f"{change!r}: {key} must be a number such as {now[key]}.") from None
        if parsed[key] < (1 if key.startswith("c") else 0):
            raise RunError(f"{change!r}: that is too small for {key}.")
    recipe = experiments.experiment(name).recipe
    replace(recipe, **{key: value for key, value in parsed.items() if key in asdict(recipe)})  # refuses what is absurd
    return parsed


def attempt(name: str, changes: dict, data: datasets.ImageData, seed: int = experiments.SEED) -> pd.DataFrame:
    """Train `name` with `changes`; returns the table of all tries so far, also kept in runs/search/."""
    run = experiments.train(name, data, seed=seed, validation=True, changes=changes)
    m = run.metrics
    row = choices(name) | changes | dict(seed=seed)
    row |= {key: m[key] for key in ("parameters", "macs", "receptive_field", "epochs_to_85", "data_source")}
    row |= dict(
        train_accuracy=round(m["train_accuracy_last"], 2),
        validation_accuracy=m["test_accuracy_last"],
        seconds_per_epoch=m["seconds_per_epoch"],
    )
    path, published = (experiments.ROOT / place / "search" / f"{name}.csv" for place in ("runs", "results"))
    table = pd.DataFrame([row])
    before = path if path.exists() else published  # so that publishing never loses a row
    if before.exists():
        table = pd.concat([pd.read_csv(before), table], ignore_index=True).drop_duplicates()
    if not utils.FAST_RUN:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    return table
