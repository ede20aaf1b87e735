import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils.architecture import check_rules, layer_table, main_layers, receptive_field, rules, totals
from utils.errors import NetworkError
from utils.experiments import EXPERIMENTS
from utils.models import ConvNet, Residual, build_model, conv, conv1x1, separable

FIELDS = {"experiment_1": 77, "experiment_2": 77, "experiment_3": 53, "experiment_4": 61, "experiment_5": 61}


def residual_network():
    def block():
        return Residual(separable(8, 8), conv(8, 8, padding=2, dilation=2))

    return ConvNet(8, c1=conv(3, 8, stride=2), c2=block(), c3=conv(8, 8, stride=2), c4=block())


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
    assert true_receptive_field(build_model(name)) == FIELDS[name]


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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_network_passes(name, capsys):
    assert check_rules(build_model(name))
    assert capsys.readouterr().out.count("pass") == 7


# ---------------------------------------------------------------- networks of one's own


class Forward(nn.Module):
    """A network whose forward is the function `forward(network, images)`."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, images):
        return self.function(self, images)


def small(forward):
    """A convolution with 224 parameters and a linear layer with 90, used as `forward` does."""
    return Forward(forward, conv=nn.Conv2d(3, 8, 3), linear=nn.Linear(8, 10))


def branching(net, x):
    x = net.conv(x)
    return net.linear((x if x.mean() > 0 else -x).mean((2, 3)))


def counting(net, x):
    return net.linear(net.conv(x).view(len(x), 8, -1).mean(2))


def drawing(net, x):
    return net.linear(net.conv(x).mean((2, 3)) * torch.rand(x.shape[0], 1))


@pytest.mark.parametrize("forward", [branching, counting, drawing])
def test_where_no_trace_is_possible_the_parameters_are_counted_and_a_line_says_so(forward, capsys):
    model = small(forward)
    table = layer_table(model)
    assert table.layer.tolist() == ["conv", "linear"] and table.parameters.tolist() == [224, 90]
    assert table[["kernel", "in_size", "out_size", "receptive_field", "macs"]].isna().all(axis=None)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "cannot be traced" in out
    assert totals(model) == dict(parameters=314, macs=None, receptive_field=None)
    assert main_layers(table).index.tolist() == ["conv", "linear"]
    assert not check_rules(model)
    assert "FAIL  the other rules" in capsys.readouterr().out


def test_a_plain_sequential_is_measured_as_any_other():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    table = layer_table(model)
    assert table.kind.tolist() == ["Conv2d", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert totals(model) == dict(parameters=224 + 90, macs=216 * 15 * 15 + 80, receptive_field=3)
    assert verdict(model, "average") == (True, "1")


@pytest.mark.parametrize(("padding", "pixels"), [("same", 4), ("valid", 0)])
def test_padding_in_words_is_given_in_pixels(padding, pixels):
    convolution = nn.Conv2d(3, 4, 5, padding=padding, dilation=2)
    row = layer_table(ConvNet(4, c1=convolution)).iloc[0]
    assert row.padding == pixels and row.out_size == 24 + 2 * pixels and row.receptive_field == 9


def test_a_module_used_twice_is_counted_once():
    twice = nn.Conv2d(3, 3, 3, padding=1)
    model = Forward(
        lambda net, x: net.linear(net.twice(net.twice(x)).mean((2, 3))), twice=twice, linear=nn.Linear(3, 10)
    )
    table = layer_table(model)
    assert table.parameters.sum() == totals(model)["parameters"] == 84 + 40
    assert table.layer.tolist() == ["twice", "twice", "linear"], "both uses are shown"
    assert receptive_field(table) == 5 and table.macs.tolist() == [81 * 1024, 81 * 1024, 30]


def test_poolings_as_functions_are_seen():
    def forward(net, x):
        return net.linear(F.max_pool2d(net.conv(x), 2).mean((2, 3)))

    assert verdict(small(forward), "average") == (True, "mean")
    assert verdict(small(forward), "pooling between") == (False, "max_pool2d")
    as_function = small(lambda net, x: net.linear(F.adaptive_avg_pool2d(net.conv(x), 1).flatten(1)))
    assert verdict(as_function, "average") == (True, "adaptive_avg_pool2d")


@pytest.mark.parametrize("measure", [layer_table, totals, rules])
def test_a_network_that_fails_on_the_image_gets_one_sentence(measure):
    model = ConvNet(7, c1=conv(3, 8))  # the linear layer expects 7 channels
    with pytest.raises(NetworkError, match=r"ConvNet fails on an image of 3x32x32 \(.+\); mend its layers\.$") as error:
        measure(model)
    assert "\n" not in str(error.value)
    assert model.training


# ---------------------------------------------------------------- the rules


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
