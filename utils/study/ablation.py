"""What each choice of the final network and its recipe is worth: one change at a time, on the held-out images.

`python -m utils ablate` trains what results/ablation does not hold yet, change after change, and can be stopped at
any time. To try a change of your own, add a line to RECIPES or NETWORKS.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from hashlib import sha256

import pandas as pd
from torch import nn

import utils
from utils import models, runs
from utils.cifar10.files import ImageData
from utils.engine import records
from utils.engine.checkpoints import alone_in, write_atomically
from utils.engine.code import code
from utils.errors import RunError
from utils.experiments import FINAL, experiment
from utils.models import conv, conv1x1, separable
from utils.training import Recipe

SEEDS = (1, 2, 3)
KEPT = """seed validation_accuracy epochs parameters macs receptive_field seconds_per_epoch data_source precision
    cpu_threads commit tree_clean train_accuracy first_response code""".split()  # of each run, beside its change
BASE = "as it is"
RECIPE = replace(experiment(FINAL).recipe, epochs=12)

# change -> the fields of the recipe that are others
RECIPES = {
    "no flip": dict(flip=0.0),
    "no affine": dict(affine=0.0),
    "no hole": dict(hole=0.0),
    "no augmentation": dict(flip=0.0, affine=0.0, hole=0.0),
    "augmentation halved": dict(flip=0.25, affine=0.125, hole=0.125),
    "affine and hole doubled": dict(affine=0.5, hole=0.5),  # a flip of 1 would only ever show mirrored images
    "batch 64": dict(batch_size=64),
    "learning rate 0.05": dict(lr=0.05),
    "learning rate 0.2": dict(lr=0.2),
    "no weight decay": dict(weight_decay=0.0),
    "weight decay tenfold": dict(weight_decay=5e-3),
    "no warm-up": dict(warmup=0.0),
    "label smoothing 0.1": dict(label_smoothing=0.1),
    "dropout 0.05": dict(dropout=0.05),
    "averaged weights": dict(average=0.999),
    "float32": dict(precision="float32"),
}

# again in a training twice as long, as the published one is: what a short training cannot tell
LONGER = 24  # epochs
AGAIN = (BASE, "no hole", "no augmentation", "augmentation halved")

# change -> the layers of the network that are others; None: the layer goes
NETWORKS = {
    "c2_2 ordinary": dict(c2_2=partial(conv, 32, 16, stride=2)),
    "c5 not dilated": dict(c5=partial(conv, 64, 32, padding=0)),  # its output is 6x6 as before
    "bottlenecks twice as wide": dict(
        c1_1x1=partial(conv1x1, 64, 32),
        c2_1=partial(conv, 32, 32),
        c3_1x1=partial(conv1x1, 64, 32),
        c4_1=partial(conv, 32, 32),
    ),
}

# from experiment 1 to 2, then to 3; each keeps the changes before it
STEPS = {
    "experiment_1": {},
    "c2_1 ordinary": dict(c2_1=partial(conv, 32, 64)),
    "c2_2 to 32 channels": dict(c2_2=partial(separable, 64, 32, stride=2), c2_1x1=None),
    "c3_2 keeps 64 channels": dict(c3_2=partial(conv, 64, 64, stride=2), c3_1x1=partial(conv1x1, 64, 32)),
    "c4_1 padding 1": dict(c4_1=partial(conv, 32, 64)),
    "c5 stride 1, padding 1": dict(c5=partial(conv, 64, 64, dilation=2)),  # now it is experiment_2
    "c3_1 to 32 channels": dict(c3_1=partial(conv, 32, 32), c3_2=partial(conv, 32, 64, stride=2)),
    "c3_2 stride 1": dict(c3_2=partial(conv, 32, 64)),  # now it is experiment_3
}


def changed(name: str, layers: dict[str, Callable[[], nn.Module] | None]) -> nn.Module:
    """The network `name` with other layers; those that stay have the first weights that they had."""
    model = models.build_model(name)
    for layer, build in layers.items():
        if build is None:
            delattr(model.layers, layer)
        else:
            setattr(model.layers, layer, build())
    return model


def studies() -> dict[str, dict[str, tuple[records.Network, Recipe]]]:
    """What is trained: name of the table -> change -> network and recipe; the first change is what it starts from."""
    steps, layers = {}, {}
    for change, others in STEPS.items():
        layers = layers | others
        steps[change] = partial(changed, "experiment_1", layers), RECIPE
    own, network = {BASE: {}}, partial(changed, FINAL, {})
    recipes = own | RECIPES
    return dict(
        recipe={key: (network, replace(RECIPE, **fields)) for key, fields in recipes.items()},
        network={key: (partial(changed, FINAL, layers), RECIPE) for key, layers in (own | NETWORKS).items()},
        steps=steps,
        longer={f"{key}, {LONGER} epochs": (network, replace(RECIPE, epochs=LONGER, **recipes[key])) for key in AGAIN},
    )


def fingerprint(network: records.Network, recipe: Recipe, digest: str) -> str:
    """Tells the modules of a network, a recipe, and the images with this digest from others."""
    whole = dict(network=modules(network), recipe=records.told(asdict(recipe)), data=digest)
    return sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


@cache  # most changes share one network
def modules(network: records.Network) -> dict[str, str]:
    """What it is known by, in words that an older PyTorch has, too."""
    return records.worded_alike(records.described(records.build(network)))


@cache
def first_response(network: records.Network, seed: int) -> list[float]:
    """What the network computes with its first weights: a changed `forward` does not show in its modules."""
    return records.response(records.build(network, seed))


def of_today(rows: pd.DataFrame, network: records.Network, recipe: Recipe, digest: str) -> list[bool]:
    """Of each row whether it was made with this network and recipe, on the images with this digest, by the code of
    today."""
    today = fingerprint(network, recipe, digest), records.digest_of(code())
    return [
        (row.run, row.code) == today
        and records.alike(first_response(network, row.seed), [*map(float, row.first_response.split())])
        for row in rows.itertuples()
    ]


def kept(name: str, places: tuple[str, ...] = ("runs", "results")) -> pd.DataFrame:
    """The rows of runs/ablation/<name>.csv so far, or else the published ones; RunError if it is damaged."""
    files = [utils.ROOT / place / "ablation" / f"{name}.csv" for place in places]
    file = next((file for file in files if file.exists()), None)
    columns = ["change", "run", *KEPT]
    table = records.read_table(file) if file else pd.DataFrame(columns=columns)
    if {*columns} <= {*table} and not table.duplicated(["change", "seed"]).any():
        with suppress(AttributeError, ValueError):  # no number where one belongs
            table.first_response.map(lambda text: [*map(float, text.split())])
            return table.astype(dict(seed=int))  # other programs write 1.0
    raise RunError(f"{file} lacks a column or a number, or has a row twice; fetch it again, or delete it.")


def judged(name: str, places: tuple[str, ...] = ("runs", "results")) -> pd.DataFrame:
    """The rows of `kept(name, places)`, a change only when all its seeds are there, in the order of `studies()`.

    RunError if a row was made with another network or recipe than that of today, or on other images than CIFAR-10.
    """
    there, whole = kept(name, places), []
    for change, how in studies()[name].items():
        rows = there[there.change == change]
        if {*SEEDS} <= {*rows.seed}:
            whole.append(change)
            if not all(of_today(rows, *how, records.OFFICIAL["digest"])):
                raise RunError(
                    f"{change!r} in ablation/{name}.csv is of another network, recipe or training than today's, or of "
                    "other images; take the change of the code back, or train it anew: python -m utils ablate"
                )
    if not whole:
        raise RunError(f"No change in ablation/{name}.csv has all its seeds; go on with python -m utils ablate.")
    if "runs" in places and (utils.ROOT / "runs" / "ablation" / f"{name}.csv").exists():
        records.once(f"These are the rows of runs/ablation/{name}.csv, not the published ones.")
    return there.set_index("change").loc[whole].reset_index()


def name_of(change: str, seed: int) -> str:
    """Of the run's folder in runs/."""
    return f"ablation/{'_'.join(change.replace(',', '').split())}/seed_{seed}"


def run_of(name: str, change: str, seed: int) -> dict:
    """The metrics of the finished run on CIFAR-10 that a row of the table `name` is of, and the row's `change` and
    `run`; RunError if there is none."""
    if change not in studies()[name]:
        raise RunError(f"{change!r} is no change of the table {name} in utils/study/ablation.py; delete its rows.")
    network, recipe = studies()[name][change]
    model, images = records.build(network, seed), records.OFFICIAL | dict(judged_on="validation")
    folder = records.find(name_of(change, seed), records.identity(model, asdict(recipe), images, seed), model)
    found = records.row_of(records.read_metrics(folder))
    return found | dict(change=change, run=fingerprint(network, recipe, records.OFFICIAL["digest"]))


def missing(data: ImageData) -> list[tuple[str, str, int]]:
    """Table, change and seed of every run that is not there yet, change after change, so that each can be judged as
    soon as its seeds are there; first what all are compared with."""
    wanted = []
    for name, changes in studies().items():
        table = kept(name)
        for change, how in changes.items():
            rows = table[table.change == change]
            there = set(rows.seed[of_today(rows, *how, data.digest)])
            wanted += [(name, change, seed) for seed in SEEDS if seed not in there]
    return sorted(wanted, key=lambda row: row[1] != BASE)


def ablate(data: ImageData) -> None:
    """Train what is missing, a row each in runs/ablation/; under FAST_RUN nothing is written."""
    todo = missing(data)
    print(f"{len(todo)} runs are missing.", flush=True)
    for name, change, seed in todo:
        print(f"\n{name}: {change}, seed {seed}", flush=True)
        network, recipe = studies()[name][change]
        found = runs.train(network, recipe, data, name=name_of(change, seed), seed=seed).metrics
        row = dict(change=change) | {key: records.row_of(found)[key] for key in KEPT}
        row["run"] = fingerprint(network, recipe, data.digest)
        if not utils.FAST_RUN:
            with alone_in(utils.ROOT / "runs" / "ablation"):  # two at once lose no row
                before = kept(name)
                others = before[(before.change != change) | (before.seed != seed)]  # a row of what it was before goes
                table = pd.DataFrame([*others.to_dict("records"), row]).to_csv(index=False, lineterminator="\n")
                write_atomically(table.encode(), utils.ROOT / "runs" / "ablation" / f"{name}.csv")
