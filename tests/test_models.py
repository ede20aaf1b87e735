import contextlib
import io

import pytest
import torch
from torch import nn

from utils import models
from utils.architecture import layer_table, rules
from utils.experiments import EXPERIMENTS
from utils.models import bsconv, bsconv_pair, build_model, conv_pair, separable

SUMMARY = """\
----------------------------------------------------------------
        Layer (type)               Output Shape         Param #
================================================================
            Conv2d-1           [-1, 32, 32, 32]             864
       BatchNorm2d-2           [-1, 32, 32, 32]              64
              ReLU-3           [-1, 32, 32, 32]               0
           Dropout-4           [-1, 32, 32, 32]               0
            Conv2d-5           [-1, 64, 16, 16]          18,432
       BatchNorm2d-6           [-1, 64, 16, 16]             128
              ReLU-7           [-1, 64, 16, 16]               0
           Dropout-8           [-1, 64, 16, 16]               0
            Conv2d-9           [-1, 16, 16, 16]           1,024
      BatchNorm2d-10           [-1, 16, 16, 16]              32
             ReLU-11           [-1, 16, 16, 16]               0
          Dropout-12           [-1, 16, 16, 16]               0
           Conv2d-13           [-1, 32, 16, 16]           4,608
      BatchNorm2d-14           [-1, 32, 16, 16]              64
             ReLU-15           [-1, 32, 16, 16]               0
          Dropout-16           [-1, 32, 16, 16]               0
           Conv2d-17             [-1, 32, 8, 8]             288
           Conv2d-18             [-1, 16, 8, 8]             512
      BatchNorm2d-19             [-1, 16, 8, 8]              32
             ReLU-20             [-1, 16, 8, 8]               0
          Dropout-21             [-1, 16, 8, 8]               0
           Conv2d-22             [-1, 32, 8, 8]           4,608
      BatchNorm2d-23             [-1, 32, 8, 8]              64
             ReLU-24             [-1, 32, 8, 8]               0
          Dropout-25             [-1, 32, 8, 8]               0
           Conv2d-26             [-1, 64, 8, 8]          18,432
      BatchNorm2d-27             [-1, 64, 8, 8]             128
             ReLU-28             [-1, 64, 8, 8]               0
          Dropout-29             [-1, 64, 8, 8]               0
           Conv2d-30             [-1, 16, 8, 8]           1,024
      BatchNorm2d-31             [-1, 16, 8, 8]              32
             ReLU-32             [-1, 16, 8, 8]               0
          Dropout-33             [-1, 16, 8, 8]               0
           Conv2d-34             [-1, 32, 8, 8]           4,608
      BatchNorm2d-35             [-1, 32, 8, 8]              64
             ReLU-36             [-1, 32, 8, 8]               0
          Dropout-37             [-1, 32, 8, 8]               0
           Conv2d-38             [-1, 64, 8, 8]          18,432
      BatchNorm2d-39             [-1, 64, 8, 8]             128
             ReLU-40             [-1, 64, 8, 8]               0
          Dropout-41             [-1, 64, 8, 8]               0
           Conv2d-42             [-1, 32, 6, 6]          18,432
      BatchNorm2d-43             [-1, 32, 6, 6]              64
             ReLU-44             [-1, 32, 6, 6]               0
          Dropout-45             [-1, 32, 6, 6]               0
AdaptiveAvgPool2d-46             [-1, 32, 1, 1]               0
           Linear-47                   [-1, 10]             330
================================================================
Total params: 92,394
Trainable params: 92,394
Non-trainable params: 0
----------------------------------------------------------------
Input size (MB): 0.01
Forward/backward pass size (MB): 2.36
Params size (MB): 0.35
Estimated Total Size (MB): 2.73
----------------------------------------------------------------
"""


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("experiment_1", 183_882),
        ("experiment_2", 156_714),
        ("experiment_3", 129_002),
        ("experiment_4", 138_282),
        ("experiment_5", 92_394),
    ],
)
def test_parameter_counts_of_the_reference(name, parameters):
    assert sum(p.numel() for p in build_model(name).parameters()) == parameters


def test_torchsummary_prints_the_reference_summary_to_the_character():
    from torchsummary import summary

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        summary(build_model("experiment_5"), (3, 32, 32), device="cpu")
    assert printed.getvalue() == SUMMARY


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_logits_for_any_batch_size(name):
    model = build_model(name).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert model(torch.zeros(3, 3, 32, 32)).shape == (3, 10)


def test_every_function_that_needs_no_arguments_is_a_network(monkeypatch):
    known = models.networks()
    assert known.keys() >= EXPERIMENTS.keys()
    assert not known.keys() & {"conv", "bsconv_pair", "ConvNet", "build_model", "networks"}

    def a_new_one(channels=8):
        return nn.Sequential(nn.Conv2d(3, channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

    monkeypatch.setattr(models, "a_new_one", a_new_one, raising=False)
    assert models.networks().keys() - known.keys() == {"a_new_one"}
    assert build_model("a_new_one")(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_unknown_network_is_named():
    with pytest.raises(KeyError, match=r"no_such_network.*experiment_5"):
        build_model("no_such_network")


@pytest.mark.parametrize("make, dilation", [(conv_pair, 2), (bsconv_pair, 1), (bsconv_pair, 2)])
def test_a_pair_adds_to_its_input_or_takes_away(make, dilation):
    pair, images = make(8, dilation), torch.randn(4, 8, 6, 6)
    changed = pair(images) - images.relu()
    assert (changed > 0).any() and (changed < 0).any()
    nn.init.zeros_(pair[0].layers[-1].norm.weight)  # so that the branch gives 0
    assert torch.equal(pair(images), images.relu())


@pytest.mark.parametrize("layer, first", [(separable, "depthwise"), (bsconv, "pointwise")])
def test_the_two_separable_layers_differ_in_their_order(layer, first):
    layer = layer(4, 6, stride=2, dilation=2).eval()
    assert layer(torch.randn(2, 4, 8, 8)).shape == (2, 6, 4, 4)
    assert next(iter(layer.named_children()))[0] == first
    assert layer.depthwise.groups == layer.depthwise.in_channels == (4 if first == "depthwise" else 6)


def test_strideless_keeps_every_position_up_to_the_average():
    model = build_model("strideless")
    table = layer_table(model)
    assert set(table.out_size[table.kind == "Conv2d"]) == {32}
    assert rules(model).set_index("rule").found["no pooling between the blocks"] == "none; no strides"
    assert sorted(table.dilation[table.kind == "Conv2d"].unique()) == [1, 2, 4, 8]
