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
import pandas as pd
from filelock import FileLock
from scipy.special import softmax
from torch import nn

import utils
from utils import architecture, models, runs, training
from utils.cifar10.files import ImageData, remove
from utils.data import eval_loader, hold_out, load_cifar10
from utils.engine import records
from utils.engine.checkpoints import KEPT, UNKNOWN, seal, verify, waited_for
from utils.engine.steps import epochs_to_target
from utils.errors import RunError
from utils.study import ablation, analysis, baselines, benchmark, search


@contextmanager
def alone() -> Iterator[None]:
    """Nobody else publishes or reports as long as the block lasts, from the first look at what is there on."""
    folder = utils.ROOT / "runs"
    folder.mkdir(exist_ok=True)
    with waited_for(FileLock(folder / ".publishing"), "is publishing or reporting"):  # of all of results/
        mend()
        yield


@alone()
def publish_run(name: str, seed: int = 1, validation: bool = False, epochs: int | None = None) -> Path:
    """Copy the finished run of the experiment `name`, as it stands in the code, into results/; returns its folder.

    RunError if runs/ has no finished run on the official images of just this network, recipe and seed, or anything in
    it does not fit together; results/ is then as it was.
    """
    network, row = baselines.chosen(name)
    judged_on, epochs = "validation" if validation else "test", None if epochs == row.recipe.epochs else epochs
    recipe = replace(row.recipe, epochs=epochs or row.recipe.epochs)
    if (recipe.teacher or "").startswith("runs/"):
        raise RunError(f"{recipe.teacher}, which teaches {name}, is not published; do that, and name it without runs/.")
    target = records.place(name, seed, judged_on, epochs)

    def as_now(seed: int, judged_on: str, epochs: int, split: str = UNKNOWN) -> tuple[dict, nn.Module]:
        """What such a run would be by the code as it stands, and its network."""
        model, images = records.build(network, seed), records.OFFICIAL | dict(judged_on=judged_on)
        return records.identity(model, asdict(replace(recipe, epochs=epochs)), images, seed, split), model

    records.find(name, *as_now(seed, judged_on, recipe.epochs))  # what differs needs no images to be said
    parts = dict(test=(whole := official_images()), validation=hold_out(whole))
    beside = utils.ROOT / "results" / name
    for folder in sorted({path.parent for path in beside.glob("**/metrics.json")} - {target}):
        m, title = records.read_metrics(folder), records.title_of(folder)
        fewer = m["epochs"] if (beside / f"epochs_{m['epochs']}") in (folder, *folder.parents) else row.recipe.epochs
        split = parts[m["evaluated_on"]].digest
        if why := records.why_not(*as_now(m["seed"], m["evaluated_on"], fewer, split), folder):
            raise RunError(f"The published {title} is of another network or recipe ({why}); delete results/{title}.")
    wanted, model = as_now(seed, judged_on, recipe.epochs, parts[judged_on].digest)
    source = records.find(name, wanted, model)
    check(runs.load(source, network), parts[judged_on])
    kept = [file for file in KEPT if file != "weights.pt" or target.parent.name == "results"]  # the first seed's
    return put({file: (source / file).read_bytes() for file in kept}, target)


def official_images() -> ImageData:
    """All of CIFAR-10; RunError if other images are there."""
    data = load_cifar10()
    if dict(source=data.source, digest=data.digest) != records.OFFICIAL:
        raise RunError("What is published is checked on CIFAR-10; set CIFAR10_PATH to the official files, no FAST_RUN.")
    return data


def check(run: runs.Run, part: ImageData) -> None:
    """RunError unless the accuracy of a run is that of its weights on the images of `part` that it was judged on, and
    what else is published of the network and its epochs is what the code says now."""
    m, accuracies = run.metrics, run.history[f"{run.metrics['evaluated_on']}_accuracy"]
    loss, accuracy = training.evaluate(run.model, eval_loader(part.test_images, part.test_labels, m["mean"], m["std"]))
    claimed, logged = records.last_accuracy(m), accuracies.iloc[-1]
    told = architecture.totals(run.model) | dict(epochs_to_85=epochs_to_target(accuracies))
    wrong = [f"metrics.json says {key} {m[key]}, but it is {value}" for key, value in told.items() if m[key] != value]
    if not abs(accuracy - claimed) + abs(logged - claimed) < 0.1 or not np.isfinite(loss):
        wrong = [f"its weights reach {accuracy:.2f} %, metrics.json says {claimed:.2f}, history.csv {logged:.2f}"]
    if run.history.epoch.tolist() != [*range(1, m["epochs"] + 1)]:
        wrong = ["history.csv lacks an epoch"]
    if wrong:
        raise RunError(f"{run.folder} does not fit together: {wrong[0]}. Delete that folder and train anew.")


@alone()
def publish_tables(folder: str) -> Path:
    """Copy the csv files of runs/`folder` into results/.

    RunError if any was not measured on CIFAR-10, or lacks rows that are published, or if what is published is damaged;
    also if one of benchmark/ is not as it was measured, or another has a row that no run made.
    """
    files = sorted((utils.ROOT / "runs" / folder).glob("*.csv"))
    if not files:
        raise RunError(f"runs/{folder} holds no table yet; make one with python -m utils (see --help).")
    target = utils.ROOT / "results" / folder
    if target.exists():
        verify(target)  # what is damaged there must not be sealed anew
    names = dict(ablation=ablation.studies(), search=models.networks(), benchmark=benchmark.KEYS)[folder]
    for file in files:
        title = f"runs/{folder}/{file.name}"
        if file.stem not in names:
            raise RunError(f"{title} is no table of utils/study/{folder}.py; move it elsewhere.")
        table = ablation.kept(file.stem) if folder == "ablation" else records.read_table(file)
        if folder == "search":
            search.sound(table, file)
        if folder == "benchmark" and (why := benchmark.wrong_in(file, table)):
            raise RunError(f"{title} {why}.")
        for number, source in enumerate(table.data_source, 1):
            if source != "original":
                raise RunError(f"Row {number} of {title} was measured on the {source}; delete it, or repeat it.")
        before = target / file.name
        published = records.read_table(before) if before.exists() else table.iloc[:0]
        if folder == "benchmark":
            key = benchmark.KEYS[file.stem]
            if len(lost := published.set_index(key).index.difference(table.set_index(key).index)):
                raise RunError(f"{title} lacks {', '.join(map(str, lost[0]))}, which is published; measure it again.")
        else:
            check_rows(table, published, folder, file.stem)
    return put({file.name: file.read_bytes() for file in files}, target)


def check_rows(table: pd.DataFrame, published: pd.DataFrame, folder: str, name: str) -> None:
    """RunError unless every row that is published is in the table `name`, too, and every other row tells nothing but
    what a finished run below runs/`folder` does."""
    key = ["change", "seed"] if folder == "ablation" else list(published)  # a change may have been made again
    rows, known = ([plain(row) for row in t.to_dict("records")] for t in (table, published))
    there, wanted = ([{k: row[k] for k in key if k in row} for row in group] for group in (rows, known))
    if any(row not in there for row in wanted):
        raise RunError(f"runs/{folder}/{name}.csv lacks published rows; take them over from results/{folder}.")
    new = [number for number, row in enumerate(rows) if row not in known]
    made = []
    if new and folder == "search":
        usual = search.choices(name)[1]  # channels that a try did not change
        found = [records.read_metrics(path.parent) for path in (utils.ROOT / "runs/search").glob("**/metrics.json")]
        made = [plain(usual | records.row_of(m)) for m in found if m["name"] == f"search/{name}"]
    for number in new:
        row = rows[number]
        if folder == "ablation":
            made = [plain(ablation.run_of(name, row["change"], int(row["seed"])))]
        if not any(row.items() <= run.items() for run in made):
            raise RunError(
                f"Row {number + 1} of runs/{folder}/{name}.csv is of no finished run in runs/{folder}; delete the row "
                "and make the run again."
            )


def plain(row: dict) -> dict[str, str]:
    """The row's values as words that compare: without those that are missing, and without a number's last digits, which
    reading may change."""
    there = {key: value for key, value in row.items() if value is not None and value == value}  # nan is not itself
    return {key: f"{value:.12g}" if isinstance(value, float) else str(value) for key, value in there.items()}


def put(files: dict[str, bytes], target: Path) -> Path:
    """Give the folder `target` these files and a seal, in one step: killed at any time, this leaves it old or new; what
    was killed between two renames is mended by the next call.

    A calibration goes when weights come, of which it may not be.
    """
    new, old = (target.with_name(f".{word}-{target.name}") for word in ("new", "old"))
    mend()
    try:
        if target.exists():
            try:
                shutil.copytree(target, new)
            except shutil.Error as error:  # of each file what happened
                raise RunError(f"{target} cannot be copied ({error.args[0][0][2]}); it is as it was.") from None
            if "weights.pt" in files:
                (new / "calibration.json").unlink(missing_ok=True)
        new.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (new / name).write_bytes(content)
        seal(new, target)
        if target.exists() and not exchange(new, target):
            target.rename(old)
        if not target.exists():
            new.rename(target)
    finally:  # also where the disk is full
        remove(new)
    remove(old)
    return target


def mend() -> None:
    """Put back what a publishing that was killed between two renames had set aside, and remove what it had begun."""
    for path in sorted((utils.ROOT / "results").rglob(".*-*"), reverse=True):  # what lies deeper first
        word, _, name = path.name.partition("-")
        if path.is_dir() and word in (".old", ".new") and name:
            whole = path.with_name(name)
            path.rename(whole) if word == ".old" and not whole.exists() else remove(path)


def exchange(one: Path, other: Path) -> bool:
    """Give each folder the other's name in one step, where the system can: renameat2(2) of Linux."""
    if not hasattr(libc := ctypes.CDLL(None) if sys.platform == "linux" else None, "renameat2"):
        return False
    AT_FDCWD, RENAME_EXCHANGE = -100, 2
    return libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


@alone()
def calibrate(name: str) -> None:
    """Fit the temperature of a published run on the test images -> results/<name>/calibration.json, also printed.

    The network is too sure of the training images, which it has seen, so only the test images can tell. Its two
    expected calibration errors, in points, are of temperatures fitted on one half of them and judged on the other.
    RunError if the run is not published, or the official images are not there.
    """
    run, data = runs.load(name), official_images()
    if utils.ROOT / "results" not in run.folder.parents:
        raise RunError(f"{name} is not published; publish it first.")
    logits = analysis.logits(run.model, data.test_images, run.metrics["mean"], run.metrics["std"])

    def error(probabilities: np.ndarray) -> float:
        return round(analysis.calibration_error(analysis.reliability(probabilities, data.test_labels)), 3)

    found = dict(
        temperature=round(analysis.temperature(logits, data.test_labels), 4),
        error_before=error(softmax(logits, axis=1)),
        error_after=error(analysis.cross_fitted(logits, data.test_labels)[0]),
        test_images=len(data.test_labels),
        data_source=data.source,
    )
    text = json.dumps(found, indent=2) + "\n"
    put({"calibration.json": text.encode()}, run.folder)
    print(text, end="")
