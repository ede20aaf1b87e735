"""What holds for any schedule, split, loader, recipe, chain of layers and damaged file, of many made up by hypothesis.

How many is stated at each. The attacks of tests/faults do more of the same to whole runs, archives and pictures.
"""

import contextlib
import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import ROOT
from utils import architecture
from utils.cifar10 import files
from utils.data import load_cifar10, train_loader, train_validation_split
from utils.engine.checkpoints import read_checkpoint, seal
from utils.engine.records import read_history, read_metrics
from utils.errors import ProjectError, RunError
from utils.experiments import FINAL
from utils.serve.predict import open_picture
from utils.training import Recipe, optimizer_and_schedule

pytest.importorskip("hypothesis", reason="requirements-tools.txt is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.one_of(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.floats(0, 1)))
def test_the_learning_rate_is_defined_in_every_step(steps, warmup):
    optimizer, schedule = optimizer_and_schedule(nn.Linear(2, 2), Recipe(1, lr=0.1, warmup=warmup), steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    assert all(0 < rate <= 0.1 + 1e-9 for rate in rates)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_any_split_is_whole_and_even(extra, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(100 + extra) % 10)
    train, held_out = train_validation_split(labels, validation=10 + extra // 10, seed=seed)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    counts = np.bincount(labels[held_out], minlength=10)
    assert counts.max() - counts.min() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 2**63 - 1))
def test_any_loader_gives_every_image_once_an_epoch_and_its_own_label(count, batch_size, seed):
    images = np.full((count, 32, 32, 3), np.arange(count).reshape(-1, 1, 1, 1), np.uint8)
    loader = train_loader(
        images, np.arange(count), (0,) * 3, (1 / 255,) * 3, batch_size, seed, 0, flip=1.0, affine=0.0, hole=0.0
    )
    for epoch in (1, 2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(x) for x, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
        labels = torch.cat([y for _, y in batches])
        assert sorted(labels.tolist()) == list(range(count))
        pixels = torch.cat([x for x, _ in batches]).flatten(1)
        assert torch.allclose(pixels, labels[:, None].float().expand(-1, pixels.shape[1]), atol=1e-3)
        loader.sampler.set_epoch(epoch)
        assert torch.equal(torch.cat([y for _, y in loader]), labels), "the same epoch is in another order"


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(set(vars(Recipe(1))) - {"precision"})),
        st.one_of(st.integers(-5, 500), st.floats(), st.booleans(), st.none(), st.text(max_size=3)),
        max_size=3,
    )
)
def test_any_recipe_is_sensible_or_refused_in_a_sentence(values):
    try:
        recipe = Recipe(**{"epochs": 1} | values)
    except RunError as error:
        assert str(error).isprintable()
    else:
        assert type(recipe.epochs) is int and recipe.epochs >= 1 and 0 < recipe.lr < float("inf")
        assert all(
            0 <= getattr(recipe, key) <= 1 for key in ("warmup", "momentum", "dropout", "flip", "affine", "hole")
        )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([1, 3, 5]), st.integers(1, 2), st.integers(1, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_the_layer_table_of_any_chain_is_right(layers):
    """Parameters, sizes and receptive field against PyTorch's own counts and the textbook's recurrence."""
    chain, before, field, jump = [], 3, 1, 1
    for channels, kernel, stride, dilation in layers:
        padding = dilation * (kernel - 1) // 2
        chain.append(nn.Conv2d(before, channels, kernel, stride, padding, dilation))
        field, jump, before = field + (kernel - 1) * dilation * jump, jump * stride, channels
    model = nn.Sequential(*chain, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    table = architecture.layer_table(model)
    convolutions = table[table.kernel.notna()].iloc[: len(chain)]
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    assert convolutions.receptive_field.iloc[-1] == field and convolutions.jump.iloc[-1] == jump
    x = torch.zeros(1, 3, 32, 32)
    for layer, size in zip(chain, convolutions.out_size, strict=True):
        x = layer(x)
        assert x.shape[-1] == size


def archive(folder):
    with tarfile.open(folder / "archive", "w:gz") as tar:
        for part in ("train", "test"):
            for name in files.CLASSES:
                tar.add(picture(folder), f"{part}/{name}/a.png")
    return folder / "archive"


def picture(folder):
    Image.radial_gradient("L").resize((32, 32)).save(folder / "picture.png")
    return folder / "picture.png"


def published(file):
    def copy(folder):
        (folder / "runs").mkdir()
        shutil.copytree(ROOT / "results" / FINAL, folder / "runs" / "mine")
        return folder / "runs" / "mine" / file

    return copy


READERS = {
    "archive": (archive, load_cifar10),
    "picture of a class": (picture, files.decode),
    "picture": (picture, open_picture),
    "checkpoint": (published("weights.pt"), read_checkpoint),
    "metrics": (published("metrics.json"), lambda path: read_metrics(path.parent)),
    "history": (published("history.csv"), lambda path: (seal(path.parent), read_history(path.parent))),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(reader, root, cache):
    """Each reader 300 times: up to three places of a file are cut out, or have something else in them."""
    make, read = READERS[reader]
    path = make(root)
    content = path.read_bytes()
    read(path)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(content)), st.integers(0, 60), st.binary(max_size=40)), max_size=3))
    def damage(places):
        damaged = content
        for start, cut, new in places:
            damaged = damaged[:start] + new + damaged[start + cut :]
        path.write_bytes(damaged)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                read(path)
        except ProjectError as error:
            assert str(error).isprintable() and len(str(error)) < 1100

    damage()
