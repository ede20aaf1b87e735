"""How a network is trained: the recipe, the loop, and `fit`, which adds what long runs need.

Read `plain_loop` first: it is the whole of training. `fit` does the same and adds a progress bar, the accuracy on
other images after every epoch, a checkpoint to go on from, mixed precision, and several processes.
"""

import os
import sys
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from utils.engine import distributed
from utils.engine.checkpoints import begin_or_go_on, restore, rng_state, save_atomically
from utils.engine.records import is_name, response
from utils.engine.speed import PRECISIONS, prepared
from utils.engine.steps import Muon, TrainingStep, device_to_use, ema, log_line, to_device, train_epoch, workers_alive
from utils.errors import RunError

WORDS = dict(optimizer=("sgd", "adam", "muon"), anneal=("cos", "linear"), precision=(None, *PRECISIONS))  # no numbers


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained.

    One cycle of the learning rate (Smith & Topin, "Super-Convergence", 2017): up to `lr` during the share `warmup` of
    all steps, then down; `anneal` is the shape of both, "cos" (a cosine) or "linear". `optimizer` is "sgd" (with
    Nesterov momentum), "adam" (`momentum` is its first beta) or "muon" (`steps.Muon`). Weight decay acts on weights
    only, not on biases and norms. `dropout` is the probability of every Dropout layer; 0 leaves each as the network has
    it. flip, affine and hole are the probabilities of the augmentations. With `average`, such as 0.999, what is judged
    and kept is the exponential moving average of the weights with this decay (Polyak & Juditsky, 1992). During the
    share `halved` of all steps, the first ones, images have half their side, for speed (progressive resizing: Howard,
    fast.ai, 2018). `precision` is "float32", "bfloat16" or "float16"; None takes what suits the device. `teacher` names
    a published run whose answers are learned beside the labels (`steps.distillation`). RunError names the first value
    that makes no sense. A new field stands in `records.LATER`, too, with the value that all runs before had.
    """

    epochs: int
    lr: float = 0.1
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    dropout: float = 0.0
    label_smoothing: float = 0.0
    flip: float = 0.5
    affine: float = 0.25
    hole: float = 0.25
    optimizer: str = "sgd"
    average: float = 0.0
    anneal: str = "cos"
    halved: float = 0.0
    precision: str | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if getattr(value, "ndim", None) == 0:  # NumPy's numbers, which a checkpoint cannot hold
                object.__setattr__(self, key, value := value.item())
            if key in WORDS:
                sensible, wanted = value in WORDS[key], " or ".join(map(str, WORDS[key]))
            elif key == "teacher":
                sensible, wanted = value is None or is_name(value), "the name of a published run"
            elif key in ("epochs", "batch_size"):
                sensible, wanted = type(value) is int and value >= 1, "a whole number of at least 1"
            elif key == "lr":
                sensible, wanted = type(value) in (int, float) and 0 < value <= 1000, "above 0, and at most 1000"
            else:
                most = {"momentum": 0.999, "average": 0.99999}.get(key, 1)  # with 1 nothing would move
                sensible, wanted = type(value) in (int, float) and 0 <= value <= most, f"between 0 and {most}"
            if not sensible:
                raise RunError(f"{key} is {value!r}, but must be {wanted}.")

    @property
    def augmentation(self) -> dict[str, float]:
        """The probabilities that `data.train_loader` and `transforms.augmentations` take."""
        return dict(flip=self.flip, affine=self.affine, hole=self.hole)


def optimizer_and_schedule(model: nn.Module, recipe: Recipe, steps: int) -> tuple[Optimizer, OneCycleLR]:
    """The recipe's optimizer for the weights of `model`, and its learning rate over `steps` steps."""
    weights = {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay}
    groups = [weights, {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}]  # biases, norms
    if recipe.optimizer == "muon":
        convolutions = [module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)]
        optimizer = Muon(groups, convolutions, recipe.lr, recipe.momentum)
    elif recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(groups, recipe.lr, betas=(float(recipe.momentum), 0.999))
    else:
        optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.momentum > 0)
    warmup = min(float(recipe.warmup), 1 - 1 / steps)  # a part of no length OneCycleLR would divide by
    warmup = 0.0 if warmup * steps == 1 else warmup
    shape = dict(pct_start=warmup, anneal_strategy=recipe.anneal, cycle_momentum=False)
    return optimizer, OneCycleLR(optimizer, recipe.lr, steps, **shape)


# ---------------------------------------------------------------- the loop to read first


def plain_loop(model: nn.Module, recipe: Recipe, batches: DataLoader) -> list[dict]:
    """Train `model` in place, as a textbook writes it, without `average`, `halved`, `teacher`, `dropout`, `precision`;
    returns a row an epoch. `batches` yields images, float32 (B, 3, 32, 32), and labels, int64 (B,), as
    `data.train_loader` does."""
    optimizer, schedule = optimizer_and_schedule(model, recipe, steps=recipe.epochs * len(batches))
    history = []
    for epoch in range(1, recipe.epochs + 1):
        start, loss_sum, correct, seen = time.perf_counter(), 0.0, 0, 0
        batches.sampler.set_epoch(epoch)  # another order, other augmentations
        model.train()  # batch norm uses the statistics of each batch
        for images, labels in batches:
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()  # forget the gradients of the step before
            loss.backward()  # how the loss changes with each weight
            optimizer.step()  # a step against it
            schedule.step()  # the next learning rate
            loss_sum += loss.item() * len(labels)  # the last batch may be smaller
            correct += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
        seconds = time.perf_counter() - start
        history.append(dict(epoch=epoch, loss=loss_sum / seen, accuracy=100 * correct / seen, seconds=seconds))
    return history


# ---------------------------------------------------------------- the same with all that long runs need


def first_steps(model: nn.Module, recipe: Recipe, train: DataLoader, teacher: nn.Module | None = None) -> list[float]:
    """Losses and lengths of the gradient in the first three steps of `fit`, with a copy of `model`, on the CPU, in
    float32; on one machine they are the same each time."""
    model, cpu, found = deepcopy(model), torch.device("cpu"), []
    optimizer, scheduler = optimizer_and_schedule(model, recipe, recipe.epochs * len(train))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = TrainingStep(model.train(), recipe, optimizer, scheduler, scaler, cpu, "float32", teacher=teacher)
    train.sampler.set_epoch(1)
    for batch in islice(train.sampler, 3):  # without the processes that augment
        loss, _ = step(*train.collate_fn(train.dataset[batch]))
        gradients = [p.grad.abs().square().sum() for p in model.parameters() if p.grad is not None]
        found += [loss.item(), float(sum(gradients)) ** 0.5]
    return found


@workers_alive()
def fit(
    model: nn.Module,
    recipe: Recipe,
    train: DataLoader,
    judged: DataLoader,
    *,
    judged_on: str = "test",
    folder: Path | None = None,
    identity: dict | None = None,
    device: torch.device | None = None,
    progress: bool = True,
    teacher: nn.Module | None = None,
) -> tuple[pd.DataFrame, list[dict]]:
    """Train `model` in place; with `folder`, keep a checkpoint there after every epoch and go on from it.

    A finished run is loaded and not trained again. On the CPU a resumed run ends bit-identical to one that was never
    stopped, under the same circumstances. The recipe's batch size and augmentation are in `train` already, its dropout
    in `model`; the network of its teacher is `teacher`, in eval mode (`runs.train` sees to all that).

    Args:
        train: yields (images, labels) batches; its sampler has `set_epoch`.
        judged: yields the images that are evaluated after each epoch; `judged_on` names them: "test" or "validation".
        folder: holds `checkpoint.pt`, which must be of this run (`runs.train` sees to that); None keeps nothing.
        identity: kept in the checkpoint, to know the run by.

    Returns:
        History with one row an epoch: epoch, lr, train_loss, train_accuracy, test_loss, test_accuracy (or validation_),
        seconds; losses are means per image, accuracies percent. And the circumstances, with the epoch each held from.
        RunError if the checkpoint cannot be read, or the loss is not finite.
    """
    device = device_to_use(device)
    optimizer, scheduler = optimizer_and_schedule(model, recipe, recipe.epochs * len(train))
    state, precision = distributed.from_first(lambda: begin_or_go_on(folder, recipe.precision, device))
    history, first = state["history"], distributed.rank() == 0
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and precision == "float16")
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    with prepared(nn.ModuleList([model, teacher] if teacher else [model]), device):
        averaged = ema(model, recipe.average) if recipe.average else None
        parts |= {"averaged": averaged} if averaged else {}
        if history:
            restore(state, parts)
        ours = distributed.parallel(model)
        step = TrainingStep(ours, recipe, optimizer, scheduler, scaler, device, precision, averaged, teacher)
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            start, lr = time.perf_counter(), scheduler.get_last_lr()[0]
            train.sampler.set_epoch(epoch)
            # Jupyter's tqdm does not heed TQDM_DISABLE.
            hidden = not (progress and first and sys.stderr) or "TQDM_DISABLE" in os.environ
            bar = tqdm(train, f"Epoch {epoch}", leave=False, file=sys.stderr, disable=hidden)
            train_loss, train_accuracy = train_epoch(step, bar, epoch)
            loss, accuracy = evaluate(averaged or step.model, judged, device)
            row = dict(epoch=epoch, lr=lr, train_loss=train_loss, train_accuracy=train_accuracy)
            row |= {f"{judged_on}_loss": loss, f"{judged_on}_accuracy": accuracy}
            history.append(row | dict(seconds=time.perf_counter() - start))
            if folder and first:
                now = dict(identity=identity, finished=epoch == recipe.epochs, response=response(model))
                now |= {name: part.state_dict() for name, part in parts.items()} | rng_state()
                save_atomically(state | now, folder / "checkpoint.pt")
            print(log_line(history, judged_on), flush=True)  # after the checkpoint: what is printed is kept
        if averaged:
            model.load_state_dict(averaged.module.state_dict())
    return pd.DataFrame(history), state["made_under"]


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device | None = None) -> tuple[float, float]:
    """Mean cross-entropy per image and accuracy in percent, in float32; `model` is on `device` (default: the CPU)."""
    model.eval()
    device, loss, correct, images = device or torch.device("cpu"), 0.0, 0, 0
    for batch in batches:
        x, labels = to_device(device, *batch)
        # TF32 has the 10 bits of float16, and an autocast may have been left on
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.autocast(device.type, enabled=False):
            logits = model(x).float()  # a network may answer in half precision
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        images += len(labels)
    loss, correct, images = distributed.totals(loss, correct, images, device=device)
    return loss / images, 100 * correct / images
