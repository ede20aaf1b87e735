"""`make bench`: the plain loop that tutorials teach and ours in turn, on the same images; and how cost grows.

Every measurement runs in a process of its own, because `keep_freed_memory` acts on a whole process
and so does the peak memory.
"""

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import utils
from utils import data as datasets
from utils.experiments import EXPERIMENTS, ROOT
from utils.models import build_model
from utils.speed import fastest_precision, prepare
from utils.training import Recipe, evaluate, fit
from utils.transforms import train_transform

RUNS = ROOT / "runs" / "benchmark"
NETWORK = "experiment_5"
CPU = torch.device("cpu")  # both loops, also where there is something faster
DROPOUT = 0.05  # of the plain loop, as in the reference


# ---------------------------------------------------------------- the plain loop, as a tutorial would write it


class PlainDataset(Dataset):
    """One augmented image and its label at a time."""

    def __init__(self, images, labels, transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(image=self.images[index])["image"], self.labels[index]


def plain(model: nn.Module, recipe: Recipe, images, labels, mean, std, seed: int = 1) -> list[float]:
    """float32, NCHW, `nn.Dropout`, albumentations in the training process; returns the seconds of each epoch."""
    transform = train_transform(mean, std, flip=recipe.flip, affine=recipe.affine, hole=recipe.hole)
    transform.set_random_seed(seed)
    loader = DataLoader(PlainDataset(images, labels, transform), batch_size=recipe.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, recipe.epochs * len(loader), pct_start=recipe.warmup, cycle_momentum=False
    )
    criterion = nn.CrossEntropyLoss()
    seconds = []
    for epoch in range(1, recipe.epochs + 1):
        start, correct, seen = time.perf_counter(), 0, 0
        model.train()
        bar = tqdm(loader, leave=False)
        for x, y in bar:
            optimizer.zero_grad()
            logits = model(x)
            loss = criterion(logits, y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            correct += (logits.argmax(1) == y).sum().item()
            seen += len(y)
            bar.set_description(f"Epoch={epoch} Loss={loss.item():.4f} Accuracy={100 * correct / seen:.2f}")
        seconds.append(time.perf_counter() - start)
    return seconds


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
    """Train with the "plain" or "our" loop on the first `count` images; timed is the last epoch, when all is warm.

    Returns:
        seconds (of the last epoch), images, precision, peak_mib (of the training process, without its
        workers), data_source and, with `profile`, the percentages of `shares` from one more epoch.
    """
    data = datasets.load_cifar10()
    images, labels = data.train_images[:count].copy(), data.train_labels[:count].copy()
    source = data.source
    del data
    _forget_peak_memory()
    mean, std = datasets.channel_statistics(images)
    model, precision = _network(loop, network, recipe, seed=1), "float32"
    if loop == "plain":

        def train(recipe: Recipe) -> list[float]:
            return plain(model, recipe, images, labels, mean, std)
    else:
        few = datasets.eval_loader(images[: recipe.batch_size], labels[: recipe.batch_size], mean, std)
        prepare(model, CPU)
        precision = fastest_precision(model, next(iter(few))[0], CPU)
        loader = _loader(recipe, images, labels, mean, std, seed=1)

        def train(recipe: Recipe) -> list[float]:
            return fit(model, recipe, loader, few, device=CPU, precision=precision, progress=False).seconds.tolist()

    found = dict(seconds=train(recipe)[-1], images=len(images), precision=precision, data_source=source)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            train(replace(recipe, epochs=1))
        found |= shares(profiler)
    return found


def _forget_peak_memory() -> None:
    """What loading took is not training's; only Linux can start the peak anew (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _network(loop: str, network: str, recipe: Recipe, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(network, dropout=DROPOUT if loop == "plain" else recipe.dropout)


def _loader(recipe: Recipe, *arrays, seed: int) -> DataLoader:
    probabilities = dict(flip=recipe.flip, affine=recipe.affine, hole=recipe.hole)
    return datasets.train_loader(*arrays, recipe.batch_size, seed, **probabilities)


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
    """Train NETWORK on the training part of the validation split; its accuracy on the held-out part, in percent.

    Args:
        variant: "plain", or our loop in "float32" or "bfloat16".
    """
    data = datasets.load_cifar10()
    rest, held_out = datasets.train_validation_split(data.train_labels, len(data.train_labels) // 10)
    images, labels = data.train_images[rest], data.train_labels[rest]
    mean, std = datasets.channel_statistics(images)
    held_out = datasets.eval_loader(data.train_images[held_out], data.train_labels[held_out], mean, std)
    recipe = replace(EXPERIMENTS[NETWORK].recipe, epochs=epochs)
    model = _network(variant, NETWORK, recipe, seed)
    if variant == "plain":
        plain(model, recipe, images, labels, mean, std, seed)
    else:
        loader = _loader(recipe, images, labels, mean, std, seed=seed)
        fit(model, recipe, loader, held_out, device=CPU, precision=variant, progress=False)
    _, correct, count = evaluate(model, held_out, CPU)
    return dict(
        variant=variant,
        seed=seed,
        epochs=epochs,
        validation_accuracy=100 * correct / count,
        data_source=data.source,
    )


# ---------------------------------------------------------------- the three reports


def compare(rounds: int = 5, count: int = 12_800) -> pd.DataFrame:
    """Both loops in turn, `rounds` times; prints images/s, their ratio, where the time goes and peak memory."""
    recipe, rows = replace(EXPERIMENTS[NETWORK].recipe, epochs=2), []
    for number in range(1, rounds + 1):
        for loop in ("plain", "our"):
            found = in_own_process(measure, loop, NETWORK, recipe, count)
            rows.append(dict(round=number, loop=loop, images_per_second=round(found["images"] / found["seconds"])))
            rows[-1] |= found | dict(cpu_threads=torch.get_num_threads())
            print(f"round {number}: {loop:>5} loop {rows[-1]['images_per_second']:>6,} images/s", flush=True)
    table = pd.DataFrame(rows)
    speed = table.pivot(index="round", columns="loop", values="images_per_second")
    ratio = speed.our / speed.plain
    print(f"\n{NETWORK}, {found['images']:,} images ({found['data_source']}), {torch.get_num_threads()} CPU threads")
    print(f"ratio: median {ratio.median():.2f}, minimum {ratio.min():.2f}, maximum {ratio.max():.2f}\n")
    parts = ["data", "forward", "random_numbers", "backward", "optimiser"]
    medians = table.groupby("loop", sort=False)[[*parts, "peak_mib"]].median().T
    medians.index = [*(f"{part.replace('_', ' ')} (% of the time)" for part in parts), "peak memory (MiB)"]
    print(medians.rename_axis(columns=None).round(1).to_string())
    _write(rows, "speed")
    return table


def grow() -> None:
    """Seconds an epoch and peak memory against batch size, images and network -> runs/benchmark/growth.csv.

    Everything is measured twice, one pass after the other, and the faster counts: a busy machine is only ever slower.
    """
    base = dict(network=NETWORK, batch_size=128, images=6_400)
    points = [{**base, "batch_size": size} for size in (32, 64, 128, 256, 512)]
    points += [{**base, "images": images} for images in (3_200, 12_800, 25_600)]
    points += [{**base, "network": f"experiment_{k}"} for k in range(1, 5)]
    passes = []
    for _ in range(2):
        for point in points:
            recipe = replace(EXPERIMENTS[NETWORK].recipe, epochs=2, batch_size=point["batch_size"])
            passes.append(in_own_process(measure, "our", point["network"], recipe, point["images"], False))
    rows = []
    for point, *both in zip(points, passes[: len(points)], passes[len(points) :], strict=True):
        m = min(both, key=lambda found: found["seconds"])
        parameters = sum(p.numel() for p in build_model(point["network"]).parameters())
        rows.append({**point, "parameters": parameters, **{k: round(m[k], 2) for k in ("seconds", "peak_mib")}})
        rows[-1] |= dict(precision=m["precision"], data_source=m["data_source"], cpu_threads=torch.get_num_threads())
        print(rows[-1], flush=True)
    _write(rows, "growth")


def compare_accuracy(epochs: int = 3, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    """Plain loop, ours in float32 and in bfloat16 after a short run -> runs/benchmark/accuracy.csv."""
    rows = []
    for seed in seeds:
        for variant in ("plain", "float32", "bfloat16"):
            rows.append(in_own_process(accuracy, variant, seed, epochs))
            print(rows[-1], flush=True)
    _write(rows, "accuracy")


def _write(rows: list[dict], name: str) -> None:
    if not utils.FAST_RUN:
        RUNS.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(RUNS / f"{name}.csv", index=False)
        print(f"\nKept in runs/benchmark/{name}.csv.")
