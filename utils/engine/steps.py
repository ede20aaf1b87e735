"""An epoch of training, the device it runs on, its line in the log: mixed precision, several processes, a bar."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from utils.engine import distributed
from utils.engine.speed import autocast, memory_format
from utils.errors import RunError, first_line, of_a_network

TARGET = 85.0  # test accuracy in percent, which the assignment asks for


def device_to_use(asked: str | torch.device | None = None) -> torch.device:
    """The one that is `asked` for ("cuda", "cuda:1", "mps", "cpu"; RunError if PyTorch has none), else CUDA, else MPS,
    else the CPU; of several processes on a Mac, all take the CPU."""
    mps = torch.backends.mps.is_available() and distributed.world_size() == 1
    there = dict(cuda=torch.cuda.is_available(), mps=mps, cpu=True)
    try:
        device = torch.device(asked or next(name for name in there if there[name]))
    except RuntimeError:  # no word of PyTorch's
        device = None
    if not device or not there.get(device.type) or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise RunError(f"PyTorch finds no device {asked} here; leave it out to take what there is.")
    return device


def to_device(device: torch.device, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch on the device, in the memory layout that is fast there."""
    asynchronous = images.is_pinned()  # other memory may be freed before it is read
    images = images.to(device, non_blocking=asynchronous, memory_format=memory_format(device))
    return images, labels.to(device, non_blocking=asynchronous)


def ema(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of weights and batch-norm statistics: decay * average + (1 - decay) * new; what is
    no fraction, such as a table of indices, is copied."""
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list[torch.Tensor], new: list[torch.Tensor], count: torch.Tensor) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():  # they come grouped by their kind
            average(averaged, new, count)
        else:
            for mean, value in zip(averaged, new, strict=True):
                mean.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


class Muon(torch.optim.SGD):
    """SGD, but a step of a convolution's kernels is an orthogonal matrix (Jordan et al., "Muon", 2024).

    What momentum makes of the gradient is a matrix, a row for each output channel. In its place a step takes a matrix
    near to it whose rows (or columns, where these are fewer) are about orthogonal, so that all directions are learned
    alike, not only the few that gradients mostly point to. The kernels keep the length sqrt(rows), which orthogonal
    rows have: `lr` is the share that a step changes at most. They need no weight decay. Three rounds and kernels of
    a fixed length are those of airbench94_muon.py in KellerJordan/cifar10-airbench.
    """

    def __init__(self, groups: list[dict], convolutions: list[nn.Module], lr: float, momentum: float) -> None:
        theirs = {id(module.weight) for module in convolutions}
        kernels = dict(params=[p for group in groups for p in group["params"] if id(p) in theirs], decay=momentum)
        others = [group | dict(params=[p for p in group["params"] if id(p) not in theirs]) for group in groups]
        kernels |= dict(momentum=0.0, nesterov=False, weight_decay=0.0)  # of SGD itself
        super().__init__([kernels, *others], lr, momentum, nesterov=momentum > 0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        decay = self.param_groups[0]["decay"]
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                moving = self.state[p].setdefault("moving", torch.zeros_like(p))
                moving.mul_(decay).add_(p.grad)
                p.grad = orthogonal(p.grad.add(moving, alpha=decay).flatten(1)).reshape(p.shape)
                p.mul_(len(p) ** 0.5 / p.norm().clamp(min=1e-7))
        super().step(closure)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About U V^T for the matrix U S V^T: three steps of Newton and Schulz, with the coefficients of Jordan et al.,
    bring the large singular values near to 1 and the small ones closer."""
    x = matrix.mT if (tall := matrix.shape[0] > matrix.shape[1]) else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(3):
        a = x @ x.mH
        x = 3.4445 * x + (2.0315 * a @ a - 4.775 * a) @ x
    return x.mT if tall else x


def distillation(logits: torch.Tensor, answers: torch.Tensor, temperature: float = 4) -> torch.Tensor:
    """How far the probabilities of `logits` (N, 10) lie from those of a teacher's `answers`, both at a temperature that
    shows also what is unlikely: the Kullback-Leibler divergence, times its square, as gradients shrink by that.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; temperature and share of the loss are
    those of Tian et al., "Contrastive Representation Distillation", 2020.
    """
    ours, wanted = (F.log_softmax(x.float() / temperature, 1) for x in (logits, answers))
    return temperature**2 * F.kl_div(ours, wanted, reduction="batchmean", log_target=True)


@contextmanager
def dropout_of(model: nn.Module, p: float) -> Iterator[None]:
    """In the block every Dropout layer has this probability; with 0 each keeps its own."""
    before = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    for module in before:
        module.p = p or module.p
    try:
        yield
    finally:
        for module, own in before.items():
            module.p = own


@dataclass
class TrainingStep:
    """What a step is made of; called with a batch it makes one and returns the mean loss and the right answers."""

    model: nn.Module
    recipe: Any  # a training.Recipe
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler  # float16 needs its gradients scaled; otherwise it is off
    device: torch.device
    precision: str
    averaged: AveragedModel | None = None
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.recipe.teacher and not self.teacher:
            raise RunError(
                f"The recipe has a teacher, {self.recipe.teacher}; hand its network over, or use runs.train."
            )

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), autocast(self.device, self.precision):
            answers = self.teacher(images) if self.teacher else None  # it knows images of whole size
        if self.scheduler.last_epoch < self.recipe.halved * self.scheduler.total_steps:  # it counts steps
            images = F.avg_pool2d(images, 2)
        with autocast(self.device, self.precision):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
            if self.teacher:
                loss = 0.1 * loss + 0.9 * distillation(logits, answers)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return loss.detach(), (logits.argmax(1) == labels).sum()


@contextmanager
def workers_alive() -> Iterator[None]:
    """RunError if the system kills a process that augments images; PyTorch raises that anywhere in the block."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # what a worker itself raised is worded otherwise
            raise
        raise RunError(
            f"A process that augments images was killed ({first_line(error)}), perhaps for want of memory; close other "
            "programs and start again: a run that is kept goes on after its last finished epoch."
        ) from None


def train_epoch(step: TrainingStep, batches: tqdm, epoch: int) -> tuple[float, float]:
    """One pass over `batches` with a step for each; returns mean loss per image and accuracy in percent. RunError if
    the loss is not finite."""
    step.model.train()
    untouched = {name: p for name, p in step.model.named_parameters() if p.requires_grad}
    loss_sum, correct, seen = torch.zeros((), device=step.device), torch.zeros((), device=step.device), 0
    for number, batch in enumerate(batches):
        images, labels = to_device(step.device, *batch)
        with of_a_network("be trained"):  # such as batch norm of one image, the last of an epoch
            loss, right = step(images, labels)
        untouched = {name: p for name, p in untouched.items() if p.grad is None}
        loss_sum += loss * len(labels)
        correct += right
        seen += len(labels)
        if number % 20 == 0 or number + 1 == len(batches):  # asking a GPU for a number makes it wait
            mean = loss_sum.item() / seen
            if not math.isfinite(mean):
                raise RunError(
                    f"The loss is no longer a number in epoch {epoch}; lower the learning rate and train anew."
                )
            batches.set_postfix_str(f"loss {mean:.4f}, accuracy {100 * correct.item() / seen:.2f} %", refresh=False)
    if untouched and epoch == 1:
        more = f" and {len(untouched) - 1} more" if len(untouched) > 1 else ""
        name = min(untouched).removeprefix("module.")
        print(f"Not trained in epoch 1, because no gradient reached it: {name}{more}.", flush=True)
    loss_sum, correct, seen = distributed.totals(loss_sum, correct, seen, device=step.device)
    return loss_sum / seen, 100 * correct / seen


def epochs_to_target(accuracies: Iterable[float]) -> int | None:
    """The first epoch with at least 85 %, from the accuracies of epochs 1, 2, ...; None if there is none."""
    reached = [epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= TARGET]
    return reached[0] if reached else None


def log_line(history: list[dict], judged_on: str) -> str:
    """The line of the last epoch in `history`; the first at or above 85 % is marked."""
    row = history[-1]
    first = epochs_to_target([r[f"{judged_on}_accuracy"] for r in history]) == row["epoch"]
    return (
        f"Epoch {row['epoch']:>3}   training {row['train_loss']:.4f}, {row['train_accuracy']:.2f} %   "
        f"{judged_on} {row[f'{judged_on}_loss']:.4f}, {row[f'{judged_on}_accuracy']:.2f} %"
        + (f"   first at {TARGET:g} %" if first else "")
    )
