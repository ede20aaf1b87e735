import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils.architecture import check_rules, layer_table, receptive_field, rules, totals
from utils.errors import NetworkError
from utils.experiments import EXPERIMENTS
from utils.models import ConvNet, Residual, build_model, conv, conv1x1, depthwise, separable
from utils.study.layers import changes
from utils.study.layers import table as layers

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


# ---------------------------------------------------------------- the same, to be read


def test_the_table_to_be_read_has_what_was_measured():
    shown, table = layers(build_model("experiment_5")), layer_table(build_model("experiment_5"))
    assert list(shown)[:2] == ["receptive field", "multiply-adds"]
    assert shown.loc["c5"].tolist() == ["61", "663,552", "18,432", "3x3, dilation 2", "64 to 32", "8 to 6"]
    assert shown.loc["c2_2 depthwise"].tolist()[3:] == ["3x3 depthwise, stride 2", "32 to 32", "16 to 8"]
    assert shown.loc["pool"].tolist() == ["81", "0", "0", "average", "32 to 32", "6 to 1"]
    assert shown.loc["other layers", "parameters"] == f"{table.parameters[table.kind == 'BatchNorm2d'].sum():,}"
    assert shown.loc["in all"].tolist()[:3] == ["61", "10,774,848", "92,394"]
    parameters = shown.parameters.str.replace(",", "").astype(int)
    assert parameters[:-1].sum() == parameters["in all"] and len(shown) == 16


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_layers_have_short_names_of_their_own(name):
    names = layers(build_model(name)).index
    assert names.is_unique and not [n for n in names if "." in n or "<" in n or len(n) > 20]


def test_names_of_residual_pairs_are_numbered():
    names = layers(build_model("small")).index.tolist()
    assert names[:3] == ["c1_1", "c1_2 pointwise (1)", "c1_2 depthwise (1)"] and "c2_1 pointwise" in names
    sequential = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)), nn.MaxPool2d(2))
    shown = layers(sequential)
    assert shown.index.tolist() == ["0 (1)", "0 (2)", "1", "other layers", "in all"]
    assert shown.loc["1"].tolist() == ["2", "0", "0", "MaxPool 2x2, stride 2", "8 to 8", "32 to 16"]


def test_no_change_from_experiment_1_to_2_is_forgotten():
    table = changes(build_model("experiment_1"), build_model("experiment_2"))
    expected = {
        "c2_1 depthwise": ["3x3 depthwise, 32 to 32", "-", "-288", "-73,728"],
        "c2_1 pointwise": ["1x1, 32 to 64", "-", "-2,048", "-524,288"],
        "c2_1": ["-", "3x3, 32 to 64", "+18,432", "+4,718,592"],
        "c2_2 pointwise": ["64 to 64", "64 to 32", "-2,048", "-131,072"],
        "c2_1x1": ["1x1, 64 to 32", "-", "-2,048", "-131,072"],
        "c3_2": ["64 to 128", "64 to 64", "-36,864", "-589,824"],
        "c3_1x1": ["128 to 32", "64 to 32", "-2,048", "-32,768"],
        "c4_1": ["size 4 to 6, padding 2", "size 4 to 4, padding 1", "0", "-368,640"],
        "c5": ["size 6 to 3, stride 2, padding 2", "size 4 to 2, stride 1, padding 1", "0", "-184,320"],
        "pool": ["size 3 to 1", "size 2 to 1", "0", "0"],
        "other layers": [*(f"BatchNorm2d {n}, ReLU {n}, Dropout {n}" for n in (11, 10)), "-256", "0"],
        "in all": ["receptive field 77", "receptive field 77", "-27,168", "+2,682,880"],
    }
    assert list(table.T.to_dict("list").items()) == list(expected.items()), "in forward order"


@pytest.mark.parametrize("pair", [("experiment_1", "experiment_5"), ("small", "accurate"), ("experiment_5", "small")])
def test_changes_add_up(pair):
    before, after = (build_model(name) for name in pair)
    table = changes(before, after)
    more = table[["parameters", "multiply-adds"]].apply(lambda column: column.str.replace(",", "").astype(int))
    assert more[:-1].sum().tolist() == more.loc["in all"].tolist()
    was, now = totals(before), totals(after)
    assert more.loc["in all"].tolist() == [now[key] - was[key] for key in ("parameters", "macs")]
    assert list(changes(after, after).index) == ["in all"]


def test_changes_name_what_has_no_arguments_of_its_own(capsys):
    def network(convolution, *others):
        return nn.Sequential(convolution, *others, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    plain = network(nn.Conv2d(3, 4, 3))
    assert changes(plain, network(nn.Conv2d(3, 4, 3, bias=False))).loc["0"].tolist() == ["-", "-", "-4", "0"]
    whole, halves = (network(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=groups)) for groups in (1, 2))
    assert changes(whole, halves).loc["1"].tolist()[:2] == ["3x3", "3x3, 2 groups"]
    activation = changes(network(nn.Conv2d(3, 4, 3), nn.ReLU()), network(nn.Conv2d(3, 4, 3), nn.GELU()))
    assert activation.loc["other layers"].tolist() == ["ReLU 1", "GELU 1", "0", "0"]
    unknown = changes(plain, small(branching)).loc["in all"].tolist()
    assert unknown == ["receptive field 3", "receptive field -", "+152", "-"]
    assert "cannot be traced" in capsys.readouterr().out


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
    shown = layers(model).T
    capsys.readouterr()
    assert shown["conv"].tolist() == ["-", "-", "224", "Conv", "-", "-"]
    assert shown["in all"].tolist()[:3] == ["-", "-", "314"]
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
    with pytest.raises(
        NetworkError, match=r"network cannot answer an image of 3x32x32 \(RuntimeError.+\); mend it\.$"
    ) as error:
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


class WithFunction(nn.Module):
    """A convolution, then `function` of its output and of one weight, then a convolution."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), function
        self.weight = nn.Parameter(torch.rand(4, 4, 3, 3))

    def forward(self, images):
        return self.second(self.function(self.first(images), self.weight))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: nn.functional.max_pool2d(x, 2),
        lambda x, w: nn.functional.max_pool2d(x, 3, stride=1, padding=1),
        lambda x, w: x[:, :, ::2, ::2],
        lambda x, w: nn.functional.interpolate(x, scale_factor=2.0),
        lambda x, w: nn.functional.conv2d(x, w),
    ],
)
def test_a_receptive_field_that_cannot_be_told_is_not_told(function):
    table = layer_table(WithFunction(function))
    assert receptive_field(table) is None and totals(WithFunction(function))["receptive_field"] is None
    row = rules(WithFunction(function)).set_index("rule").loc["receptive field > 44"]
    assert row.found == "not known" and not row.passed


@pytest.mark.parametrize("function", [lambda x, w: nn.functional.relu(x) * 2, lambda x, w: torch.cat([x, x], 1)[:, :4]])
def test_functions_that_look_at_their_own_position_keep_the_receptive_field(function):
    assert totals(WithFunction(function))["receptive_field"] == 5


def test_multiply_adds_of_a_function_are_not_known():
    assert totals(WithFunction(lambda x, w: nn.functional.conv2d(x, w)))["macs"] is None
    assert totals(WithFunction(lambda x, w: x))["macs"] == 27 * 4 * 30**2 + 36 * 4 * 28**2


def test_a_global_average_as_a_function_is_followed_by_a_classifier():
    """As Network in Network has it: the average, then a 1x1 convolution to the classes."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Average(), nn.Conv2d(4, 10, 1), nn.Flatten())
    assert totals(model)["receptive_field"] == 3 and layer_table(model).receptive_field.iloc[-1] == 3 + 29
    assert verdict(model, "global average") == (True, "mean")


class Gated(nn.Module):
    """Squeeze and excitation: an average of the whole map decides how much of each channel goes on."""

    def __init__(self, average, end):
        super().__init__()
        self.conv, self.gate, self.average, self.end = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), average, end

    def forward(self, images):
        maps = self.conv(images)
        maps = maps * self.gate(self.average(maps)).sigmoid()
        return self.average(maps).flatten(1) if self.end is None else self.end(maps)


def end(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (Gated(nn.AdaptiveAvgPool2d(1), end(nn.AdaptiveAvgPool2d(1))), "end.0"),
        (Gated(nn.AdaptiveAvgPool2d(1), end()), "none"),
        (Gated(lambda x: x.mean((2, 3), keepdim=True), end(nn.Conv2d(4, 4, 30))), "none"),
        (Gated(nn.AdaptiveAvgPool2d(1), None), "average"),
        (Gated(lambda x: F.adaptive_avg_pool2d(x, 1), None), "adaptive_avg_pool2d_1"),
    ],
)
def test_the_average_of_a_gate_is_no_global_average_pooling(network, found):
    network(torch.zeros(1, 3, 32, 32))
    assert verdict(network, "global average") == (found != "none", found)
    assert verdict(network, "no pooling")[0]


class Average(nn.Module):
    def forward(self, images):
        return images.mean((2, 3), keepdim=True)


# ---------------------------------------------------------------- layers of other kinds


def test_a_convolution_with_a_parametrized_weight_is_still_one():
    model = build_model("experiment_5")
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]:
        nn.utils.parametrizations.weight_norm(layer)
    found = rules(model).set_index("rule").passed
    assert found["dilated convolution"] and found["depthwise separable convolution"]


class Attending(nn.Module):
    """Maps that become tokens and maps again."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix, self.linear = nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        maps = self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(-1, 8, 8, 8)
        return self.linear(self.mix(maps).mean((2, 3)))


class LayerScaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2), nn.Linear(8, 10)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, images):
        return self.linear(self.two(input=self.one(images) * self.scale.view(1, 8, 1, 1)).mean((2, 3)))


class Rows(nn.Module):
    """The rows of the image, one after the other."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(8, 10)

    def forward(self, images):
        rows = images.permute(0, 2, 1, 3).flatten(2)
        return self.linear((self.layer(rows)[0] if isinstance(self.layer, nn.LSTM) else self.layer(rows)).mean(1))


class Patches(nn.Module):
    """Maps made of the image in another way than by a layer."""

    def __init__(self, make, channels):
        super().__init__()
        self.make, self.mix, self.linear = make, nn.Conv2d(channels, 8, 3), nn.Linear(8, 10)

    def forward(self, images):
        return self.linear(self.mix(self.make(images)).mean((2, 3)))


def patches(images):
    return images.reshape(-1, 3, 8, 4, 8, 4).permute(0, 1, 3, 5, 2, 4).reshape(-1, 48, 8, 8)


class Bare(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


def between(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "field", "macs_known"),
    [
        (between(nn.ConvTranspose2d(8, 8, 2, 2)), None, False),
        (between(nn.Conv2d(8, 8, (3, 5))), None, True),
        (between(nn.Conv2d(8, 8, 3, stride=(1, 2))), None, True),
        (between(nn.Upsample(scale_factor=2)), None, True),
        (between(nn.PixelUnshuffle(2), nn.Conv2d(32, 8, 1)), None, True),
        (between(nn.AdaptiveAvgPool2d(4)), None, True),
        (between(nn.Flatten(2), nn.Linear(900, 900), nn.Unflatten(2, (30, 30))), None, True),
        (between(nn.MaxPool2d(2, 1, dilation=2)), 7, True),
        (between(nn.MaxPool2d(3, 2)), 9, True),
        (between(nn.ReflectionPad2d(1), nn.GroupNorm(2, 8), nn.PReLU(8), nn.Dropout2d()), 5, True),
        (Attending(), None, False),
        (LayerScaled(), 5, True),
        (Rows(nn.LSTM(96, 8, batch_first=True)), None, False),
        (Rows(nn.Conv1d(32, 32, 89)), None, False),
        (Bare(), None, True),
        (Patches(patches, 48), None, True),
        (Patches(lambda images: F.unfold(images, 3, padding=1).view(-1, 27, 32, 32), 27), None, True),
        (Patches(lambda images: images + torch.roll(images, 8, 3), 3), None, True),
        (Patches(lambda images: images + images.flip(3), 3), None, True),
        (Patches(lambda images: images + images.mT, 3), None, True),
        (Patches(lambda images: images + images.as_strided((1, 3, 32, 32), (3072, 1024, 1, 32)), 3), None, True),
        (Patches(lambda images: images * 2, 3), 3, True),
    ],
)
def test_what_is_not_known_of_a_layer_is_not_invented(model, field, macs_known):
    """The fields that are known were checked by hand: 1 + 2 + 2 * dilation + 2, and 1 + 2 + 2 + 2 * 2."""
    found = totals(model)
    assert found["receptive_field"] == field and (found["macs"] is not None) == macs_known
    assert not rules(model).set_index("rule").passed["receptive field > 44"]
    assert layers(model).loc["in all", "receptive field"] == ("-" if field is None else str(field))
    assert not layers(model).astype(str).stack().str.contains(r"\.0|nan").any()


# ---------------------------------------------------------------- where layers meet


class Branches(nn.Module):
    """Two ways from the image to the sum; which is called last makes no difference."""

    def __init__(self, last):
        super().__init__()
        self.wide, self.narrow, self.last = nn.Conv2d(3, 4, 7, padding=3), nn.Conv2d(3, 4, 1), last

    def forward(self, images):
        first, second = (self.narrow, self.wide) if self.last == "wide" else (self.wide, self.narrow)
        return first(images) + second(images)


@pytest.mark.parametrize("last", ["wide", "narrow"])
def test_the_receptive_field_is_the_largest_of_the_branches(last):
    assert totals(Branches(last))["receptive_field"] == 7


def test_a_classifier_behind_the_average_is_no_part_of_the_receptive_field():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 10, 1), nn.Flatten())
    assert totals(model)["receptive_field"] == 3


class Made(nn.Module):
    """`function` of the network's maps (1, 4, 8, 8), or of the logits that it makes of them."""

    def __init__(self, function, **layers):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 4, stride=4), function
        self.layers = nn.ModuleDict(layers)

    def forward(self, images):
        return self.function(self.conv(images), self.layers)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, layers: layers["after"](x.flatten(2).sort(-1)[0].reshape(x.shape)),
        lambda x, layers: layers["after"](x.flatten(2).softmax(-1).view_as(x)),
        lambda x, layers: layers["after"](x + x.transpose(2, 3)),
        lambda x, layers: layers["after"](x[:, :, torch.arange(7, -1, -1)]),
        lambda x, layers: layers["after"](x + layers["mix"](x.flatten(2)).view_as(x)),
    ],
)
def test_what_mixes_positions_has_no_known_field(function):
    model = Made(function, after=nn.Conv2d(4, 4, 3, padding=1), mix=nn.Linear(64, 64))
    assert totals(model)["receptive_field"] is None


def test_multiply_adds_count_what_is_folded_into_the_batch():
    def by_pixel(x, layers):
        return layers["linear"](x.permute(0, 2, 3, 1).reshape(-1, 4)).reshape(1, -1)

    def doubled(x, layers):
        return layers["conv"](torch.cat([x, x.flip(3)], 0)).mean((2, 3))

    own = 48 * 4 * 64
    assert totals(Made(by_pixel, linear=nn.Linear(4, 5, bias=False)))["macs"] == own + 20 * 64
    assert totals(Made(doubled, conv=nn.Conv2d(4, 6, 1)))["macs"] == own + 2 * 24 * 64


MEANS = {  # of what is no map, or over other things than its positions
    "of samples": lambda x, layers: torch.stack([layers["fc"](x.flatten(1)) for _ in range(5)]).mean(0),
    "of logits": lambda x, layers: (y := layers["fc"](x.flatten(1))) - y.mean(1, keepdim=True),
    "of features": lambda x, layers: layers["fc"]((y := x.flatten(1)) - y.mean(1, keepdim=True)),
}


@pytest.mark.parametrize("function", MEANS.values(), ids=MEANS)
def test_a_mean_of_something_else_is_no_global_average_pooling(function):
    assert verdict(Made(function, fc=nn.Linear(256, 10)), "global average") == (False, "none")


AVERAGED = {
    "function": lambda x, layers: F.avg_pool2d(x, 8).flatten(1),
    "module": lambda x, layers: layers["pool"](x).flatten(1),
    "of positions in a row": lambda x, layers: F.adaptive_avg_pool1d(x.flatten(2), 1).flatten(1),
}


@pytest.mark.parametrize("function", AVERAGED.values(), ids=AVERAGED)
def test_an_average_over_the_whole_map_is_a_global_one(function):
    model = Made(function, pool=nn.AvgPool2d(8))
    assert verdict(model, "global average")[0] and verdict(model, "no pooling")[0]


def test_a_largest_value_of_patches_is_a_pooling():
    model = Made(lambda x, layers: x.reshape(-1, 4, 4, 2, 4, 2).amax((3, 5)).mean((2, 3)))
    assert verdict(model, "no pooling") == (False, "amax")


def test_convolutions_that_cannot_be_read_are_not_called_none():
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))

        def forward(self, images):
            return F.conv2d(images, self.weight - self.weight.mean(), dilation=2).mean((2, 3))

    assert verdict(Standardised(), "dilated") == (False, "not known")
    assert verdict(nn.Sequential(nn.Conv2d(3, 4, (3, 5), dilation=(2, 2))), "dilated")[1] == "not known"
    assert "strides not known" in verdict(nn.Sequential(nn.Conv2d(3, 4, 3, stride=(2, 1))), "no pooling")[1]


def test_a_gate_beside_a_depthwise_convolution_does_not_make_it_separable():
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())
    model = Made(lambda x, layers: (y := layers["depthwise"](x)) * layers["gate"](y), depthwise=depthwise(4), gate=gate)
    assert verdict(model, "separable") == (False, "none")


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda x, layers: layers["depthwise"](x) + layers["point"](x), "none"),  # side by side
        (lambda x, layers: layers["point"](layers["depthwise"](x) + x), "none"),  # what is read is a sum
        (lambda x, layers: layers["point"](layers["depthwise"](x)), "depthwise"),
        (lambda x, layers: layers["depthwise"](layers["point"](x).relu()), "depthwise"),
        (lambda x, layers: layers["point"](layers["depthwise"](x) * layers["gate"](x)), "depthwise"),
        (lambda x, layers: layers["depthwise"](x * layers["gate"](x)), "none"),
        (lambda x, layers: layers["linear"](layers["depthwise"](x).movedim(1, 3)).movedim(3, 1), "depthwise"),
        (lambda x, layers: layers["flat"](layers["depthwise"](x).flatten(1))[:, :, None, None] + x, "none"),
        (lambda x, layers: layers["point"](layers["grouped"](x)), "none"),
    ],
)
def test_separable_is_what_one_layer_hands_to_the_other(forward, found):
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())
    layers = dict(depthwise=nn.Conv2d(4, 4, 3, padding=1, groups=4), point=nn.Conv2d(4, 4, 1), gate=gate)
    layers |= dict(linear=nn.Linear(4, 4), flat=nn.Linear(256, 4), grouped=nn.Conv2d(4, 4, 3, padding=1, groups=2))
    name = verdict(Made(forward, **layers), "separable")[1]
    assert name.removeprefix("parts ") == found


def test_scaling_a_map_down_is_a_pooling():
    def small(x, layers):
        return layers["conv"](F.interpolate(x, scale_factor=0.5))

    assert verdict(Made(small, conv=conv(4, 4)), "no pooling") == (False, "interpolate")
    assert verdict(Made(lambda x, _: F.interpolate(x, scale_factor=2.0), conv=conv(4, 4)), "no pooling")[0]


class Named(nn.Conv2d):
    """Of a class of its own, which computes what PyTorch's does."""


class NamedNorm(nn.BatchNorm2d):
    pass


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


def field_of(forward, **layers):
    """In pixels of the map before `forward`; then comes a 3x3 convolution."""
    found = totals(Made(lambda x, parts: parts["after"](forward(x, parts)), **layers, after=nn.Conv2d(4, 4, 3)))
    return found["receptive_field"] and found["receptive_field"] // 4


def gate(x, parts):
    """Squeeze and excitation as it is usually written (Hu et al., 2018)."""
    n, c, _, _ = x.size()
    return x * parts["linear"](parts["pool"](x).view(n, c)).view(n, c, 1, 1)


@pytest.mark.parametrize(
    ("forward", "pixels"),
    [
        (lambda x, _: x, 3),
        (lambda x, _: F.pad(x, (1, 1, 1, 1)), 3),
        (lambda x, _: F.pad(x, (1, 1, 1, 1), mode="replicate"), 3),
        (lambda x, _: F.pad(x, (1, 1, 1, 1), mode="circular"), None),
        (gate, 10),  # the gate sees all 8, so what follows does, too
        (lambda x, _: nn.ReLU()(x), 3),
        (lambda x, parts: parts["named"](parts["norm"](x)), 5),
        (lambda x, parts: parts["standardised"](x), None),
        (lambda x, _: x.repeat(1, 2, 1, 1).permute(0, 2, 1, 3).permute(0, 2, 1, 3)[:, :4], None),
        (lambda x, _: x.repeat(1, 2, 1, 1).swapaxes(1, 3).swapaxes(1, 3)[:, :4], None),
        (lambda x, _: x[:, :, :, [7, 6, 5, 4, 3, 2, 1, 0]], None),
    ],
)
def test_the_field_behind_functions_and_layers_of_ones_own(forward, pixels):
    layers = dict(named=Named(4, 4, 3), norm=NamedNorm(4), standardised=Standardised(4, 4, 3))
    assert field_of(forward, **layers, linear=nn.Linear(4, 4), pool=nn.AdaptiveAvgPool2d(1)) == pixels


def test_a_layer_of_a_class_of_ones_own_counts_as_what_it_is():
    model = nn.Sequential(Named(3, 4, 3, dilation=2), NamedNorm(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    table = layer_table(model)
    assert table.kind.tolist()[:2] == ["Conv2d", "BatchNorm2d"] and totals(model)["macs"] == 108 * 28**2
    assert verdict(model, "dilated") == (True, "0")


def test_what_mixes_after_the_last_convolution_makes_the_field_unknown():
    mixing = Made(lambda x, parts: parts["attention"](*[x.flatten(2)] * 3)[0], attention=nn.MultiheadAttention(64, 4))
    assert totals(mixing)["receptive_field"] is None


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda x, _: x.reshape(-1, 4, 4, 2, 4, 2).mean((3, 5)), "mean"),
        (lambda x, _: x.reshape(-1, 4, 4, 2, 4, 2).max(5).values.max(3).values, "max_1, max_2"),
        (lambda x, _: x.reshape(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8), ""),  # shuffled channels
    ],
)
def test_a_map_cut_into_windows_is_pooled(forward, name):
    passed, found = verdict(Made(forward, conv=conv(4, 4)), "no pooling")
    assert (passed, found.removeprefix("none; stride 4 at conv")) == (not name, name)


def test_an_average_that_sees_a_part_is_no_global_one():
    model = nn.Sequential(nn.Conv2d(3, 10, 3, stride=5), nn.AvgPool2d(4), nn.Flatten())  # of 6x6 positions
    assert verdict(model, "average") == (False, "none") and verdict(model, "no pooling") == (False, "1")
    as_function = Made(lambda x, _: F.avg_pool2d(x, 6).flatten(1), conv=conv(4, 4))  # of 8x8
    assert verdict(as_function, "average") == (False, "none")
    whole = Made(lambda x, _: F.avg_pool2d(x, 8).flatten(1), conv=conv(4, 4))
    assert verdict(whole, "average") == (True, "avg_pool2d")


def test_the_mean_of_several_heads_is_no_global_average():
    heads = dict(one=nn.Linear(256, 10), two=nn.Linear(256, 10))

    def forward(x, layers):
        return torch.stack([layers[name](x.flatten(1)) for name in heads], 1).mean(1)

    assert verdict(Made(forward, **heads), "average") == (False, "none")


@pytest.mark.parametrize(
    "average",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(3).mean(2),
        lambda x: x.flatten(2).mean(-1),
        lambda x: x.view(x.shape[0], 4, -1).mean(2),
    ],
)
def test_a_gate_and_a_global_average_may_be_written_in_any_way(average):
    def gated(x, parts):
        return x * parts["linear"](average(x))[:, :, None, None]

    assert field_of(gated, linear=nn.Linear(4, 4)) == 10
    assert verdict(Made(lambda x, _: average(x), conv=conv(4, 4)), "average")[0]


@pytest.mark.parametrize(
    "gate",
    [lambda x: F.adaptive_max_pool2d(x, 1), lambda x: x.amax((2, 3), keepdim=True), lambda x: x.amax(1, keepdim=True)],
)
def test_the_maximum_of_a_gate_is_no_pooling_between_the_blocks(gate):
    assert verdict(Made(lambda x, layers: layers["conv"](x * gate(x)), conv=conv(4, 4)), "no pooling")[0]


def test_depthwise_layers_side_by_side_may_share_a_pointwise_one():
    def forward(x, layers):
        return layers["point"](torch.cat([layers["three"](x), layers["five"](x)], 1))

    depthwise = dict(three=nn.Conv2d(4, 4, 3, padding=1, groups=4), five=nn.Conv2d(4, 4, 5, padding=2, groups=4))
    assert verdict(Made(forward, **depthwise, point=nn.Conv2d(8, 4, 1)), "separable") == (
        True,
        "three, five",
    )


def test_multiply_adds_of_a_linear_layer_on_a_map():
    model = Made(lambda x, parts: parts["linear"](x.permute(0, 2, 3, 1)), linear=nn.Linear(4, 8))
    assert totals(model)["macs"] == 48 * 4 * 64 + 32 * 64 and totals(model)["receptive_field"] is None
    assert totals(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 30, 30])))["macs"] == 108 * 900


@pytest.mark.parametrize("ask", [check_rules, layer_table, totals, rules])
def test_what_is_no_network_is_a_sentence(ask):
    for wrong in (build_model, "experiment_5", None):
        with pytest.raises(NetworkError, match="This is asked of a network, and .* is none; if it builds one, call it"):
            ask(wrong)


def test_tied_weights_are_counted_once():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    assert layer_table(model).parameters.tolist() == [84, 3]


@pytest.mark.parametrize(
    "mixing",
    [nn.CircularPad2d(1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Softmax(-1), nn.Softmax(2)],
    ids=lambda layer: repr(layer)[:20],
)
def test_a_layer_that_mixes_positions_leaves_the_field_unknown(mixing):
    assert field_of(lambda x, parts: parts["mixing"](x), mixing=mixing) is None


def test_a_layer_may_normalise_over_the_channels():
    assert field_of(lambda x, parts: parts["soft"](x), soft=nn.Softmax(1)) == 3
    turned = torch.arange(7, -1, -1).expand(1, 4, 8, 8)
    assert field_of(lambda x, _: torch.take_along_dim(x, turned, 3)) is None


def test_multiply_adds_of_an_inner_product_are_not_known():
    assert totals(Made(lambda x, _: torch.inner(x.mean((2, 3)), torch.ones(10, 4))))["macs"] is None


def test_a_layer_whose_output_nobody_reads_does_not_count():
    def forward(x, layers):
        layers["point"](layers["depth"](x))
        layers["relu"](x)  # in place
        return x.mean((2, 3))

    unread = dict(depth=nn.Conv2d(4, 4, 3, dilation=2, groups=4), point=nn.Conv2d(4, 4, 1))
    model = Made(forward, **unread, relu=nn.ReLU(inplace=True))
    assert not verdict(model, "separable")[0] and not verdict(model, "dilated")[0]
    assert totals(model)["macs"] == 48 * 4 * 64 and "relu" in layer_table(model).layer.tolist()


def test_a_flattened_map_is_seen_whole():
    for flatten in (lambda x, layers: layers["fc"](x.flatten(1)), lambda x, layers: layers["all"](x)):
        model = Made(flatten, fc=nn.Linear(256, 10), all=nn.Sequential(nn.Flatten(), nn.Linear(256, 10)))
        assert layer_table(model).receptive_field.iloc[-1] == 32


class Optional(nn.Module):
    """Whose forward computes more when it is asked to."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, images, targets=None, features=False, scale: float = 1.0):
        maps = self.conv(images if scale == 1.0 else scale * images).mean((2, 3))
        if features:
            return maps
        return self.linear(maps) if targets is None else F.cross_entropy(self.linear(maps), targets)


def test_what_forward_does_without_its_optional_arguments_is_measured(capsys):
    assert totals(Optional()) == dict(parameters=314, macs=27 * 8 * 30 * 30 + 80, receptive_field=3)
    assert capsys.readouterr() == ("", "")


class Ended(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 10, 3), end

    def forward(self, images):
        return self.end(self.conv(images))


@pytest.mark.parametrize(
    "end",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(dim=-1)),
        nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(10, 10)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (10, 1, 1)), nn.Flatten()),
    ],
)
def test_what_comes_behind_the_average_hides_no_field(end):
    table = layer_table(Ended(end))
    assert totals(Ended(end), table)["receptive_field"] == 3 and table.receptive_field.iloc[-1] == 32


class Squeezed(Ended):
    def forward(self, images):
        return self.end(self.conv(images).mean((2, 3), keepdim=True).squeeze())


def test_a_linear_layer_behind_a_squeezed_average_is_measured():
    assert totals(Squeezed(nn.Linear(10, 10)))["receptive_field"] == 3


class Pooled(Ended):
    def forward(self, images):
        maps = self.conv(images)
        return self.end(F.max_pool2d(maps, maps.size(2)).flatten(1))


def test_a_window_as_large_as_the_map_is_no_pooling_between_blocks():
    assert verdict(Pooled(nn.Linear(10, 10)), "no pooling")[0] and verdict(Optional(), "no pooling")[0]


def test_lazy_layers_without_sizes_are_a_sentence():
    for ask in (rules, layer_table, totals):
        with pytest.raises(NetworkError, match="build it by runs.build"):
            ask(Ended(nn.Sequential(nn.Flatten(), nn.LazyLinear(10))))


def test_a_parametrized_convolution_has_the_kind_of_the_plain_one():
    assert layer_table(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))).kind[0] == "Conv2d"
