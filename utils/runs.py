"""A run from start to end: train any network, keep it, load it, show it, compare it.

What a run is: the network as built, the recipe, the images with their split, the code that trains, and the seed. Where
any of these differs it is another run, with a folder of its own: `runs/mine`, then `runs/mine-2`, ... What it was made
under (precision, device, threads, versions, ...) is recorded beside it. Published runs lie in `results/`.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import utils
from utils import architecture, training
from utils.cifar10.files import ImageData, checked
from utils.data import eval_loader, hold_out, loaders
from utils.engine import checkpoints, distributed, records
from utils.engine.checkpoints import UNKNOWN, alone_in, read_checkpoint, rng_from
from utils.engine.code import classes_of
from utils.engine.records import Network, build, last_accuracy, path_of, read_history, read_metrics, title_of
from utils.engine.speed import keep_freed_memory
from utils.engine.steps import dropout_of, log_line
from utils.errors import RunError
from utils.experiments import EXPERIMENTS, PriorWork
from utils.training import Recipe


@dataclass(frozen=True)
class Run:
    """A finished run: the trained network (in eval mode, on the CPU), its history, its metrics, and where it lies."""

    model: nn.Module
    history: pd.DataFrame
    metrics: dict
    folder: Path | None = None  # nothing was written


def train(
    network: Network,
    recipe: Recipe,
    data: ImageData,
    *,
    name: str,
    seed: int = 1,
    test: bool = False,
    progress: bool = True,
    device: torch.device | None = None,
) -> Run:
    """Train `network` into runs/<name>, or go on where this run stopped, or load it if it is finished.

    Under FAST_RUN one epoch is trained and nothing is written.

    Args:
        network: the function that builds it, so that the seed decides its first weights; or a finished module, which
            is copied and trained from the weights that it has.
        name: of its folder in runs/; a run of something else there is left alone, and this one gets a number.
        test: train on all training images and judge on the test images after every epoch, for a final result;
            otherwise on nine in ten of the training images, judged on the others, which is how to compare.
        device: where to train; default: a GPU if there is one.

    Raises:
        NetworkError, RunError: what is wrong with the network, the name, or what is kept under it.
    """
    judged_on, made_by = "test" if test else "validation", records.built_by(network)  # while the file is as it was
    model = _built(network, recipe, data, seed := records.whole(seed))
    recipe = replace(recipe, epochs=1) if utils.FAST_RUN else recipe
    totals = architecture.totals(model)
    records.check_outputs(model, len(data.classes))
    images = dict(source=data.source, digest=data.digest, judged_on=judged_on)
    part = data if test else hold_out(data)
    what = records.identity(model, asdict(recipe), images, seed, part.digest)
    if teacher := recipe.teacher and load(recipe.teacher):
        records.check_teacher(recipe.teacher, teacher.metrics, what, data.classes)
    batches, judged, mean, std = loaders(part, recipe.batch_size, seed, **recipe.augmentation)
    folder = None
    if not utils.FAST_RUN:
        with records.probing("be trained"), dropout_of(model, recipe.dropout):
            steps = training.first_steps(model, recipe, batches, teacher and teacher.model)
        what |= dict(first_steps=dict(found=steps, under=checkpoints.here()))
        folder = distributed.from_first(lambda: records.own_folder(name, what, model))
    if folder and (folder / "metrics.json").exists():
        run = load(folder, model)  # as it was compared: another building may count on
        records.say_precision(title_of(folder), run.metrics, recipe.precision)
        return run
    options = dict(judged_on=judged_on, folder=folder, identity=what, progress=progress, device=device)
    # Gradients a cell may have switched off; and dropout is afterwards what it would be if the run were loaded.
    with alone_in(folder), rng_from(seed), torch.enable_grad(), dropout_of(model, recipe.dropout):
        begun = folder and records.holds_a_run(folder)
        if why := distributed.from_first(lambda: begun and records.why_not(what, model, folder)):
            raise RunError(f"Another run was begun in {folder} just now: {why}. Start again.")
        history, made_under = training.fit(model, recipe, batches, judged, teacher=teacher and teacher.model, **options)
        metrics = dict(name=name, **totals, **records.metrics_of(model, history, recipe, what, made_under))
        metrics |= dict(mean=mean, std=std, classes=list(data.classes), built_by=made_by)
        run = Run(model.eval(), history, metrics, folder)
        if folder and distributed.rank() == 0:
            save(run, folder)
    return run


def _built(network: Network, recipe: Recipe, data: ImageData, seed: int = 1) -> nn.Module:
    """The network as built, once all three are what can be trained; RunError or NetworkError if they are not."""
    of_it = type(recipe).__name__ == "Recipe" and type(recipe).__bases__ == (object,)  # autoreload makes a second one
    if not of_it or not hasattr(data, "digest"):
        raise RunError("A training needs a Recipe, such as Recipe(5), and the images that load_cifar10() returns.")
    model = build(network, seed)
    if recipe.dropout and not any(isinstance(module, nn.Dropout) for module in model.modules()):
        raise RunError(f"dropout is {recipe.dropout}, but the network has no nn.Dropout; add some, or leave it at 0.")
    return model


def show(network: Network, recipe: Recipe, data: ImageData, *, name: str, retrain: bool = False) -> Run:
    """What a notebook shows: the published run of exactly this network and recipe on these images, with its log; else
    a run of its own on all training images, judged on the test images. With `retrain` it is trained here in any case.
    At the end its weights are evaluated here, on the training images without augmentation and on the test images.
    """
    folder, model, run = path_of(records.own_name(name)), _built(network, recipe, data), None
    records.check_outputs(model, len(data.classes))
    if not (utils.FAST_RUN or retrain):
        images = dict(source=data.source, digest=data.digest, judged_on="test")
        wanted = records.identity(model, asdict(recipe), images, 1, data.digest)
        why = records.why_not(wanted, model, folder) if records.holds_a_run(folder) else "there is none"
        if why is None:
            run = load(folder, model)
            print(f"The published run of {name} (seed {run.metrics['seed']}, {data.source} CIFAR-10):")
            rows = run.history.to_dict("records")
            print(*(log_line(rows[:last], "test") for last in range(1, len(rows) + 1)), sep="\n")
            records.say_precision(name, run.metrics, recipe.precision)
        else:
            print(f"This is not the published run of {name}: {why}. It is trained here.")
    run = run or train(network, recipe, data, name=name, test=True, progress=not utils.FAST_RUN)
    print("The weights of the last epoch, evaluated here without augmentation:")
    parts = {"training": (data.train_images, data.train_labels), "test": (data.test_images, data.test_labels)}
    found = ["{} {:.4f}, {:.2f} %".format(part, *evaluate(run, *images)) for part, images in parts.items()]
    print(" " * 9, *found, sep="   ")  # under the log
    return run


def evaluate(run: Run | str, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean loss and accuracy in percent of the run's network on images, uint8 (N, 32, 32, 3), without augmentation."""
    run = load(run) if isinstance(run, str) else records.a_run(run)
    with torch.no_grad():
        classes = run.model.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
    batches = eval_loader(*checked(images, labels, classes), run.metrics["mean"], run.metrics["std"])
    return training.evaluate(run.model, batches)


# ---------------------------------------------------------------- keeping and loading


def save(run: Run, folder: Path) -> None:
    """Write weights.pt, history.csv, their seal and metrics.json, which marks the run as finished."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save_atomically(run.model.state_dict(), folder / "weights.pt")
    rows = run.history.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    checkpoints.write_atomically(rows.encode(), folder / "history.csv")
    metrics = json.dumps(run.metrics, indent=2).encode() + b"\n"
    checkpoints.seal(folder, coming={"metrics.json": metrics})
    checkpoints.write_atomically(metrics, folder / "metrics.json")


def load(run: str | Path, network: Network | None = None) -> Run:
    """A run that `save` wrote, such as load("experiment_5") from results/, or, of a network that is no function of
    `models`, load("runs/mine", my_network); RunError if there is none, or the code has another network or recipe now.
    """
    return checkpoints.steadily(path_of(run), lambda: _load(run, network))


def _load(run: str | Path, network: Network | None) -> Run:
    folder, metrics, title = path_of(run), read_metrics(run), title_of(path_of(run))
    if not (folder / "weights.pt").exists():
        raise RunError(f"{title} has no weights.pt; of the published runs only the first seed's are kept.")
    model = build(records.builder(metrics, title) if network is None else network, metrics["seed"])
    wanted = dict(network=records.modules(model), normalised=records.normalised(), classes=classes_of(model))
    if title in EXPERIMENTS and network is None:
        wanted["recipe"] = records.recipe_of(asdict(EXPERIMENTS[title].recipe))
    if why := records.why_not(wanted, model, folder):
        changed = f"The code has another network or recipe than the run {title}: {why}."
        raise RunError(f"{changed} Put it back, or train the changed one under a name of its own.")
    model.load_state_dict(read_checkpoint(folder / "weights.pt"))
    keep_freed_memory()
    return Run(model.eval(), read_history(folder), metrics, folder)


# ---------------------------------------------------------------- comparing


def compare(*runs: Run | PriorWork | str | None) -> pd.DataFrame:
    """Any runs, a column each: as values, or by name, such as "experiment_5/seed_2" (published) or "runs/mine"."""
    columns = {}

    def free(title: str) -> str:
        return f"{title} ({len(columns) + 1})" if title in columns else title

    judged = {}  # on which images first: validation may be of another split
    for run in (run for run in runs if run is not None):
        if not isinstance(run, str) and not hasattr(run, "metrics"):
            if not hasattr(run, "accuracy"):
                raise RunError("compare takes runs, or names of runs, one after the other: compare(one, another).")
            known = {"images": "original", "judged on": "test", "parameters": f"{run.parameters:,}"}
            known |= {"receptive field": run.receptive_field or UNKNOWN, "epochs": run.epoch}
            columns[free(run.source)] = known | {"test accuracy, in this epoch": f"{run.accuracy:.2f} %"}
            continue
        m, title = (read_metrics(run), run) if isinstance(run, str) else (run.metrics, title_of(run.folder))
        title = free(f"{title}, {m['name']}") if title == title_of(None) and title in columns else title
        which = {key: m.get("run", {}).get(key, UNKNOWN) for key in ("data", "split")}
        other = records.difference(which, judged.setdefault(m["evaluated_on"], which))
        column = {
            "images": records.images_of(m),
            "judged on": m["evaluated_on"] + (", other images" if other else ""),
            "parameters": f"{m['parameters']:,}",
            "multiply-adds": UNKNOWN if m["macs"] is None else f"{m['macs']:,}",
            "receptive field": m["receptive_field"] or UNKNOWN,
            "epochs": m["epochs"],
            "first epoch at 85 %": m["epochs_to_85"] or "not reached",
            "training accuracy, last epoch": f"{m['train_accuracy_last']:.2f} %",
            f"{m['evaluated_on']} accuracy, last epoch": f"{last_accuracy(m):.2f} %",
        } | ({"taught by": teacher} if (teacher := records.taught_by(m)) else {})
        columns[title if columns.get(title, column) == column else free(title)] = column  # its folder may be another's
    return pd.DataFrame(columns).fillna("-")
