"""Trying things out: a changed network or recipe, a network of one's own, a run that was stopped.

Whatever is tried, no run of something else may be shown, resumed, published or overwritten in its place.
"""

import importlib
import itertools
import json
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections import OrderedDict, defaultdict
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import utils
from utils import architecture, models, plotting, runs, training, transforms
from utils import data as data_module
from utils.__main__ import main
from utils.cifar10.files import ImageData
from utils.engine import checkpoints, code, records, speed
from utils.engine.checkpoints import KEPT, SUMS, read_checkpoint, save_atomically
from utils.engine.records import read_history, read_metrics
from utils.engine.steps import TrainingStep
from utils.errors import DataError, NetworkError, RunError
from utils.experiments import EXPERIMENTS, RECIPE
from utils.models import ConvNet, conv
from utils.study import analysis, search
from utils.training import Recipe

from .conftest import MEAN, STD, random_images, shorten_the_stand_in

ROOT = Path(__file__).resolve().parent.parent
ONE = Recipe(epochs=1, batch_size=32, affine=0.0, precision="float32")


pytestmark = pytest.mark.usefixtures("one_thread")


def contents(*places):
    """Every file at or below these places with its bytes, but for the graphs of a run, which are drawn each time."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return {file: file.read_bytes() for file in files if file.is_file() and file.name != "curves.png"}


def tiny_network(channels=8):
    return ConvNet(channels, c1=conv(3, channels, stride=2), c2=conv(channels, channels, stride=2))


def with_digest(data, digest):
    """The same images, taken for others."""

    class Pretending(ImageData):
        pass

    Pretending.digest = digest
    return Pretending(**vars(data))


def train(network=tiny_network, recipe=ONE, data=None, name="mine", **options):
    return runs.train(network, recipe, data or random_images(), name=name, progress=False, **options)


# ---------------------------------------------------------------- a changed line, from the command line

SERVER = """
import json, os, runpy, sys, traceback
import albumentations, cv2, matplotlib.pyplot, pandas, scipy.special, sklearn.datasets, sklearn.model_selection
import torch.fx.passes.shape_prop, torch.utils.data, torchsummary, torchvision.datasets, tqdm
for line in sys.stdin:
    processes = []
    for number, (project, *arguments) in enumerate(json.loads(line)):
        processes.append(os.fork())
        if processes[-1] == 0:
            code = 1
            os.chdir(project)
            sys.path[0] = project  # as `python -m` does; workers that are not forked look there
            for stream, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.argv = ["utils", *arguments]
            try:
                runpy.run_module("utils", run_name="__main__", alter_sys=True)
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    print(json.dumps(codes), flush=True)
"""


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def environment(cache):
    known = {key: value for key, value in os.environ.items() if key not in ("CIFAR10_PATH", "FAST_RUN", "PYTHONPATH")}
    return known | dict(
        XDG_CACHE_HOME=str(cache), no_proxy="*", OMP_NUM_THREADS="1", MPLBACKEND="Agg", NO_ALBUMENTATIONS_UPDATE="1"
    )


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """`python -m utils ...` in a project, several at once, each in a process of its own, forked from one that has
    imported the big packages (but nothing of the project): that takes seconds, the commands themselves mostly do not.
    """
    if not hasattr(os, "fork"):
        pytest.skip("Windows cannot fork")
    folder = tmp_path_factory.mktemp("server")
    options = dict(cwd=folder, env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", SERVER], **options) as server:

        def run(project, *several):
            print(json.dumps([[str(project), *arguments] for arguments in several]), file=server.stdin, flush=True)
            codes = json.loads(server.stdout.readline())
            texts = [
                [(project / f"{k}.{name}").read_text(encoding="utf-8") for name in ("out", "err")]
                for k in range(len(codes))
            ]
            return [Finished(code, *text) for code, text in zip(codes, texts, strict=True)]

        yield run
        server.kill()


@pytest.fixture(scope="module")
def command(commands):
    """One of them."""
    return lambda project, *arguments: commands(project, arguments)[0]


def copy_of_project(folder):
    for name in ("utils", "notebooks", "results", "images", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copyfile(ROOT / "README.md", folder / "README.md")
    shorten_the_stand_in(folder)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, commands):
    """A copy of the project with an epoch of two networks in runs/."""
    folder, names = copy_of_project(tmp_path_factory.mktemp("trained")), ("experiment_5", "small")
    for name, done in zip(names, commands(folder, *(["train", name, "--epochs", "1"] for name in names)), strict=True):
        assert done.code == 0 and "NOT CIFAR-10" in done.out and f"in runs/{name}." in done.out, done.err
    return folder


@pytest.fixture
def project(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "project"))


@dataclass(frozen=True)
class Change:
    """An edit of one file, and what the one sentence must say of it."""

    network: str
    file: str
    old: str
    new: str
    says: str

    def make(self, project):
        self._replace(project, self.old, self.new)

    def undo(self, project):
        self._replace(project, self.new, self.old)

    def _replace(self, project, old, new):
        path = project / "utils" / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"utils/{self.file} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")
        os.utime(path, ns=(0, time.time_ns()))  # else Python may take an edit of this second for the file before


CHANGES = {
    "padding of a dilated layer": Change(
        "experiment_5",
        "models.py",
        "c5=conv(64, 32, dilation=2)",
        "c5=conv(64, 32, padding=2, dilation=2)",
        r"c5\.conv is Conv2d\(64, 32, .*padding=\(2, 2\).* here, but Conv2d\(64, 32, .*padding=\(1, 1\).* there",
    ),
    "dilation": Change(
        "experiment_5",
        "models.py",
        "c3_2=conv(32, 64),\n        c3_1x1=conv1x1(64, 16)",
        "c3_2=conv(32, 64, padding=2, dilation=2),\n        c3_1x1=conv1x1(64, 16)",
        r"c3_2\.conv is Conv2d\(32, 64, .*dilation=\(2, 2\).* here, but Conv2d\(32, 64, .*padding=\(1, 1\).* there",
    ),
    "width": Change(
        "experiment_5",
        "models.py",
        "c4_1=conv(16, 32),\n        c4_2=conv(32, 64)",
        "c4_1=conv(16, 24),\n        c4_2=conv(24, 64)",
        r"c4_1\.conv is Conv2d\(16, 24, .* here, but Conv2d\(16, 32, .* there \(and 2 more\)",
    ),
    "forward": Change(
        "small",
        "models.py",
        "return x + self.layers(x)",
        "return x - self.layers(x)",
        "modules are the same, but",
    ),
    "recipe": Change(
        "experiment_5",
        "experiments.py",
        "RECIPE = Recipe(epochs=24)",
        "RECIPE = Recipe(epochs=24, lr=0.2)",
        r"lr is 0\.2 here, but 0\.1 there",
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_line_is_another_run(project, command, commands, change):
    name, kept = change.network, project / "runs" / change.network
    first = contents(kept)
    assert {file.name for file in first} >= {"checkpoint.pt", "weights.pt", "history.csv", "metrics.json"}
    published = [project / place for place in ("results", "README.md", "docs", "images")]
    before = contents(*published)

    # it is trained anew, in a folder of its own, and one sentence says why
    change.make(project)
    done = command(project, "train", name, "--epochs", "1")
    assert done.code == 0, done.err
    said = [line for line in done.out.splitlines() if "another run" in line]
    assert len(said) == 1 and re.search(change.says, said[0]) and f"kept in {name}-2." in said[0], said
    assert "\nEpoch   1 " in done.out and f"in runs/{name}-2." in done.out
    assert contents(kept) == first and (project / "runs" / f"{name}-2" / "metrics.json").exists()

    # nothing that was published of the network before may speak for this one
    shutil.copytree(project / "results" / name, project / "runs" / f"{name}-3")  # as if trained on CIFAR-10
    wanted = [
        ["publish", name],
        ["predict", "picture.png", "--network", name],
        ["calibrate", name],
        ["export", name],
        ["report"],
    ]
    for arguments, refused in zip(wanted, commands(project, *wanted), strict=True):
        assert refused.code == 2, arguments
        assert re.fullmatch(f"Error: .*{change.says}.*\n", refused.err), (arguments, refused.err)
        assert "Traceback" not in refused.out + refused.err
    assert contents(*published) == before
    assert not list(project.glob("**/*.onnx"))

    # undone, the first run is found again and nothing is trained
    change.undo(project)
    all_runs = contents(project / "runs")
    wanted = ["train", name, "--epochs", "1"], ["predict", "picture.png", "--network", name], ["publish", name]
    again, predicted, found = commands(project, *wanted)
    assert again.code == 0 and "another run" not in again.out and "Epoch   1" not in again.out, again.err
    assert f"in runs/{name}." in again.out
    assert contents(project / "runs") == all_runs and predicted.code == 0
    assert found.code == 2 and "is checked on CIFAR-10" in found.err, "it is found, but not checked here"
    assert contents(*published) == before


def test_changed_code_that_trains_is_another_run(project, command, commands):
    """The same where the network and its recipe stay as they are: what was trained before may still be looked at."""
    change = Change(
        "small",
        "engine/steps.py",
        "            logits = self.model(images)\n            loss = F",
        "            logits = 2 * self.model(images)\n            loss = F",
        "utils/engine/steps.py, which is a part of training, is another one here than there",
    )
    first = contents(project / "runs" / "small")
    change.make(project)
    done = command(project, "train", "small", "--epochs", "1")
    assert done.code == 0 and f"small in runs/ is another run: {change.says}. This one is kept in small-2." in done.out
    assert "\nEpoch   1 " in done.out and contents(project / "runs" / "small") == first
    histories = [(project / "runs" / name / "history.csv").read_text(encoding="utf-8") for name in ("small", "small-2")]
    assert histories[0].split(",")[8] != histories[1].split(",")[8], "the loss of the only epoch"
    shutil.copytree(project / "results" / "small", project / "runs" / "small-3")  # as if trained on CIFAR-10
    published, predicted = commands(project, ["publish", "small"], ["predict", "picture.png", "--network", "small"])
    assert published.code == 2 and change.says in published.err and "Traceback" not in published.err
    assert predicted.code == 0, predicted.err
    change.undo(project)
    again = command(project, "train", "small", "--epochs", "1")
    assert "another run" not in again.out and "Epoch   1" not in again.out and "in runs/small." in again.out, again.err


def test_what_a_cell_puts_in_the_place_of_a_loss_is_trained_each_time(root, capsys, monkeypatch):
    step, factor = TrainingStep.__call__, 1.0
    monkeypatch.setattr(TrainingStep, "__call__", lambda self, images, labels: step(self, factor * images, labels))
    first = train()
    factor = 0.0  # no text differs
    second = train()
    assert [run.folder.name for run in (first, second)] == ["mine", "mine-2"]
    assert first.history.train_loss.iloc[-1] != second.history.train_loss.iloc[-1]
    where = "utils/engine/steps.py (TrainingStep.__call__), which is a part of training, is another one here than there"
    assert f"mine in runs/ is another run: {where}; edit the file instead" in capsys.readouterr().out


def test_each_change_has_a_folder_and_finds_it_again(root, capsys):
    """The same with the library, and more than one change."""

    def wider():
        return tiny_network(16)

    first, second = train(), train(wider)
    third = train(wider, replace(ONE, lr=0.2))
    fourth = train(wider, replace(ONE, lr=0.2), random_images(seed=1))
    fifth = train(seed=2)
    sixth = train(test=True)
    folders = [run.folder.name for run in (first, second, third, fourth, fifth, sixth)]
    assert folders == ["mine", "mine-2", "mine-3", "mine-4", "mine-5", "mine-6"]
    said = [line for line in capsys.readouterr().out.splitlines() if "another run" in line]
    assert [re.search(r"run: (.*) there.*\. This one is kept in (.*)\.$", line).groups() for line in said] == [
        ("c1.conv is " + str(wider().layers.c1.conv) + " here, but " + str(tiny_network().layers.c1.conv), "mine-2"),
        ("lr is 0.2 here, but 0.1", "mine-3"),
        ("its images are others here than", "mine-4"),
        (said[3].split("run: ")[1].split(" there")[0], "mine-5"),
        (said[4].split("run: ")[1].split(" there")[0], "mine-6"),
    ]
    before = contents(root)
    for run, again in (
        (first, train()),
        (second, train(wider)),
        (third, train(wider, replace(ONE, lr=0.2))),
        (fourth, train(wider, replace(ONE, lr=0.2), random_images(seed=1))),
        (fifth, train(seed=2)),
        (sixth, train(test=True)),
    ):
        assert again.folder == run.folder and again.metrics["run"] == run.metrics["run"]
        pd.testing.assert_frame_equal(again.history, run.history, check_dtype=False, rtol=1e-4)
    assert contents(root) == before
    out = capsys.readouterr().out
    assert "another run" not in out and "Epoch" not in out


class Scaled(nn.Module):
    """A parameter that belongs to no layer, and a number that only an attribute holds."""

    limit = 100.0

    def __init__(self, shape=(8, 1, 1), factor=1.0, share=0.0, hidden=0.0, kept=0.0):
        super().__init__()
        self.share = share  # of the images that lose this layer, in a training that is longer than a look at it
        self._hidden, self.options = hidden, {"rate": [hidden, None], "array": np.full(2, hidden)}
        self.register_buffer("kept", torch.tensor(kept))
        self.body, self.scale, self.factor = conv(3, 8, stride=4), nn.Parameter(torch.ones(shape)), factor
        self.linear = nn.Linear(8, 10)

    def forward(self, images):
        return self.linear((self.body(images) * self.scale * self.factor).mean((2, 3)))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (dict(shape=(1, 1, 1)), "its modules are the same, but"),
        (dict(factor=2.0), "factor is 2.0 here, but 1.0 there"),
        (dict(share=0.2), "share is 0.2 here, but 0.0 there"),
        (dict(hidden=0.2), "_hidden is 0.2 here, but 0.0 there .and 1 more"),
    ],
)
def test_what_no_layer_shows_is_noticed(root, capsys, changed, why):
    train(Scaled)
    assert train(partial(Scaled, **changed)).folder.name == "mine-2"
    assert re.search(f"another run: {why}", capsys.readouterr().out)
    with pytest.raises(RunError, match=rf"than the run runs/mine: {why}"):
        runs.load("runs/mine", partial(Scaled, **changed))
    assert runs.load("runs/mine", Scaled).folder.name == "mine"


def test_a_number_in_a_buffer_is_noticed(root, capsys):
    train(Scaled)
    assert train(partial(Scaled, kept=0.2)).folder.name == "mine-2"
    assert "another run: its modules are the same, but the first values of its weights" in capsys.readouterr().out


def test_a_class_attribute_is_noticed(root, monkeypatch, capsys):
    train(Scaled)
    monkeypatch.setattr(Scaled, "limit", 3.0)
    assert (
        train(Scaled).folder.name == "mine-2"
        and "another one here (tests.test_laboratory.Scaled.limit, its value)" in capsys.readouterr().out
    )


class Counting(nn.Module):
    """Its forward changes what it holds, and uses a place in memory as a name."""

    def __init__(self):
        super().__init__()
        self.body, self.linear, self.calls, self.side = conv(3, 8, stride=4), nn.Linear(8, 10), 0, None
        self.act = lambda maps: maps.relu()

    def extra_repr(self):
        return f"act={self.act}"

    def forward(self, images):
        self.calls, self.side = self.calls + 1, images.shape[-1]
        return self.linear(self.act(self.body(images)).mean((2, 3)))


class Volumes(nn.Module):
    """Weights of five dimensions, and four that are no kernels."""

    def __init__(self):
        super().__init__()
        self.body, self.linear = nn.Conv3d(1, 4, (3, 3, 3), stride=(1, 4, 4)), nn.Linear(4, 10)
        self.turns = nn.Parameter(torch.ones(1, 1, 1, 2))

    def forward(self, images):
        maps = self.body(images.unsqueeze(1)).mean((2, 3, 4)) * torch.view_as_complex(self.turns).abs().mean()
        return self.linear(maps)


class Recomputed(nn.Module):
    """Its maps are computed once more for the gradient; the images need one, else the first layer would have none."""

    def __init__(self):
        super().__init__()
        self.body, self.linear = conv(3, 8, stride=4), nn.Linear(8, 10)

    def forward(self, images):
        images = images.detach().requires_grad_(True)
        return self.linear(checkpoint(self.body, images, use_reentrant=True).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:None of the inputs")  # of the trace, which asks without an image
@pytest.mark.parametrize("network", [Counting, Volumes, Recomputed])
def test_an_unusual_network_is_trained_found_again_and_loaded(root, network):
    first = train(network)
    assert train(network).folder == first.folder
    assert not torch.equal(next(first.model.parameters()), next(records.build(network).parameters()))
    again = runs.load("runs/mine", network).history
    pd.testing.assert_frame_equal(again, first.history, check_dtype=False, rtol=1e-4)


class AtRest(Recomputed):
    """As it is often written: PyTorch leaves what it computes once more without a gradient."""

    def forward(self, images):
        return self.linear(checkpoint(self.body, images, use_reentrant=True).mean((2, 3)))


class Aside(Recomputed):
    def forward(self, images):
        return self.linear(nn.functional.pad(images.mean((2, 3)), (0, 5)))


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("network", [AtRest, Aside])
def test_layers_that_no_gradient_reaches_are_told(root, network, capsys):
    recipe = replace(ONE, epochs=2)
    train(network, recipe)
    said = "Not trained in epoch 1, because no gradient reached it: body.conv.weight and 2 more."
    assert capsys.readouterr().out.count(said) == 1
    train(Recomputed, recipe, name="other")
    assert "Not trained" not in capsys.readouterr().out


class Keeping(nn.Module):
    """It divides by a running mean, which it keeps in `where`."""

    where = "attribute"

    def __init__(self):
        super().__init__()
        self.body, self.linear = conv(3, 8, stride=4), nn.Linear(8, 10)
        if self.where == "attribute":
            self.usual = 1.0
        else:
            self.register_buffer("usual", torch.ones(()), persistent=self.where == "buffer")

    def forward(self, images):
        maps = self.body(images).mean((2, 3))
        if self.training:
            self.usual = 0.9 * self.usual + 0.1 * maps.detach().std()
        return self.linear(maps / self.usual)


class KeptBeside(Keeping):
    where = "non-persistent buffer"


class KeptOfSome(KeptBeside):
    """It changes only where images are bright."""

    def forward(self, images):
        maps = self.body(images).mean((2, 3))
        if self.training:
            self.usual = self.usual + 0.1 * maps.detach().mean() * (images.mean() > -1)
        return self.linear(maps / self.usual)


class Kept(Keeping):
    where = "buffer"


class Drawing(Recomputed):
    """Its random numbers are its own, and stand elsewhere when it is loaded."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(0)

    def forward(self, images):
        scale = 1 + self.training * self.random.random()
        return scale * self.linear(self.body(images).mean((2, 3)))


@pytest.mark.parametrize("network", [Keeping, KeptBeside, KeptOfSome, Drawing])
def test_what_could_not_be_loaded_again_is_not_trained(root, network, capsys):
    with pytest.raises(NetworkError, match=r"is not saved with its weights: keep it by self.register_buffer\(name"):
        train(network)
    assert "Epoch" not in capsys.readouterr().out and not (root / "runs").exists()


STEPS = itertools.cycle([1.0])


class Stepping(Recomputed):
    """What comes later than in a few steps would be seen by nothing else."""

    def forward(self, images):
        maps = self.body(images).mean((2, 3))
        return self.linear(maps * next(STEPS) if self.training else maps)


class SteppingOnItsOwn(Recomputed):
    def __init__(self):
        super().__init__()
        self.steps = itertools.cycle([1.0])


class SteppingBySettings(Stepping):
    settings = dict(steps=itertools.count(), sizes=[1])

    def forward(self, images):
        return super().forward(images) + (0.0 * next(self.settings["steps"]) if self.training else 0.0)


@pytest.mark.parametrize(
    "network, said",
    [
        (Stepping, r"STEPS is an iterator \(cycle\); what comes next in it is not kept"),
        (SteppingOnItsOwn, r"SteppingOnItsOwn.steps is an iterator|copied"),
        (SteppingBySettings, r"settings.steps is an iterator \(count\)"),
    ],
)
def test_what_draws_from_an_iterator_is_not_trained(root, network, said):
    with pytest.raises((NetworkError, RunError), match=said):
        train(network)
    assert not (root / "runs").exists()


def test_what_is_kept_in_a_buffer_is_loaded_again(root):
    run = train(Kept)
    images = torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)
    assert run.model.usual != 1
    assert torch.equal(runs.load("runs/mine", Kept).model(images), run.model(images))


@pytest.mark.parametrize("mode", ["default type", "default device", "inference", "autocast"])
def test_a_setting_of_pytorch_is_not_taken_for_another_network(mode):
    torch.set_default_dtype(torch.float64 if mode == "default type" else torch.float32)
    torch.set_default_device("meta" if mode == "default device" else None)
    try:
        with torch.inference_mode(mode == "inference"), torch.autocast("cpu", enabled=mode == "autocast"):
            with pytest.raises(RunError, match="PyTorch was set to another"):
                records.build(models.small)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_an_autocast_that_was_left_on_changes_no_answer(root):
    run, data = train(), random_images()
    usual = runs.evaluate(run, data.test_images, data.test_labels)
    logits = analysis.logits(run.model, data.test_images, MEAN, STD)
    with torch.autocast("cpu", torch.bfloat16):
        assert runs.evaluate(run, data.test_images, data.test_labels) == usual
        assert (analysis.logits(run.model, data.test_images, MEAN, STD) == logits).all()


def test_a_run_is_kept_before_another_process_may_begin(root, monkeypatch):
    save, locked = runs.save, []

    def saved(run, folder):
        with pytest.raises(Timeout):
            FileLock(folder / ".lock", timeout=0).acquire()
        locked.append(folder)
        save(run, folder)

    monkeypatch.setattr(runs, "save", saved)
    train()
    assert locked == [root / "runs" / "mine"]


def test_gradients_that_a_cell_switched_off_are_there_in_training(root):
    with torch.set_grad_enabled(False):
        off = train()
    assert off.history.train_loss.tolist() == train(name="on").history.train_loss.tolist()


def test_a_folder_that_cannot_be_written_is_a_sentence(root, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(RunError, match=r"runs/mine cannot be written \(.*Permission denied\); work in a copy"):
        train(Kept)


def test_empty_weights_are_a_sentence(root):
    folder = train().folder
    save_atomically({}, folder / "weights.pt")
    checkpoints.seal(folder)
    with pytest.raises(RunError, match="other weights are in them there"):
        runs.load("runs/mine", tiny_network)


def test_a_training_that_fails_before_its_first_epoch_leaves_no_folder(root):
    network = partial(nn.Sequential, nn.Flatten(), nn.Linear(3072, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    with pytest.raises(NetworkError, match="Expected more than 1 value per channel"):
        train(network, replace(ONE, batch_size=31), test=True, data=random_images(training=125, test=20))
    assert not (root / "runs" / "mine").exists()


def test_a_network_that_torchsummary_cannot_read_is_trained(root, monkeypatch, cache, capsys):
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.linear = nn.LSTM(96, 8, batch_first=True), nn.Linear(8, 10)

        def forward(self, images):
            return self.linear(self.rows(images.permute(0, 2, 1, 3).flatten(2))[0][:, -1])

    monkeypatch.setattr(utils, "FAST_RUN", True)
    monkeypatch.setattr(models, "remembering", lambda: Remembering(), raising=False)
    assert main(["train", "remembering"]) == 0
    out = capsys.readouterr().out
    assert "torchsummary cannot read this network" in out and "Epoch   1" in out


def test_a_network_that_torchsummary_miscounts_is_told(root, monkeypatch, cache, capsys):
    class Scaled(ConvNet):
        def __init__(self):
            super().__init__(8, c1=conv(3, 8, stride=4))
            self.scale = nn.Parameter(torch.ones(8, 8, 8))

        def forward(self, images):
            return self.linear((self.layers(images) * self.scale).mean((2, 3)))

    monkeypatch.setattr(utils, "FAST_RUN", True)
    for network, said in ((lambda: Scaled(), True), (tiny_network, False)):
        monkeypatch.setattr(models, "mine", network, raising=False)
        assert main(["train", "mine"]) == 0
        out = capsys.readouterr().out
        assert "Total params" in out
        assert ("torchsummary miscounts this network, which has 834 parameters" in out) is said


def test_what_cannot_be_copied_after_a_step_is_said_before_one(root, capsys):
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.linear, self.maps = conv(3, 8, stride=4), nn.Linear(8, 10), None

        def forward(self, images):
            maps = self.body(images).mean((2, 3))
            if self.training:
                self.maps = maps
            return self.linear(maps)

    with pytest.raises(NetworkError, match="detach what its forward keeps"):
        train(Keeping)
    assert "Epoch" not in capsys.readouterr().out and not (root / "runs").exists()


def test_a_view_that_the_layout_of_a_training_does_not_allow_is_said_at_once(root):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.linear = conv(3, 8, stride=4), nn.Linear(512, 10)

        def forward(self, images):
            maps = self.body(images)
            return self.linear(maps.view(len(maps), -1))

    with pytest.raises(NetworkError, match=r"Use \.reshape"):
        train(Viewing)
    assert not (root / "runs").exists()


def test_first_values_that_are_too_small_to_be_felt_are_noticed(root, capsys):
    class Gated(nn.Module):
        """As ReZero and LayerScale begin: close to the identity."""

        def __init__(self, first=1e-6):
            super().__init__()
            self.body, self.linear = conv(3, 8, stride=4), nn.Linear(8, 10)
            self.gate = nn.Parameter(torch.full((8, 1, 1), first))

        def forward(self, images):
            maps = self.body(images)
            return self.linear((maps + self.gate * maps.tanh()).mean((2, 3)))

    train(Gated)
    assert train(partial(Gated, first=1e-4)).folder.name == "mine-2"
    assert "another run: its modules are the same, but the first values of its weights are" in capsys.readouterr().out
    assert train(Gated).folder.name == "mine"


def test_a_finished_module_with_slightly_other_weights_is_another_run(root, capsys):
    module, noisy = tiny_network(), tiny_network()
    with torch.no_grad():
        for p, other in zip(noisy.parameters(), module.parameters(), strict=True):
            p.copy_(other * (1 + 1e-4 * torch.randn_like(p)))
    train(module)
    assert train(noisy).folder.name == "mine-2"
    assert "another run: its modules are the same, but the first values of its weights are" in capsys.readouterr().out
    assert train(module).folder.name == "mine"


def test_what_older_runs_say_of_first_values_still_counts():
    found = records.first_values(tiny_network())
    for known in (2, 3):
        older = {name: values[:known] for name, values in found.items()}
        assert records.begin_alike(found, older)
        assert not records.begin_alike(found, older | {"linear.weight": [0.5, 0.5]})


class Settled(nn.Module):
    def __init__(self, *settings):
        super().__init__()
        self.register_buffer("settings", torch.tensor(settings))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((50_000.0, 0.1), (50_000.0, 0.5)),
        ((torch.finfo().min, 0.1), (torch.finfo().min, 0.5)),
        ((float("nan"), 0.1), (float("nan"), 0.5)),
        ((float("-inf"), 0.0), (0.0, float("-inf"))),
        ((float("-inf"), 0.0), (float("inf"), 0.0)),
        ((float("nan"), 0.0), (float("inf"), 0.0)),
    ],
)
def test_a_value_beside_a_large_one_or_one_that_is_no_number_counts(one, other):
    first, second = records.first_values(Settled(*one)), records.first_values(Settled(*other))
    assert records.begin_alike(first, first) and not records.begin_alike(second, first)
    mask = records.first_values(Settled(*[torch.finfo().min] * 1000))
    assert records.begin_alike(mask, mask), "though its squares and sums overflow"
    for kind in (torch.tensor, np.array, lambda values: pd.DataFrame({"p": values})):
        assert code.briefly(kind(one)) == code.briefly(kind(one)) != code.briefly(kind(other))


def test_dropout_is_after_a_training_what_it_is_when_the_run_is_loaded(root):
    trained = train(Dropped, replace(ONE, dropout=0.3))
    rates = [
        [module.p for module in run.modules() if isinstance(module, nn.Dropout)] for run in (trained.model, Dropped())
    ]
    assert rates == [[0.1], [0.1]] and trained.metrics["recipe"]["dropout"] == 0.3


class Dropped(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, stride=4), nn.Flatten(), nn.Dropout(0.1), nn.Linear(512, 10))


def test_an_edit_of_the_networks_while_one_trains_loses_no_run(root, monkeypatch):
    fit = training.fit

    def edited(*arguments, **options):
        found = fit(*arguments, **options)
        monkeypatch.setattr(utils, "SOURCES", utils.SOURCES | dict(models=b"x = 1"))
        return found

    monkeypatch.setattr(training, "fit", edited)
    module = tiny_network()
    assert train(lambda: module).folder.name == "mine"
    assert read_metrics("runs/mine")["built_by"]["first_weights"] == "the same for every seed", "asked before the edit"


def test_a_lambda_and_a_class_in_models_are_networks(root, monkeypatch):
    Dropped.__module__, before = "utils.models", Dropped.__module__
    try:
        monkeypatch.setattr(models, "hers", lambda: tiny_network(), raising=False)
        monkeypatch.setattr(models, "Dropped", Dropped, raising=False)
        assert {"hers", "Dropped", "experiment_5"} < models.networks().keys()
        assert not {"networks", "build_model", "ConvNet", "Residual", "Callable"} & models.networks().keys()
        monkeypatch.setattr(models, "Wrong", type("Wrong", (Exception,), {"__module__": "utils.models"}), raising=False)
        assert "Wrong" not in models.networks()
        train(models.hers)
        assert read_metrics("runs/mine")["built_by"]["function"] == "hers" and runs.load("runs/mine")
        train(models.Dropped, name="hers_2")
        assert runs.load("runs/hers_2").metrics["built_by"]["function"] == "Dropped"
    finally:
        Dropped.__module__ = before


@pytest.fixture
def quietly(monkeypatch):
    """What a cell puts in the place of something that trains shows in its effect alone."""
    monkeypatch.setattr("utils.engine.code.replaced", lambda: [])


def test_other_normalising_is_another_run_and_is_not_predicted_with(root, capsys, monkeypatch, quietly):
    train()
    normal = transforms.normalise_batch
    with monkeypatch.context() as code:
        for module in ("utils.transforms", "utils.engine.batches"):
            code.setattr(f"{module}.normalise_batch", lambda images, mean, std: normal(images, mean, [0.5] * 3))
        assert train().folder.name == "mine-2"
        with pytest.raises(RunError, match="its images were normalised otherwise"):
            runs.load("runs/mine", tiny_network)
    assert "another run: its images were normalised otherwise" in capsys.readouterr().out


def test_other_held_out_images_are_another_run(root, capsys, monkeypatch, quietly):
    def later(labels, validation):
        return split(labels, validation, seed=1)

    split = data_module.train_validation_split
    assert train().folder.name == "mine"
    before = runs.load("runs/mine", tiny_network)
    monkeypatch.setattr("utils.data.train_validation_split", later)
    assert train().folder.name == "mine-2"
    assert "another run: other images were held out of the same ones there" in capsys.readouterr().out
    judged = runs.compare(before, train(), before).loc["judged on"]
    assert judged.tolist() == ["validation", "validation, other images"]


def test_a_run_behind_a_gap_is_found_again(root):
    train()
    train(recipe=replace(ONE, lr=0.05))
    shutil.rmtree(root / "runs" / "mine")
    assert train(recipe=replace(ONE, lr=0.05)).folder.name == "mine-2"
    assert train(recipe=replace(ONE, lr=0.02)).folder.name == "mine"


class Gained(nn.Conv2d):
    def forward(self, images, gain):
        return super().forward(images) * gain


class WithGains(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.linear = conv(3, 8, stride=2), nn.Linear(8, 10)
        self.each = Gained(8, 8, 3, stride=2, groups=8)  # in bfloat16 one that is computed in float32

    def forward(self, images):
        return self.linear(self.each(self.body(images), 2.0).mean((2, 3)))


def test_a_convolution_with_an_argument_more_is_trained_in_any_precision(root):
    for precision in ("float32", "bfloat16"):
        assert train(WithGains, replace(ONE, precision=precision), name=precision).folder


SETTING = 0  # of the networks below: what a student changes between two runs


class Felt(nn.Module):
    """A global constant decides what it computes in training."""

    def __init__(self):
        super().__init__()
        self.body, self.dropout, self.linear = conv(3, 8, stride=2), nn.Dropout(0.5), nn.Linear(8, 10)

    def forward(self, images):
        return self.linear(self.body(images).mean((2, 3)))


class DropoutMoved(Felt):
    def forward(self, images):
        maps = self.body(images)
        return self.linear(self.dropout(maps).mean((2, 3)) if SETTING else self.dropout(maps.mean((2, 3))))


class DropoutForgotten(Felt):
    def forward(self, images):
        found = super().forward(images)
        return self.dropout(found) if SETTING else found


class StochasticDepth(Felt):
    def forward(self, images):
        for _ in range(4):
            skipped = self.training and torch.rand(()).item() < (0.05 if SETTING else 0.02)
            images = images if skipped else images + images.sin()
        return super().forward(images)


class Statistics(Felt):
    def forward(self, images):
        norm = self.body.norm
        maps = nn.functional.batch_norm(
            self.body.conv(images),
            norm.running_mean,
            norm.running_var,
            training=self.training,
            momentum=0.01 if SETTING else 0.1,
        )
        return self.linear(maps.relu().mean((2, 3)))


class GhostNorm(Felt):
    def forward(self, images):
        return torch.cat([super(GhostNorm, self).forward(part) for part in images.split(16 if SETTING else 32)])


class GhostNormOfMany(Felt):
    def forward(self, images):
        return torch.cat([super(GhostNormOfMany, self).forward(x) for x in images.split(64 if SETTING else 128)])


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 1

    @staticmethod
    def backward(context, gradient):
        return gradient * (1 if SETTING else -1)


class WrongGradient(Felt):
    def forward(self, images):
        return self.linear(Sign.apply(self.body(images)).mean((2, 3)))


class Saturating(Felt):
    """Feels it with large values only."""

    def forward(self, images):
        maps = self.body.conv(images)
        return self.linear((maps.clamp(-6, 6) if SETTING else maps).relu().mean((2, 3)))


class Enlarging(Felt):
    """Feels it with small images only."""

    def forward(self, images):
        return super().forward(nn.functional.interpolate(images, size=32) if SETTING else images)


@pytest.mark.parametrize(
    "network",
    [
        DropoutMoved,
        DropoutForgotten,
        StochasticDepth,
        Statistics,
        GhostNorm,
        GhostNormOfMany,
        WrongGradient,
        Saturating,
        Enlarging,
    ],
)
def test_what_is_felt_in_training_alone_is_another_run(root, monkeypatch, network):
    recipe = replace(ONE, halved=0.5, batch_size=128)
    assert train(network, recipe).folder == train(network, recipe).folder
    monkeypatch.setitem(globals(), "SETTING", 1)
    assert train(network, recipe).folder.name == "mine-2"
    with pytest.raises(RunError, match="another network or recipe than the run runs/mine: its modules are the same"):
        runs.load("runs/mine", network)


class FromZero(Felt):
    """A residual branch in a branch that starts at zero, as in ReZero (Bachlechner et al., 2021)."""

    def __init__(self):
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return super().forward(images + self.gain * self.inner * (images.sin() if SETTING else images.square()))


def test_a_number_that_a_branch_names_which_starts_at_zero_is_seen(monkeypatch):
    """A published run of another seed has no weights that could tell."""

    def identity():
        return records.identity(records.build(FromZero), asdict(ONE), {}, 1)

    before = identity()
    assert records.difference(identity(), before) is None
    monkeypatch.setitem(globals(), "SETTING", 1)
    assert "the code of their classes" in records.difference(identity(), before)


def test_whom_it_learns_from_is_a_part_of_what_a_run_is(root, capsys):
    for name, seed in dict(teacher=1, other=2).items():
        train(models.tiny, name=name, seed=seed, test=True)
    taught = replace(ONE, teacher="runs/teacher")
    capsys.readouterr()
    run = train(recipe=taught)
    assert "Its teacher, runs/teacher, has learned the held-out images, too" in capsys.readouterr().out
    named = "runs/teacher, which has learned the held-out images, too"
    assert runs.compare(run)["runs/mine"]["taught by"] == named
    assert search.tries().loc["runs/mine", "teacher"] == named
    *panels, rate = plotting.curves(run).axes
    assert rate.lines[0].get_xdata().tolist() == [0], "the rate is that of the first step, before an epoch is done"
    legends = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in panels]
    assert legends == [["training,\nwith its teacher", "validation"], ["training", "validation"]]
    assert train(recipe=taught).folder == run.folder
    assert "Its teacher, runs/teacher, has learned" in capsys.readouterr().out, "also of a run that is finished"
    shutil.move(root / "runs/teacher", root / "runs/before")
    with pytest.raises(RunError, match="runs/teacher holds no finished run"):
        train(recipe=taught)
    shutil.move(root / "runs/other", root / "runs/teacher")
    capsys.readouterr()
    assert train(recipe=taught).folder.name == "mine-2"
    assert "mine in runs/ is another run: its teacher has other weights here" in capsys.readouterr().out
    assert runs.compare(run)["runs/mine"]["taught by"] == "an earlier runs/teacher"
    rows = [records.row_of(read_metrics(f"runs/{name}"))["teacher"] for name in ("mine", "mine-2")]
    assert rows[0] != rows[1] and all(row.startswith("runs/teacher ") for row in rows)
    alone, other = train(recipe=replace(taught, teacher=None), test=True), train(recipe=taught, test=True)
    assert "held-out" not in capsys.readouterr().out
    pairs = zip(alone.model.parameters(), other.model.parameters(), strict=True)
    assert not any(torch.equal(one, another) for one, another in pairs), "it has learned from its teacher"
    with pytest.raises(RunError, match="The teacher, runs/teacher, knows other classes"):
        train(recipe=taught, data=replace(random_images(3), classes=list("ABCDEFGHIJ")))


def test_a_teacher_that_may_know_the_judged_images_is_said_to(root, capsys):
    data = random_images()
    turned = replace(data, train_images=data.train_images[::-1], train_labels=data.train_labels[::-1])
    train(models.tiny, data=data, name="held_out")
    train(models.tiny, data=turned, name="other_order")
    train(models.tiny, data=data, name="all", test=True)
    train(models.tiny, replace(ONE, teacher="runs/all"), data, name="taught")

    def said(teacher, **options):
        capsys.readouterr()
        train(recipe=replace(ONE, teacher=f"runs/{teacher}"), data=data, **options)
        return re.findall(r"Its teacher, runs/\w+, (.*) learned", capsys.readouterr().out)

    assert said("held_out") == said("held_out", test=True) == said("all", test=True) == []
    assert said("all") == ["has"] and said("other_order") == said("taught") == ["may have"]
    assert said("other_order", test=True) == ["may have"], "its training images may be the test images here"


def test_a_network_that_changes_the_images_it_is_given_is_refused(root):
    """As a teacher it would change what the other network sees."""

    class InPlace(Felt):
        def forward(self, images):
            return super().forward(images.clamp_(-0.5, 0.5))

    with pytest.raises(NetworkError, match="changes the images that it is given"):
        train(InPlace)


def test_a_hook_on_a_weight_which_no_copy_keeps_is_refused(root):
    def hooked():
        network = tiny_network()
        network.linear.weight.register_hook(lambda gradient: gradient / 10)
        return network

    with pytest.raises(NetworkError, match="A hook on a weight is lost"):
        train(hooked)


def test_a_dropout_that_nothing_would_feel_is_refused(root):
    with pytest.raises(RunError, match=r"dropout is 0.1, but the network has no nn.Dropout; add some"):
        train(partial(sequential, 10), replace(ONE, dropout=0.1))
    assert not (root / "runs").exists()


class Untracked(Felt):
    """Batch norm takes the statistics of each batch in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.body.norm = nn.BatchNorm2d(8, track_running_stats=False)


def test_a_network_that_judges_an_image_by_its_neighbours_is_refused(root):
    with pytest.raises(NetworkError, match="depends on the other images of its batch"):
        train(Untracked)


def test_what_is_no_recipe_no_images_and_no_run_is_a_sentence(root, capsys):
    data = random_images()
    for recipe, images in ((dict(epochs=1), data), (None, data), (ONE, (data.train_images, data.train_labels))):
        for run in (partial(runs.train, name="mine"), partial(runs.show, name="mine")):
            with pytest.raises(RunError, match=r"needs a Recipe, such as Recipe\(5\), and the images"):
                run(tiny_network, recipe, images)
    for wrong in (["experiment_1"], tiny_network, 5):
        with pytest.raises(RunError, match="compare takes runs, or names of runs"):
            runs.compare(EXPERIMENTS["experiment_1"].prior, wrong)
    with pytest.raises(RunError, match="Leave runs/ out of 'runs/mine'"):
        runs.show(tiny_network, ONE, data, name="runs/mine")
    assert not capsys.readouterr().out, "nor is anything else said of it"
    (root / "runs").mkdir()
    (root / "runs" / "mine").write_bytes(b"a file")
    with pytest.raises(RunError, match=r"mine cannot be made, because a file is in its place"):
        train()
    assert (root / "runs" / "mine").read_bytes() == b"a file"


class WithHeads(Felt):
    """Two answers in training, as GoogLeNet has."""

    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


def test_a_network_with_other_outputs_in_training_is_a_sentence(root):
    with pytest.raises(NetworkError, match="cannot be trained .TypeError: expected Tensor"):
        train(WithHeads)


@pytest.mark.parametrize("file", [*KEPT, "checkpoint.pt", SUMS])
def test_a_link_in_the_folder_of_a_run_leads_nowhere(root, tmp_path, file):
    victim, folder = tmp_path / "victim", root / "runs" / "mine"
    victim.write_bytes(b"precious")
    folder.mkdir(parents=True)
    (folder / f".{file}.tmp").symlink_to(victim)
    (folder / "curves.png").symlink_to(victim)
    plotting.save(plotting.curves(train()), folder / "curves.png")
    assert victim.read_bytes() == b"precious" and (folder / "curves.png").stat().st_size > 1000


def test_a_run_whose_seal_is_gone_is_not_shown(root, capsys):
    """Any figure in it may have been changed."""
    train()
    (root / "runs" / "mine" / SUMS).unlink()
    for use in (lambda: read_metrics("runs/mine"), lambda: read_history("runs/mine"), train):
        with pytest.raises(RunError, match="checksums.json is missing .*; move history.csv, metrics.json, wei"):
            use()
    for file in KEPT:
        (root / "runs" / "mine" / file).unlink()
    capsys.readouterr()
    assert train().folder.name == "mine" and "Epoch" not in capsys.readouterr().out


@pytest.mark.parametrize("last", [SUMS, *KEPT])
def test_a_run_that_was_stopped_while_it_was_kept_is_kept_by_the_next_call(root, monkeypatch, capsys, last):
    write = checkpoints.write_atomically

    def stopped(content, path):
        if path.name == last:
            raise KeyboardInterrupt
        write(content, path)

    with monkeypatch.context() as stop, pytest.raises(KeyboardInterrupt):
        stop.setattr(checkpoints, "write_atomically", stopped)
        train()
    capsys.readouterr()
    assert train().folder.name == "mine" and "Epoch" not in capsys.readouterr().out
    checkpoints.verify(root / "runs" / "mine")


def test_weights_alone_are_not_written_over(root):
    folder = root / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "weights.pt").write_bytes(b"of somebody else")
    assert train().folder.name == "mine-2" and (folder / "weights.pt").read_bytes() == b"of somebody else"


def test_notes_beside_a_run_are_ones_own(root):
    folder = root / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "notes.csv").write_text("a\n1\n", encoding="utf-8")
    train()
    (folder / "notes.csv").write_text("a\n1\n2\n", encoding="utf-8")
    assert runs.load("runs/mine", tiny_network).folder == folder and search.tries().index.tolist() == ["runs/mine"]


def test_a_relative_path_leads_to_the_same_run(root, monkeypatch):
    shutil.copytree(ROOT / "results" / "tiny", root / "results" / "other")
    monkeypatch.chdir(root)
    for path in ("other", Path("results/other"), root / "results" / "other"):
        with pytest.raises(RunError, match="holds something else than its name says"):
            runs.load(path)


def test_runs_that_were_not_kept_stand_beside_each_other_and_a_part_of_cifar10_says_so(root, monkeypatch):
    monkeypatch.setattr(utils, "FAST_RUN", True)
    different = [train(recipe=replace(ONE, lr=lr), data=random_images(source="original")) for lr in (0.1, 0.2, 0.3)]
    table = runs.compare(*different)
    assert list(table) == ["this run", "this run, mine", "this run, mine (3)"]
    assert plotting.curves(different[0]).get_suptitle().endswith("parameters, a part of CIFAR-10")
    assert plotting.curves(train()).get_suptitle().endswith("parameters, handwritten digits, NOT CIFAR-10")
    assert set(table.loc["images"]) == {"original, not all"}
    monkeypatch.setattr(utils, "FAST_RUN", False)
    train(data=random_images(source="original"))
    assert search.tries().images.tolist() == ["original, not all"]


def test_a_teacher_that_is_no_name_hides_no_other_try(root, capsys):
    train(name="one")
    train(name="other")
    path = root / "runs" / "other" / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["recipe"]["teacher"] = 5
    path.write_text(json.dumps(metrics), encoding="utf-8")
    checkpoints.seal(path.parent)
    assert search.tries().index.tolist() == ["runs/one"] and "5 is no name of a run" in capsys.readouterr().out


def test_a_folders_name_is_shown_without_what_a_terminal_would_obey(root):
    train(name="one")
    (root / "runs" / "one").rename(root / "runs" / "one\033[31mred")
    assert search.tries().index.tolist() == ["runs/one\\x1b[31mred"]


def test_a_run_that_has_diverged_is_found_again():
    """Numbers that are none are equal here, or it would be another run for ever."""
    none = float("nan")
    assert records.alike([none, 1.0, 2.0], [none, 1.0, 2.0]) and records.alike([none] * 3, [none] * 3)
    assert not records.alike([none, 1.0, 2.0], [0.0, 1.0, 2.0])
    assert not records.alike([0.0, 1.0, 2.0], [none, 1.0, 2.0])


class ReadsP(nn.Module):
    """With dropout by a function, of the probability that its module keeps, and whole numbers among its parameters."""

    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(3 * 32 * 32, 10), nn.Dropout(0.0)
        self.order = nn.Parameter(torch.arange(10), requires_grad=False)

    def forward(self, x):
        return nn.functional.dropout(self.linear(x.flatten(1)), self.drop.p, self.training)[:, self.order]


def test_a_forward_that_reads_the_probability_of_its_dropout_is_found_again(root):
    recipe = replace(ONE, dropout=0.1)
    assert train(ReadsP, recipe).folder == train(ReadsP, recipe).folder


def test_an_array_as_an_argument_is_no_reason_to_lose_a_run(root):
    network = partial(lambda widths: tiny_network(int(widths[0])), widths=np.array([8, 16]))
    assert train(network).metrics["built_by"]["arguments"] == "not known"
    assert train(network).folder.name == "mine"


def test_two_columns_of_one_title_stand_beside_each_other():
    priors = EXPERIMENTS["experiment_1"].prior, EXPERIMENTS["experiment_2"].prior
    table = runs.compare("experiment_1", priors[0], "experiment_2", priors[1])
    assert table.loc["parameters"].tolist()[1::2] == ["183,882", "156,714"] and table.columns.is_unique


class Shadow(Felt):
    """Its slowly following weights lie in a dict, which nobody saves."""

    def __init__(self):
        super().__init__()
        self.slow = {name: p.detach().clone() for name, p in self.linear.named_parameters()}

    def forward(self, images):
        maps = self.body(images).mean((2, 3))
        if self.training:
            for name, p in self.linear.named_parameters():
                self.slow[name].lerp_(p.detach(), 0.01)
            return self.linear(maps)
        return torch.func.functional_call(self.linear, self.slow, maps)


class Late(Felt):
    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, images):
        self.steps += self.training
        return super().forward(images) * (2 if self.steps > 20 else 1)


@pytest.mark.parametrize("network", [Shadow, Late])
def test_what_is_felt_after_some_steps_and_not_kept_is_refused(root, network):
    with pytest.raises(NetworkError, match="is not saved with its weights"):
        train(network)


class Listed(nn.Module):
    """Layers that PyTorch does not find."""

    def __init__(self):
        super().__init__()
        self.hidden, self.linear = [conv(3, 8, stride=2), conv(8, 8, stride=2)], nn.Linear(8, 10)

    def forward(self, images):
        for layer in self.hidden:
            images = layer(images)
        return self.linear(images.mean((2, 3)))


class Closed(nn.Module):
    """A function made in __init__, which keeps to the layers of the network that a copy was made of."""

    def __init__(self):
        super().__init__()
        self.body, self.linear = conv(3, 8, stride=2), nn.Linear(8, 10)
        self.features = lambda images: self.body(images).mean((2, 3))

    def forward(self, images):
        return self.linear(self.features(images))


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scale, self.linear = conv(3, 8, stride=2), nn.Parameter(torch.ones(8, 1, 1)), nn.Linear(8, 10)
        self.body.register_forward_hook(lambda module, images, maps: maps * self.scale)

    def forward(self, images):
        return self.linear(self.body(images).mean((2, 3)))


@pytest.mark.parametrize("network", [Listed, Closed, Hooked])
def test_layers_that_would_not_be_trained_are_refused(root, network):
    for refusing in (train, lambda network: records.response(network()), lambda network: architecture.rules(network())):
        if refusing is train or network is Listed:  # what is no copy goes by its own layers
            with pytest.raises(NetworkError, match="not among its parameters, so they would never be trained: keep"):
                refusing(network)
    assert not (root / "runs").exists()


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, np.float64(2), 2**63])
def test_a_seed_that_is_none_is_refused(root, seed):
    with pytest.raises(RunError, match="The seed is .* but must be a whole number from 0 on"):
        train(seed=seed)
    assert not (root / "runs").exists()


def test_a_seed_of_numpy_is_a_number(root):
    run = train(seed=np.int64(3))
    assert train(seed=3).folder == run.folder and type(read_metrics("runs/mine")["seed"]) is int


def test_an_error_in_the_middle_of_a_training_is_a_sentence(root):
    """The last batch of an epoch has one image, of which batch norm makes nothing."""
    network = partial(nn.Sequential, nn.Flatten(), nn.Linear(3072, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    with pytest.raises(NetworkError, match=r"cannot be trained \(ValueError: Expected more than 1 value per channel"):
        train(network, replace(ONE, batch_size=31), test=True, data=random_images(training=125, test=20))


@pytest.mark.parametrize(
    ("name", "sentence"), [("runs/mine", "Leave runs/ out of 'runs/mine'"), ("x" * 300, "no name")]
)
def test_a_name_that_leads_nowhere_is_refused(root, name, sentence):
    with pytest.raises(RunError, match=sentence):
        train(name=name)
    assert not (root / "runs").exists()


def test_a_network_without_weights_to_train_is_refused(root):
    frozen = tiny_network().requires_grad_(False)
    for network in (frozen, nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten(), nn.Unflatten(1, (3, 10)))):
        with pytest.raises(NetworkError):
            train(network)
    with pytest.raises(NetworkError, match="RuntimeError: element 0 of tensors does not require grad"):
        train(frozen)


# ---------------------------------------------------------------- what a notebook shows


class Subtracting(models.Residual):
    def forward(self, x):
        return x - self.layers(x)


Subtracting.__name__ = "Residual"  # as if its one line had been changed


def padded():
    model = models.experiment_5()
    model.layers.c5.conv = nn.Conv2d(64, 32, 3, padding=2, dilation=2, bias=False)
    return model


# of 100 training and 20 test images, whose numbers stand here for what comes out
EVALUATED = """The weights of the last epoch, evaluated here without augmentation:
            training 100.0000, 100.00 %   test 20.0000, 20.00 %"""


def shown(monkeypatch, network, recipe, data, name):
    """What `show` did, "trained" or "shown", without training."""
    monkeypatch.setattr(runs, "train", lambda *arguments, **options: (arguments, options))
    monkeypatch.setattr(runs, "evaluate", lambda run, images, labels: (len(images), len(labels)))
    done = runs.show(network, recipe, data, name=name)
    if isinstance(done, runs.Run):
        return "shown"
    assert done[0] == (network, recipe, data) and done[1]["name"] == name and done[1]["test"]
    return "trained"


def published_images(name):
    """Images that pass for those of the published run."""
    return with_digest(random_images(source="original"), read_metrics(name)["run"]["data"]["digest"])


@pytest.mark.parametrize("name", ["experiment_5", "small", "accurate"])
def test_the_published_run_is_shown_where_it_is_just_this_one(name, monkeypatch, capsys):
    monkeypatch.setattr(utils, "FAST_RUN", False)
    recipe = replace(EXPERIMENTS[name].recipe, precision="float16")  # a circumstance, no other run
    data = published_images(name)
    assert shown(monkeypatch, models.networks()[name], recipe, data, name) == "shown"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"The published run of {name} (seed 1, original CIFAR-10):"
    assert len(lines) == recipe.epochs + 4 and lines[-4].startswith(f"Epoch {recipe.epochs:>3}   training")
    trained_in = read_metrics(name)["precision"]
    assert (
        lines[-3]
        == f"{name} was trained in {trained_in}, not in float16; for that use another name, or move its folder."
    )
    assert "\n".join(lines[-2:]) == EVALUATED
    assert sum("first at 85 %" in line for line in lines) == 1


def test_the_published_run_is_not_shown_for_anything_else(monkeypatch, capsys):
    monkeypatch.setattr(utils, "FAST_RUN", False)
    name, network, right = "experiment_5", models.experiment_5, published_images("experiment_5")
    others = replace(right)
    others = with_digest(others, "0123456789abcdef")
    stand_in = replace(right, source="stand-in")
    stand_in = with_digest(stand_in, right.digest)
    for wanted, says in (
        ((padded, RECIPE, right), r"c5\.conv is Conv2d\(64, 32, .* there"),
        ((models.experiment_4, RECIPE, right), r"c1_1x1\.conv is Conv2d\(64, 32, .* there \(and \d+ more\)"),
        ((network, replace(RECIPE, lr=0.2), right), r"lr is 0\.2 here, but 0\.1 there"),
        ((network, RECIPE, others), "its images are others here than there"),
        ((network, RECIPE, stand_in), "source is stand-in here, but original there"),
    ):
        assert shown(monkeypatch, *wanted, name) == "trained", says
        out = capsys.readouterr().out
        assert re.fullmatch(
            rf"This is not the published run of {name}: {says}\. It is trained here\.\n{EVALUATED}\n", out
        ), out


def test_the_published_run_is_not_shown_for_a_changed_forward(monkeypatch, capsys):
    monkeypatch.setattr(utils, "FAST_RUN", False)
    monkeypatch.setattr(models, "Residual", Subtracting)
    for name in ("small", "accurate"):
        recipe = EXPERIMENTS[name].recipe
        data = published_images(name)
        assert shown(monkeypatch, models.networks()[name], recipe, data, name) == "trained"
        assert "its modules are the same, but" in capsys.readouterr().out


def test_without_a_published_run_and_on_request_it_is_trained(root, monkeypatch, capsys):
    assert shown(monkeypatch, tiny_network, ONE, random_images(), "mine") == "trained"
    said = "This is not the published run of mine: there is none. It is trained here."
    assert capsys.readouterr().out == f"{said}\n{EVALUATED}\n"
    monkeypatch.setattr(utils, "ROOT", ROOT)
    monkeypatch.setattr(runs, "train", lambda *_, **options: options["progress"])
    wanted = models.experiment_5, RECIPE, published_images("experiment_5")
    assert runs.show(*wanted, name="experiment_5", retrain=True) is True
    monkeypatch.setattr(utils, "FAST_RUN", True)
    assert runs.show(*wanted, name="experiment_5") is False
    assert capsys.readouterr().out == f"{EVALUATED}\n" * 2


def test_what_is_evaluated_again_is_what_the_run_ended_with(root, capsys, monkeypatch):
    data = random_images()
    monkeypatch.setattr(models, "tiny_network", tiny_network, raising=False)
    run = runs.show(tiny_network, ONE, data, name="mine")
    loss, accuracy = runs.evaluate(run, data.test_images, data.test_labels)
    last = run.history.iloc[-1]
    assert loss == pytest.approx(last.test_loss, rel=1e-3) and accuracy == last.test_accuracy
    plain, _ = runs.evaluate(run, torch.from_numpy(data.train_images), data.train_labels.tolist())
    for images, labels, wrong in (
        (data.test_images / 255, data.test_labels, "Images must be uint8"),
        (data.test_images, data.test_labels + 10, "Labels must be from 0 to 9"),
        (data.test_images[:0], data.test_labels[:0], "There is no image"),
    ):
        with pytest.raises(DataError, match=wrong):
            runs.evaluate(run, images, labels)
    with pytest.raises(RunError, match="compare takes runs, or names of runs"):
        runs.compare(run.history)
    for call in (lambda: runs.evaluate(run.model, data.test_images, data.test_labels), lambda: plotting.curves(None)):
        with pytest.raises(RunError, match="takes a run, as runs.train returns it, or its name, but was given"):
            call()
    training, judged = re.search(r"\n {12}training (\S+), .* %   test (\S+), .* %\n$", capsys.readouterr().out).groups()
    assert (training, judged) == (f"{plain:.4f}", f"{loss:.4f}") and plain != pytest.approx(last.train_loss, rel=1e-3)
    run.model.train()
    assert runs.evaluate(run, data.test_images, data.test_labels) == (loss, accuracy), "whatever mode it was in"
    assert runs.evaluate("runs/mine", data.test_images, data.test_labels) == (loss, accuracy)
    twelve = ImageData(**vars(data) | dict(classes=[*data.classes, "boat", "tram"]))
    more = runs.show(partial(sequential, 12), ONE, twelve, name="twelve")
    assert runs.evaluate(more, data.test_images, data.test_labels + 2)[1] >= 0


# ---------------------------------------------------------------- a network of one's own

EXPERIMENT_6 = """

def experiment_6() -> ConvNet:
    return ConvNet(
        16,
        c1_1=conv(3, 16, stride=2),
        c2_1=separable(16, 16, stride=2),
        c3_1=conv(16, 16, dilation=2),
    )
"""


@pytest.mark.parametrize("place", ["beside experiment_5", "at the end"])
def test_one_function_in_models_is_all_it_takes(tmp_path, command, place):
    project = copy_of_project(tmp_path)
    path = project / "utils" / "models.py"
    text = path.read_text(encoding="utf-8")
    before = text.index("\n\ndef small(") if place == "beside experiment_5" else len(text)
    path.write_text(text[:before] + EXPERIMENT_6 + text[before:], encoding="utf-8")
    done = command(project, "train", "experiment_6", "--epochs", "1")
    assert done.code == 0, done.err
    assert "Training experiment_6; images: stand-in." in done.out and "\nEpoch   1 " in done.out
    assert "The run and its graphs are in runs/experiment_6." in done.out
    names = {file.name for file in (project / "runs" / "experiment_6").iterdir()}
    assert names == {"checkpoint.pt", "curves.png", ".lock", SUMS, *KEPT}
    assert read_metrics(project / "runs" / "experiment_6")["recipe"] == asdict(replace(RECIPE, epochs=1))
    listed = command(project, "runs")
    assert listed.code == 0 and "runs/experiment_6" in listed.out


class Deciding(nn.Module):
    """No graph can be made of its forward."""

    def __init__(self):
        super().__init__()
        self.layers, self.linear = conv(3, 8, stride=4), nn.Linear(8, 10)

    def forward(self, images):
        found = self.layers(images).mean((2, 3))
        if found.mean() > 0:
            found = 2 * found
        return self.linear(found)


def sequential(outputs=10):
    layers = dict(conv=nn.Conv2d(3, 8, 3, stride=4), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(OrderedDict(**layers, flat=nn.Flatten(), linear=nn.Linear(8, outputs)))


OWN = {
    "function": tiny_network,
    "partial": partial(tiny_network, channels=12),
    "module": tiny_network(),
    "sequential": sequential(),
    "sequential_function": sequential,
    "deciding": Deciding,
    "large": lambda: ConvNet(256, c1=conv(3, 32, stride=4), c2=conv(32, 256), c3=conv(256, 64), c4=conv(64, 256)),
}


@pytest.fixture(scope="module")
def project_of_its_own(tmp_path_factory, one_thread):
    """A folder with a run of each of them in its runs/, and those."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as monkeypatch:  # not for longer: other tests may come in between
        monkeypatch.setattr(utils, "ROOT", folder)
        monkeypatch.setattr(utils, "FAST_RUN", False)
        return folder, {name: train(network, name=name) for name, network in OWN.items()}


@pytest.fixture
def own_runs(project_of_its_own, monkeypatch):
    """A run of each of them, in one project."""
    folder, trained_there = project_of_its_own
    monkeypatch.setattr(utils, "ROOT", folder)
    monkeypatch.setattr(utils, "FAST_RUN", False)
    return trained_there


@pytest.mark.parametrize("name", OWN)
def test_any_network_can_be_trained_and_shown_without_prior_work(own_runs, name):
    run, network = own_runs[name], OWN[name]
    assert len(run.history) == 1 and not run.model.training and run.folder == utils.ROOT / "runs" / name
    parameters = sum(p.numel() for p in records.build(network).parameters())
    assert run.metrics["parameters"] == parameters and (parameters > 200_000) == (name == "large")
    known = (run.metrics["macs"] is None, run.metrics["receptive_field"] is None)
    assert known == (name == "deciding", name == "deciding")
    assert json.loads(json.dumps(run.metrics)) == read_metrics(run.folder)

    table = runs.compare(run, f"runs/{name}")
    assert table.columns.tolist() == [f"runs/{name}"], "once as a value, once by name"
    multiply_adds = "not known" if name == "deciding" else f"{run.metrics['macs']:,}"
    assert table.loc["multiply-adds", f"runs/{name}"] == multiply_adds
    plotting.save(plotting.curves(run), run.folder / "curves.png")

    def table_of(run):  # as `statistics.published` makes it
        one_seed = dict(accuracy=records.last_accuracy(run.metrics), deviation=float("nan"), seeds=1)
        return pd.DataFrame([run.metrics | one_seed], index=["a run"])

    published = table_of(own_runs["function"])
    for costs in (("parameters", "epochs"), ("macs", "epochs")):
        figure = plotting.landscape(published, own={name: run.metrics}, costs=costs)
        figure.canvas.draw()
        plotting.landscape(table_of(run), costs=("parameters", "epochs")).canvas.draw()
    loaded = runs.load(f"runs/{name}", network)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(images), run.model(images))


def test_all_of_them_stand_in_one_table(own_runs):
    table = search.tries()
    assert sorted(table.index) == sorted(f"runs/{name}" for name in OWN)
    assert pd.isna(table.loc["runs/deciding", "multiply-adds"]) and table.loc["runs/large", "parameters"] > 200_000
    assert set(runs.compare(*own_runs.values()).columns) == set(table.index)


def test_a_finished_module_is_copied_and_trained_from_its_own_weights(root, capsys):
    torch.manual_seed(7)
    module = tiny_network().train()
    before = deepcopy(module.state_dict())
    run = train(module, replace(ONE, lr=1e-12))
    assert module.training and run.model is not module
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.allclose(run.model.linear.weight, module.linear.weight, atol=1e-6)
    assert not torch.allclose(run.model.linear.weight, records.build(tiny_network).linear.weight, atol=1e-3)
    assert run.metrics["built_by"]["first_weights"] == "given"
    assert "first weights" not in capsys.readouterr().out
    records.once.cache_clear()
    assert train(name="function").metrics["built_by"]["first_weights"] == "from the seed"
    assert train(lambda: module, name="same").metrics["built_by"]["first_weights"] == "the same for every seed"
    assert "Its first weights are the same for every seed: the function" in capsys.readouterr().out

    # the same weights again are the same run, others are another one
    assert train(deepcopy(module), replace(ONE, lr=1e-12)).folder == run.folder
    capsys.readouterr()
    assert train(run.model, replace(ONE, lr=1e-12)).folder.name == "mine-2"
    assert "its first weights, or what its forward computes, are others here" in capsys.readouterr().out


class OnlyJudged(nn.Linear):
    def __init__(self):
        super().__init__(3 * 32 * 32, 10)

    def forward(self, x):
        if self.training:
            raise ValueError("not in training")
        return super().forward(x.flatten(1))


def normed():
    layer = nn.Linear(3 * 32 * 32, 10)
    layer.bias = nn.Parameter(layer.bias)
    layer.scaled = layer.weight * 2  # a result, not a parameter, as of the old weight_norm
    return nn.Sequential(nn.Flatten(), layer)


def broken():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(9, 8, 3))


class Returning(nn.Sequential):
    """Whose forward lacks its return, or returns more."""

    def __init__(self, what):
        super().__init__(tiny_network())
        self.what = what

    def forward(self, images):
        super().forward(images)
        return self.what


class Named(nn.Sequential):
    def __init__(self):
        super().__init__(tiny_network())
        self.parameters = dict(width=8)


class Infinite(nn.Sequential):
    def forward(self, images):
        return super().forward(images) / (0 if self.training else 1)


class Unsaid(nn.Sequential):
    def extra_repr(self):
        return 1 / 0


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (partial(sequential, 9), "must return 10 logits for an image, but returns [9]; mend its last layer, or what"),
        (sequential(9), "The network must return 10 logits for an image, but returns [9]; mend its last layer, or"),
        (partial(Returning, None), "must return 10 logits for an image, but returns NoneType; mend"),
        (partial(Returning, ()), "must return 10 logits for an image, but returns tuple; mend"),
        (Named, "The network cannot name its weights (TypeError: 'dict' object is not callable); mend it."),
        (broken, "network cannot answer an image of 3x32x32 (RuntimeError: Given groups=1, weight of size"),
        (lambda: "no network", "A network is a function that returns an nn.Module, or a module; this is"),
        ("experiment_5", "A network is a function that returns an nn.Module, or a module; this is 'experiment_5'."),
        (lambda: nn.Linear(3, "ten"), " of test_laboratory.py: empty()"),
        (partial(nn.Linear, 3, "ten"), "The network cannot be built (TypeError: empty()"),
        (
            partial(tiny_network, c9=3),
            "The network cannot be built (TypeError: got an unexpected keyword",
        ),
        (OnlyJudged, " of test_laboratory.py: not in training); mend it."),
        (lambda: Infinite(tiny_network()), "In training the network returns NaN or infinite numbers; mend"),
        (lambda: normed(), "The network cannot be copied (RuntimeError: Only Tensors created explicitly by the user"),
        (lambda: Unsaid(tiny_network()), "The network cannot be described (ZeroDivisionError in line "),
        (lambda: tiny_network().to("meta"), "The network cannot be copied (NotImplementedError"),
    ],
    ids="""nine-outputs module nothing two named broken no-module name unbuilt in-torch no-argument untrained infinite
    uncopied unsaid meta""".split(),
)
def test_a_network_that_cannot_be_used_is_a_sentence(root, network, sentence):
    with pytest.raises(NetworkError) as error:
        train(network)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (root / "runs").exists()


# ---------------------------------------------------------------- loading what was made


def test_a_try_of_the_search_is_loaded_with_its_arguments(root, capsys):
    changes = ["c1=8", "c2=8", "c3=16", "epochs=1", "batch_size=32"]
    search.attempt("small", changes, random_images())
    metrics = read_metrics("runs/search/small")
    assert metrics["built_by"]["function"] == "small" and metrics["built_by"]["arguments"] == dict(c1=8, c2=8, c3=16)
    loaded = runs.load("runs/search/small")
    assert loaded.model.linear.in_features == 16 and loaded.metrics == metrics
    search.attempt("small", [*changes[:2], "c3=8", *changes[3:]], random_images())
    assert runs.load("runs/search/small-2").model.linear.in_features == 8
    assert len(search.attempt("small", changes, random_images())) == 2, "a finished try is not repeated"
    with pytest.raises(RunError, match=r"than the run runs/search/small: c1_1\.conv is Conv2d\(3, 16"):
        runs.load("runs/search/small", models.small)


def test_a_network_of_a_cell_is_loaded_with_its_function(root):
    run = train()
    with pytest.raises(RunError) as error:
        runs.load("runs/mine")
    assert re.fullmatch(
        r"runs/mine was built by tiny_network\(\), which is not in utils/models\.py; .*", str(error.value)
    )
    assert runs.load("runs/mine", tiny_network).metrics["run"] == run.metrics["run"]
    with pytest.raises(RunError, match=r"than the run runs/mine: c1\.conv is Conv2d\(3, 9"):
        runs.load("runs/mine", partial(tiny_network, 9))


def test_a_network_of_a_cell_with_a_name_from_models_is_not_mistaken_for_it(root):
    def experiment_5():
        return tiny_network()

    train(experiment_5)
    with pytest.raises(RunError, match=r"than the run runs/mine: c1_1 is Sequential\(\) here, but missing there"):
        runs.load("runs/mine")
    assert runs.load("runs/mine", experiment_5).folder.name == "mine"


@pytest.mark.parametrize(
    "network", [partial(tiny_network, 12), partial(tiny_network, channels=np.int64(12))], ids=["by place", "numpy"]
)
def test_arguments_are_kept_however_they_were_given(root, monkeypatch, network):
    monkeypatch.setattr(models, "tiny_network", tiny_network, raising=False)
    train(network)
    assert read_metrics("runs/mine")["built_by"]["arguments"] == dict(channels=12)
    assert runs.load("runs/mine").model.linear.in_features == 12


def activated(activation=nn.ReLU):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), activation(), nn.Flatten(), nn.Linear(512, 10))


def test_an_argument_that_is_no_number_does_not_lose_the_run(root):
    run = train(partial(activated, activation=nn.GELU))
    assert read_metrics("runs/mine")["run"] == run.metrics["run"]
    assert isinstance(runs.load("runs/mine", partial(activated, activation=nn.GELU)).model[1], nn.GELU)
    assert train(activated).folder.name == "mine-2"


def test_an_argument_that_is_no_number_cannot_be_found_again_by_itself(root, monkeypatch):
    """The name of the function is in models, but what it was given cannot be written down."""
    monkeypatch.setattr(models, "activated", activated, raising=False)
    train(partial(activated, activation=nn.GELU))
    with pytest.raises(RunError, match=r"runs/mine was built by activated\(.*, hand its network to load"):
        runs.load("runs/mine")


def choosing(activation=None):
    return activated(activation or nn.ReLU)


def test_an_argument_that_is_none_is_found_again(root, monkeypatch):
    monkeypatch.setattr(models, "choosing", choosing, raising=False)
    train(partial(choosing, activation=None))
    assert isinstance(runs.load("runs/mine").model[1], nn.ReLU)


def initialised():
    model = tiny_network()
    nn.init.zeros_(model.linear.weight)
    return model


class Dropping(ConvNet):
    """Differs from a ConvNet in training mode only."""

    def forward(self, images):
        return super().forward(nn.functional.dropout(images, 0.3, self.training))


def dropping():
    return Dropping(8, **dict(tiny_network().layers.named_children()))


class Detached(ConvNet):
    """Computes the same as a ConvNet, but its layers never learn."""

    def forward(self, images):
        return self.linear(self.layers(images).detach().mean((2, 3)))


def detached():
    return Detached(8, **dict(tiny_network().layers.named_children()))


def frozen():
    model = tiny_network()
    model.layers[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("network", [initialised, dropping, detached, frozen])
def test_another_initialisation_forward_in_training_or_gradient_is_another_run(root, capsys, network):
    train()
    again = train(network)
    assert again.folder.name == "mine-2" and "mine in runs/ is another run: " in capsys.readouterr().out


def test_a_function_that_returns_the_same_module_again_starts_from_its_first_weights(root):
    module = tiny_network()
    first, second = train(lambda: module), train(lambda: module, name="again")
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert torch.equal(module.linear.weight, records.build(lambda: module).linear.weight)


def test_images_that_were_changed_in_place_are_other_images(root, capsys):
    data = random_images()
    train(data=data)
    data.train_labels[:] = data.train_labels[::-1].copy()
    assert train(data=data).folder.name == "mine-2" and "its images are others here" in capsys.readouterr().out


def test_the_same_images_with_other_names_of_their_classes_are_other_images(root, capsys):
    data = random_images()
    others = replace(data, classes=data.classes[::-1])
    assert replace(data, classes=tuple(data.classes)).digest == data.digest != others.digest
    train(data=data)
    run = train(data=others)
    assert run.folder.name == "mine-2" and "its images are others here" in capsys.readouterr().out
    assert run.metrics["classes"] == others.classes


def test_a_published_folder_that_holds_another_run_is_refused(root):
    shutil.copytree(ROOT / "results" / "experiment_1", root / "results" / "experiment_2")
    with pytest.raises(RunError, match="results/experiment_2 holds something else than its name says"):
        runs.load("experiment_2")


# ---------------------------------------------------------------- the held-out images


def test_what_is_judged_on_held_out_images_says_so(root, capsys):
    run = train()
    out = capsys.readouterr().out
    assert re.search(r"^Epoch   1   training .*   validation .* %$", out, re.M) and "test " not in out
    assert run.history.columns.tolist() == (
        "epoch lr train_loss train_accuracy validation_loss validation_accuracy seconds".split()
    )
    metrics = read_metrics("runs/mine")
    assert metrics["evaluated_on"] == metrics["run"]["data"]["judged_on"] == "validation"
    assert {"validation_accuracy_last", "validation_accuracy_best"} < metrics.keys()
    assert not [key for key in metrics if "test" in key]
    table = runs.compare(run)
    assert "validation accuracy, last epoch" in table.index and not [row for row in table.index if "test" in row]
    assert table.loc["judged on", "runs/mine"] == "validation"
    axes = plotting.curves(run).axes
    labels = [text.get_text() for axis in axes[:2] for text in axis.get_legend().get_texts()]
    assert labels == ["training", "validation"] * 2

    judged = train(test=True, name="final")
    assert judged.history.columns.tolist()[4:6] == ["test_loss", "test_accuracy"]
    assert judged.metrics["evaluated_on"] == "test" and not [key for key in judged.metrics if "validation" in key]


def test_held_out_images_are_not_trained_on_and_test_images_not_touched(root, monkeypatch):
    seen, data = {}, random_images(training=200, test=40)

    def fit(_, __, train, judged, **options):
        seen.update(train=train.dataset, judged=judged.dataset, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        train(data=data)
    trained, held_out, tested, everything = (
        [image.tobytes() for image in images]
        for images in (seen["train"].images, seen["judged"].images, data.test_images, data.train_images)
    )
    assert seen["judged_on"] == "validation" and (len(trained), len(held_out)) == (180, 20)
    assert not set(trained) & set(held_out) and set(trained) | set(held_out) == set(everything)
    assert not set(tested) & {*trained, *held_out}
    assert np.bincount(seen["judged"].labels).tolist() == [2] * 10
    with pytest.raises(KeyboardInterrupt):
        train(data=data, test=True)
    assert seen["judged_on"] == "test" and [image.tobytes() for image in seen["judged"].images] == tested
    assert {image.tobytes() for image in seen["train"].images} == set(everything)


def test_the_test_images_decide_nothing_of_a_run_on_held_out_images(root):
    data = random_images()
    other = replace(data, test_images=255 - data.test_images, test_labels=data.test_labels[::-1].copy())
    one, two = train(data=data), train(data=other, name="other")
    columns = one.history.columns.drop("seconds")
    assert one.history[columns].equals(two.history[columns]) and one.metrics["mean"] == two.metrics["mean"]


# ---------------------------------------------------------------- going on

THREE = replace(ONE, epochs=3)


def stop_after(epoch, *arguments, **options):
    """As `train`, but it is stopped when this epoch is finished."""

    def stop(line, **how):
        if line.startswith(f"Epoch {epoch:>3} "):  # its checkpoint is there
            raise KeyboardInterrupt
        print(line, **how)

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(training, "print", stop, raising=False)
        train(*arguments, **options)


def test_a_run_that_goes_on_unchanged_is_bit_identical_and_says_nothing(root, capsys):
    straight = train(recipe=THREE, name="straight")
    stop_after(1, recipe=THREE)
    stop_after(2, recipe=THREE)
    capsys.readouterr()
    resumed = train(recipe=THREE)
    assert re.fullmatch(r"Going on after epoch 2\.\nEpoch   3   training .*\n", capsys.readouterr().out)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    columns = straight.history.columns.drop("seconds")
    assert straight.history[columns].equals(resumed.history[columns])
    assert resumed.metrics["made_under"] == straight.metrics["made_under"]
    assert [under["from_epoch"] for under in resumed.metrics["made_under"]] == [1]


class Noisy(nn.Module):
    """Its forward uses the random numbers of Python and NumPy, as stochastic depth often does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        noise = random.random() + np.random.rand() if self.training else 0
        return self.linear(x.flatten(1)) * (1 + noise)


class DropsPixels(nn.Module):
    """Random numbers meet the pixels of a map in the order in which they lie in memory."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, 10)

    def forward(self, x):
        return self.linear(nn.functional.dropout(self.conv(x).relu(), 0.3, self.training).mean((2, 3)))


def test_random_numbers_on_a_map_do_not_make_another_run(root, capsys):
    straight = train(DropsPixels, THREE, name="straight")
    stop_after(2, DropsPixels, THREE)
    resumed = train(DropsPixels, THREE)
    assert resumed.folder.name == "mine" and "Going on after epoch 2." in capsys.readouterr().out
    assert torch.equal(straight.model.conv.weight, resumed.model.conv.weight)
    assert train(DropsPixels, THREE).folder.name == "mine"


RATE, FILLED, COUNTED = 0.1, defaultdict(lambda: RATE), SimpleNamespace(rate=0.1, calls=0)


class Hidden(nn.Module):
    """Drops a share that none of its functions names where it is read; only training shows it."""

    def __init__(self, way):
        super().__init__()
        self.linear, self.way = nn.Linear(3 * 32 * 32, 10), way

    def forward(self, x):
        COUNTED.calls += 1
        rate = dict(
            globals=lambda: globals()["RATE"],
            environment=lambda: float(os.environ.get("RATE", "0.1")),
            file=lambda: float(Path(utils.ROOT, "rate.txt").read_text(encoding="utf-8")),
            module=lambda: sys.modules[type(self).__module__].RATE,
            factory=lambda: defaultdict(FILLED.default_factory)["rate"],
            counted=lambda: COUNTED.rate,
        )[self.way]()
        return self.linear(nn.functional.dropout(x.flatten(1), rate, self.training))


@pytest.mark.parametrize("way", ["globals", "environment", "file", "module", "factory", "counted"])
def test_what_only_the_first_steps_of_training_show_makes_another_run(root, monkeypatch, capsys, way):
    network, file = partial(Hidden, way), root / "rate.txt"
    file.write_text("0.1", encoding="utf-8")
    assert [train(network).folder.name for _ in range(2)] == ["mine", "mine"]
    monkeypatch.setitem(globals(), "RATE", 0.11)
    monkeypatch.setenv("RATE", "0.11")
    monkeypatch.setattr(COUNTED, "rate", 0.11)
    file.write_text("0.11", encoding="utf-8")
    assert train(network).folder.name == "mine-2"
    assert "first steps of training come out otherwise here" in capsys.readouterr().out
    monkeypatch.setattr(checkpoints, "here", lambda: "another machine")  # which draws other numbers
    assert train(network).folder.name == "mine"


TABLES = {}


class Cached(nn.Module):
    """Keeps a table for each size, as networks do with the codes of positions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)

    def forward(self, x):
        if x.shape[-1] not in TABLES:
            TABLES[x.shape[-1]] = torch.linspace(0, 1, x.shape[-1])
        return self.conv(x * TABLES[x.shape[-1]]).mean((2, 3))


def test_what_a_forward_keeps_for_each_size_makes_no_other_run(root, monkeypatch):
    monkeypatch.setitem(globals(), "TABLES", {})
    assert [train(Cached, replace(ONE, halved=0.5)).folder.name for _ in range(3)] == 3 * ["mine"]
    monkeypatch.setitem(globals(), "TABLES", {})  # as in a new process
    assert train(Cached, replace(ONE, halved=0.5)).folder.name == "mine"


class Counted(nn.Module):
    made = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)
        Counted.made += 1

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_a_network_that_counts_how_often_it_is_built_is_found_by_a_new_process(root, monkeypatch):
    for _ in range(2):
        monkeypatch.setattr(Counted, "made", 0)
        assert train(Counted).folder.name == "mine"


def test_a_field_that_older_recipes_lack_is_named_with_what_it_was(root, capsys):
    train()
    train(recipe=replace(ONE, halved=0.2))
    assert "halved is 0.2 here, but 0.0 there" in capsys.readouterr().out


@pytest.mark.parametrize("change", [nn.utils.spectral_norm, partial(prune.l1_unstructured, name="weight", amount=0.5)])
def test_what_keeps_a_computed_weight_is_not_trained(change):
    with pytest.raises(NetworkError, match="keep a computed weight, which cannot be copied; use torch.nn.utils.param"):
        train(nn.Sequential(nn.Flatten(), change(nn.Linear(3072, 10))))


def test_what_torch_jit_made_is_not_trained():
    with pytest.raises(NetworkError, match="What torch.jit made shows no layers; train the network as it is"):
        train(nn.Sequential(nn.Flatten(), torch.jit.ScriptModule()))


def test_a_function_of_pytorch_that_no_file_names_counts_by_the_first_steps(root, monkeypatch, capsys):
    train()
    usual = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, *given, **more: usual(1.01 * self, *given, **more))
    assert train().folder.name == "mine-2" and "first steps of training" in capsys.readouterr().out


class Kinked(nn.Module):
    """The input of its ReLU is 0 but for rounding, which decides whether its weight has a gradient."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)
        self.shift = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        zero = self.shift - self.shift.detach()
        return self.linear(x.flatten(1)) + (
            4 * zero + torch.relu(zero + float(os.environ.get("ROUNDED", "1e-7")))
        ) * torch.arange(10)


def test_an_input_of_a_relu_that_another_machine_rounds_to_the_other_side_makes_no_other_run(root, monkeypatch, capsys):
    here = records.identity(records.build(Kinked), asdict(THREE), {}, 1)
    stop_after(2, Kinked, THREE)
    monkeypatch.setenv("ROUNDED", "-1e-7")  # what another machine makes of a sum that is 0
    monkeypatch.setattr(checkpoints, "here", lambda: "another machine")
    there = records.identity(records.build(Kinked), asdict(THREE), {}, 1)
    moved = here["first_response"][-1] / there["first_response"][-1]
    assert 1.005 < moved < 1.03  # as much as seen: 2 %
    assert train(Kinked, THREE).folder.name == "mine" and "Going on after epoch 2." in capsys.readouterr().out
    monkeypatch.delenv("ROUNDED")
    monkeypatch.setattr(checkpoints, "here", lambda: "the first machine")
    assert train(Kinked, THREE).folder.name == "mine"


STARTS_LATE = """
import torch
from torch import nn


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)
        self.register_buffer("step", torch.tensor(0))

    def forward(self, x):
        self.step += self.training
        return nn.functional.dropout(self.linear(x.flatten(1)), 0.5, self.training and self.step.item() > 100)
"""


def test_an_edit_that_no_probe_reaches_is_another_run(root, tmp_path, capsys):
    def network(text):
        path = tmp_path / f"file_{len(list(tmp_path.glob('file_*')))}.py"
        path.write_text(text, encoding="utf-8")
        return runpy.run_path(str(path))["Late"]

    first = train(network(STARTS_LATE))
    commented = STARTS_LATE.replace("torch.tensor(0))", "torch.tensor(0))  # of this training")
    assert train(network(commented)).folder == first.folder
    assert "another run" not in capsys.readouterr().out
    assert train(network(STARTS_LATE.replace("> 100", "> 60"))).folder.name == "mine-2"
    assert "mine in runs/ is another run: its modules are the same, but the code of" in capsys.readouterr().out
    nowhere = {"__name__": "nowhere"}
    exec(STARTS_LATE, nowhere)  # its source is lost, so nobody knows whether it is the same
    assert train(nowhere["Late"]).folder.name == "mine-3"


def test_what_python_writes_itself_leaves_the_code_of_a_class_told():
    @dataclass(eq=False)
    class Scaled(nn.Module):
        factor: float

        def __post_init__(self):
            super().__init__()

        def forward(self, x):
            return self.factor * x

    first = code.classes_of(Scaled(2.0))

    def forward(self, x):
        return self.factor + x

    Scaled.forward = forward
    assert first and first.keys() == (second := code.classes_of(Scaled(2.0))).keys() and first != second


def test_a_recipe_of_another_class_is_a_sentence(root):
    class Mine(Recipe):
        @property
        def augmentation(self):
            return dict(flip=0.0, affine=0.0, hole=0.0)

    with pytest.raises(RunError, match=r"needs a Recipe, such as Recipe\(5\)"):
        train(recipe=Mine(1))


def test_runs_from_before_their_classes_were_known_are_of_the_classes_of_then(monkeypatch):
    assert "classes" not in records.read_metrics("experiment_5")["run"] and runs.load("experiment_5")
    forward = models.ConvNet.forward
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, x: forward(self, x))  # which shows in no image
    with pytest.raises(RunError, match="the code of their classes, or what it names, is another one here"):
        runs.load("experiment_5")


def test_a_class_in_the_place_of_one_of_utils_is_another_network(monkeypatch):
    """It has the same name and modules, and answers the same to images of 32x32."""

    class ConvNet(models.ConvNet):
        def forward(self, x):
            return super().forward(x if x.shape[-1] >= 32 else x.flip(2))

    ConvNet.__qualname__ = "ConvNet"  # as in a cell
    for name in ("quick", "compact_distilled"):  # of before classes were known, and of after
        usual = models.networks()[name]
        assert runs.load(name, usual)
        monkeypatch.setattr(models, "ConvNet", ConvNet)
        with pytest.raises(RunError, match=r"the code of their classes, or what it names, is another one here"):
            runs.load(name, usual)
        monkeypatch.undo()


def test_a_class_that_moved_into_another_file_is_the_same(root, monkeypatch):
    text = "from torch import nn\nclass Half(nn.Module):\n    def forward(self, x):\n        return {} * x\n"
    monkeypatch.syspath_prepend(root)
    found = []
    for module, factor in dict(half_before=0.5, half_after=0.5, half_other=0.6).items():
        (root / f"{module}.py").write_text(text.format(factor), encoding="utf-8")
        found.append(code.classes_of(importlib.import_module(module).Half()))
    assert records.others(found[1], found[0]) == [] and found[1].keys() != found[0].keys()
    assert records.others(found[2], found[0]) == ["half_before.Half", "half_other.Half"]


@pytest.mark.parametrize("how", ["an argument", "a layer of PyTorch"])
def test_what_a_network_is_given_counts_also_where_pytorch_does_not_say_it(root, how, capsys):
    class Net(nn.Module):
        def __init__(self, p, act):
            super().__init__()
            self.conv, self.act = conv(3, 8, stride=2), act
            self.attention = nn.MultiheadAttention(8, 2, dropout=p, batch_first=True)
            self.linear = nn.Linear(8, 10)

        def forward(self, x):
            x = self.act(self.conv(x), 0.3, self.training)[:, :, ::8, ::8].flatten(2).transpose(1, 2)
            return self.linear(self.attention(x, x, x)[0].mean(1))

    train(partial(Net, 0.1, nn.functional.dropout), name="given")
    other = (
        partial(Net, 0.1, nn.functional.alpha_dropout)
        if how == "an argument"
        else partial(Net, 0.5, nn.functional.dropout)
    )
    assert train(other, name="given").folder.name == "given-2"
    said = "act is alpha_dropout here" if how == "an argument" else "attention.dropout is 0.5 here, but 0.1"
    assert f"given in runs/ is another run: {said}" in capsys.readouterr().out


DRAWING = """
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Config(NamedTuple):
    p: float = 0.1


class Base:
    p = 0.1


class Large(Base):
    pass


class Noise:
    def __init__(self, std):
        self.std = std

    def __call__(self, layer, images, out):
        return out + self.std * torch.randn_like(out) if layer.training else out


def dropped(x, training):
    return F.dropout(x, 0.1, training)


config, settings, named, kept = Config(), {"w": 8}, SimpleNamespace(w=8), partial(F.dropout, p=0.1)


class Net(nn.Module):
    dropper = {"it": lambda x, training: F.dropout(x, 0.1, training)}

    def __init__(self):
        super().__init__()
        parts = dict(conv=nn.Conv2d(3, 8, 3, 2), norm=nn.BatchNorm2d(8), dropout=nn.Dropout(0.0), relu=nn.ReLU())
        self.first = nn.Sequential(OrderedDict(parts))
        self.first.register_forward_hook(Noise(0.1))
        self.pool, self.linear, self.late = nn.AvgPool2d(3, 3), nn.Linear(8, 10), nn.Dropout(0.0)

    def forward(self, x):
        x = F.dropout(self.first(x), config.p, self.training)
        x = F.dropout(x, settings.get("p", 0.1), self.training)
        x = F.dropout(x, getattr(named, "p", 0.1), self.training)
        x = F.dropout(x, Large.p, self.training)
        x = self.pool(dropped(kept(self.dropper["it"](x, self.training), training=self.training), self.training))
        x = self.late(x) if "late" in settings else x
        return self.linear(x.amax((2, 3)))
"""


@pytest.mark.parametrize(
    "old, new",
    [
        ("config, settings, named, kept = Config()", "config, settings, named, kept = Config(0.5)"),
        ('{"w": 8}', '{"w": 8, "p": 0.5}'),
        ('{"w": 8}', '{"w": 8, "late": 1}'),  # a dropout, for which the recipe sets p
        ("SimpleNamespace(w=8)", "SimpleNamespace(w=8, p=0.5)"),
        ("    p = 0.1\n", "    p = 0.5\n"),
        ("Noise(0.1)", "Noise(0.5)"),
        ("return F.dropout(x, 0.1, training)", "return F.dropout(x, 0.5, training)"),
        ("partial(F.dropout, p=0.1)", "partial(F.dropout, p=0.5)"),
        ('"it": lambda x, training: F.dropout(x, 0.1', '"it": lambda x, training: F.dropout(x, 0.5'),
        ("norm=nn.BatchNorm2d(8), dropout=nn.Dropout(0.0)", "dropout=nn.Dropout(0.0), norm=nn.BatchNorm2d(8)"),
        ("nn.AvgPool2d(3, 3)", "nn.AvgPool2d(3, 3, ceil_mode=True)"),
    ],
)
def test_what_shows_in_training_alone_is_another_network(old, new):
    """However the number gets into the forward; no source is kept of what `exec` makes."""
    found = []
    for text in (DRAWING, DRAWING, DRAWING.replace(old, new)):
        assert DRAWING.count(old) == 1
        cell = {"__name__": "cell"}
        exec(text, cell)
        found.append(records.identity(records.build(cell["Net"], 1), asdict(ONE), {}, 1))
    assert records.difference(found[1], found[0]) is None
    assert records.difference(found[2], found[0])


def test_how_a_weight_is_made_counts():
    one, other = (
        records.modules(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=how))
        for how in ("cayley", "matrix_exp")
    )
    assert [key for key in one if one[key] != other[key]] == ["parametrizations.weight.0.orthogonal_map"]


def test_the_order_of_layers_counts():
    wanted = dict(network={"a": "ReLU()", "b": "Dropout(p=0.1)"})
    turned = dict(network=dict(reversed(wanted["network"].items())))
    assert records.difference(wanted, turned) == "its layers are the same, but in another order"


def test_a_class_of_torchvision_is_not_told_by_its_code():
    """Another version of it would be another run."""
    ops = pytest.importorskip("torchvision.ops")
    assert code.classes_of(nn.Sequential(ops.StochasticDepth(0.1, "row"), nn.ReLU())) == {}


def test_classes_of_one_name_are_told_apart_and_methods_of_any_kind_count():
    class ConvNet(models.ConvNet):
        @staticmethod
        def scale(x):
            return 2 * x

    first = code.classes_of(ConvNet(8, c1=conv(3, 8)))
    assert len(first) == 2 and code.classes_of(tiny_network()).items() < first.items()

    class ConvNet(models.ConvNet):
        @staticmethod
        def scale(x):
            return 3 * x

    assert first.keys() == (second := code.classes_of(ConvNet(8, c1=conv(3, 8)))).keys() and first != second


class Masked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.25, self.training)


def test_what_a_network_draws_is_no_part_of_its_response(monkeypatch):
    """Which units a dropout leaves out for one seed depends on who made the processor."""
    model = records.build(Masked)
    here, dropout = records.response(model), nn.functional.dropout
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training: dropout(x.flip(1), p, training).flip(1))
    assert records.response(model) == here


def test_the_words_of_a_network_do_not_depend_on_how_a_cell_prints():
    class Kept(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale, self.table = scale, [np.linspace(0, 1, 3), {"a": torch.linspace(0, 1, 3)}]
            self.linear = nn.Linear(3072, 10)

    first = records.modules(Kept(np.float64(0.5)))
    with np.printoptions(precision=1):
        torch.set_printoptions(precision=1)
        try:
            assert records.modules(Kept(np.float64(0.5))) == first == records.modules(Kept(0.5))
        finally:
            torch.set_printoptions(profile="default")
    other = Kept(0.5)
    other.table[1]["a"] = torch.linspace(0, 2, 3)
    assert records.modules(other) != first and first["scale"] == "0.5"
    other.table = [torch.tensor([0, 2, 1])]
    assert records.modules(other)["table"] == "[int64 [3] 0f004f11]"


def words(value):
    model = tiny_network()
    model.__class__ = type("Kept", (ConvNet,), {})
    model.kept = value
    return records.modules(model)["kept"]


def test_the_words_of_a_tensor_do_not_depend_on_the_machine():
    """Where the mean is 0, its digits are noise."""
    values = torch.linspace(-1, 1, 64)
    assert words(values) == words(values * (1 + 1e-7)) == words(torch.nextafter(values, torch.tensor(2.0)))
    assert len({words(torch.tensor(v)) for v in ([0, 0.1, 0.3], [0, 0.3, 0.1], [0.3, 0.1, 0], [0, 0.1, 0.31])}) == 4
    assert words(torch.tensor([0, 1e-5, 3e-5])) != words(torch.tensor([0, 3e-5, 1e-5]))
    assert len({words(np.array(v)) for v in ([0, 0.1, 0.3], [0, 0.3, 0.1], [0, 0.1j, 0.3])}) == 3
    for value in (torch.eye(3).to_sparse(), torch.eye(3).bfloat16(), torch.empty(0), torch.zeros(2)):
        assert words(value) == words(value) != words(torch.full((4,), 7.0))


def test_what_is_no_number_agrees_with_itself():
    for value in (float("inf"), float("-inf"), float("nan")):
        assert records.alike([value, 1.0, 2.0], [value, 1.0, 2.0])
        assert not records.alike([1.0, 1.0, 2.0], [value, 1.0, 2.0])
        assert not records.alike([value, 1.0, 2.0], [1.0, 1.0, 2.0])


class Precise(nn.Module):
    """A depthwise convolution with a stride, nn.Dropout, and weights of 64 or 16 bits."""

    def __init__(self, dtype):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=4, groups=3), nn.Dropout(0.1), nn.Flatten(), nn.Linear(384, 10)
        )
        self.dtype = self.to(dtype) and dtype

    def forward(self, x):
        return self.layers(x.to(self.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_network_in_another_precision_trains(root, dtype):
    run = train(partial(Precise, dtype), replace(ONE, dropout=0.1))
    assert {p.dtype for p in run.model.parameters()} == {dtype}
    assert train(partial(Precise, dtype), replace(ONE, dropout=0.1)).folder == run.folder


def test_a_network_with_random_numbers_of_its_own_goes_on_bit_identical(root, capsys):
    straight = train(Noisy, THREE, name="straight")
    stop_after(2, Noisy, THREE)
    resumed = train(Noisy, THREE)
    assert resumed.folder.name == "mine"
    assert torch.equal(straight.model.linear.weight, resumed.model.linear.weight)
    assert train(Noisy, THREE).folder.name == "mine"


def drawn():
    return torch.rand(1).item(), np.random.rand(), random.random()


def seed_all(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.mark.parametrize("ask", [records.response, lambda model: records.check_outputs(model, 10)])
def test_asking_what_a_network_computes_moves_no_random_number(ask):
    model = Noisy()
    seed_all(3)
    wanted = drawn()
    seed_all(3)
    ask(model)
    assert drawn() == wanted


def test_training_moves_no_random_number_of_the_user(root):
    """Who searches with np.random must not try one value for ever."""
    seed_all(3)
    wanted = drawn()[1:]
    seed_all(3)
    train(Noisy)
    records.build(Noisy)
    assert drawn()[1:] == wanted


def lazy():
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))


class WithABuffer(nn.Linear):
    """A buffer that is not kept with the weights; the seed decides it."""

    def __init__(self):
        super().__init__(3 * 32 * 32, 10)
        self.register_buffer("noise", torch.randn(10), persistent=False)

    def forward(self, x):
        return super().forward(x.flatten(1)) + self.noise


@pytest.mark.parametrize("network", [lazy, WithABuffer])
def test_lazy_layers_and_buffers_that_are_not_kept_come_back(root, network):
    run = train(network, seed=2)
    assert train(network, seed=2).folder == run.folder and records.build(network).training
    assert alike_on_noise(runs.load("runs/mine", network).model, run.model)


def alike_on_noise(one, other):
    images = torch.randn(4, 3, 32, 32)
    return torch.equal(one(images), other(images))


def test_a_run_that_goes_on_under_other_circumstances_says_so_in_a_line(root, capsys):
    stop_after(1, recipe=THREE)
    capsys.readouterr()
    torch.set_num_threads(2)
    try:
        run = train(recipe=replace(THREE, precision="bfloat16"))
    finally:
        torch.set_num_threads(1)
    lines = capsys.readouterr().out.splitlines()
    changes = "precision bfloat16 (was float32), cpu_threads 2 (was 1)"
    assert lines[0] == "Going on after epoch 1."
    assert lines[1] == f"From here on not bit-identical to a run in one piece: {changes}."
    assert [line[:9] for line in lines[2:]] == ["Epoch   2", "Epoch   3"] and run.folder.name == "mine"
    under = read_metrics("runs/mine")["made_under"]
    seen = [(u["from_epoch"], u["precision"], u["cpu_threads"]) for u in under]
    assert seen == [(1, "float32", 1), (2, "bfloat16", 2)]
    assert {"device", "processor", "processes", "system", "python", "torch_version", "commit"} < under[0].keys()

    # finished, it is only loaded, whatever it would be made under today
    before = contents(root)
    again = train(recipe=THREE)
    said = "runs/mine was trained in bfloat16, not in float32; for that use another name, or move its folder.\n"
    assert capsys.readouterr().out == said and contents(root) == before
    assert again.metrics["recipe"]["precision"] == "bfloat16" and again.metrics["made_under"] == under


@pytest.mark.parametrize("said, taken", [([], "float32"), (["--precision", "bfloat16"], "bfloat16")])
def test_the_command_line_trains_in_the_precision_of_the_row(root, monkeypatch, said, taken):
    monkeypatch.setattr(models, "mine", tiny_network, raising=False)
    monkeypatch.setitem(EXPERIMENTS, "mine", replace(EXPERIMENTS["small"], recipe=ONE))
    monkeypatch.setattr("utils.data.load_cifar10", random_images)
    assert main(["train", "mine", *said]) == 0
    assert read_metrics("runs/mine")["precision"] == taken


def test_a_run_goes_on_in_its_own_precision(root, capsys, monkeypatch):
    monkeypatch.setattr("utils.engine.checkpoints.suitable_precision", lambda _: "float32")
    stop_after(1, recipe=replace(THREE, precision=None))
    monkeypatch.setattr("utils.engine.checkpoints.suitable_precision", lambda _: "bfloat16")
    capsys.readouterr()
    run = train(recipe=replace(THREE, precision=None))
    assert "From here on" not in capsys.readouterr().out
    assert [under["precision"] for under in run.metrics["made_under"]] == ["float32"]


def test_a_run_with_dropout_goes_on_and_loads(root):
    recipe = replace(THREE, dropout=0.2)
    stop_after(1, recipe=recipe)
    run = train(recipe=recipe)
    assert run.folder.name == "mine" and len(run.history) == 3
    assert train(recipe=recipe).folder.name == "mine"
    assert runs.load("runs/mine", tiny_network).metrics["recipe"]["dropout"] == 0.2


@pytest.mark.parametrize("before", ["without identity", "weights alone"])
def test_a_run_from_before_is_left_alone(root, capsys, before):
    stop_after(1, recipe=THREE)
    path = root / "runs" / "mine" / "checkpoint.pt"
    state = read_checkpoint(path)
    if before == "weights alone":
        state = state["model"]
    else:
        for key in ("identity", "made_under", "response", "finished"):
            state.pop(key, None)
        state |= dict(recipe=asdict(THREE), precision="float32")
    save_atomically(state, path)
    first = contents(root)
    capsys.readouterr()
    run = train(recipe=THREE)
    assert run.folder.name == "mine-2" and len(run.history) == 3 and first.items() <= contents(root).items()
    said = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"mine in runs/ is another run: its .* not known there\. This one is kept in mine-2\.", said)


def test_a_finished_run_without_its_checkpoint_is_not_trained_again(root, capsys):
    """As after copying a published one, or after making room on the disk."""
    run = train()
    (run.folder / "checkpoint.pt").unlink()
    before = contents(root)
    capsys.readouterr()
    again = train()
    assert again.folder == run.folder and "Epoch" not in capsys.readouterr().out
    assert contents(root) == before


# ---------------------------------------------------------------- the precision


def test_the_precision_does_not_depend_on_time(monkeypatch):
    def measured(*_):
        raise AssertionError("the precision was measured")

    for clock in ("perf_counter", "perf_counter_ns", "monotonic", "time", "process_time"):
        monkeypatch.setattr(time, clock, measured)
    for name in ("cpu", "mps"):
        device = torch.device(name)
        assert len({speed.suitable_precision(device) for _ in range(20)}) == 1
    assert speed.suitable_precision(torch.device("mps")) == "float32"


@pytest.mark.parametrize(("native", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_precision_is_what_the_processor_computes_fast(monkeypatch, native, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(avx512_bf16=native, avx512_f=True), raising=False)
    assert speed.suitable_precision(torch.device("cpu")) == precision
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: native)
    assert speed.suitable_precision(torch.device("cuda")) == ("bfloat16" if native else "float16")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", [b"", b"damaged", "half"], ids=str)
def test_a_damaged_checkpoint_is_a_sentence_and_nothing_is_lost(root, damage):
    stop_after(1, recipe=THREE)
    path = root / "runs" / "mine" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else damage)
    before = contents(root)
    with pytest.raises(RunError) as error:
        train(recipe=THREE)
    assert re.fullmatch(rf"{path} cannot be read \(\w+\); move its folder away to train anew\.", str(error.value))
    assert contents(root) == before


def test_an_edited_checkpoint_is_noticed(root):
    stop_after(1, recipe=THREE)
    path = root / "runs" / "mine" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["history"][0]["validation_accuracy"] = 99.9
    torch.save(state, path)
    with pytest.raises(RunError, match="cannot be read"):
        train(recipe=THREE)


@pytest.mark.parametrize("file", KEPT)
def test_what_is_said_of_a_damaged_finished_run_brings_it_back(root, capsys, file):
    first = train()
    (first.folder / file).write_bytes(b"damaged")
    with pytest.raises(RunError, match=f"{file} .*; move {', '.join(KEPT)} away and train again"):
        train()
    for name in KEPT:
        (first.folder / name).unlink()
    capsys.readouterr()
    again = train()
    assert again.folder == first.folder and "Epoch" not in capsys.readouterr().out
    assert again.metrics == first.metrics and again.history.equals(first.history)
    for damaged in (file, "checkpoint.pt"):
        (first.folder / damaged).write_bytes(b"damaged")
    with pytest.raises(RunError, match="; move its folder away to train anew"):  # the checkpoint holds it no more
        train()


def test_damaged_metrics_are_a_sentence_and_nothing_is_lost(root, capsys):
    train()
    path = root / "runs" / "mine" / "metrics.json"
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")
    (root / "runs" / "mine" / "checkpoint.pt").unlink()  # as of a published run
    before = contents(root)
    for use in (train, lambda: runs.load("runs/mine", tiny_network), lambda: runs.compare("runs/mine")):
        with pytest.raises(RunError) as error:
            use()
        assert str(error.value).startswith(f"{path} is missing or damaged") and "\n" not in str(error.value)
    assert contents(root) == before
    train(name="other")
    capsys.readouterr()
    assert main(["runs"]) == 0, "the others are still shown"
    out = capsys.readouterr().out
    assert out.startswith(f"{path} is missing or damaged") and "runs/other" in out


def test_a_folder_in_the_place_of_damaged_metrics_is_a_sentence(root):
    path = train().folder / "metrics.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match=r"metrics\.json is missing or damaged.*; move .* and train again"):
        runs.load("runs/mine", tiny_network)


def test_a_recipe_with_a_field_that_a_column_is_called_is_shown(root, capsys):
    path = train().folder / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(metrics | dict(recipe=metrics["recipe"] | dict(network=1))), encoding="utf-8")
    checkpoints.seal(path.parent)
    assert main(["runs"]) == 0 and "runs/mine" in capsys.readouterr().out


def test_damaged_weights_are_a_sentence(root):
    train()
    (root / "runs" / "mine" / "weights.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"weights\.pt is missing or damaged"):
        runs.load("runs/mine", tiny_network)
