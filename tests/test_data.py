import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import MEAN, ROOT, STD
from utils import data
from utils.cifar10.files import ImageData
from utils.data import (
    channel_statistics,
    eval_loader,
    hold_out,
    train_loader,
    train_validation_split,
)
from utils.engine import batches
from utils.engine.batches import BatchSampler
from utils.errors import DataError
from utils.transforms import normalise_batch, train_transform

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (200, 32, 32, 3), np.uint8)
LABELS = np.arange(200, dtype=np.int64) % 10


def epoch(loader, number):
    loader.sampler.set_epoch(number)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def loader(workers=0, seed=1, **probabilities):
    return train_loader(IMAGES, LABELS, MEAN, STD, batch_size=64, seed=seed, workers=workers, **probabilities)


def test_statistics_are_those_of_numpy():
    mean, std = channel_statistics(IMAGES)
    assert np.allclose(mean, IMAGES.mean((0, 1, 2)) / 255, atol=1e-9)
    assert np.allclose(std, IMAGES.std((0, 1, 2)) / 255, atol=1e-9)


def test_statistics_of_the_original_images(cifar10):
    mean, std = channel_statistics(cifar10.train_images)
    if cifar10.source == "original":
        assert [round(m, 4) for m in mean] == [0.4914, 0.4822, 0.4465]
        assert [round(s, 4) for s in std] == [0.2470, 0.2435, 0.2616]
        assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
        assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10
        assert cifar10.train_images.shape == (50_000, 32, 32, 3) and cifar10.train_labels.dtype == np.int64
        assert cifar10.classes[0] == "airplane" and cifar10.classes[9] == "truck"


def test_split_is_stratified_disjoint_and_fixed():
    train, held_out = train_validation_split(LABELS, validation=50)
    assert np.bincount(LABELS[held_out]).tolist() == [5] * 10
    assert sorted([*train, *held_out]) == list(range(200))
    assert np.array_equal(train_validation_split(LABELS, validation=50)[1], held_out)


def test_held_out_images_are_training_images_and_the_test_images_stay_unseen():
    full = ImageData(IMAGES, LABELS, IMAGES[:5] // 2, LABELS[:5], list("abcdefghij"), "folder")
    part = hold_out(full)
    assert len(part.train_images) == 180 and len(part.test_images) == 20
    together = {image.tobytes() for image in (*part.train_images, *part.test_images)}
    assert together == {image.tobytes() for image in IMAGES}


def test_an_epoch_has_every_image_once_in_a_new_order():
    sampler = BatchSampler(200, 64, shuffle_seed=1)
    orders = []
    for number in (1, 2):
        sampler.set_epoch(number)
        orders.append(np.concatenate([indices for _, _, indices in sampler]))
        assert sorted(orders[-1]) == list(range(200))
    assert len(sampler) == 4
    assert not np.array_equal(*orders)


def test_the_stream_is_the_same_for_any_number_of_workers():
    expected = epoch(loader(0), 1)
    for workers in (1, 2):
        images, labels = epoch(loader(workers), 1)
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.parametrize(("usual", "taken"), [("fork", None), ("forkserver", "fork"), ("spawn", None)])
def test_no_server_of_processes_outlives_a_training_that_is_killed(monkeypatch, usual, taken):
    """Python 3.14 starts one on Linux; what a system has otherwise is left as it is."""
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: usual)
    context = loader(workers=1).multiprocessing_context
    assert taken == (context and context.get_start_method())


def test_epochs_workers_and_seeds_differ_in_what_they_draw():
    # one image many times: what differs are the augmentations alone
    same = np.repeat(IMAGES[:1], 128, axis=0)
    two_workers = train_loader(same, LABELS[:128], MEAN, STD, batch_size=64, workers=2, flip=0.5, affine=1, hole=1)
    first, second = epoch(two_workers, 1)[0], epoch(two_workers, 2)[0]
    other_seed = train_loader(
        same, LABELS[:128], MEAN, STD, batch_size=64, workers=2, seed=2, flip=0.5, affine=1, hole=1
    )
    seen = torch.cat([first, second, epoch(other_seed, 1)[0]])  # the halves of an epoch come from different workers
    assert len(torch.unique(seen.flatten(1), dim=0)) == len(seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_batch_may_be_smaller(workers):
    batches = loader(workers)
    assert [len(labels) for _, labels in batches] == [64, 64, 64, 8] and len(batches) == 4


def test_labels_stay_with_their_images():
    plain = train_loader(IMAGES, LABELS, MEAN, STD, batch_size=64, workers=0, flip=0, affine=0, hole=0)
    images, labels = epoch(plain, 1)
    restored = (images.permute(0, 2, 3, 1).numpy() * STD + MEAN) * 255
    for image, label in zip(restored.round().astype(np.uint8), labels, strict=True):
        assert LABELS[(IMAGES == image).all((1, 2, 3))] == label.item()


def test_training_sees_what_the_pipeline_of_the_notebooks_shows():
    """`train_transform`, which is to be read, and the loader, which is fast, give the same images for a seed."""
    chances = dict(flip=0.5, affine=0.5, hole=0.5)
    shown, used = train_transform(MEAN, STD, **chances), loader(**chances).dataset.augment
    for pipeline in (shown, used):
        pipeline.set_random_seed(3)
    seen = normalise_batch(np.stack([used(image=image)["image"] for image in IMAGES]), MEAN, STD)
    assert torch.allclose(seen, torch.stack([shown(image=image)["image"] for image in IMAGES]), atol=1e-5)


def test_evaluation_is_in_order_and_not_augmented():
    images, labels = zip(*eval_loader(IMAGES, LABELS, MEAN, STD, batch_size=64), strict=True)
    assert torch.equal(torch.cat(labels), torch.from_numpy(LABELS))
    assert np.allclose(torch.cat(images).permute(0, 2, 3, 1), (IMAGES / 255 - MEAN) / STD, atol=1e-5)


def test_fast_mode_keeps_a_few_images_of_every_class(tmp_path, monkeypatch):
    labels = np.sort(LABELS)  # as class folders come
    full = ImageData(IMAGES, labels, IMAGES, labels, list("abcdefghij"), "folder")
    monkeypatch.setattr(data, "read_path", lambda *_: full)
    monkeypatch.setattr(data.utils, "FAST_RUN", True)
    monkeypatch.setattr(data, "FAST_TRAIN", 20)
    few = data.load_cifar10(tmp_path)
    assert len(few.train_images) == 20 and set(few.train_labels) == set(range(10))
    assert len(few.test_images) == 200, "fewer than asked for are all kept"


def test_fast_mode_never_downloads(cache, monkeypatch, capsys):
    monkeypatch.setattr(data.utils, "FAST_RUN", True)
    monkeypatch.setattr(data.sources, "download", lambda _: pytest.fail("a download in fast mode"))
    assert data.load_cifar10().source == "stand-in"
    assert "NOT CIFAR-10" in capsys.readouterr().out


class Failing:
    images = np.zeros((4, 32, 32, 3), np.uint8)

    def __getitem__(self, index):
        raise ValueError("a broken image")


def test_a_worker_is_silent_when_its_main_process_stops_but_its_errors_arrive():
    start = "import sys; from utils.engine import batches; batches._start_worker(0)"
    code = f"{start}; sys.excepthook(OSError, OSError(), None)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0 and result.stderr == ""
    with pytest.raises(ValueError, match="a broken image"):
        next(iter(batches.loader(Failing(), 2, None, MEAN, STD, workers=1)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (dict(train_images=IMAGES / 255), "Images must be uint8 .* but are float64"),
        (dict(test_images=np.zeros((20, 64, 64, 3), np.uint8)), r"Images must be uint8 .* \(20, 64, 64, 3\)"),
        (dict(test_images=IMAGES[..., 0]), "Images must be uint8"),
        (dict(train_labels=LABELS[:-1]), "a whole number for each of"),
        (dict(train_labels=LABELS * 1.0), "a whole number for each of"),
        (dict(train_labels=LABELS + 1), "Labels must be from 0 to 9"),
        (dict(test_labels=LABELS - 1), "Labels must be from 0 to 9"),
        (dict(test_images=IMAGES[:0], test_labels=LABELS[:0]), "There is no image among them"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(changed, sentence):
    sound = dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS)
    sound |= dict(classes=list("abcdefghij"), source="folder")
    with pytest.raises(DataError, match=sentence):
        ImageData(**sound | changed)


def test_lists_and_tensors_become_arrays():
    labels = LABELS.astype(np.uint8)
    data = ImageData(torch.from_numpy(IMAGES), labels.tolist(), IMAGES, labels, list("abcdefghij"), "f")
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64 and isinstance(data.train_images, np.ndarray)
