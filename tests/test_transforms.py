import albumentations as A
import numpy as np
import pytest
import torch

from tests.conftest import MEAN, STD
from utils import transforms
from utils.transforms import augmentations, compose, eval_transform, normalise_batch, train_transform

WHITE = np.full((32, 32, 3), 255, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def only(name):
    pipeline = compose([augmentations(MEAN, flip=1, affine=1, hole=1)[name]])
    pipeline.set_random_seed(0)
    return lambda image: pipeline(image=image)["image"]


def test_the_hole_is_one_16x16_square_in_the_mean_colour():
    cut, corners = only("coarse dropout"), set()
    for _ in range(200):
        image = cut(WHITE)
        rows, columns = np.nonzero((image != 255).any(axis=2))
        assert len(rows) == 256
        assert np.ptp(rows) == np.ptp(columns) == 15
        assert set(map(tuple, image[rows, columns].tolist())) == {(125, 123, 114)}
        corners.add((rows.min(), columns.min()))
    assert len(corners) > 100


def test_the_flip_mirrors():
    assert np.array_equal(only("horizontal flip")(NOISE), NOISE[:, ::-1])


def test_affine_draws_anew_for_each_image_within_its_limits():
    affine = augmentations(MEAN, affine=1)["shift-scale-rotate"]
    pipeline = compose([affine])
    pipeline.set_random_seed(0)
    drawn = []
    for _ in range(300):
        pipeline(image=NOISE)
        drawn.append(affine.params)
    for values, low, high in (
        ([d["scale"]["x"] for d in drawn], 0.9, 1.1),
        ([d["rotate"] for d in drawn], -15, 15),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


def test_affine_shifts_by_every_whole_number_of_pixels_up_to_two():
    dot = np.zeros((32, 32, 3), np.uint8)
    dot[15:17, 15:17] = 255  # in the centre, so that scale and angle hardly move it
    move, rows, columns = only("shift-scale-rotate"), set(), set()
    for _ in range(100):
        weight = move(dot)[..., 0].astype(float)
        row, column = ((weight * index).sum() / weight.sum() - 15.5 for index in np.indices((32, 32)))
        rows.add(round(row))
        columns.add(round(column))
    assert rows == columns == {-2, -1, 0, 1, 2}


def test_what_comes_into_view_is_black():
    move = only("shift-scale-rotate")
    assert any((move(WHITE)[[0, -1]] == 0).all(axis=2).any() for _ in range(20))


def test_an_argument_that_albumentations_would_ignore_is_an_error(monkeypatch):
    real = A.CoarseDropout
    monkeypatch.setattr(transforms.A, "CoarseDropout", lambda **_: real(max_holes=1, max_height=16, max_width=16))
    with pytest.raises(UserWarning, match="max_holes"):
        augmentations(MEAN)


def test_the_probabilities_are_those_asked_for():
    made = augmentations(MEAN, flip=0.5, affine=0.25, hole=0.1)
    assert [t.p for t in made.values()] == [0.5, 0.25, 0.1]


def test_train_transform_gives_a_tensor_and_repeats_with_its_seed():
    pipeline = train_transform(MEAN, STD, flip=0.5, affine=1, hole=1)
    pipeline.set_random_seed(3)
    first, second = (pipeline(image=NOISE)["image"] for _ in range(2))
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32
    assert not torch.equal(first, second)
    pipeline.set_random_seed(3)
    assert torch.equal(pipeline(image=NOISE)["image"], first)


def test_eval_transform_normalises_and_the_batch_version_agrees():
    image = eval_transform(MEAN, STD)(image=NOISE)["image"]
    expected = (NOISE / 255 - MEAN) / STD
    assert np.allclose(image.permute(1, 2, 0), expected, atol=1e-5)
    batch = normalise_batch(np.stack([NOISE, WHITE]), MEAN, STD)
    assert batch.dtype == torch.float32 and batch.shape == (2, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(batch[0], image, atol=1e-5)
