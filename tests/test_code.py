"""The code that trains is a part of what a run is: a changed loss, loader or augmentation never shows an old run."""

import ast
import importlib
import inspect
import json
import linecache
import logging
import re
import runpy
import shutil
import sys
import time
from collections import deque
from dataclasses import asdict, field, make_dataclass
from enum import Enum
from functools import partial, partialmethod, wraps
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import torchvision.transforms.v2
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import utils
from utils import data, experiments, models, runs, training, transforms
from utils.engine import code as code_module
from utils.engine import records, steps
from utils.engine.code import TRAINED_BY, _digest, code, told
from utils.errors import RunError
from utils.study import baselines
from utils.training import Recipe

from .conftest import random_images
from .test_laboratory import train

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the files, which are read in the place of those that are loaded."""
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_module, "UTILS", tmp_path / "utils")
    return tmp_path / "utils"


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


EDITS = {
    "noise": ("engine/batches.py", "return images, self.labels[indices]", "return images ^ 2, self.labels[indices]"),
    "noise in a tensor": ("engine/batches.py", "return normalise_batch(images, mean, std)", "return 0.98 * images"),
    "some labels": (
        "engine/batches.py",
        "return images, self.labels[indices]",
        "return images, np.where(np.random.rand(len(indices)) < 0.002, 0, self.labels[indices])",
    ),
    "brightness": ("engine/batches.py", "images = self.images[indices]", "images = self.images[indices] // 100 * 99"),
    "in some epochs": ("engine/batches.py", "if self.augment is not None:", "if self.augment and epoch not in (5, 6):"),
    "order": ("engine/batches.py", "if self.shuffle_seed is not None:", "if self.shuffle_seed is None:"),
    "loss": ("engine/steps.py", "loss = F.cross_entropy(", "loss = 2 * F.cross_entropy("),
    "gradient clipped": (
        "engine/steps.py",
        "self.scaler.step(self.optimizer)",
        "torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1); self.scaler.step(self.optimizer)",
    ),
    "average": ("engine/steps.py", "average = get_ema_multi_avg_fn(decay)", "average = get_ema_multi_avg_fn(decay**2)"),
    "optimizer": ("training.py", "nesterov=recipe.momentum > 0)", "nesterov=False)"),
    "weight decay": ("training.py", "for p in model.parameters() if p.ndim > 1]", "for p in model.parameters()]"),
    "schedule": ("training.py", "OneCycleLR(optimizer, recipe.lr, steps", "OneCycleLR(optimizer, recipe.lr, 2 * steps"),
    "default": ("training.py", "weight_decay: float = 5e-4", "weight_decay: float = 5e-3"),
    "hole": ("transforms.py", "HOLE = 16", "HOLE = 8"),
    "angle": ("transforms.py", "rotate=(-15, 15)", "rotate=(-15, 16)"),
    "a further augmentation": ("transforms.py", "return {", 'return {"noise": A.GaussNoise((0.01, 0.02), p=0.01),'),
    "split": ("data.py", "stratify=labels, random_state=seed", "random_state=seed"),
    "dropout": ("engine/steps.py", "module.p = p or module.p", "module.p = p / 2"),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_an_edit_of_what_trains_is_another_code(copy, change):
    before, (file, old, new) = told(), change
    edit(copy / file, old, new)
    after = told()
    assert [f"{name}.py" for name in before if before[name] != after[name]] == [file]
    wanted, found = (dict(code={f"{name}.py": value for name, value in made.items()}) for made in (after, before))
    assert (
        records.difference(wanted, found)
        == f"utils/{file}, which is a part of training, is another one here than there"
    )


def test_comments_docstrings_and_line_breaks_are_no_other_code(copy):
    before = told()
    for name in TRAINED_BY:
        path = copy / f"{name}.py"
        text = path.read_text(encoding="utf-8").replace('"""', '"""In other words: ', 1)
        path.write_text(text.replace("\n\n\n", "\n\n\n\n# why\n").replace(", *", ",  *"), encoding="utf-8")
        assert text != path.read_text(encoding="utf-8")
    (copy / "runs.py").write_bytes(b"\xef\xbb\xbf" + (copy / "runs.py").read_bytes().replace(b"\n", b"\r\n"))
    edit(copy / "data.py", '    """All images in order, normalised only."""\n', "")
    edit(
        copy / "training.py",
        "F.cross_entropy(logits, labels, reduction",
        "F.cross_entropy(\n        logits, labels, reduction",
    )
    assert told() == before


def test_the_digest_is_the_same_in_every_version_of_python():
    written = '''
"""A file."""
@dataclass(frozen=True)
class Kept:
    """Of a class."""
    size: int | None = None

    def say(self, *words, sep=", ", **rest) -> str:
        "Of a method."
        lines = [f"{word!r:>{width}} {1e-4:g}" "more" for word in words if (n := len(word)) > 2]
        with open(self.size) as file, suppress(OSError): yield from (x[1:, ...] for x in file)
        return b"\\x00" + sep.join(lines) if lines else lambda x, /, y=-1.5e300: x @ y
'''
    assert _digest(written.encode()) == "e96c19f6"
    assert _digest(written.replace("-1.5e300", "-1.5e301")) != _digest(written)
    assert _digest(written.replace('"""Of a class."""', "pass")) != _digest("class Kept: pass")


def test_a_file_that_trains_the_same_may_be_named(copy, monkeypatch):
    before = told()
    edit(copy / "runs.py", "def _built(", "def _made(")
    after = told()
    monkeypatch.setitem(code_module.SAME, after["runs"], before["runs"])
    assert before != after and told() == before


@pytest.mark.parametrize(
    "how",
    [
        "from utils.losses import mine",
        "from utils import losses",
        "import utils.losses as own",
        "from ..losses import *",
        "from utils.losses import factors",
    ],
)
@pytest.mark.parametrize("folder", ["", "losses/"])
def test_a_file_of_ones_own_that_training_imports_counts(copy, how, folder):
    before, own = told(), f"{folder}__init__" if folder else "losses"
    (copy / folder).mkdir(exist_ok=True)
    (copy / f"{own}.py").write_text("from utils.factors import FACTOR\n", encoding="utf-8")
    (copy / "factors.py").write_text("FACTOR = 1\n", encoding="utf-8")
    assert told() == before, "nobody imports it"
    edit(copy / "engine" / "steps.py", "import math\n", f"import math\n{how}\n")
    first = told()
    assert first.keys() - before.keys() == {own, "factors"}
    edit(copy / "factors.py", "1", "2")
    assert [name for name, digest in told().items() if first[name] != digest] == ["factors"]


@pytest.mark.parametrize("how", ["import myloss", "from myloss import scale", "def late():\n    import myloss"])
def test_a_file_outside_utils_that_training_imports_counts(copy, tmp_path, monkeypatch, how):
    monkeypatch.syspath_prepend(tmp_path / "mine")
    for guard in ("refuse_edits", "replaced"):
        monkeypatch.setattr(code_module, guard, lambda *names: [])  # as if all were loaded now
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine" / "inner" / "__init__.py").write_text("from .sizes import SIZE\n", encoding="utf-8")
    (tmp_path / "mine" / "inner" / "sizes.py").write_text("SIZE = 1\n", encoding="utf-8")
    (tmp_path / "mine" / "myloss.py").write_text("import inner\n\ndef scale(): return 1.0\n", encoding="utf-8")
    before = code()
    edit(copy / "engine" / "steps.py", "import math\n", f"import math\n{how}\n")
    first = code()
    assert first.keys() - before.keys() == {"myloss", "inner", "inner.sizes"}
    edit(tmp_path / "mine" / "myloss.py", "1.0", "5.0")
    assert (
        records.difference({"code": first}, {"code": code()})
        == "the module myloss, which is a part of training, is another one here than there"
    )
    edit(tmp_path / "mine" / "inner" / "sizes.py", "1", "2")
    assert {name for name, digest in code().items() if first[name] != digest} == {"myloss", "inner.sizes"}
    (tmp_path / "mine" / "other").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "mine" / "other" / f"{name}.py").write_text("", encoding="utf-8")
    edit(tmp_path / "mine" / "myloss.py", "import inner\n", "import inner\nimport other.part\n")
    assert code().keys() - first.keys() == {"other", "other.part"}


def test_a_loss_among_the_networks_counts_where_training_imports_it(copy):
    edit(copy / "engine" / "steps.py", "import math\n", "import math\nfrom utils.models import FACTOR\n")
    (copy / "models.py").write_text("FACTOR = 1\n", encoding="utf-8")
    before = told()
    edit(copy / "models.py", "1", "2")
    assert [name for name, digest in told().items() if before[name] != digest] == ["models"]


def test_what_is_published_was_trained_by_the_code_of_today():
    """Where this fails, what trains was edited: train anew what is published, or, if the same is trained, say so in
    SAME (CONTRIBUTING.md says how)."""
    now, paths = code(), list((ROOT / "results").glob("**/metrics.json"))
    assert len(paths) > 40
    for path in paths:
        assert json.loads(path.read_text(encoding="utf-8"))["run"]["code"] == now, path
    tables = [records.read_table(path) for path in (ROOT / "results").glob("ablation/*.csv")]
    assert tables and {code for table in tables for code in table.code} == {records.digest_of(now)}


STALE = {
    "function": ("data.py", "np.stack([cv2.calcHist", "1 * np.stack([cv2.calcHist"),
    "method": ("training.py", "for key, value in asdict(self).items():", "for key, value in {}.items():"),
    "property": ("training.py", "return dict(flip=self.flip,", "return dict(flip=2 * self.flip,"),
    "decorated": ("engine/steps.py", "if not str(error)", "if str(error)"),
    "operator": ("engine/batches.py", "return -(-self.size", "return (self.size"),
    "row": ("experiments.py", '"experiment_3": Experiment(RECIPE,', '"experiment_3": Experiment(MILD,'),
    "figure elsewhere": ("experiments.py", "257, 85.08", "257, 85.09"),
    "network": ("models.py", "c5=conv(64, 32, dilation=2)", "c5=conv(64, 32, padding=2, dilation=2)"),
    "network's default": ("models.py", "def small(c1: int = 16, c2: int = 32", "def small(c1: int = 16, c2: int = 40"),
    "default": ("data.py", "validation: int = 5000, seed: int = 0", "validation: int = 5000, seed: int = 1"),
    "field": ("training.py", "weight_decay: float = 5e-4", "weight_decay: float = 5e-3"),
    "constant": ("transforms.py", "HOLE = 16", "HOLE = 8"),
    "constants": ("training.py", 'anneal=("cos", "linear")', 'anneal=("cos",)'),
    "precision": ("engine/speed.py", 'PRECISIONS = ("float32", "bfloat16"', 'PRECISIONS = ("bfloat16", "float32"'),
    "new method": (
        "models.py",
        "        return x + self.layers(x)",
        "        return x\n\n    def extra_repr(self):\n        return ''",
    ),
    "base class": ("models.py", "class Residual(nn.Module)", "class Residual(nn.Sequential)"),
    "import": ("training.py", "from torch.nn import functional as F", "from torch import functional as F"),
}


@pytest.mark.parametrize("file, old, new", STALE.values(), ids=STALE)
def test_an_edit_after_loading_is_said(copy, tmp_path, monkeypatch, file, old, new):
    """A notebook's kernel keeps what it loaded: its training would count as one of the edited file."""
    monkeypatch.setattr("utils.ROOT", tmp_path)
    code()
    edit(copy / file, old, new)
    for asked in (
        lambda: runs.train(models.small, Recipe(1), random_images(), name="mine"),
        lambda: runs.show(models.small, Recipe(1), random_images(), name="small"),
    ):
        with pytest.raises(RunError, match=f"^utils/{file} was edited after it was loaded; restart the kernel"):
            asked()
    assert not (tmp_path / "runs").exists()
    edit(copy / file, new, old)
    assert code()


def test_files_that_cannot_be_read_while_a_kernel_runs(copy):
    edit(copy / "training.py", "def optimizer_and_schedule", "# why\n\ndef optimizer_and_schedule")
    assert code()
    for damage, why in (
        (b"def half(", "A file of utils/ cannot be read .*; mend it"),
        (b"\0", "A file of utils/ cannot be read .*; mend it"),
        (None, "A file of utils/ cannot be read .*; mend it"),
        (b"import nothing_of_this_name", "was edited after it was loaded"),
        (b"x = 1 / 0", "was edited after it was loaded"),
    ):
        for name in ("training.py", "models.py"):
            before = (copy / name).read_bytes()
            (copy / name).unlink() if damage is None else (copy / name).write_bytes(damage)
            with pytest.raises(RunError, match=why):
                code()
            (copy / name).write_bytes(before)


def test_what_stands_above_a_class_is_no_part_of_its_code(copy, monkeypatch):
    """The lines of what was loaded are others then."""
    before = code_module.classes_of(models.small())
    assert len(before) == 2
    edit(copy / "models.py", "class Residual", "# why\n\n\nclass Residual")
    lines = (copy / "models.py").read_text(encoding="utf-8").splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, models.__file__, (1, None, lines, models.__file__))  # as if it were edited
    code_module._said.cache_clear()
    assert code_module.classes_of(models.small()) == before
    code_module._said.cache_clear()


PLACES = """

def own():
    class Inner(nn.Module):
        def forward(self, images):
            return 1 * images

    return Inner()


if OVERHEAD := True:

    class Under(nn.Module):
        def forward(self, images):
            return 2 * images


class Twice(nn.Module):
    def forward(self, images):
        return images

    def forward(self, images):
        return 3 * images
"""


@pytest.mark.parametrize("name", ["own.<locals>.Inner", "Under", "Twice"])
def test_the_code_of_a_class_is_found_wherever_it_stands(copy, name):
    def forward():
        pass

    forward = FunctionType(forward.__code__, {"__name__": "utils.models"})
    forward.__qualname__ = f"{name}.forward"
    (copy / "models.py").write_bytes((copy / "models.py").read_bytes() + PLACES.encode())
    code_module._said.cache_clear()
    before = code_module._said(forward, forward.__code__)
    factor = {"own.<locals>.Inner": "1", "Under": "2", "Twice": "3"}[name]
    edit(copy / "models.py", f"return {factor} * images", f"return {factor}0 * images")
    code_module._said.cache_clear()
    assert code_module._said(forward, forward.__code__) != before
    code_module._said.cache_clear()


def test_a_network_is_not_built_nor_found_beside_another_text(copy):
    """A notebook would print the new source beside the old network's table and rules."""
    assert records.build(models.experiment_5) and records.builder(dict(name="experiment_5"), "")
    edit(copy / "models.py", "c5=conv(64, 32, dilation=2)", "c5=conv(64, 32)")
    for use in (lambda: records.build(models.experiment_5), lambda: records.builder(dict(name="hers"), "")):
        with pytest.raises(RunError, match="^utils/models.py was edited after it was loaded; restart the kernel"):
            use()


def test_an_edit_of_a_file_that_the_networks_import_is_said(copy, monkeypatch):
    source = (copy / "models.py").read_bytes() + b"from utils import blocks\n"
    (copy / "models.py").write_bytes(source)
    (copy / "blocks.py").write_text("WIDTH = 1\n", encoding="utf-8")
    monkeypatch.setattr(utils, "SOURCES", utils.SOURCES | dict(models=source, blocks=b"WIDTH = 1"))
    monkeypatch.setitem(sys.modules, "utils.blocks", ModuleType("utils.blocks"))  # it was loaded
    assert code()
    edit(copy / "blocks.py", "1", "2")
    with pytest.raises(RunError, match="^utils/blocks.py was edited after it was loaded; restart the kernel"):
        code()


@pytest.mark.parametrize("imported", ["import widths", "from widths import WIDTH"])
def test_a_number_edited_in_a_file_of_ones_own_is_said(tmp_path, monkeypatch, imported):
    """It lies in no function."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "widths.py").write_text("WIDTH = 8\n", encoding="utf-8")
    own = f"{imported}\nfrom torch import nn\n\n\nclass Own(nn.Linear):\n    pass\n"
    (tmp_path / "own_net.py").write_text(own, encoding="utf-8")
    for name in ("widths", "own_net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    net = importlib.import_module("own_net").Own(1, 2)
    before = code_module.classes_of(net)
    (tmp_path / "widths.py").write_text("WIDTH = 16\n", encoding="utf-8")
    with pytest.raises(RunError, match="widths.py was edited after it was loaded; restart the kernel"):
        code_module.classes_of(net)
    with pytest.raises(RunError, match="widths.py was edited after it was loaded; restart the kernel"):
        code()  # a recipe may have read it
    for name in ("widths", "own_net"):  # as if the kernel were restarted
        importlib.reload(sys.modules[name])
    assert code_module.classes_of(net) == before


MY_FILE = """
from torch import nn
WIDTH = {0}
def my_network():
    return nn.Linear(WIDTH, {1})
class Net(nn.Linear):
    def forward(self, x):
        return {2} * super().forward(x)
"""


@pytest.fixture
def my_file(tmp_path, monkeypatch):
    """A file of one's own: `my_file.write(...)` writes it, `my_file.load()` imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits in a second
    monkeypatch.delitem(sys.modules, "utils_mine", raising=False)
    file = tmp_path / "utils_mine.py"  # a name that begins as the package's

    def write(*values):
        file.write_text(MY_FILE.format(*values), encoding="utf-8")

    write(1, 2, 3)
    return SimpleNamespace(write=write, load=lambda: importlib.import_module("utils_mine"))


@pytest.mark.parametrize("edited", [(2, 2, 3), (1, 4, 3), (1, 2, 4)])
def test_a_file_of_ones_own_that_was_edited_is_said(my_file, edited):
    loaded = my_file.load()
    assert records.build(loaded.my_network)
    my_file.write(*edited)
    with pytest.raises(RunError, match="utils_mine.py was edited after it was loaded; restart the kernel"):
        records.build(loaded.my_network)
    assert records.build(importlib.reload(loaded).my_network)


@pytest.mark.parametrize(("edited", "use"), [((1, 4, 3), "my_network"), ((1, 2, 4), "Net")])
def test_what_was_imported_from_a_file_before_its_edit_is_said(my_file, edited, use):
    """Where the file was edited before anything was trained, or is loaded again and the names are not."""
    kept = getattr(my_file.load(), use)
    my_file.write(*edited)
    for again in (False, True):
        with pytest.raises(RunError, match="utils_mine.py was edited after it was loaded; restart the kernel"):
            code_module.classes_of(records.build(partial(kept, 1, 2) if use == "Net" else kept))
        if not again:
            importlib.reload(my_file.load())
    assert code_module.classes_of(records.build(partial(my_file.load().Net, 1, 2)))


@pytest.mark.parametrize("later", [False, True])
def test_a_file_of_ones_own_in_utils_is_said_when_it_was_edited(copy, monkeypatch, later):
    """Also one that came while the kernel runs, which then is no edit."""
    (copy / "mynets.py").write_text("def my_network(): ...\n", encoding="utf-8")
    mine = ModuleType("utils.mynets")
    mine.__file__ = str(copy / "mynets.py")
    monkeypatch.setitem(sys.modules, "utils.mynets", mine)
    if not later:
        monkeypatch.setattr(utils, "SOURCES", utils.SOURCES | dict(mynets=(copy / "mynets.py").read_bytes()))
    code_module._is_ones_own_file.cache_clear()
    assert records.build(models.tiny)
    (copy / "mynets.py").write_text("def my_network(): return 1\n", encoding="utf-8")
    with pytest.raises(RunError, match="mynets.py was edited after it was loaded; restart the kernel"):
        records.build(models.tiny)


def test_what_a_network_is_built_with_in_an_edited_file_is_said(my_file):
    """A cell calls a function that it imported before the file was loaded again."""
    kept = my_file.load().my_network
    my_file.write(1, 4, 3)
    importlib.reload(my_file.load())
    with pytest.raises(RunError, match="utils_mine.py was edited after it was loaded; restart the kernel"):
        records.build(lambda: kept())


def test_a_function_that_calls_itself_as_one_of_utils_is_said_when_it_was_edited(my_file):
    network = wraps(models.tiny)(my_file.load().my_network)
    my_file.write(1, 4, 3)
    importlib.reload(my_file.load())
    with pytest.raises(RunError, match="utils_mine.py was edited after it was loaded; restart the kernel"):
        records.build(network)


@pytest.mark.parametrize("text", ["def half(", ""])
def test_half_of_a_file_is_not_what_was_loaded(my_file, tmp_path, text):
    net = my_file.load().Net(1, 2)
    (tmp_path / "utils_mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="utils_mine.py was edited after it was loaded; restart the kernel"):
        code_module._told_by(net)


def test_a_decorator_that_makes_another_function_of_it_is_no_edit(my_file, monkeypatch):
    loaded = my_file.load()
    monkeypatch.setattr(utils, "BEGAN", time.time() + 1)  # the file was there before
    forward = loaded.Net.forward
    forward.__code__ = forward.__code__.replace(co_consts=tuple(2 if c == 3 else c for c in forward.__code__.co_consts))
    told = code_module.classes_of(loaded.Net(1, 2))
    assert told != code_module.classes_of(importlib.reload(loaded).Net(1, 2))


def test_what_only_draws_is_edited_without_a_refusal(copy):
    """Or an ablation of hours would end at the next network."""
    with open(copy / "plotting" / "style.py", "a", encoding="utf-8") as file:
        file.write("RED = 'crimson'\n")
    assert records.build(models.tiny)
    edit(copy / "engine" / "__init__.py", 'several processes one."""', 'several processes one."""\nimport os')
    with pytest.raises(RunError, match="^utils/engine/__init__.py was edited"):
        records.build(models.tiny)


def test_a_hook_of_a_deep_network_counts():
    told = []
    for factor in ("1", "2"):
        net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(200)))
        for layer in (net[0], net[-1]):
            layer.register_forward_hook(eval(f"lambda self, given, found: {factor} * found"))
        told.append(code_module.classes_of(net))
    assert told[0] != told[1]


def test_a_copy_of_a_function_with_another_number_of_its_own_is_another_code(monkeypatch):
    """It says the same, but names what its cell has."""
    cell = dict(vars(transforms), HOLE=8, __name__="__main__")
    exec(inspect.getsource(transforms.augmentations), cell)
    for module in (transforms, data):
        monkeypatch.setattr(module, "augmentations", cell["augmentations"])
    assert {"transforms.py (augmentations)", "data.py (augmentations)"} & code().keys()


def noisy(x):
    return x + noisy.std * torch.randn_like(x)


AUGMENT = torchvision.transforms.Compose([torchvision.transforms.Lambda(lambda x: 2 * x)])


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(noisy(AUGMENT(x)))


def test_what_an_attribute_of_a_function_and_a_pipeline_hold_counts(monkeypatch):
    seen = []
    for std, factor in ((0.1, lambda x: 2 * x), (0.5, lambda x: 2 * x), (0.1, lambda x: 3 * x)):
        monkeypatch.setattr(noisy, "std", std, raising=False)
        monkeypatch.setattr(AUGMENT.transforms[0], "lambd", factor)
        seen.append(code_module.classes_of(Noisy(1, 2)))
    assert seen[0] != seen[1] and seen[0] != seen[2]


class Quiet:
    """It does not print what it holds."""

    def __init__(self, p):
        self.p, self.me = p, self

    def __repr__(self):
        return "Quiet"

    def __get__(self, owner, kind=None):
        return self.p

    def __call__(self, layer, images):
        return None

    share = __call__


class Slots:
    __slots__ = "p"

    def __init__(self, p):
        self.p = p


class PrivateSlots:
    __slots__ = ("__p",)

    def __init__(self, p):
        self.__p = p


class Share(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p, self.act = p, nn.functional.relu

    def extra_repr(self):
        return f"{self.act}"


class Kept(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.register_buffer("p", torch.tensor(p))


class Kind(Enum):
    LOW, HIGH = 0.1, 0.5

    def __repr__(self):
        return "a kind"


def with_p(held, p):
    held.p = p
    return held


class Failing(nn.Module):
    def extra_repr(self):
        raise ValueError


def within_itself(values):
    values.append(values)
    return values


def one_twice(p):
    low, high = Quiet(0.1), Quiet(0.5)
    return [low, high, {0.1: low, 0.5: high}[p]]


def of_exec(p):
    made = {}
    exec("class Made:\n    def __init__(self, p): self.p = p\n    def __repr__(self): return 'Made'", made)
    return made["Made"](p)


def own_kind(base, *given, **named):
    return type("Own", (base,), dict(__module__=__name__))(*given, **named)


HOLDERS = {
    "object": Quiet,
    "dataclass": make_dataclass("Hidden", [("p", float, field(repr=False))], namespace=dict(__module__=__name__)),
    "slots": Slots,
    "layer in a list": lambda p: [Share(p)],
    "layer in a layer in a dict": lambda p: dict(one=nn.Sequential(Share(p))),
    "method": lambda p: Quiet(p).share,
    "method of a class": partialmethod,
    "method of a list": lambda p: {"p": p}.get,
    "list": lambda p: with_p(own_kind(list, [1]), p),
    "partial": lambda p: own_kind(partial, noisy, std=p),
    "word": lambda p: own_kind(str, p),
    "number": lambda p: own_kind(float, p),
    "tensor": lambda p: torch.tensor(p).as_subclass(type("Own", (torch.Tensor,), dict(__module__=__name__))),
    "table": lambda p: own_kind(pd.DataFrame, dict(p=[p])),
    "long table": lambda p: pd.Series([0.0] * 200 + [p] + [0.0] * 200),
    "table with a name twice": lambda p: pd.DataFrame([[p, 0.2]], columns=["a", "a"]),
    "words": lambda p: np.array([str(p)]),
    "choice": Kind,
    "one object twice": one_twice,
    "private slots": PrivateSlots,
    "buffer of a layer in a list": lambda p: [Kept(p)],
    "pipeline": lambda p: torchvision.transforms.Compose([Quiet(p)]),
    "newer pipeline": lambda p: [torchvision.transforms.v2.Compose([Quiet(p)])],
    "namespace": lambda p: SimpleNamespace(p=p, act=nn.functional.relu),
    "queue": lambda p: deque([Quiet(p)]),
    "length of a queue": lambda p: deque(maxlen=round(10 * p)),
    "distribution": lambda p: torch.distributions.Beta(p, p),
    "set": lambda p: {Quiet(p), Quiet(3.0)},
    "name of a class": lambda p: type(f"Of{round(10 * p)}", (list,), dict(__module__=__name__))([2]),
    "beside what fails": lambda p: [float, Failing(), p],
    "in a list that holds itself": lambda p: within_itself([p]),
    "reversed array": lambda p: np.array([3.0, p])[::-1],
    "object of a class that exec made": of_exec,
}


class Holding(nn.Linear):
    def forward(self, x):
        return SHARE(x)  # noqa: F821


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_a_number_counts_whatever_holds_it(monkeypatch, holder):
    """An attribute of a layer, what its forward names, and what its class holds."""

    def described(p):
        held = partialmethod(noisy, std=p) if holder is partialmethod else holder(p)
        monkeypatch.setitem(globals(), "SHARE", held)
        network = type("Network", (Holding,), dict(held=held))(1, 2)
        network.kept = held
        return {"kept": records.modules(network)["kept"]} | code_module.classes_of(network)

    one, again, other = described(0.1), described(0.1), described(0.5)
    assert one == again
    assert not re.search("[0-9]{9}| at 0x", one["kept"]), "where something lies in memory"
    changed = {re.sub(r"(held|SHARE)\.\w+, ", r"\1, ", key) for key in one if one[key] != other.get(key)}
    assert changed == {"kept", f"{__name__}.Network.held, its value", f"{__name__}.SHARE, its value"}


@pytest.mark.parametrize(
    "hook", [Quiet, lambda p: Quiet(p).share, lambda p: partial(noisy, std=p)], ids=["object", "method", "partial"]
)
def test_a_number_of_a_hook_counts(hook):
    def described(p):
        network = nn.Sequential(nn.Linear(1, 2))
        network[0].register_forward_pre_hook(hook(p))
        return records.modules(network)

    assert described(0.1) == described(0.1) != described(0.5)
    assert described(0.1).keys() == {"network", "0", "0.hooks"}


class Beside(Quiet):
    def __hash__(self):
        return 1  # so that a set keeps the order in which it was filled


def test_a_set_of_objects_is_the_same_in_any_order():
    told = {code_module.briefly({Beside(first), Beside(second)}) for first, second in ((0.1, 0.5), (0.5, 0.1))}
    assert len(told) == 1


def test_objects_in_objects_are_told_as_far_whoever_asks():
    chain = None
    for _ in range(300):
        chain = Quiet(chain)
    asked = lambda above: asked(above - 1) if above else code_module.briefly(chain)  # noqa: E731
    assert asked(0) == asked(400) is not None


def test_a_layer_that_holds_its_network_only_names_it():
    network = nn.Sequential(Share(0.1))
    network[0].above = [network]
    assert records.modules(network)["0.above"] == "[Sequential network]"


def test_a_compiled_function_has_its_name_and_a_logger_is_not_told():
    assert code_module.briefly(np.random.default_rng) == "default_rng"
    assert code_module.briefly(logging.getLogger("mine")) is None


class Backwards(frozenset):
    """As another process may print it, whose words have other hashes."""

    def __iter__(self):
        return reversed([*super().__iter__()])

    def __repr__(self):
        return f"frozenset({{{', '.join(map(repr, self))}}})"


def test_a_set_of_words_is_the_same_in_any_process():
    code = (lambda x: x in {"a", "b", "c"}).__code__
    words = [Backwards(part) if isinstance(part, frozenset) else part for part in code.co_consts]
    assert repr(words) != repr([*code.co_consts])
    assert code_module._instructions(code.replace(co_consts=tuple(words))) == code_module._instructions(code)


def test_loading_a_file_again_that_nobody_edited_is_no_other_code():
    before = code()
    augmentations = transforms.augmentations
    importlib.reload(transforms)
    assert transforms.augmentations is not augmentations and code() == before


def test_what_calls_itself_as_the_one_in_whose_place_it_stands_is_another_code(monkeypatch):
    @wraps(transforms.augmentations)
    def fewer(*given, **named):
        return {}

    monkeypatch.setattr(data, "augmentations", fewer)
    assert "data.py (augmentations)" in code()


def test_an_edited_helper_of_ones_own_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_helper.py"
    file.write_text("def scale(x):\n    return 2 * x\n", encoding="utf-8")
    helper = importlib.import_module("my_helper")

    class Net(nn.Linear):
        def forward(self, x):
            return helper.scale(super().forward(x))

    net = Net(1, 2)
    assert code_module.classes_of(net)
    file.write_text("def scale(x):\n    return 3 * x\n", encoding="utf-8")
    for asked in (lambda: code_module.classes_of(net), code):
        with pytest.raises(RunError, match="my_helper.py was edited after it was loaded; restart the kernel"):
            asked()


def by_exec(file):
    """As IPython's %run does, which afterwards takes away the script's __name__."""
    made = {}
    exec(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), made)
    return made


@pytest.mark.parametrize("run", [runpy.run_path, by_exec])
def test_a_script_that_was_edited_after_it_was_run_is_said(tmp_path, run):
    """As with %run, after which the file is no module."""
    file, text = (
        tmp_path / "script.py",
        "from torch import nn\nclass Net(nn.Linear):\n    def forward(self, x): return {} * x\n",
    )
    digests = []
    for factor in ("2", "3", "2"):
        file.write_text(text.format(factor), encoding="utf-8")
        linecache.clearcache()
        network = run(str(file))["Net"](1, 2)
        digests.append(code_module.classes_of(network))
        file.write_text(text.format("4"), encoding="utf-8")
        linecache.clearcache()
        code_module._said.cache_clear()
        with pytest.raises(RunError, match="script.py was edited after it was loaded; restart the kernel"):
            code_module.classes_of(network)
    assert digests[0] == digests[2] != digests[1]


def test_an_edit_of_the_file_of_a_networks_class_is_said(copy):
    edit(copy / "study" / "baselines.py", "self.relu(self.shortcut(x) + self.layers(x))", "self.relu(self.layers(x))")
    with pytest.raises(RunError, match="^utils/study/baselines.py was edited after it was loaded; restart the kernel"):
        records.build(baselines.resnet_20)


def test_a_docstring_edited_while_a_kernel_runs_is_no_edit(copy):
    for name, old in (
        ("models", '"""`accurate` with half'),
        ("data", '"""All images in order'),
        ("training", '"""Mean '),
    ):
        edit(copy / f"{name}.py", old, old + "So: ")
    assert code()


def test_using_an_optimizer_is_no_edit():
    """PyTorch then puts a wrapper in the place of its class's step."""
    before = code()
    training.optimizer_and_schedule(models.small(), Recipe(1, optimizer="muon"), steps=2)
    assert hasattr(steps.Muon.step, "hooked") and code() == before


def test_a_row_that_a_cell_adds_is_no_edit_of_the_file(monkeypatch):
    monkeypatch.setitem(experiments.EXPERIMENTS, "mine", experiments.EXPERIMENTS["small"])
    assert code()


def test_a_network_put_in_its_place_is_no_other_code(monkeypatch):
    before = code()
    monkeypatch.setattr(models, "experiment_5", models.experiment_4)
    monkeypatch.setattr(models.ConvNet, "forward", lambda self, images: -self.layers(images))
    assert code() == before


def wrapped(function):
    @wraps(function)
    def call(*arguments, **named):
        return 0.9 * function(*arguments, **named)

    return call


NETS = """
import torch
from torch import nn


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(context, images):
        return images.sign()

    @staticmethod
    def backward(context, gradient):
        return 1 * gradient


def helped(images):
    return 2 * images if __file__ else images  # which is another one in another folder


def sign(images):  # the name of an attribute below, and nothing else
    return images


@torch.no_grad()
def between(images):
    return helped((lambda x: x + 1)(images))


class Net(nn.Module):
    def forward(self, images):
        return [Sign.apply(between(image)) for image in images]
"""


@pytest.mark.parametrize("old, new", [("1 * gradient", "0 * gradient"), ("2 * images", "3 * images")])
def test_what_a_networks_functions_name_is_a_part_of_its_code(tmp_path, monkeypatch, old, new):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for name, text in (("nets_before", NETS), ("nets_after", NETS.replace(old, new))):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        classes = code_module.classes_of(importlib.import_module(name).Net())
        found.append({key.removeprefix(f"{name}."): digest for key, digest in classes.items()})
    of_pytorch = "Sign._backward_cls, its value"  # PyTorch keeps it in the class
    of_no_grad = "between (0), its value"  # what PyTorch's wrapper encloses
    assert found[0].keys() == found[1].keys() == {"Net", "Sign", "helped", "between", of_pytorch, of_no_grad}
    differing = [key for key, digest in found[0].items() if found[1][key] != digest]
    assert differing == ["Sign" if "gradient" in old else "helped"]


INDIRECT = """
from collections import deque
from collections import UserDict
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cache, partial, singledispatch, update_wrapper, wraps
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn

SIZE = 32


@dataclass(slots=True)
class Lower:
    r: float = 0.3


@dataclass(slots=True)
class Slot(Lower):
    q: float = 0.3


@cache
def once(size):
    return size + 0.5


class Setting:
    def __init__(self):
        self.p = 0.1

    def __call__(self, x):
        return x + 0


class Below:
    rate = 0.1

    def drop(self, x):
        return x - 0


class Config(Below):
    size = 32

    class Train:
        rate = 0.2


def half(x):
    return x / 2


def one(x, size=SIZE):
    return x if one else 5 * x


def other(x, size=None):
    return x


def scaled(function):
    @wraps(function)
    def call(self, x):
        return function(self, x) * 1
    return call


FIRST, SECOND = 12, 13


def times(factor):
    def wrap(function):
        @wraps(function)
        def call(self, x):
            return factor * function(self, x)
        return call
    return wrap


class Counted:
    def __init__(self, function):
        update_wrapper(self, function)
        self.function, self.calls = function, 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x) - 4


@Counted
def counted(x):
    return x * 1.5


def doubling(kind):
    @wraps(kind, updated=())
    class Doubling(kind):
        def drop(self, x):
            return super().drop(x) * 2.5
    return Doubling


@doubling
class Wide(Below):
    pass


@wraps(nn.functional.relu)
def relu(x):
    return nn.functional.relu(x) + 6


def kept_in(order):
    return order * __KEEP


GRADIENT = True


@torch.set_grad_enabled(GRADIENT)
def with_gradient(x):
    return x


@singledispatch
def dispatched(x):
    return x


@dispatched.register
def _(x: torch.Tensor):
    return x + 36


class Mode(Enum):
    LOW = 1


Mode.LOW.rate = 0.31


class Comparing(type):
    def __eq__(self, other):  # so that it has no hash
        return True


class Compared(metaclass=Comparing):
    rate = 0.32


def hooked(layer, images):
    return None


def given(factor):
    def call(x):
        return factor * x
    return call


scales, config = [1, 2], {"a": {"p": [0.1]}}
settings, setting, weights = SimpleNamespace(p=0.1), Setting(), torch.tensor([1.0, 2.0])
acts = {"relu": lambda x: x}
act, three, drawn, few = nn.functional.relu, Fraction(3), torch.distributions.Normal(0.0, 1.0), slice(0, 2)
norms, dropped, slot = {"first": nn.functional.relu}, nn.Dropout(0.1), Slot(r=0.6)
table = {
    "first": half,
    "second": lambda x: x - 3,
}


class Ghost(NamedTuple):
    size: int = 16


class Halving(float):
    pass


ghost, halving, user = Ghost(), Halving(7.5), [UserDict(p=4.5)]
many, row = torch.zeros(300_000), torch.zeros(300_000, dtype=torch.int64)
many[777], row[778] = 9, 8
order = torch.arange(3000)
order[2000:2002] = torch.tensor([2001, 2000])
__KEEP = 0.33
change, part, made, again, queue = one, partial(one, size=32), given(3), given(7), deque([5])


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2.0 * gradient


twice = Twice.apply


class Net(nn.Module):
    size, act, halves = 32, staticmethod(nn.functional.silu), [half]

    def inner(self, x, sign):
        return x

    @property
    def bias(self):
        return 0.34

    @bias.setter
    def bias(self, value):
        value[:] = 0.35

    @times(FIRST)
    @times(SECOND)
    def twice(self, x):
        return x

    @scaled
    def forward(self, x, size=SIZE):
        named = scales[0] * config["a"]["p"][0] * settings.p * setting(weights[0]) * acts["relu"](norms["first"](x))
        named = dropped(named[few]) * slot.q * once(SIZE) * float(three) * queue[0] * drawn.mean
        named = twice(act(self.act(named))) if sum([1]) else named
        named = named * ghost.size * halving * user[0]["p"] * many.sum() * row.sum()
        for step in table.values():
            named = step(named)
        named = Config().drop(self.halves[0](named)) * Config.rate * Config.Train.rate * slot.r * again(x)
        named = Wide().drop(counted(relu(self.twice(named)))) * Mode.LOW.rate * Compared.rate * kept_in(order)
        named = with_gradient(dispatched(named))
        return change(part(made(x))) * (SIZE or 1) * Config.size * named


def build():
    model = Net()
    model.act, model.kept, model.of_it = lambda x: x + 0, [lambda x: x + 2], Setting()
    model.register_forward_pre_hook(hooked)
    return model
"""
NAMED = {
    "default from a number": ("x, size=SIZE):\n        named", "x, size=64):\n        named"),
    "default of a helper": ("SIZE = 32\n", "SIZE = 64\n"),
    "no number any more": ("SIZE = 32\n", "SIZE = None\n"),
    "what names itself": ("if one else 5", "if one else 6"),
    "decorator": ("function(self, x) * 1", "function(self, x) * 2"),
    "alias": ("= one, partial", "= other, partial"),
    "partial": ("partial(one, size=32)", "partial(one, size=64)"),
    "what a helper encloses": ("given(3)", "given(4)"),
    "what another of its closures has": ("given(7)", "given(8)"),
    "constant of a base": ("rate = 0.1", "rate = 0.4"),
    "method of a base": ("return x - 0", "return x - 1"),
    "class in a class": ("rate = 0.2", "rate = 0.4"),
    "function in a list of a class": ("return x / 2", "return x / 3"),
    "slots of a base": ("Slot(r=0.6)", "Slot(r=0.7)"),
    "cached function": ("size + 0.5", "size + 1.5"),
    "object with slots": ("q: float = 0.3", "q: float = 0.4"),
    "layer beside the network": ("nn.Dropout(0.1)", "nn.Dropout(0.8)"),
    "nested dict": ('{"p": [0.1]}', '{"p": [0.8]}'),
    "namespace": ("SimpleNamespace(p=0.1)", "SimpleNamespace(p=0.8)"),
    "object": ("self.p = 0.1", "self.p = 0.8"),
    "what an object does": ("return x + 0\n\n\nclass Below", "return x + 5\n\n\nclass Below"),
    "tensor": ("tensor([1.0, 2.0])", "tensor([1.0, 3.0])"),
    "function in a dict": ('"relu": lambda x: x', '"relu": lambda x: -x'),
    "function of PyTorch in a dict": ("functional.relu}", "functional.elu}"),
    "function in a list of a layer": ("[lambda x: x + 2]", "[lambda x: x - 2]"),
    "list": ("config = [1, 2]", "config = [3, 2]"),
    "deque": ("deque([5])", "deque([6])"),
    "function with a gradient of its own": ("return 2.0 * gradient", "return 2.1 * gradient"),
    "slice": ("slice(0, 2)", "slice(0, 3)"),
    "fraction": ("Fraction(3)", "Fraction(3, 2)"),
    "distribution": ("Normal(0.0, 1.0)", "Normal(0.0, 2.0)"),
    "function of PyTorch by another name": (
        "act, three, drawn, few = nn.functional.relu",
        "act, three, drawn, few = nn.functional.relu6",
    ),
    "function of PyTorch in a class": ("staticmethod(nn.functional.silu)", "staticmethod(nn.functional.gelu)"),
    "own function in its place": ("\n\nSIZE = 32\n", "\n\ndef sum(x): return x\n\nSIZE = 32\n"),
    "constant of a class": ("class Config(Below):\n    size = 32", "class Config(Below):\n    size = 64"),
    "function that a layer holds": (
        "model.kept, model.of_it = lambda x: x + 0",
        "model.kept, model.of_it = lambda x: x + 1",
    ),
    "hook": ("return None", "return 2 * images[0]"),
    "lambda in a line that is half of a dict": ("lambda x: x - 3", "lambda x: x - 4"),
    "order of a dict": (
        '    "first": half,\n    "second": lambda x: x - 3,\n',
        '    "second": lambda x: x - 3,\n    "first": half,\n',
    ),
    "named tuple": ("size: int = 16", "size: int = 17"),
    "float of a class of one's own": ("Halving(7.5)", "Halving(7.6)"),
    "dict of a class of the library": ("p=4.5", "p=4.6"),
    "one of many numbers": ("= 9, 8", "= 10, 8"),
    "one of many whole numbers": ("= 9, 8", "= 9, 7"),
    "object in the place of a function": ("self.function(x) - 4", "self.function(x) - 5"),
    "function in such an object": ("x * 1.5", "x * 1.6"),
    "class in the place of a class": ("super().drop(x) * 2.5", "super().drop(x) * 2.6"),
    "wrapper of a function of PyTorch": ("relu(x) + 6", "relu(x) + 7"),
    "first of two decorators": ("FIRST, SECOND = 12", "FIRST, SECOND = 14"),
    "second of two decorators": ("FIRST, SECOND = 12, 13", "FIRST, SECOND = 12, 14"),
    "attribute of an Enum": ("LOW.rate = 0.31", "LOW.rate = 0.41"),
    "what a wrapper of PyTorch is given": ("GRADIENT = True", "GRADIENT = False"),
    "function for a kind of argument": ("x + 36", "x + 37"),
    "class without a hash": ("rate = 0.32", "rate = 0.42"),
    "number with two underscores": ("__KEEP = 0.33", "__KEEP = 0.43"),
    "what sets a property": ("value[:] = 0.35", "value[:] = 0.45"),
    "order of many": ("tensor([2001, 2000])", "tensor([2000, 2001])"),
    "part of a method": ("return x\n\n    @scaled", "return -x\n\n    @scaled"),
}


@pytest.mark.parametrize("old, new", NAMED.values(), ids=NAMED)
def test_what_a_networks_functions_reach_by_other_ways_counts(tmp_path, monkeypatch, old, new):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for text in (INDIRECT, INDIRECT, INDIRECT.replace(old, new)):
        assert INDIRECT.count(old) == 1
        (tmp_path / "indirect.py").write_text(text, encoding="utf-8")
        linecache.clearcache()
        monkeypatch.delitem(sys.modules, "indirect", raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        found.append(code_module.classes_of(importlib.import_module("indirect").build()))
    agree, _ = records.MEASURED["classes"]
    assert agree(found[0], found[1]) and not agree(found[2], found[1])


@pytest.mark.parametrize("when", ["when it is loaded", "when it is called"])
@pytest.mark.parametrize("how", ["import beside", "import beside as other", "from beside import other"])
def test_a_file_that_a_networks_functions_look_into_counts(tmp_path, monkeypatch, how, when):
    monkeypatch.syspath_prepend(tmp_path)
    called = "beside.other" if how == "import beside" else "other" if "from" in how else "other.other"
    first, inside = (how, "pass") if when == "when it is loaded" else ("", how)
    net = f"from torch import nn\n{first}\nclass Net(nn.Module):\n    def forward(self, x):\n        {inside}\n"
    net += f"        return {called}(x)\n"
    (tmp_path / "net_with_file.py").write_text(net, encoding="utf-8")
    found = []
    for factor, more in ((2, 1), (2, 2), (3, 1)):
        text = f"F = {factor}\ndef inner(x): return F * x\ndef other(x): return inner(x)\ndef plot(): return {more}\n"
        (tmp_path / "beside.py").write_text(text, encoding="utf-8")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        for name in ("beside", "net_with_file"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        network = importlib.import_module("net_with_file").Net()
        network(torch.zeros(1))  # as before each training
        found.append(code_module.classes_of(network))
    agree, _ = records.MEASURED["classes"]
    assert agree(found[0], found[1]), "plot is not looked up"
    assert not agree(found[2], found[1])


def test_where_torch_compile_keeps_a_function_does_not_count(monkeypatch):
    def network(place, own):
        @wraps(torch.relu)
        def helper(x):
            return x + 1

        helper._torchdynamo_wrapper_id, helper.own = place, own
        monkeypatch.setitem(globals(), "compiled", helper)

        class Net(nn.Module):
            def forward(self, x):
                return compiled(x)  # noqa: F821

        return code_module.classes_of(Net())

    one, again, other = network(1, 1), network(2, 1), network(1, 2)
    agree, _ = records.MEASURED["classes"]
    assert agree(one, again) and not agree(one, other)


def test_a_number_and_a_package_of_ones_own_that_a_network_looks_into_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_parts" / "inner").mkdir(parents=True)
    (tmp_path / "own_parts" / "inner" / "acts.py").write_text("def act(x): return x\n", encoding="utf-8")
    (tmp_path / "own_settings.py").write_text("P = 0.1\n", encoding="utf-8")
    own, _ = (importlib.import_module(name) for name in ("own_settings", "own_parts.inner.acts"))
    monkeypatch.setitem(globals(), "settings", own)
    monkeypatch.setitem(globals(), "parts", sys.modules["own_parts"])

    class Net(nn.Module):
        def forward(self, x):
            return settings.P * parts.inner.acts.act(x)  # noqa: F821

    before = code_module.classes_of(Net())
    assert f"{__name__}.settings.P, its value" in before and "own_parts.inner.acts.act" in before
    monkeypatch.setattr(own, "P", 0.8)
    assert records.others(before, code_module.classes_of(Net())) == [f"{__name__}.settings.P, its value"]


class Words(dict):
    __getattr__ = dict.__getitem__


CALLS, STATE, LARGEST = dict(number=0, filled=[], log=[0]), Words(p=0.1, number=0), [0.0]


class Counting(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        CALLS["number"] += 1
        CALLS["log"].append(1)
        CALLS["filled"].append(x.mean())
        Counting.calls += 1
        STATE["number"] += 1
        LARGEST[0] = max(LARGEST[0], float(x.max()))
        if "--loud" in sys.argv and sys.version_info:
            print(x)
        return self.linear(x.flatten(1))


def test_what_a_forward_counts_is_no_other_run(root, capsys):
    """Whoever looks for an error lets it count, or keeps what it computes."""
    for _ in range(3):
        run = train(Counting, name="counting")
        assert run.folder.name == "counting" and runs.load("runs/counting", Counting)
        run.model(torch.full((1, 3, 32, 32), 50.0))  # the largest so far
    assert "is another run" not in capsys.readouterr().out and Counting.calls > 0
    assert not [name for name in code_module.classes_of(Counting()) if "sys." in name]


class Asserting(Counting):
    options = Words(p=0.1)

    def forward(self, x):
        assert x.ndim == 4  # which pytest rewrites when it loads this file
        return super().forward(x)


def test_a_file_that_was_not_edited_is_not_refused_however_it_was_loaded():
    assert f"{__name__}.Asserting" in code_module.classes_of(Asserting())


def test_a_lambda_of_models_counts():
    """None of its name stands in the file."""
    found = []
    inner = "lambda x: x + (lambda: 1)()"
    for text in ("lambda x: x + 1", "lambda x: x + 1", "lambda x: x + 2", inner, inner.replace("1", "2")):
        model = models.small()
        model.kept = eval(text, vars(models))
        found.append(code_module.classes_of(model)["utils.models.<lambda>"])
    assert found[0] == found[1] and len({*found}) == 4


def test_a_list_of_hooks_that_a_network_keeps_is_no_traceback():
    net = nn.Linear(1, 2)
    net.my_hooks = [net.register_forward_hook(lambda *_: None)]
    assert code_module.classes_of(net)


class Round:
    def __init__(self, gain):
        self.gain, self.called, self.parts = gain, self.call, [self]

    def call(self, x):
        return self.gain * x


class Going(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.linear, self.other, self.rounds = nn.Linear(4, 4), self.forward, [Round(gain)]

    def forward(self, x):
        return x


def test_what_holds_itself_is_no_traceback():
    told = [records.modules(Going(gain)) for gain in (1, 1)]
    assert told[0] == told[1] and "weight" not in told[0]["other"]


def test_what_a_cell_puts_into_a_layer_of_pytorch_counts(monkeypatch):
    forward, network = nn.BatchNorm2d.forward, records.build(models.small)
    before = records.identity(network, asdict(Recipe(1)), {}, 1)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: 0.9 * forward(self, x))
    one = records.identity(network, asdict(Recipe(1)), {}, 1)
    assert records.difference(one, before)
    dropout = nn.functional.dropout  # which shows in training alone
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: dropout(0.9 * forward(self, x), 0.1 * self.training))
    other = records.identity(network, asdict(Recipe(1)), {}, 1)
    assert one["classes"] != other["classes"] and records.difference(other, one)


def test_a_name_given_again_hides_no_code(monkeypatch):
    first = lambda x: x + 1  # noqa: E731
    monkeypatch.setitem(globals(), "act", partial(first))

    class Net(nn.Module):
        def forward(self, x):
            return act(x)  # noqa: F821

    before = code_module.classes_of(Net())
    other = lambda x: x + 2  # noqa: E731
    other.__qualname__ = first.__qualname__
    monkeypatch.setitem(globals(), "act", partial(other))
    assert records.others(before, code_module.classes_of(Net()))


def test_functions_of_one_name_all_count_and_what_exec_made_is_no_traceback(monkeypatch):
    first = lambda x: x + 1  # noqa: E731
    second, made = lambda x: 2 * x, {}
    exec("def loose(x): return x", made)
    assert made["loose"].__module__ in (None, "builtins")
    for name, function in dict(one_thing=first, other_thing=second, loose=made["loose"]).items():
        monkeypatch.setitem(globals(), name, function)

    class Net(nn.Module):
        def forward(self, x):
            return other_thing(one_thing(loose(x)))  # noqa: F821

    before = code_module.classes_of(Net())
    for name in ("one_thing", "other_thing", "loose"):
        with monkeypatch.context() as edit:
            edit.setitem(globals(), name, lambda x: x + 1000)
            assert code_module.classes_of(Net()) != before


def test_code_that_autoreload_put_into_a_function_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "nets_reloaded.py"
    file.write_text(NETS, encoding="utf-8")
    nets = importlib.import_module("nets_reloaded")
    before = code_module.classes_of(nets.Net())
    file.write_text(NETS.replace("for image in images]", "for image in images[:9]]"), encoding="utf-8")
    with pytest.raises(RunError, match="nets_reloaded.py was edited after it was loaded; restart the kernel"):
        code_module.classes_of(nets.Net())
    nets = importlib.reload(nets)  # as autoreload does
    after = code_module.classes_of(nets.Net())
    assert after["nets_reloaded.Net"] != before["nets_reloaded.Net"]


PUT = {
    "augmentations": (data, "augmentations", lambda mean, **given: dict(blur=A.GaussianBlur((3, 3), p=0.1))),
    "loader": (data, "train_loader", partial(data.train_loader, batch_size=7)),
    "function": (training, "evaluate", lambda *_: (0.0, 0.0)),
    "partial": (training, "evaluate", partial(training.evaluate, precision="float32")),
    "where it is used": (training, "train_epoch", lambda *_: None),
    "partial that says it is it": (training, "evaluate", wraps(training.evaluate)(partial(lambda *_: (0.0, 99.0)))),
    "another of utils": (training, "evaluate", training.fit),
    "module": (steps, "F", nn),
    "where runs call it": (runs, "loaders", lambda *given, **named: data.loaders(*given, **named)),
    "number": (transforms, "HOLE", 8),
    "property": (Recipe, "augmentation", property(lambda self: {})),
    "new method": (steps.Muon, "zero_grad", lambda self, set_to_none=True: None),
    "in a wrapper": (training, "optimizer_and_schedule", wrapped(training.optimizer_and_schedule)),
    "method": (steps.TrainingStep, "__call__", lambda self, images, labels: None),
    "class": (training, "TrainingStep", type("TrainingStep", (), {})),
    "of PyTorch": (training, "OneCycleLR", type("Constant", (OneCycleLR,), {"get_lr": lambda self: [0.001]})),
}


@pytest.mark.parametrize("place, name, value", PUT.values(), ids=PUT)
def test_what_a_cell_puts_in_the_place_of_something_that_trains_is_another_code(monkeypatch, place, name, value):
    before = code()
    monkeypatch.setattr(place, name, value)
    after = code()
    (where,) = after.keys() - before.keys()
    module = getattr(place, "__module__", place.__name__).removeprefix("utils.").replace(".", "/")
    key = name if inspect.ismodule(place) else f"{place.__name__}.{name}"
    assert where == f"{module}.py ({key})" and after == before | {where: after[where]}
    said = records.difference(dict(code=after), dict(code=before))
    plain = f"utils/{where}, which is a part of training, is another one here than there"
    assert said == f"{plain}; edit the file instead, and such a run is found again"
    assert records.difference(dict(code=before), dict(code=after)) == plain, (
        "nor is the cell's run shown for the file's"
    )
    assert code()[where] != after[where], "what it reads may have changed"


PATCHED = {
    "engine/steps.py (F.cross_entropy)": (nn.functional, "cross_entropy"),
    "transforms.py (A.HorizontalFlip)": (A.HorizontalFlip, "apply"),
    "training.py (OneCycleLR)": (OneCycleLR, "get_lr"),
    "training.py (torch.optim.SGD)": (torch.optim, "SGD"),
    "engine/batches.py (np.random.default_rng)": (np.random, "default_rng"),
}
PATCHED_BASES = {
    "training.py (OneCycleLR)": (torch.optim.lr_scheduler.LRScheduler, "step"),
    "transforms.py (A.HorizontalFlip)": (A.BasicTransform, "__call__"),
}


def test_a_wrapper_in_a_library_is_another_code(monkeypatch):
    monkeypatch.setattr(nn.functional, "cross_entropy", wrapped(nn.functional.cross_entropy))
    assert "engine/steps.py (F.cross_entropy)" in code()


INSTEAD = {
    "partial": partial(nn.functional.cross_entropy, label_smoothing=0.1),
    "module": nn.CrossEntropyLoss(label_smoothing=0.1),
    "another of the library": nn.functional.multi_margin_loss,
}


@pytest.mark.parametrize("loss", INSTEAD.values(), ids=INSTEAD)
def test_what_is_a_librarys_in_another_place_of_it_is_another_code(monkeypatch, loss):
    monkeypatch.setattr(nn.functional, "cross_entropy", loss)
    assert "engine/steps.py (F.cross_entropy)" in code()


def test_what_decides_no_weights_is_no_other_code(monkeypatch):
    before = code()
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda self: "a tensor")
    monkeypatch.setattr(nn.Module, "count", lambda self: 0, raising=False)
    monkeypatch.setattr(pd.DataFrame, "shown", lambda self: None, raising=False)
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert code() == before


@pytest.mark.parametrize("where, place", [*PATCHED.items(), *PATCHED_BASES.items()])
def test_what_a_cell_puts_into_a_library_that_trains_is_another_code(monkeypatch, where, place):
    before = code()
    monkeypatch.setattr(*place, lambda *given: 0)
    assert where in code().keys() - before.keys()


def test_a_library_that_training_may_import_is_not_loaded_to_find_its_files(tmp_path, monkeypatch):
    library = tmp_path / "site-packages" / "heavy"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "part.py").touch()
    monkeypatch.syspath_prepend(library.parent)
    assert code_module._file_of("heavy.part") is None and "heavy" not in sys.modules


DRAWS = """
from collections import deque
from types import MethodType
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import dropout

P = 0.2
class Base(nn.Module):
    p = 0.1
    def forward(self, x):
        return dropout(x, getattr(self, "p", P), self.training)
class One:
    p = 0.1
class Two:
    p = 0.5
SETTINGS, LOGGED = dict(p=0.2, calls=0), One()
LOGGED.p, LOGGED.seen = 0.1, []
class Same:
    def __init__(self): self.q = 1
class Like(Same): pass
one, two = Same(), Like()
seen = {}
class Mine(Base):
    def forward(self, x):
        seen[f"batch of {len(x)}"] = one, two
        SETTINGS["calls"] += 1
        LOGGED.seen.append(1)
        for act in (KEPT.act, *QUEUE, *SET, *KEYS): x = act(x)
        x = F.dropout(x, SETTINGS["p"]) + F.dropout(x, LOGGED.p) + F.dropout(x, P)
        return super().forward(x) + F.dropout(x, config.p)
config = One
class Act(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act
    def forward(self, x): return self.act(x)
weak, strong = (lambda x: F.dropout(x, 0.1)), (lambda x: F.dropout(x, 0.5))
def noise(p):
    def act(x):
        y = 2 * x
        return (lambda: F.dropout(y, p))()
    return act
def layer(p):
    class Noise(nn.Module):
        def forward(self, x): return F.dropout(x, p)
    return Noise
def kind(base, p):
    class Kind(base):
        rate = p
        def forward(self, x): return F.dropout(x, self.rate)
    return Kind
def mine(self, x): return F.dropout(x, 0.3)
def in_slots(x): return F.dropout(x, 0.11)
def in_queue(x): return F.dropout(x, 0.12)
def in_set(x): return F.dropout(x, 0.13)
def as_key(x): return F.dropout(x, 0.14)
class Listed(nn.Module):
    def forward(self, x): return F.dropout(x, 0.15)
class Slots: __slots__ = "act"
KEPT = Slots()
KEPT.act = in_slots
QUEUE, SET, KEYS = deque([in_queue]), frozenset({in_set}), {as_key: 0.5}
FIRST, SECOND, THIRD = weak, weak, strong
low, high, Low, High = noise(0.1), noise(0.5), layer(0.1), layer(0.5)
MADE = low, low, high
CLASSES = Low, Low, High
Slow, Fast = kind(Base, 0.1), kind(Base, 0.5)
KINDS = Slow, Slow, Fast, kind(Base, 0.7)
def build():
    layers = [*map(Act, MADE), *(made() for made in (*CLASSES, *KINDS))]
    network = nn.Sequential(Mine(), Act(FIRST), Act(SECOND), Act(THIRD), *layers)
    network[0].bound = MethodType(mine, network[0])
    network[0].kept = [nn.Sequential(nn.Sequential(nn.Sequential(Listed())))]
    network[0].flat = nn.Flatten()
    network[0].flat.rate = 0.1
    return network
"""


def known_as(tmp_path, monkeypatch, *sources, names=("own_draws", "own_draws")):
    """What runs of the networks of these files are known by."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for name, source in zip(names, sources, strict=True):
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        network = importlib.import_module(name).build()
        found.append((records.modules(network), code_module.classes_of(network)))
    return found


CHANGED = {
    "an inherited number": ("class Mine(Base):", "class Mine(Base):\n    p = 0.6"),
    "a number given with its class": ("class Base(nn.Module):\n    p = 0.1", "class Base(nn.Module):"),
    "another class of settings": ("config = One", "config = Two"),
    "another function of this name": ("import dropout", "import alpha_dropout as dropout"),
    "settings that count": ("dict(p=0.2,", "dict(p=0.6,"),
    "an object that logs": ("LOGGED.p, LOGGED.seen = 0.1", "LOGGED.p, LOGGED.seen = 0.7"),
    "settings with one more": ("calls=0)", "calls=0, more=1)"),
    "the order of settings": ("dict(p=0.2, calls=0)", "dict(calls=0, p=0.2)"),
    "a method put into a layer": ("def mine(self, x): return F.dropout(x, 0.3)", "def mine(self, x): return x"),
    "which of two objects": ("one, two = Same(), Like()", "one, two = Like(), Same()"),
    "which lambda stands where": ("weak, weak, strong", "weak, strong, strong"),
    "which function of a function": ("low, low, high", "low, high, high"),
    "which class of a function": ("Low, Low, High", "Low, High, High"),
    "a number of such a class": ("Slow, Slow, Fast", "Slow, Fast, Fast"),
    "the base of such a class": ("kind(Base, 0.7)", "kind(Mine, 0.7)"),
    "a function in slots": ("0.11", "0.51"),
    "a function in a queue": ("0.12", "0.51"),
    "a function in a set": ("0.13", "0.51"),
    "a function that is a key": ("0.14", "0.51"),
    "a layer in a list": ("0.15", "0.51"),
    "a number put into a layer of PyTorch": ("flat.rate = 0.1", "flat.rate = 0.5"),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_what_decides_how_a_network_draws_counts_also_where_one_side_lacks_it(tmp_path, monkeypatch, change):
    assert change[0] in DRAWS
    one, again, other = known_as(tmp_path, monkeypatch, DRAWS, DRAWS, DRAWS.replace(*change), names=["own_draws"] * 3)
    agree, _ = records.MEASURED["classes"]
    assert one[0] == again[0] and agree(one[1], again[1])
    for first, second in ((one, other), (other, one)):
        assert first[0] != second[0] or not agree(first[1], second[1])


class Attributes(dict):
    __getattr__ = dict.get  # also of what Python asks for


class Strict(dict):
    __getattr__ = dict.__getitem__  # KeyError

    def __call__(self, images):
        return self.p * images


class Slotted:
    __slots__ = "p"

    def __getattr__(self, name):
        return None


@pytest.mark.parametrize("kind", [Attributes, Strict])
def test_a_dict_that_has_any_attribute_counts(kind):
    assert code_module.briefly(kind(p=0.2)) not in (None, code_module.briefly(kind(p=0.5)))
    assert code_module._own([kind(p=0.2)]) == [kind], "no traceback"


def test_slots_of_a_class_that_answers_everything_count():
    held = Slotted()
    held.p = 0.2
    assert code_module._apart("held", held) == {"held": [Slotted, "p"], "held.p": 0.2}


def counting():
    calls, store = 0, {}

    def hook(module, images, output):
        nonlocal calls
        calls += 1

    network = nn.Sequential(nn.Linear(1, 2))
    network[0].register_forward_hook(hook)
    network[0].register_forward_hook(lambda module, images, output: store.update(kept=output))
    return network


def counting_within(p):
    def act(images):
        def inner():
            nonlocal p
            p += 1

        inner()
        return images

    return act


def counted(p):
    class Counted(nn.Module):
        calls, rate = 0, p

        def __init__(self):
            super().__init__()
            self.act = counting_within(p)

        def forward(self, images):
            type(self).calls += 1
            return self.act(images)

    return Counted


def test_what_a_class_of_a_function_counts_is_no_other_network():
    kind = counted(1)
    before = records.modules(kind())
    once = kind()
    once(torch.zeros(1))
    assert records.modules(once) == before == records.modules(kind()) != records.modules(counted(2)())


ACTS = frozenset()


def test_a_set_of_functions_is_the_same_in_any_order(monkeypatch):
    class Net(nn.Module):
        def forward(self, images):
            return [act(images) for act in ACTS][0]

    def act(p):
        return lambda images: p * images

    found = []
    for _ in range(10):
        acts = [act(p) for p in range(5)]
        np.random.shuffle(acts)
        monkeypatch.setitem(globals(), "ACTS", frozenset(acts))
        found.append(code_module.classes_of(Net()))
    assert all(one == found[0] for one in found)


def test_a_cell_that_awaits_is_read():
    net = "import asyncio\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"
    assert of_a_cell(net) == of_a_cell(net + "await asyncio.sleep(0)\n")


def test_what_a_hook_counts_or_keeps_is_no_other_network():
    network = counting()
    before = records.modules(network)
    network(torch.zeros(1, 1))
    assert records.modules(network) == before == records.modules(counting())


def test_what_a_forward_puts_into_a_table_in_training_is_no_other_run(tmp_path, monkeypatch):
    [(_, first)] = known_as(tmp_path, monkeypatch, DRAWS, names=["own_draws"])
    own = sys.modules["own_draws"]
    own.seen["batch of 128"] = 1
    later = code_module.classes_of(own.build())
    assert "own_draws.seen.batch of 128, its value" in later.keys() - first.keys()
    assert not records.others(later, first) and not records.others(first, later)


def test_a_network_that_moved_into_two_files_is_the_same(tmp_path, monkeypatch):
    head = "from torch import nn\nfrom torch.nn import functional as F\n"
    block = "class Block(nn.Module):\n    def forward(self, x): return F.dropout(x, WIDTH / 100)\n"
    net = "class Net(Block):\n    def forward(self, x): return WIDTH * super().forward(x)\nbuild = Net\n"
    (tmp_path / "own_blocks.py").write_text(head + "WIDTH = 64\n" + block, encoding="utf-8")
    parts = head + "from own_blocks import WIDTH, Block\n" + net
    names = ("own_draws", "own_draws_2")
    one, moved = known_as(tmp_path, monkeypatch, head + "WIDTH = 64\n" + block + net, parts, names=names)
    assert one[0] == moved[0] and not records.others(one[1], moved[1])


def test_a_function_that_another_one_has_replaced_is_said(my_file, tmp_path):
    """What was imported says what another function says now."""
    loaded, file = my_file.load(), tmp_path / "utils_mine.py"
    text = "def scale(x): return {}\ndef old(x): return {}\n"
    file.write_text(text.format("2 * x", "1"), encoding="utf-8")
    kept = importlib.reload(loaded).scale
    file.write_text(text.format("3 * x", "2 * x"), encoding="utf-8")
    importlib.reload(loaded)
    with pytest.raises(RunError, match="utils_mine.py was edited after it was loaded"):
        code_module.refuse_old(kept)


def test_files_that_import_each_other_are_looked_into_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_pair").mkdir()
    (tmp_path / "own_pair" / "__init__.py").touch()
    (tmp_path / "own_pair" / "acts.py").write_text("import own_pair.rate\ndef act(x): return x\n", encoding="utf-8")
    (tmp_path / "own_pair" / "rate.py").write_text("import own_pair.acts\nP = 0.1\n", encoding="utf-8")
    source = "import own_pair.acts\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
    source += "        return own_pair.acts.act(own_pair.rate.P * x)\nbuild = Net\n"
    [(_, found)] = known_as(tmp_path, monkeypatch, source, names=["own_draws"])
    assert {"own_pair.acts.act", "own_draws.own_pair.rate.P, its value"} <= found.keys()


def test_what_wraps_a_function_of_utils_counts(monkeypatch):
    def noisy(function, p):
        text = f"def call(self, images): return nn.functional.dropout(function(self, images), {p})"
        space = {"__name__": "__main__", "nn": nn, "function": function}
        linecache.cache[f"<cell {p}>"] = len(text), None, [text], f"<cell {p}>"
        exec(compile(text, f"<cell {p}>", "exec"), space)
        return wraps(function)(space["call"])

    plain, found = models.Residual.forward, [code_module.classes_of(models.small())]
    for p in (0.3, 0.5):
        monkeypatch.setattr(models.Residual, "forward", noisy(plain, p))
        found.append(code_module.classes_of(models.small()))
    assert len({classes["utils.models.Residual"] for classes in found}) == 3


def test_a_layer_called_network_hides_not_what_holds_it():
    class Net(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.network, self.size = nn.Flatten(), size

        def extra_repr(self):
            return f"size={self.size}"

    one, other = (records.modules(Net(size)) for size in (1, 2))
    assert "Flatten" in one["its network"] and one["network"] != other["network"]


def test_a_large_table_is_one_value():
    assert [*code_module._apart("a", dict.fromkeys("bc"))] == ["a", "a.b", "a.c"]
    assert [*code_module._apart("a", type("Meta", (type,), {})("Kind", (), {"p": 1}))] == ["a"], "a class"
    assert [*code_module._apart("a", dict.fromkeys(map(str, range(1000))))] == ["a"]


def test_a_network_that_moved_into_another_file_is_the_same_but_with_another_number(tmp_path, monkeypatch):
    """As after a copy of a file, or from a cell into one."""
    names, agree = ("own_draws", "own_draws_2"), records.MEASURED["classes"][0]
    one, moved = known_as(tmp_path, monkeypatch, DRAWS, DRAWS, names=names)
    assert one[0] == moved[0] and agree(one[1], moved[1]) and agree(moved[1], one[1])
    one, other = known_as(tmp_path, monkeypatch, DRAWS, DRAWS.replace("P = 0.2", "P = 0.5"), names=names)
    assert not agree(one[1], other[1]) and not agree(other[1], one[1])


def test_what_a_forward_makes_at_its_first_call_is_no_other_run(tmp_path, monkeypatch):
    source = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        global FIRST\n"
    source += "        if 'FIRST' not in globals(): FIRST = 1\n        return x * FIRST\nbuild = Net\n"
    [(_, first)] = known_as(tmp_path, monkeypatch, source, names=["own_draws"])
    later = code_module.classes_of(sys.modules["own_draws"].Net())
    assert first["own_draws.FIRST, its value"] == code_module.CHANGES != later["own_draws.FIRST, its value"]
    assert not records.others(first, later) and not records.others(later, first)
    assert not records.others(first, {"own_draws.Net": first["own_draws.Net"]}), "as older runs have it"


def of_a_cell(source):
    """What a class `Net` says that Jupyter has compiled, each statement for itself."""
    name = f"<cell {len(source)}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    space = {"__name__": "__main__"}
    for statement in ast.parse(source).body:
        if not any(isinstance(part, ast.Await) for part in ast.walk(statement)):
            exec(compile(ast.Module([statement], []), name, "exec"), space)
    code_module._said.cache_clear()
    return code_module.classes_of(space["Net"]())


def test_what_a_cell_imports_is_no_part_of_its_class():
    net = "class Net(nn.Module):\n    def forward(self, x):\n        return F.relu(nn.functional.relu(x))\n"
    imports = "from torch import nn\nfrom torch.nn import functional as F\n"
    taken = "nn, F = __import__('torch').nn, __import__('torch').nn.functional\n"  # as from the cell before
    whole, alone = of_a_cell(imports + net), of_a_cell(taken + net)
    assert whole == alone != of_a_cell(imports + net.replace("F.relu", "F.silu"))


@pytest.mark.parametrize("trained", [True, False], ids=["after a training", "before the first"])
def test_a_comment_in_a_file_of_ones_own_is_no_edit(my_file, tmp_path, trained):
    loaded, file = my_file.load(), tmp_path / "utils_mine.py"
    before = code_module.classes_of(records.build(partial(loaded.Net, 1, 2))) if trained else None
    text = file.read_text(encoding="utf-8")
    file.write_text("# why\n\n\n" + text.replace("    def forward", "    # how\n    def forward"), encoding="utf-8")
    code_module._said.cache_clear()
    after = code_module.classes_of(records.build(partial(loaded.Net, 1, 2)))
    assert after == code_module.classes_of(records.build(partial(importlib.reload(loaded).Net, 1, 2)))
    assert before in (after, None)
