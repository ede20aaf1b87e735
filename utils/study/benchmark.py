"""`make bench`: the plain loop that tutorials teach and ours in turn, on the same images; and how cost grows.

Every measurement runs in a process of its own, for `keep_freed_memory` and the peak memory are a whole process's.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import utils
from utils import architecture
from utils.cifar10.files import ImageData
from utils.data import channel_statistics, eval_loader, hold_out, load_cifar10, train_loader
from utils.engine.checkpoints import alone_in, checksums, write_atomically
from utils.engine.speed import suitable_precision
from utils.errors import RunError
from utils.experiments import FINAL, experiment
from utils.study.baselines import BASELINES, chosen
from utils.training import Recipe, evaluate, fit, plain_loop
from utils.transforms import train_transform

CPU = torch.device("cpu")  # both loops, also where there is something faster
QUICK = "quick"  # the network that is trained in the fewest minutes
DROPOUT = 0.05  # of the plain loop, as in the reference
LOOPS = ("plain", "no dropout", "our")  # the second is the plain one without its dropout
VARIANTS = ("plain", "float32", "bfloat16")  # of `accuracy`
PARTS = ["data", "forward", "random_numbers", "backward", "optimiser"]  # of a step, see `shares`
USUAL = dict(batch_size=128, images=6_400)  # in `grow`
KEYS = dict(  # table -> what tells its rows apart
    speed=["round", "loop"],
    accuracy=["seed", "variant"],
    minutes=["round", "network"],
    growth=["network", "batch_size", "images"],
)
WHOLE = "measured.json"  # the sha256 of each table in runs/benchmark that was measured to its end


class PlainDataset(Dataset):
    """One augmented image and its label at a time, as a tutorial would write it."""

    def __init__(self, images, labels, transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(image=self.images[index])["image"], self.labels[index]


def train(loop: str, network: str, recipe: Recipe, data: ImageData, seed: int = 1) -> tuple[nn.Module, list[float]]:
    """Train `network` on data's training images; returns it and the seconds of each epoch.

    The "plain" loop has float32, NCHW, dropout and augmentation in the training process, the one with "no dropout" the
    same but that; the third is "our".
    """
    torch.manual_seed(seed)
    model, images, labels = chosen(network)[0](), data.train_images, data.train_labels
    mean, std = channel_statistics(images)
    if loop == "our":
        few = eval_loader(images[: recipe.batch_size], labels[: recipe.batch_size], mean, std)
        batches = train_loader(images, labels, mean, std, recipe.batch_size, seed, **recipe.augmentation)
        history, _ = fit(model, recipe, batches, few, device=CPU, progress=False)
        return model, history.seconds.tolist()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT if loop == "plain" else 0.0
    transform = train_transform(mean, std, **recipe.augmentation)
    transform.set_random_seed(seed)
    dataset = PlainDataset(images, labels, transform)
    batches = DataLoader(dataset, recipe.batch_size, sampler=DistributedSampler(dataset, num_replicas=1, rank=0))
    return model, [row["seconds"] for row in plain_loop(model, recipe, batches)]


# ---------------------------------------------------------------- one measurement, in a process of its own


def in_own_process(function: Callable[..., dict], *arguments) -> dict:
    """`function(*arguments)` in a fresh Python process that prints nothing; what it raises is raised here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_quiet) as executor:
        return executor.submit(function, *arguments).result()


def _quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # the profiler's C++ part writes there too


def measure(loop: str, network: str, recipe: Recipe, count: int, profile: bool = True) -> dict:
    """Train with one of the LOOPS on the first `count` images; timed is the last epoch, when all is warm.

    Returns:
        seconds (of the last epoch), images, precision, peak_mib (of the training process, without its
        workers), data_source and, with `profile`, the percentages of `shares` from one more epoch, and
        product_share: the multiply-adds of its steps, as a percentage of what matrix products would do in that time.
    """
    data = first_images(count)
    with contextlib.suppress(OSError):  # what loading took is not training's; only Linux can start the peak anew
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # see proc(5)
    _, seconds = train(loop, network, recipe, data)
    found = dict(seconds=round(seconds[-1], 3), images=len(data.train_images), peak_mib=_peak_memory())
    found["precision"] = recipe.precision or suitable_precision(CPU) if loop == "our" else "float32"
    found["data_source"] = data.source
    if profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            train(loop, network, replace(recipe, epochs=1), data)
        found |= shares(profiler)
        steps = 3 * architecture.totals(chosen(network)[0]())["macs"] * found["images"]  # forward, backward twice that
        found["product_share"] = round(100 * steps / found["seconds"] / product_rate(found["precision"]), 1)
    return found


def first_images(count: int) -> ImageData:
    """CIFAR-10 with its first `count` training images."""
    data = load_cifar10()
    return replace(data, train_images=data.train_images[:count].copy(), train_labels=data.train_labels[:count].copy())


def product_rate(precision: str, side: int = 2048) -> float:
    """Multiply-adds a second in the product of two large square matrices: about the best that this machine can do."""
    matrix = torch.randn(side, side).to(getattr(torch, precision))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return side**3 / min(seconds)


def _peak_memory() -> float:
    """Of this process, in MiB; nan where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


def shares(profiler: torch.profiler.profile) -> dict[str, float]:
    """Percent of the training process's time in each part of a step; "data" is making it or waiting for it."""
    events = profiler.key_averages()

    def total(*starts: str) -> float:
        return sum(e.cpu_time_total for e in events if e.key.startswith(starts))

    part = dict(
        data=total("enumerate(DataLoader)"),
        backward=total("autograd::engine::evaluate_function"),
        optimiser=total("Optimizer."),
        random_numbers=total("aten::bernoulli_"),
    )
    everything = sum(e.self_cpu_time_total for e in events)
    part["forward"] = everything - sum(part.values())
    return {name: round(100 * time / everything, 1) for name, time in part.items()}


def accuracy(variant: str, seed: int, epochs: int) -> dict:
    """Accuracy in percent of FINAL on one in ten of the training images, trained as one of VARIANTS on the rest."""
    data = hold_out(load_cifar10())
    recipe = replace(experiment(FINAL).recipe, epochs=epochs, precision=None if variant == "plain" else variant)
    model, _ = train("plain" if variant == "plain" else "our", FINAL, recipe, data, seed)
    held_out = eval_loader(data.test_images, data.test_labels, *channel_statistics(data.train_images))
    reached = evaluate(model, held_out)[1]
    return dict(variant=variant, seed=seed, epochs=epochs, validation_accuracy=reached, data_source=data.source)


def to_its_end(network: str, count: int) -> dict:
    """The seconds that all epochs of the recipe of `network` take on the first `count` images, without judging."""
    data, recipe = first_images(count), experiment(network).recipe
    _, seconds = train("our", network, recipe, data)
    found = dict(images=len(data.train_images), precision=recipe.precision or suitable_precision(CPU))
    return dict(epochs=recipe.epochs, seconds=round(sum(seconds), 2)) | found | dict(data_source=data.source)


# ---------------------------------------------------------------- the four reports


def compare(rounds: int = 5, count: int = 12_800) -> pd.DataFrame:
    """The LOOPS in turn, `rounds` times; prints images/s, the ratios, where the time goes and peak memory."""
    recipe = replace(experiment(FINAL).recipe, epochs=2)

    def measured(number: int, loop: str) -> dict:
        found = in_own_process(measure, loop, FINAL, recipe, count)
        return dict(round=number, loop=loop, images_per_second=round(found["images"] / found["seconds"])) | found

    table = kept("speed", (measured(number, loop) for number in range(1, rounds + 1) for loop in LOOPS))
    speed = table.pivot(index="round", columns="loop", values="images_per_second")
    print(f"\n{FINAL}, {table.images[0]:,} images ({table.data_source[0]}), {table.cpu_threads[0]} CPU threads")
    for loop in LOOPS[:-1]:
        ratio = speed.our / speed[loop]
        print(f"our / {loop}: median {ratio.median():.2f}, minimum {ratio.min():.2f}, maximum {ratio.max():.2f}")
    medians = table.groupby("loop", sort=False)[[*PARTS, "product_share", "peak_mib"]].median().T
    parts = [f"{part.replace('_', ' ')} (% of the time)" for part in PARTS]
    medians.index = [*parts, "multiply-adds a second (% of a matrix product's)", "peak memory (MiB)"]
    print("\n" + medians.rename_axis(columns=None).round(1).to_string())
    return table


def grow() -> None:
    """Seconds an epoch and peak memory of every published network, and of FINAL against batch size and number of images
    -> runs/benchmark/growth.csv.

    Everything is measured twice, one pass after the other, and the faster counts: a busy machine is only ever slower.
    """
    from utils.study import statistics  # its scipy is not to count in the memory of what is measured

    base = dict(network=FINAL) | USUAL
    points = [{**base, "batch_size": size} for size in (32, 64, 128, 256, 512)]
    points += [{**base, "images": images} for images in (3_200, 12_800, 25_600)]
    names = [*statistics.published().index, *BASELINES]
    names.sort(key=lambda name: name == getattr(chosen(name)[0], "__name__", None))  # of several the one called so
    networks = {chosen(name)[0]: name for name in names}  # each once
    networks.pop(chosen(FINAL)[0], None)
    points += [{**base, "network": name} for name in networks.values()]

    def measured(point: dict) -> dict:
        recipe = replace(experiment(FINAL).recipe, epochs=2, batch_size=point["batch_size"])
        return in_own_process(measure, "our", point["network"], recipe, point["images"], False)

    def twice() -> Iterator[dict]:
        for point, first in zip(points, [measured(point) for point in points], strict=True):
            found = min(first, measured(point), key=lambda found: found["seconds"])
            yield point | architecture.totals(chosen(point["network"])[0]()) | found

    kept("growth", twice())


def compare_accuracy(epochs: int = 3, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    """Plain loop, ours in float32 and in bfloat16 after a short run -> runs/benchmark/accuracy.csv."""
    kept("accuracy", (in_own_process(accuracy, name, seed, epochs) for seed in seeds for name in VARIANTS))


def compare_minutes(rounds: int = 3, count: int = 12_800) -> None:
    """All epochs of QUICK and of FINAL in turn, each on the same part of the images -> runs/benchmark/minutes.csv."""
    turns = [dict(round=number, network=name) for number in range(1, rounds + 1) for name in (QUICK, FINAL)]
    table = kept("minutes", (turn | in_own_process(to_its_end, turn["network"], count) for turn in turns))
    seconds = table.pivot(index="round", columns="network", values="seconds")
    ratio = seconds[QUICK] / seconds[FINAL]
    print(f"{QUICK} takes {ratio.median():.3f} of the time of {FINAL} ({ratio.min():.3f} to {ratio.max():.3f}).")


def kept(name: str, measured: Iterable[dict]) -> pd.DataFrame:
    """Print each row as it is measured; the table of them, in runs/benchmark/<name>.csv, too, row by row, and at the
    end its checksum in WHOLE; under FAST_RUN nothing is written.

    RunError if such a table is there, or somebody else measures: two at once slow each other down.
    """
    file, rows = utils.ROOT / "runs" / "benchmark" / f"{name}.csv", []
    with alone_in(None if utils.FAST_RUN else file.parent):
        if file.exists() and not utils.FAST_RUN:
            raise RunError(f"runs/benchmark/{name}.csv is there from before; move it away, or delete it.")
        for row in measured:
            rows.append(row | dict(cpu_threads=torch.get_num_threads()))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            if not utils.FAST_RUN:
                text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
                write_atomically(text.encode(), file)
        if not utils.FAST_RUN:
            whole = _whole(file.parent) | {file.name: checksums(file.parent)[file.name]}
            write_atomically(json.dumps(whole, indent=2).encode() + b"\n", file.with_name(WHOLE))
            print(f"\nKept in runs/benchmark/{name}.csv.")
    return pd.DataFrame(rows)


def _whole(folder: Path) -> dict[str, str]:
    """Table -> its sha256 when it was whole; none where that is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads((folder / WHOLE).read_text(encoding="utf-8")))
    return {}


def wrong_in(file: Path, table: pd.DataFrame) -> str | None:
    """In words why the table in `file` is none that was measured to its end, of what the code says now; else None."""
    if _whole(file.parent).get(file.name) != checksums(file.parent)[file.name]:
        return "was not measured to its end, or was changed since; measure it again"
    epochs = [experiment(name).recipe.epochs for name in table.network] if file.stem == "minutes" else []
    if epochs and epochs != table.epochs.tolist():
        return "has other epochs than the recipes; measure it again"
    for network, rows in table.groupby("network") if file.stem == "growth" else ():
        for key, value in architecture.totals(chosen(network)[0]()).items():
            if (rows[key].notna() if value is None else rows[key] != value).any():
                return f"has other {key} of {network} than the code; measure it again"
    return None
