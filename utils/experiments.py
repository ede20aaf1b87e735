"""One table: experiment -> network, recipe and the reference's figures; and a run of it from start to end.

To change how a network is trained, change its row in EXPERIMENTS. A run of experiment_5 lives in
`runs/experiment_5` and, once published, in `results/experiment_5`; below either, `epochs_N`, `seed_K`,
`validation` and `stand-in` hold the runs that differ in just that.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import utils
from utils import architecture, distributed, training
from utils import data as datasets
from utils.checkpoints import save_atomically
from utils.errors import RunError
from utils.models import build_model
from utils.training import TARGET, Recipe

ROOT = Path(__file__).resolve().parent.parent
SEED = 1  # of the main run; others get a folder of their own


@dataclass(frozen=True)
class Experiment:
    """How `build_model(name)` is trained, and the run it is measured against: its source, parameters, receptive
    field, test accuracy and the epoch that had it, the first epoch at 85 % (None: not published). For the five
    experiments that is the reference's run of the same network, for the records the best found elsewhere."""

    recipe: Recipe
    reference: dict


# Judged on the validation split (train --validation), never on the test images; the same for all five.
RECIPE = Recipe(epochs=24)


def _reference(parameters: int, receptive_field: int | None, epochs: int, accuracy: float | None) -> dict:
    return dict(
        source="reference",
        parameters=parameters,
        receptive_field=receptive_field,
        epochs=epochs,
        epochs_to_85=epochs,  # it stopped there
        test_accuracy=accuracy,
    )


def _elsewhere(parameters: int, epochs: int, accuracy: float | None = None) -> dict:
    run = _reference(parameters, None, epochs, accuracy)
    return run | dict(source="best elsewhere", epochs_to_85=None if accuracy else epochs)


EXPERIMENTS = {
    "experiment_1": Experiment(RECIPE, _reference(183_882, 77, 55, 85.16)),
    "experiment_2": Experiment(RECIPE, _reference(156_714, 77, 49, 85.29)),
    "experiment_3": Experiment(RECIPE, _reference(129_002, 53, 42, 85.10)),
    "experiment_4": Experiment(RECIPE, _reference(138_282, 61, 43, 85.11)),
    "experiment_5": Experiment(RECIPE, _reference(92_394, 61, 69, 85.13)),
    "experiment_5_long": Experiment(replace(RECIPE, epochs=60), _reference(92_394, 61, 69, 85.13)),
}
NO_AUGMENTATION = replace(RECIPE, flip=0.0, affine=0.0, hole=0.0)  # breaks the rules; shows what augmentation does
MILD = replace(RECIPE, batch_size=64, affine=0.1, hole=0.1)  # for networks that are short of capacity or of time
EXPERIMENTS |= {
    "experiment_5_unaugmented": Experiment(NO_AUGMENTATION, EXPERIMENTS["experiment_5"].reference),
    "small": Experiment(replace(MILD, epochs=50), _elsewhere(69_706, 257, 85.08)),
    "tiny": Experiment(replace(MILD, epochs=80), _elsewhere(69_706, 257, 85.08)),
    "fast": Experiment(replace(MILD, epochs=5), _elsewhere(198_660, 16)),
    "accurate": Experiment(replace(RECIPE, epochs=56, affine=0.5), _elsewhere(197_858, 58, 92.00)),
    "strideless": Experiment(replace(MILD, epochs=20), _elsewhere(88_384, 245, 87.45)),
}


@dataclass(frozen=True)
class Run:
    """A finished run: the trained network (in eval mode, on the CPU), its history and its metrics."""

    model: nn.Module
    history: pd.DataFrame
    metrics: dict


def experiment(name: str) -> Experiment:
    """The row `name` of the table; RunError if there is none."""
    if name not in EXPERIMENTS:
        raise RunError(f"There is no experiment {name!r}; choose one of {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def variant(name: str, epochs: int | None = None, seed: int = SEED, validation: bool = False) -> Path:
    """Where a run lies below runs/ and results/."""
    path = Path(name)
    if epochs not in (None, experiment(name).recipe.epochs):
        path /= f"epochs_{epochs}"
    if seed != SEED:
        path /= f"seed_{seed}"
    return path / "validation" if validation else path


def run_folder(
    name: str,
    data_source: str,
    epochs: int | None = None,
    seed: int = SEED,
    validation: bool = False,
    changes: dict | None = None,
) -> Path:
    """The folder of a run in runs/; the stand-in's runs lie apart, so that no real run is mixed up with them."""
    folder = ROOT / "runs" / variant(name, epochs, seed, validation)
    if changes:
        folder /= ",".join(f"{key}={value}" for key, value in sorted(changes.items()))
    return folder / "stand-in" if data_source == "stand-in" else folder


def train(
    name: str,
    data: datasets.ImageData,
    *,
    epochs: int | None = None,
    seed: int = SEED,
    validation: bool = False,
    precision: str | None = None,
    progress: bool = True,
    changes: dict | None = None,
) -> Run:
    """Train `name` into runs/, or go on where its last run stopped there, or load it if it is finished.

    Under FAST_RUN one epoch is trained and nothing is written.

    Args:
        epochs: other than the recipe's.
        validation: train on 45,000 of the training images and evaluate on the other 5,000, never on
            the test images; this is how recipes are compared.
        changes: fields of the recipe and arguments of the network's function that differ, see `utils/search.py`.
    """
    recipe, arguments = experiment(name).recipe, dict(changes or {})
    recipe = replace(recipe, **{key: arguments.pop(key) for key in asdict(recipe) if key in arguments})
    recipe = replace(recipe, epochs=1 if utils.FAST_RUN else epochs or recipe.epochs)
    folder = None if utils.FAST_RUN else run_folder(name, data.source, epochs, seed, validation, changes)

    train_images, train_labels = data.train_images, data.train_labels
    test_images, test_labels = data.test_images, data.test_labels
    if validation:
        rest, held_out = datasets.train_validation_split(train_labels, validation=len(train_labels) // 10)
        test_images, test_labels = train_images[held_out], train_labels[held_out]
        train_images, train_labels = train_images[rest], train_labels[rest]
    mean, std = datasets.channel_statistics(train_images)
    loader = datasets.train_loader(
        train_images,
        train_labels,
        mean,
        std,
        batch_size=recipe.batch_size,
        seed=seed,
        flip=recipe.flip,
        affine=recipe.affine,
        hole=recipe.hole,
    )
    torch.manual_seed(seed)
    model = build_model(name, dropout=recipe.dropout, **arguments)
    identity = dict(network=name, **arguments, seed=seed, data_source=data.source, images=len(train_images))
    history = training.fit(
        model,
        recipe,
        loader,
        datasets.eval_loader(test_images, test_labels, mean, std),
        folder=folder,
        identity=identity,
        precision=precision,
        progress=progress,
    )
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    table = architecture.layer_table(model)
    metrics = dict(
        name=name,
        parameters=int(table.parameters.sum()),
        macs=int(table.macs.sum()),
        receptive_field=architecture.receptive_field(table),
        epochs=recipe.epochs,
        epochs_to_85=epochs_to_target(history),
        test_accuracy_last=float(history.test_accuracy.iloc[-1]),
        test_accuracy_best=float(history.test_accuracy.max()),
        train_accuracy_last=float(history.train_accuracy.iloc[-1]),
        seed=seed,
        data_source=data.source,
        evaluated_on="validation" if validation else "test",
        test_images=len(test_images),
        recipe=asdict(recipe),
        seconds_per_epoch=round(float(history.seconds.median()), 1),
        device=training.default_device().type,
        precision=history.attrs["precision"],
        processes=distributed.world_size(),
        cpu_threads=torch.get_num_threads(),
        torch_version=torch.__version__.split("+")[0],
        mean=mean,
        std=std,
    )
    run = Run(model, history, metrics)
    if folder and distributed.rank() == 0:
        save(run, folder)
    return run


def epochs_to_target(history: pd.DataFrame) -> int | None:
    """The first epoch with at least 85 % test accuracy, or None."""
    reached = history.epoch[history.test_accuracy >= TARGET]
    return int(reached.iloc[0]) if len(reached) else None


def save(run: Run, folder: Path) -> None:
    """Write weights.pt, history.csv and metrics.json; metrics.json comes last and marks the run as finished."""
    folder.mkdir(parents=True, exist_ok=True)
    save_atomically(run.model.state_dict(), folder / "weights.pt")
    run.history.to_csv(folder / "history.csv", index=False, float_format="%.6g")
    (folder / "metrics.json").write_text(json.dumps(run.metrics, indent=2) + "\n")


def load(folder: Path) -> Run:
    """A run that `save` wrote; RunError if the folder holds none."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        model = build_model(metrics["name"])
        model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        return Run(model.eval(), pd.read_csv(folder / "history.csv"), metrics)
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} holds no finished run with its weights ({Path(error.filename).name} is missing); "
            f"results/ holds those of {', '.join(p.parent.name for p in sorted(ROOT.glob('results/*/weights.pt')))}."
        ) from None


def published() -> pd.DataFrame:
    """The metrics of every published main run, one row a name, in the order of EXPERIMENTS."""
    paths = [ROOT / "results" / name / "metrics.json" for name in EXPERIMENTS]
    return (
        pd.DataFrame([json.loads(path.read_text()) for path in paths if path.exists()])
        .set_index("name", drop=False)
        .rename_axis(None)
    )


def run(name: str, data: datasets.ImageData, retrain: bool = False) -> Run:
    """What a notebook shows: the published run if there is one, else a run of its own, with the log of either.

    Args:
        retrain: train here (into runs/, going on where an earlier attempt stopped) instead of
            loading the published run.
    """
    published = ROOT / "results" / name
    if utils.FAST_RUN or retrain or not (published / "metrics.json").exists():
        return train(name, data, progress=not utils.FAST_RUN)
    loaded = load(published)
    print(f"The published run of {name} (seed {loaded.metrics['seed']}, {loaded.metrics['data_source']} CIFAR-10):")
    rows = loaded.history.to_dict("records")
    for last in range(1, len(rows) + 1):
        print(training.log_line(rows[:last], loaded.metrics["test_images"]))
    return loaded
