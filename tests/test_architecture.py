import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils.architecture import check_rules, layer_table, receptive_field, rules
from utils.models import NETWORKS, ConvNet, build_model, conv, conv1x1, separable

FIELDS = {"experiment_1": 77, "experiment_2": 77, "experiment_3": 53, "experiment_4": 61, "experiment_5": 61}


class Residual(nn.Module):
    """A block as later networks use it: its input is added to its output."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(separable(channels, channels), conv(channels, channels, padding=2, dilation=2))

    def forward(self, x):
        return x + self.body(x)


def residual_network():
    return ConvNet(8, c1=conv(3, 8, stride=2), c2=Residual(8), c3=conv(8, 8, stride=2), c4=Residual(8))


def true_receptive_field(model, size=161):
    """Side of the square of input pixels that one centre output of the last layer depends on, from its gradient."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())  # positive: no ReLU hides a path
    image = torch.ones(1, 3, size, size, requires_grad=True)
    output = model.eval().layers(image)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    rows = image.grad[0].abs().sum((0, 2)).nonzero()
    return int(rows.max() - rows.min() + 1)


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_field_is_the_true_one(name):
    table = layer_table(build_model(name))
    assert receptive_field(table) == FIELDS[name]
    assert true_receptive_field(build_model(name).double().float()) == FIELDS[name]


def test_receptive_field_through_residual_additions_is_the_true_one():
    table = layer_table(residual_network())
    assert (table.kind == "add").sum() == 2
    assert receptive_field(table) == true_receptive_field(residual_network()) == 43
    joined = table[table.kind == "add"].iloc[0]
    assert (joined.in_channels, joined.out_channels, joined.parameters, joined.macs) == (8, 8, 0, 0)


def test_table_of_experiment_5():
    model = build_model("experiment_5")
    table = layer_table(model).set_index("layer")
    columns = (
        "kind kernel stride padding dilation groups in_channels out_channels in_size out_size receptive_field jump"
    )
    assert list(table.columns) == [*columns.split(), "parameters", "macs"]
    c5 = table.loc["c5.conv"]
    assert (c5.in_size, c5.out_size, c5.dilation, c5.receptive_field, c5.jump) == (8, 6, 2, 61, 4)
    assert c5.macs == 64 * 32 * 9 * 6 * 6
    depthwise = table.loc["c2_2.depthwise"]
    assert (depthwise.groups, depthwise.in_size, depthwise.out_size, depthwise.macs) == (32, 16, 8, 32 * 9 * 64)
    assert (table.loc["pool"].in_size, table.loc["pool"].out_size, table.loc["pool"].receptive_field) == (6, 1, 81)
    assert table.parameters.sum() == 92_394
    assert table.macs["linear"] == 320


def test_measuring_leaves_the_network_as_it_was():
    model = build_model("experiment_5").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    layer_table(model)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_passes(name, capsys):
    assert check_rules(build_model(name))
    assert capsys.readouterr().out.count("pass") == 7


def verdict(model, rule):
    row = rules(model).set_index("rule")
    row = row[row.index.str.contains(rule)].iloc[0]
    return bool(row.passed), row.found


class FunctionalPool(ConvNet):
    def forward(self, x):
        return super().forward(F.max_pool2d(x, 2))


def test_each_broken_rule_is_found(capsys):
    def network(channels=8, **changed):
        layers = dict(c1=conv(3, 8, stride=2), c2=separable(8, 8, stride=2), c3=conv(8, 8, dilation=2), c4=conv(8, 8))
        return ConvNet(channels, **{**layers, **changed})

    assert verdict(network(c4=nn.MaxPool2d(2)), "pooling") == (False, "c4")
    assert verdict(network(c4=nn.AvgPool2d(2)), "pooling") == (False, "c4")
    functional = FunctionalPool(8, c1=conv(3, 8), c2=separable(8, 8, stride=2), c3=conv(8, 8, dilation=2))
    assert verdict(functional, "pooling") == (False, "max_pool2d")
    assert verdict(network(), "dilated") == (True, "c3")
    assert verdict(network(c3=conv(8, 8)), "dilated") == (False, "none")
    assert verdict(network(c3=conv(8, 8, kernel=1, padding=0, dilation=2)), "dilated")[0] is False
    assert verdict(network(c2=conv(8, 8)), "separable") == (False, "none")
    only_depthwise = nn.Conv2d(8, 8, 3, groups=8)
    assert verdict(network(c2=only_depthwise), "separable") == (False, "none")
    no_average = network()
    no_average.pool = nn.Conv2d(8, 8, 6)
    assert verdict(no_average, "average")[0] is False
    seven = network()
    seven.linear = nn.Linear(8, 7)
    assert verdict(seven, "ten classes") == (False, "7 outputs")
    assert not check_rules(seven)
    assert "FAIL  ten classes" in capsys.readouterr().out


def test_the_limits_are_strict():
    def field(**layers):
        return verdict(ConvNet(4, c1=conv(3, 4, stride=2), **layers), "receptive field")

    # c1 sees 3 pixels; a 3x3 convolution after it adds 4 x its dilation
    assert field(c2=conv(4, 4, padding=10, dilation=10)) == (False, "43")
    assert field(c2=conv(4, 4, padding=10, dilation=10), c3=conv(4, 4)) == (True, "47")

    model = ConvNet(8, c1=conv1x1(3, 8))
    spare = 200_000 - sum(p.numel() for p in model.parameters())
    model.linear.register_parameter("extra", nn.Parameter(torch.zeros(spare)))
    assert verdict(model, "parameters") == (False, "200,000")
    model.linear.extra = nn.Parameter(torch.zeros(spare - 1))
    assert verdict(model, "parameters") == (True, "199,999")
