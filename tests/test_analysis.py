from collections import OrderedDict

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn
from torch.nn import functional as F

from tests.conftest import MEAN, STD
from utils.errors import NetworkError, RunError
from utils.experiments import EXPERIMENTS
from utils.models import build_model
from utils.study import analysis
from utils.transforms import normalise_batch


@pytest.fixture(scope="module")
def calibrated():
    """Logits (4000, 10) whose softmax is the true probability of each label."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(4000, 10))
    labels = np.array([rng.choice(10, p=p) for p in softmax(logits, axis=1)])
    return logits, labels


def test_the_temperature_undoes_overconfidence(calibrated):
    logits, labels = calibrated
    assert analysis.temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)
    assert analysis.temperature(logits, labels) == pytest.approx(1, rel=0.1)


def test_calibration_brings_the_error_down(calibrated):
    logits, labels = calibrated
    sure = analysis.reliability(softmax(3 * logits, axis=1), labels)
    judged, temperatures = analysis.cross_fitted(3 * logits, labels)
    assert analysis.calibration_error(sure) > 15
    assert analysis.calibration_error(analysis.reliability(judged, labels)) < 4
    assert len(temperatures) == 2 and sure.images.sum() == 4000


def test_no_image_helps_to_choose_its_own_temperature(calibrated):
    logits, labels = calibrated
    before, _ = analysis.cross_fitted(logits, labels)
    half = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)[1]
    wrong = labels.copy()
    wrong[half] = (labels[half] + 1) % 10
    after, _ = analysis.cross_fitted(logits, wrong)
    assert np.array_equal(before[half], after[half])
    assert not np.allclose(np.delete(before, half, 0), np.delete(after, half, 0))


def test_the_calibration_error_of_a_known_case():
    probabilities = np.array([[0.8, 0.2]] * 10)
    table = analysis.reliability(probabilities, np.array([0] * 6 + [1] * 4))
    assert table.accuracy.tolist() == [60] and analysis.calibration_error(table) == pytest.approx(20)


def test_precision_recall_and_f1_of_a_known_case():
    table = analysis.per_class(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ["cat", "dog"])
    assert table.loc["cat"].tolist() == [100.0, 50.0, 66.7, 2]
    assert table.loc["dog"].tolist() == [66.7, 100.0, 80.0, 2]


def test_the_most_frequent_mistake_comes_first():
    pairs = analysis.confused_pairs(np.array([[5, 1, 0], [4, 9, 2], [0, 0, 7]]), ["a", "b", "c"])
    assert pairs.iloc[0].tolist() == ["b", "a", 4] and pairs.images.sum() == 7


class Bright(nn.Module):
    """Class 0 is how bright the image is: its Grad-CAM must be where the light is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return self.conv(x).mean((2, 3)).repeat(1, 10)


def test_grad_cam_finds_what_decides():
    model, batch = Bright(), torch.zeros(2, 3, 32, 32)
    batch[0, :, 4:8, 20:24] = 1
    batch[1, :, 16:24, 0:8] = 1
    maps = analysis.grad_cam(model, batch, [0, 0], model.conv)
    assert maps.shape == (2, 32, 32) and maps.max() == 1
    assert maps[0, 5, 21] > 0.9 > 0.2 > maps[0, 20, 4] and maps[1, 20, 4] > 0.9


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_grad_cam_of_every_network_has_eight_positions_or_more(name):
    model = build_model(name)
    layer = getattr(model.layers, analysis.cam_layer(model))
    shapes = []
    handle = layer.register_forward_hook(lambda *a: shapes.append(a[-1].shape))
    assert analysis.grad_cam(model, torch.randn(1, 3, 32, 32), [3], layer).shape == (1, 32, 32)
    handle.remove()
    assert shapes[0][-1] >= 8


def test_grad_cam_finds_a_layer_of_any_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 4, stride=8), nn.Flatten(), nn.Linear(128, 10))
    assert analysis.cam_layer(model) == "0"
    with pytest.raises(NetworkError, match="No convolution of the network is known to have 8x8 outputs"):
        analysis.cam_layer(nn.Sequential(nn.Conv2d(3, 4, 4, stride=8), nn.Flatten(), nn.Linear(64, 10)))


@pytest.mark.parametrize("layer", ["c1_1", "c1_2", "c2_1", "c2_2", "c3_1", "c3_2"])
def test_the_measured_field_fills_the_theoretical_square_and_no_more(layer):
    torch.manual_seed(0)
    model = build_model("experiment_5")
    field = analysis.effective_field(model, torch.randn(16, 3, 32, 32), getattr(model.layers, layer))
    centre, side = analysis.theoretical_field(model, layer)
    low, high = max(0, centre - side // 2), min(31, centre + side // 2)
    for axis in (0, 1):
        seen = np.flatnonzero(field.sum(axis) > 0)
        assert (seen[0], seen[-1]) == (low, high)
    assert field.sum() == pytest.approx(1)
    with pytest.raises(RuntimeError):
        analysis.effective_field(model, torch.zeros(1, 1, 8, 8), model.layers.c5)
    assert not any(module._forward_hooks for module in model.modules()), "nothing is left in the network"


IMAGES = np.random.default_rng(1).integers(1, 256, (20, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", analysis.CHANGES)
def test_no_change_at_strength_zero_and_some_above(kind):
    assert np.array_equal(analysis.changed(IMAGES, kind, 0, MEAN), IMAGES)
    strongest = analysis.changed(IMAGES, kind, analysis.CHANGES[kind][-1], MEAN)
    assert strongest.shape == IMAGES.shape and (strongest != IMAGES).any(axis=(1, 2, 3)).all()


def test_a_shift_moves_by_its_pixels_and_brings_in_black():
    for image, moved in zip(IMAGES, analysis.changed(IMAGES, "shift (px)", 3, MEAN), strict=True):
        candidates = [np.roll(image, shift, axis) for axis in (0, 1) for shift in (3, -3)]
        kept = moved.any(axis=2)
        assert kept.sum() == 32 * 29
        assert any((moved[kept] == c[kept]).all() for c in candidates)


def test_a_hole_is_a_square_in_the_mean_colour():
    cut = analysis.changed(IMAGES, "hole (px)", 16, (0.1, 0.2, 0.3))
    filled = (cut == np.round(255 * np.array([0.1, 0.2, 0.3])).astype(np.uint8)).all(axis=3)
    assert (filled.sum(axis=(1, 2)) >= 256).all() and (filled.sum(axis=(1, 2)) < 262).all()


class Unchanged(nn.Module):
    """Class 1 for the images as they were, class 0 for any other."""

    def forward(self, x):
        same = (x - normalise_batch(IMAGES, MEAN, STD)).abs().amax((1, 2, 3)) < 1e-6
        return F.one_hot(same.long(), 10).float()


class Always(nn.Module):
    def forward(self, x):
        return F.one_hot(torch.ones(len(x), dtype=torch.long), 10).float()


def test_robustness_shows_each_model_the_changed_images():
    models, labels = {"unchanged": Unchanged(), "always": Always()}, np.ones(20, dtype=np.int64)
    table = analysis.robustness(models, IMAGES, labels, MEAN, STD)
    assert len(table) == 2 * sum(map(len, analysis.CHANGES.values()))
    assert (table.accuracy[table.model == "always"] == 100).all()
    seen = table[table.model == "unchanged"]
    assert (seen.accuracy == 100 * (seen.strength == 0)).all()


class Shortcut(nn.Module):
    """Its 1x1 shortcut is called last."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))
        self.block = nn.ModuleDict(dict(long=nn.Conv2d(4, 4, 3, padding=1), short=nn.Conv2d(4, 4, 1)))

    def forward(self, images):
        maps = self.first(images)
        return self.block["long"](maps) + self.block["short"](maps)


def test_the_theoretical_field_of_a_shortcut_and_of_a_pooling():
    model = Shortcut()
    centre, side = analysis.theoretical_field(model, "block")
    field = analysis.effective_field(model, torch.randn(32, 3, 32, 32), model.block["long"])
    seen = np.flatnonzero(field.sum(0) > 0)
    assert (centre, side) == (seen.mean(), len(seen)) == (16.5, 8)


@pytest.mark.parametrize(
    "before",
    [nn.ZeroPad2d(1), nn.CircularPad2d(1), nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), nn.Softmax(-1)],
    ids=lambda layer: type(layer).__name__,
)
def test_where_a_layer_looks_is_told_only_where_it_is_known(before):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), before, nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(10))
    model(torch.zeros(1, 3, 32, 32))
    assert analysis.theoretical_field(model, "0") == (16, 3)
    with pytest.raises(NetworkError, match="It is not known where in the image 2 looks"):
        analysis.theoretical_field(model, "2")
    with pytest.raises(NetworkError, match="no layer 'c9'; layers.table"):
        analysis.theoretical_field(model, "c9")


class WithGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "gate": nn.Conv2d(8, 8, 1)})

    def forward(self, images):
        maps = self.block["conv"](images)
        return maps * self.block["gate"](maps.mean((2, 3), keepdim=True)).sigmoid()


@pytest.mark.parametrize("layer", ["pool", "linear", "block"])
def test_what_has_seen_the_whole_map_looks_nowhere(layer):
    with pytest.raises(NetworkError, match="It is not known where"):
        analysis.theoretical_field(WithGate() if layer == "block" else build_model("experiment_5"), layer)


def test_where_a_layer_looks_is_not_told_behind_a_function():
    class Usual(nn.Module):
        def __init__(self, between):
            super().__init__()
            self.c1, self.c2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.LazyLinear(10)
            self.between = between

        def forward(self, x):
            return self.fc(self.c2(self.between(F.relu(self.c1(x)))).flatten(1))

    for between in (lambda x: F.max_pool2d(x, 2), lambda x: F.pad(x, (1, 1, 1, 1))):
        model = Usual(between)
        model(torch.zeros(1, 3, 32, 32))
        with pytest.raises(NetworkError, match="It is not known where in the image c2 looks"):
            analysis.theoretical_field(model, "c2")


def test_a_change_that_is_none_and_labels_that_are_too_few_get_a_sentence():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    for kind in ("rotate", "holes"):
        with pytest.raises(RunError, match=f"There is no change '{kind}'; there are flip, shift"):
            analysis.changed(images, kind, 3, MEAN)
    with pytest.raises(RunError, match="There are 5 rows of logits and 3 labels"):
        analysis.temperature(np.zeros((5, 10)), np.zeros(3, int))


def test_parameters_that_are_no_layers_have_their_share():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.linear = nn.Parameter(torch.zeros(8, 3, 3, 3)), nn.Linear(8, 10)

        def forward(self, x):
            return self.linear(F.conv2d(x, self.w).mean((2, 3)))

    found = analysis.shares(Direct()).parameters
    assert found["other"] == pytest.approx(100 * 216 / 306) and found["linear"] == pytest.approx(100 * 90 / 306)


def test_the_share_of_what_is_not_known_is_not_known():
    model = nn.Sequential(OrderedDict(c1=nn.Conv2d(3, 4, 3), up=nn.ConvTranspose2d(4, 4, 3)))
    assert analysis.shares(model)["multiply-adds"].isna().all()


def test_every_block_has_its_share():
    model = nn.Sequential(OrderedDict(Stem=nn.Conv2d(3, 4, 3), c1_1=nn.Conv2d(4, 4, 3), c1_2=nn.Conv2d(4, 4, 3)))
    table = analysis.shares(model)
    assert table.index.tolist() == ["Stem", "c1"] and table.parameters.sum() == pytest.approx(100)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.c2.weight = self.c1.weight

    def forward(self, images):
        return self.c2(self.c1(images[:, [0, 1, 2, 0]]))


def test_the_work_of_a_layer_with_a_weight_of_another_one_counts():
    table = analysis.shares(Tied())
    assert table["multiply-adds"].tolist() == [50, 50] and table.parameters.tolist() == [100, 0]


def test_shares_add_up():
    table = analysis.shares(build_model("experiment_5"))
    assert table.index.tolist() == ["c1", "c2", "c3", "c4", "c5", "linear"]
    assert table.sum().tolist() == pytest.approx([100, 100])


def test_each_row_of_augmented_examples_has_holes_of_its_own():
    rows = analysis.augmentation_examples(np.full((6, 32, 32, 3), 255, np.uint8), (0.5, 0.5, 0.5))
    assert {len(row) for row in rows.values()} == {6}, "no empty places"
    alone, together = (
        [np.argwhere(abs(image[..., 0].astype(int) - 128) < 2).mean(0).round().tolist() for image in rows[name]]
        for name in ("coarse dropout", "all together")
    )
    assert sum(one != other for one, other in zip(alone, together, strict=True)) > 3
