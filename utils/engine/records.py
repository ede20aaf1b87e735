"""What a run is, and whether the one that was kept is the one that is wanted.

A run is the network as built, its first weights, the recipe, the images with their split, the code that trains, and the
seed. A network has two sides: its modules with their arguments, and what it computes with its weights, first and last,
because a changed `forward` or initialisation does not show in its modules. Whatever else may count shows in the first
steps of training, which on one machine come out the same each time.
"""

import hashlib
import inspect
import json
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict
from functools import cache, partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

import utils
from utils import models, transforms
from utils.engine.checkpoints import UNKNOWN, checksums, read_checkpoint, rng_from, verify
from utils.engine.code import ADDRESS, CHANGES, attributes, briefly, classes_of, code, refuse_edits, refuse_old, size_of
from utils.engine.steps import epochs_to_target
from utils.errors import NOT_ITS_OWN, NetworkError, RunError, first_line, of_a_network, printable

Network = Callable[[], nn.Module] | nn.Module
OFFICIAL = dict(source="original", digest="6b3883dca6c867f1")  # the images of CIFAR-10, all of them: ImageData.digest
FIRST = {  # what classes said, see `classes_of`, in all runs that do not know it: they never changed before
    "utils.models.ConvNet": "c1c5c456",
    "utils.models.Residual": "355bc955",
}
LATER = dict(anneal="cos", halved=0.0, teacher=None)  # fields of the recipe that came later: what all runs before had
SEEN = """network data split code first_response first_values normalised
    teacher classes first_steps""".split()  # beside recipe and seed
KINKS = 0.05  # of a gradient: an input of a ReLU that one machine rounds above 0, another below, moves it by up to 2 %
NAME = re.compile(r"\w[\w.-]{,99}(/\w[\w.-]{,99})*")  # of a run; it leads nowhere else, and fits into a disk


once = cache(print)  # the same line again would be noise


def whole(seed: Any) -> int:
    """The seed as Python's number; RunError if it is none to begin from."""
    if isinstance(seed, int | np.integer) and 0 <= seed < 2**63:
        return int(seed)
    raise RunError(f"The seed is {seed!r}, but must be a whole number from 0 on.")


def build(network: Network, seed: int = 1) -> nn.Module:
    """The network with the first weights that `seed` decides, or a copy of a finished module."""
    refuse_edits()  # or a notebook shows its new text beside the old network
    refuse_old(network)
    usual = torch.get_default_dtype() == torch.float32 and torch.get_default_device().type == "cpu"
    if not usual or torch.is_inference_mode_enabled() or any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        raise RunError(
            "PyTorch was set to another default type or device, to inference mode or to autocast; take that back, or "
            "restart the kernel."
        )
    torch.manual_seed(seed)
    with rng_from(seed), of_a_network("be built"):
        model = network() if callable(network) and not isinstance(network, nn.Module) else network
    if not isinstance(model, nn.Module):
        raise NetworkError(f"A network is a function that returns an nn.Module, or a module; this is {network!r}.")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise NetworkError("What torch.jit made shows no layers; train the network as it is, and script it afterwards.")
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    if any(type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks):
        raise NetworkError(
            "The older weight_norm, spectral_norm and prune keep a computed weight, which cannot be copied; use "
            "torch.nn.utils.parametrizations, or end pruning by prune.remove."
        )
    with of_a_network("name its weights"):  # an attribute of its own may be called parameters
        lazy = any(map(is_lazy, (*model.parameters(), *model.buffers())))
    if lazy:
        with torch.no_grad(), of_a_network("answer"):
            model.eval()(torch.zeros(1, 3, 32, 32))  # its lazy layers take their sizes from the first image
        model.train()
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters()):
        raise NetworkError("A hook on a weight is lost in a copy of the network; do in forward what it does.")
    with of_a_network("be copied"):
        return deepcopy(model)  # a function, too, may return the same module again


def built_by(network: Network) -> dict:
    """The function that built the network and its arguments, from which `builder` finds it again; with a line if the
    seed decides nothing of its first weights."""
    first = "given" if isinstance(network, nn.Module) else "from the seed"
    with suppress(Exception):  # training will say what is wrong with it
        if first != "given" and first_values(build(network, 1)) == first_values(build(network, 2)):
            first = "the same for every seed"
            once(f"Its first weights are {first}: the function that builds it sets them or a seed of its own.")
    made = dict(function=type(network).__name__, arguments={}, first_weights=first)
    if isinstance(network, partial):
        with of_a_network("be built"):  # such as with an argument that its function lacks
            bound = inspect.signature(network.func).bind_partial(*network.args, **network.keywords).arguments
        made["arguments"] = {key: v.item() if isinstance(v, np.generic) else v for key, v in bound.items()}
        network = network.func
    known = (name for name, function in models.networks().items() if function is network)  # such as a lambda there
    made["function"] = next(known, getattr(network, "__name__", made["function"]))
    if not all(isinstance(value, int | float | str | None) for value in made["arguments"].values()):
        made["arguments"] = UNKNOWN  # they cannot be written down
    return made


def builder(metrics: Mapping, title: str) -> Network:
    """The function of `models` that built a run's network; RunError if it is not there."""
    refuse_edits()  # it may just have been put there
    made = metrics.get("built_by") or dict(function=metrics["name"], arguments={})
    function, arguments = models.networks().get(made["function"]), made["arguments"]
    if not function or arguments == UNKNOWN or not arguments.keys() <= inspect.signature(function).parameters.keys():
        call = f"{made['function']}({'...' if arguments == UNKNOWN else arguments or ''})"
        raise RunError(
            f"{title} was built by {call}, which is not in utils/models.py; put it back, hand its network to load(), "
            "or delete that folder."
        )
    return partial(function, **arguments)


# ---------------------------------------------------------------- what it is


def modules(model: nn.Module) -> dict[str, str]:
    """Every module with its arguments, by name; of one that contains others only its own kind and arguments. Beside it
    the values among the attributes of modules that are not PyTorch's."""

    def own(module: nn.Module) -> str:
        frozen = [name for name, p in module.named_parameters(recurse=False) if not p.requires_grad]
        said = f"{type(module).__name__}({module.extra_repr()})" if next(module.children(), None) else repr(module)
        said = ADDRESS.sub("", said)
        if "<" in type(module).__qualname__:  # one of many classes of this name
            said = f"{said}, {briefly(type(module))}"
        return f"{said}, its {' and '.join(frozen)} frozen" if frozen else said

    place = {"": "network", "network": "its network"}  # of which neither may hide the other
    found, known = {}, {id(module): (place.get(name, name), module) for name, module in model.named_modules()}
    for name, module in model.named_modules():
        found[place.get(name, name)] = own(module)
        told = {f"{name}.{key}".lstrip("."): briefly(value, known) for key, value in attributes(module).items()}
        found |= {place.get(key, key): text for key, text in told.items() if text}
    return found


def described(model: nn.Module) -> dict[str, str]:
    """The same and, where they are others than in FIRST, what its classes say: what tables know a network by."""
    return modules(model) | unlike_first(classes_of(model))


def unlike_first(classes: Mapping[str, str] | str) -> dict[str, str]:
    """Those of the digests of `classes_of` that are not as in FIRST; none if they are not known."""
    known = {} if classes == UNKNOWN else classes
    return {name: known[name] for name in sorted(known) if FIRST.get(name) != known[name]}


def worded_alike(modules: Mapping[str, str]) -> dict[str, str]:
    """The same modules without what older PyTorches do not say: that a norm has its bias, as it usually has."""
    return {name: text.replace(", bias=True", "") for name, text in modules.items()}


def digest_of(modules: Mapping[str, str] | str) -> str:
    """What tells these modules with their arguments from any others, in 8 hexadecimal digits."""
    if modules == UNKNOWN:
        return UNKNOWN
    return hashlib.sha256(json.dumps(worded_alike(modules)).encode()).hexdigest()[:8]


def response(model: nn.Module) -> list[float]:
    """What the network makes of eight images that are a formula; always on the CPU.

    The logits of the faintest and the strongest image in eval mode, then in training mode; last the length of the
    gradient of a loss, which shows a detached layer, unless its part of it is below a few percent. Without dropout,
    which the recipe decides; of a network that draws random numbers itself, which depend on who made the processor,
    those in eval mode twice, and 0. NetworkError if it computes with weights that are not among its parameters.
    """
    with of_a_network("be copied"):
        copy = deepcopy(model).cpu()
    images = torch.sin(torch.arange(8 * 3 * 32 * 32) * 0.7).reshape(8, 3, 32, 32)
    images = 0.2 + images * torch.linspace(0.3, 3, 8).reshape(8, 1, 1, 1)
    copy.zero_grad()
    for module in copy.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with probing("be trained"):
        judged, before = copy.eval()(images)[[0, -1]], torch.get_rng_state()
        trained = copy.train()(images)
        draws = not torch.equal(torch.get_rng_state(), before)
        loss = F.cross_entropy(trained, torch.arange(8) % trained.shape[1])
        loss.backward()
    if {leaf for leaf in leaves(loss) if isinstance(leaf, nn.Parameter)} - {*copy.parameters()}:
        raise NetworkError(NOT_ITS_OWN)
    with of_a_network("be copied after a step: detach what its forward keeps"):
        deepcopy(copy)
    gradient = sum(p.grad.abs().square().sum().item() for p in copy.parameters() if p.grad is not None) ** 0.5
    logits = torch.cat([judged, judged if draws else trained[[0, -1]]]).flatten().tolist()
    return [round(value, 6) for value in [*logits, 0.0 if draws else gradient]]


@contextmanager
def probing(what: str) -> Iterator[None]:
    """In the block a network is tried, with gradients, and what it draws is the same each time."""
    with torch.random.fork_rng(devices=[]), rng_from(0), torch.enable_grad(), of_a_network(what):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would start the numbers of CUDA anew, too
        yield


def leaves(loss: torch.Tensor) -> set[torch.Tensor]:
    """The weights that a loss was computed with, as far as they are trained."""
    found, waiting = set(), {loss.grad_fn}
    while waiting:
        found |= waiting
        waiting = {source for node in waiting for source, _ in node.next_functions if source} - found
    return {node.variable for node in found if hasattr(node, "variable")}


def first_values(model: nn.Module) -> dict[str, list[float]]:
    """The `size_of` every parameter and buffer as built: what is too small for `response` to show it, or felt in a long
    training only."""
    return {name: size_of(values) for name, values in (*model.named_parameters(), *model.named_buffers())}


def normalised() -> list[float]:
    """What normalising makes of a few pixels."""
    image = np.arange(3072, dtype=np.uint8).reshape(1, 32, 32, 3)
    pixels = transforms.normalise_batch(image, (0.3, 0.5, 0.7), (0.2, 0.3, 0.4))[0, :, ::16, ::16]
    return [round(value, 4) for value in pixels.flatten().tolist()]


def check_outputs(model: nn.Module, classes: int) -> None:
    """NetworkError unless the network gives an image a finite logit for each class, in eval mode twice the same,
    whatever else is in its batch, and still does so when its weights after some steps are loaded into a new one."""
    with of_a_network("be copied"):
        copy, new = deepcopy(model).cpu(), deepcopy(model).cpu()
    images = torch.linspace(-2, 2, 16 * 3 * 32 * 32).reshape(16, 3, 32, 32)
    images = images.to(memory_format=torch.channels_last)  # as in training, where a view may fail
    given = images.clone()
    with probing("answer"):
        first, second, alone = copy.eval()(images), copy(images), copy(images[:1])
    if not isinstance(first, torch.Tensor) or first.shape != (16, classes):
        found = [*first.shape[1:]] if isinstance(first, torch.Tensor) else type(first).__name__
        raise NetworkError(
            f"The network must return {classes} logits for an image, but returns {found}; mend its last layer, or what "
            "its forward returns."
        )
    if not torch.equal(images, given):
        raise NetworkError("The network changes the images that it is given; leave out inplace=True on them.")
    if not (first.isfinite().all() and torch.allclose(first, second, 1e-3, 1e-3)):
        raise NetworkError("The network must return numbers, in eval mode each time the same; mend its forward.")
    if not torch.allclose(first[:1], alone, 1e-3, 1e-3):
        raise NetworkError(
            "What the network says of an image depends on the other images of its batch, in eval mode, too; use a norm "
            "that does not, such as BatchNorm2d with its running statistics."
        )

    def answers(network: nn.Module) -> torch.Tensor:
        with probing("be trained"):
            return torch.cat([network.eval()(images), network.train()(images)])

    with torch.no_grad():
        for p in copy.parameters():
            if p.requires_grad:
                p += 0.01  # as a step would
    with probing("be trained"):
        for _ in range(25):
            copy.train()(images[[0, -1]])  # which may change what it keeps; faint ones alone may move nothing
    with of_a_network("be loaded"):
        new.load_state_dict(copy.state_dict())
    kept, loaded = answers(copy), answers(new)
    if not kept.isfinite().all():
        raise NetworkError("In training the network returns NaN or infinite numbers; mend its forward.")
    if not torch.allclose(kept, loaded, 1e-5, 1e-6):
        raise NetworkError(
            "The network computes with something that its forward changes and that is not saved with its weights: keep "
            "it by self.register_buffer(name, tensor), not persistent=False, and take random numbers from torch."
        )


def say_precision(title: str, metrics: Mapping, wanted: str | None) -> None:
    """A line if a finished run was trained in another precision than the one that is wanted."""
    if wanted not in (None, made_in := metrics.get("precision")):
        print(f"{title} was trained in {made_in}, not in {wanted}; for that use another name, or move its folder.")


def check_teacher(name: str, metrics: Mapping, what: Mapping, classes: Sequence[str]) -> None:
    """RunError if the run `name`, from which the run `what` is to learn, knows other classes; a line if it knows what
    that one is judged on."""
    if list(metrics.get("classes", classes)) != list(classes):
        raise RunError(f"The teacher, {name}, knows other classes than these images have; take one trained on them.")
    if why := flatters(metrics, what):
        print(f"Its teacher, {name}, {why}; that makes its accuracy look better than it is.")


def flatters(metrics: Mapping, what: Mapping) -> str | None:
    """In words that a teacher with these `metrics` knows, or may know, what the run `what` is judged on; else None."""
    theirs, held_out = identity_of(metrics), what["data"]["judged_on"] == "validation"
    same = isinstance(theirs["data"], dict) and theirs["data"].get("digest") == what["data"]["digest"]
    if same and held_out and metrics["evaluated_on"] != "validation":
        return "has learned the held-out images, too"
    if not same or held_out and (theirs["split"] != what["split"] or metrics["recipe"].get("teacher")):
        return "may have learned images on which this run is judged"
    return None


def weights_of(name: str) -> str:
    """What tells the weights of the finished run `name` from others."""
    return checksums(path_of(name)).get("weights.pt", UNKNOWN)[:16]


def taught_by(metrics: Mapping) -> str | None:
    """What tables call the teacher of a run, with what makes its accuracy look better than it is."""
    if not (name := metrics["recipe"].get("teacher")):
        return None
    if (weights := weights_of(name)) != metrics["run"].get("teacher"):
        return f"{name}, which is gone" if weights == UNKNOWN else f"an earlier {name}"
    why = flatters(read_metrics(name), metrics["run"])
    return f"{name}, which {why}" if why else name


def identity(model: nn.Module, recipe: dict, data: dict, seed: int, split: str = UNKNOWN) -> dict:
    """What makes a run itself; `model` is the network as built, `data` says which images, `split` which of them it is
    trained and which it is judged on."""
    with of_a_network("be described"):  # such as by an extra_repr that fails
        described, computed = modules(model), dict(first_response=response(model), first_values=first_values(model))
        computed |= dict(normalised=normalised())
    if teacher := recipe.get("teacher"):
        read_metrics(teacher)  # which says what is wrong with it
        computed |= dict(teacher=weights_of(teacher))
    known = dict(network=described, recipe=recipe_of(recipe), data=data, split=split, seed=seed, code=code())
    return known | computed | dict(classes=classes_of(model))


def identity_of(metrics: Mapping) -> dict:
    """The same of a finished run."""
    known = {key: metrics.get("run", {}).get(key, UNKNOWN) for key in SEEN}
    if known["classes"] == UNKNOWN:
        known["classes"] = FIRST
    return known | dict(recipe=recipe_of(metrics["recipe"]), seed=metrics["seed"])


def recipe_of(fields: Mapping) -> dict:
    """The recipe as far as it belongs to the identity; the precision is a circumstance."""
    return {key: value for key, value in told(fields).items() if key != "precision"}


def told(fields: Mapping) -> dict:
    """The recipe without the fields of LATER that are as in every run before, whose recipes lack them."""
    return {key: value for key, value in fields.items() if key not in LATER or LATER[key] != value}


def metrics_of(model: nn.Module, history: pd.DataFrame, recipe: Any, identity: dict, made_under: list[dict]) -> dict:
    """What metrics.json says of a finished run, beside its name; `recipe` is a training.Recipe."""
    judged_on, last = identity["data"]["judged_on"], made_under[-1]
    accuracy = history[f"{judged_on}_accuracy"]
    reached = dict(last=float(accuracy.iloc[-1]), best=float(accuracy.max()))
    return dict(
        epochs=recipe.epochs,
        epochs_to_85=epochs_to_target(accuracy),
        **{f"{judged_on}_accuracy_{which}": value for which, value in reached.items()},
        train_accuracy_last=float(history.train_accuracy.iloc[-1]),
        seed=identity["seed"],
        data_source=identity["data"]["source"],
        evaluated_on=judged_on,
        recipe=asdict(recipe),
        seconds_per_epoch=round(float(history.seconds.median()), 1),
        **{key: last[key] for key in ("device", "precision", "processes", "cpu_threads", "torch_version")},
        run={key: identity[key] for key in SEEN if key in identity} | dict(response=response(model)),
        made_under=made_under,
    )


# ---------------------------------------------------------------- whether it is the one that is wanted


def alike(found: list[float] | str, recorded: list[float] | str) -> bool:
    """Whether two responses agree within a thousandth of the largest logit, which covers what machines differ in, and
    in their gradients, see KINKS; one that is not known agrees with any."""
    if UNKNOWN in (found, recorded):
        return True
    found, recorded = np.array(found), np.array(recorded)
    if found.shape != recorded.shape:
        return False
    allowed = [0.001 * np.abs(recorded[:-1]).max(initial=1e-6)] * (len(recorded) - 1) + [KINKS * abs(recorded[-1])]
    same = np.array_equal(found, recorded, equal_nan=True)  # also where they are no numbers
    return same or bool(np.isfinite(recorded).all() and (np.abs(found - recorded) <= allowed).all())


def begin_alike(found: dict[str, list[float]], recorded: dict[str, list[float]]) -> bool:
    """Whether all parameters have the same first values: mean and size within a hundredth of the size, and the part
    within what machines differ by; older runs lack the part, or what is of logarithms."""

    def same(values: list[float], others: list[float]) -> bool:
        sizes = np.repeat(values[1::3], 3)
        off = np.nan_to_num(np.tile([0.01, 0.01, 3e-5], 2) * sizes, posinf=0)[: len(others)]  # squares may overflow
        return np.allclose(values[: len(others)], others, 0, off, equal_nan=True)

    return found.keys() == recorded.keys() and all(same(values, recorded[name]) for name, values in found.items())


def steps_alike(found: Mapping, recorded: Mapping) -> bool:
    """Whether the first steps of training come out the same; those of other machines agree with any."""
    one, other = np.array(found["found"]), np.array(recorded["found"])
    same = one.shape == other.shape and np.allclose(one, other, 1e-5, 0, equal_nan=True)
    return found["under"] != recorded["under"] or same


def others(found: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """Which of the classes, functions and values say something else than recorded, or are those of one side only and
    stand nowhere else on the other, as after a move from a cell into a file; without what a forward changes."""

    def unheard(own: Mapping[str, str], those: Mapping[str, str]) -> list[str]:
        elsewhere = {(name.rpartition(".")[2], those[name]) for name in those.keys() - own.keys()}
        alone = [name for name in own.keys() - those.keys() if own[name] != CHANGES and not name.startswith(grown)]
        return [name for name in alone if (name.rpartition(".")[2], own[name]) not in elsewhere]

    changing = [name for side in (found, recorded) for name, digest in side.items() if digest == CHANGES]
    grown = tuple(name.removesuffix(", its value") + "." for name in changing)  # whatever is in them by now
    gone = [] if recorded == FIRST else unheard(recorded, found)  # FIRST is of all networks, though some lack a class
    both = found.keys() & recorded.keys()
    differing = [n for n in both if found[n] != recorded[n] and CHANGES not in (found[n], recorded[n])]
    return sorted([*differing, *unheard(found, recorded), *gone])


MEASURED = {  # what is compared by its size, because machines differ in last digits -> how, and what is said
    "first_response": (
        alike,
        "its modules are the same, but its first weights, or what its forward computes, are others here",
    ),
    "first_values": (begin_alike, "its modules are the same, but the first values of its weights are others here"),
    "normalised": (partial(np.allclose, rtol=0, atol=0.001), "its images were normalised otherwise"),
    "split": (operator.eq, "other images were held out of the same ones there"),
    "classes": (
        lambda found, recorded: not others(found, recorded),
        "its modules are the same, but the code of their classes, or what it names, is another one here",
    ),
    "teacher": (operator.eq, "its teacher has other weights here than it had there"),
    "first_steps": (
        steps_alike,
        "its modules and their code look the same, but its first steps of training come out otherwise here",
    ),
}


def difference(wanted: Mapping, found: Mapping) -> str | None:
    """In words the first thing in which the run `found` is not the one `wanted`; None if they are the same run."""
    for key, value in wanted.items():
        other = found.get(key, UNKNOWN)
        if key in MEASURED:
            agree, why = MEASURED[key]
            if UNKNOWN not in (value, other) and not agree(value, other):
                return f"{why} ({others(value, other)[0]})" if key == "classes" else why
            continue
        if not isinstance(value, dict):
            value, other = {key: value}, {key: other}
        elif not isinstance(other, dict):
            return f"its {key} is not known there"
        if key == "network":
            value, other = worded_alike(value), worded_alike(other)
        keys = value if key == "data" else value | other  # publishing leaves open which copy of the images it was
        differing = [k for k in keys if value.get(k, "missing") != other.get(k, "missing")]
        if differing:
            first = differing[0]
            name = first.removeprefix("layers.").replace("_", " " if key != "network" else "_")
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            if first == "digest":
                return f"its images are others here than there{more}"
            if key == "code":
                by_a_cell = first.endswith(")") and first in value
                mend = "; edit the file instead, and such a run is found again" if by_a_cell else ""
                place = f"utils/{first}" if ".py" in first else f"the module {first}"
                return f"{place}, which is a part of training, is another one here than there{more}{mend}"
            lacking = LATER.get(first, "missing")  # older recipes lack what they had as it was then
            return f"{name} is {value.get(first, lacking)} here, but {other.get(first, lacking)} there{more}"
        if key == "network" and list(value) != list(other):
            return "its layers are the same, but in another order"
    return None


def holds_a_run(folder: Path) -> bool:
    """Whether there is one in the folder, finished or not."""
    return any((folder / file).exists() for file in ("checkpoint.pt", "metrics.json"))


def why_not(wanted: dict, model: nn.Module, folder: Path) -> str | None:
    """In words why the run in `folder` is not the one `wanted`, whose network is `model`; None if it is."""
    if not (folder / "metrics.json").exists():  # a finished run's checkpoint is not sealed with it
        state = read_checkpoint(folder / "checkpoint.pt")
        found, weights = state.get("identity") or {}, state.get("model")
        recorded = state.get("response", UNKNOWN)
    else:
        metrics = read_metrics(folder)
        found = identity_of(metrics)
        recorded = metrics["run"].get("response", UNKNOWN)
        weights = read_checkpoint(folder / "weights.pt") if (folder / "weights.pt").exists() else None
    differs = difference(wanted, found)
    if differs or weights is None:
        return differs
    copy = deepcopy(model)
    try:
        copy.load_state_dict(weights)
    except RuntimeError:
        return "its modules are the same, but other weights are in them there"
    if alike(response(copy), recorded):
        return None
    return "its modules are the same, but with the weights of there its forward computes something else here"


def own_name(name: Any) -> str:
    """The name as it is; RunError unless a run may be trained under it."""
    if not is_name(name):
        raise RunError(f"{name!r} is no name for a run; use at most 100 letters, digits, '_', '-' and '.'.")
    if name.startswith("runs/"):
        raise RunError(f"Leave runs/ out of {name!r}: every run that is trained here is kept there.")
    return name


def folders_of(name: str) -> list[Path]:
    """Of runs/<name>, runs/<name>-2, ... those that hold a run."""
    first = utils.ROOT / "runs" / name
    numbered = [path for path in first.parent.glob(f"{first.name}-*") if path.name[len(first.name) + 1 :].isdigit()]
    return [*filter(holds_a_run, [first, *sorted(numbered, key=lambda path: (len(path.name), path.name))])]


def own_folder(name: str, wanted: dict, model: nn.Module) -> Path:
    """Where this run lies or is to lie: of runs/<name>, runs/<name>-2, ... the one that holds it, else the first that
    holds nothing."""
    first, why = utils.ROOT / "runs" / own_name(name), None
    for there in folders_of(name):
        why = why_not(wanted, model, there)
        if why is None:
            return there
        before = there.relative_to(utils.ROOT / "runs").as_posix()
    places = chain([first], (first.with_name(f"{first.name}-{number}") for number in count(2)))
    folder = next(place for place in places if not holds_a_run(place) and not (place / "weights.pt").is_file())
    if why:
        why = printable(why, 300)
        print(f"{before} in runs/ is another run: {why}. This one is kept in {folder.name}.", flush=True)
    return folder


def find(name: str, wanted: dict, model: nn.Module) -> Path:
    """The folder of the finished run that is wanted; RunError says what is there instead."""
    reasons = []
    for folder in folders_of(name):
        why = why_not(wanted, model, folder)
        if why is None and (folder / "metrics.json").exists():
            return folder
        reasons.append(f"{title_of(folder)}: {why or 'it is not finished'}")
    there = "; ".join(reasons) or f"there is no runs/{name}"
    raise RunError(f"There is no finished run of {name} to publish ({there}); train it on CIFAR-10 to its end.")


# ---------------------------------------------------------------- reading


def is_name(name: Any) -> bool:
    """Whether it may be the name of a run."""
    return isinstance(name, str) and bool(NAME.fullmatch(name))


def path_of(run: str | Path) -> Path:
    """A name in results/, such as experiment_5/seed_2, or a path below the project, such as runs/mine."""
    if isinstance(run, Path):
        return Path(os.path.abspath(run))
    if not is_name(run):
        raise RunError(
            f"{run!r} is no name of a run; results/ and runs/ show which there are. A folder's name may have letters, "
            "digits, '_', '-' and '.' only."
        )
    return utils.ROOT / run if run.startswith("runs/") else utils.ROOT / "results" / run


def place(name: str, seed: int | str, judged_on: str, epochs: int | None = None) -> Path:
    """The folder of a published run; `epochs` where they are fewer than the recipe has."""
    parts = epochs and f"epochs_{epochs}", seed != 1 and f"seed_{seed}", judged_on != "test" and judged_on
    return Path(utils.ROOT, "results", name, *filter(None, parts))


def title_of(folder: Path | None) -> str:
    """What tables and figures call a run: experiment_5 if published, runs/mine-2 if not, "this run" if not kept."""
    if folder is None:
        return "this run"
    return folder.as_posix().removeprefix(f"{utils.ROOT.as_posix()}/").removeprefix("results/")


def last_accuracy(metrics: Mapping) -> float:
    """Accuracy in percent after the last epoch, on the images that the run was judged on."""
    return metrics[f"{metrics['evaluated_on']}_accuracy_last"]


def a_run(value: Any) -> Any:
    """The value, which is a `runs.Run`; RunError if it is something else, such as the network of one."""
    if not hasattr(value, "metrics"):
        kind = type(value).__name__
        raise RunError(f"This takes a run, as runs.train returns it, or its name, but was given {kind}.")
    return value


def images_of(metrics: Mapping) -> str:
    """What tables call the images of a run."""
    data, source = metrics.get("run", {}).get("data"), printable(metrics["data_source"], 100)
    others = isinstance(data, dict) and data.get("digest", OFFICIAL["digest"]) != OFFICIAL["digest"]
    return f"{source}, not all" if others and source == OFFICIAL["source"] else source


def row_of(metrics: Mapping) -> dict:
    """All that a table may say of a finished run, a value each: its recipe, its metrics, what it was made under."""
    judged, run = metrics.get("validation_accuracy_last"), metrics["run"]
    over = dict(train_accuracy=round(metrics["train_accuracy_last"], 2), validation_accuracy=judged)
    network, classes = run["network"], unlike_first(run.get("classes", UNKNOWN))
    over |= dict(modules=digest_of(network if network == UNKNOWN else network | classes))
    over |= dict(code=digest_of(run.get("code", UNKNOWN)))
    over |= dict(data_source=images_of(metrics))
    if teacher := metrics["recipe"].get("teacher"):
        over |= dict(teacher=f"{teacher} {run.get('teacher', UNKNOWN)}")
    first = run.get("first_response", UNKNOWN)
    over |= dict(first_response=first if first == UNKNOWN else " ".join(map(str, first)))
    arguments = metrics.get("built_by", {}).get("arguments", {})
    arguments = {} if arguments == UNKNOWN else arguments
    found = {**metrics["recipe"], **arguments, **(metrics.get("made_under") or [{}])[-1], **metrics, **over}
    return {key: value for key, value in found.items() if not isinstance(value, dict | list)}


def read_metrics(run: str | Path) -> dict:
    """metrics.json of a finished run; RunError if there is none, or it is not as it was kept."""
    path = path_of(run) / "metrics.json"
    try:
        if path.exists():
            verify(path.parent)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        published = ", ".join(p.parent.name for p in sorted(utils.ROOT.glob("results/[!.]*/metrics.json")))
        hint = f"there is runs/{run}, and " if (utils.ROOT / "runs" / run / "metrics.json").exists() else ""
        there = f"those of {published}" if published else "none"
        raise RunError(f"{path.parent} holds no finished run; {hint}results/ holds {there}.") from None


def read_history(run: str | Path) -> pd.DataFrame:
    """history.csv of a run, one row an epoch."""
    return read_table(path_of(run) / "history.csv")


def read_table(path: Path) -> pd.DataFrame:
    """A csv file of runs/ or results/; RunError if it is damaged."""
    verify(path.parent)
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(["commit", "run", "modules", "code"], str))  # digits, perhaps
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first value of each for a name
            raise ValueError("its rows have more values than its header")
        return table
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise RunError(f"{path} cannot be read ({first_line(error)}); fetch or make it again.") from None
