"""What networks are built of, and the networks; `build_model("experiment_5")` returns one of them.

Every network is C1-C2-C3-C4-O: four convolution blocks and an output block, no pooling but the global average at the
end. To try a network of your own, write one more function beside `experiment_5`: every function of this file that can
be called without arguments is a network, and `make run EXPERIMENT=its_name` trains it. Building blocks take and return
float tensors (N, C, H, W), networks take images (N, 3, 32, 32) and return logits (N, 10).
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

# ---------------------------------------------------------------- building blocks


def _layer(channels: int, relu: bool, **convolutions: nn.Module) -> nn.Sequential:
    """The convolutions, BatchNorm2d, ReLU (or none) and Dropout, which costs nothing while it is 0: the recipe may
    raise it, and the assignment's summary lists it."""
    last = nn.ReLU(inplace=True) if relu else nn.Identity()
    return nn.Sequential(OrderedDict(**convolutions, norm=nn.BatchNorm2d(channels), relu=last, dropout=nn.Dropout(0.0)))


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Conv2d without bias (the norm has one), BatchNorm2d, ReLU (or none), Dropout."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
    return _layer(out_channels, relu, conv=convolution)


def conv1x1(in_channels: int, out_channels: int) -> nn.Sequential:
    """A bottleneck: mixes channels, sees no neighbours."""
    return conv(in_channels, out_channels, kernel=1, padding=0)


def depthwise(channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that looks at each channel by itself; with stride 1 it keeps the size."""
    return nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False)


def separable(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise separable convolution: depthwise 3x3, then pointwise 1x1; BatchNorm2d, ReLU, Dropout.

    Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2016.
    """
    each_channel = depthwise(in_channels, stride, dilation)
    mix = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return _layer(out_channels, relu=True, depthwise=each_channel, pointwise=mix)


def bsconv(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1, relu: bool = True) -> nn.Sequential:
    """Blueprint separable convolution: pointwise, depthwise, BatchNorm2d, ReLU (or none), Dropout.

    Source: Haase & Amthor, "Rethinking Depthwise Separable Convolutions: How Intra-Kernel
    Correlations Lead to Improved MobileNets", 2020 (BSConv-U).
    """
    mix = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    each_channel = depthwise(out_channels, stride, dilation)
    return _layer(out_channels, relu, pointwise=mix, depthwise=each_channel)


class Residual(nn.Module):
    """x + layers(x); `layers` keep the shape.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2016.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def conv_pair(channels: int, dilation: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions in a residual branch, then ReLU; the second has no ReLU, so it can also subtract."""
    first = conv(channels, channels, padding=dilation, dilation=dilation)
    second = conv(channels, channels, padding=dilation, dilation=dilation, relu=False)
    return nn.Sequential(Residual(first, second), nn.ReLU(inplace=True))


def bsconv_pair(channels: int, dilation: int = 1) -> nn.Sequential:
    """As `conv_pair`, of `bsconv`; only the second is dilated, because a CPU takes long for it."""
    # Built before the first one: the order in which layers are built decides the first weights of published runs.
    second = bsconv(channels, channels, dilation=dilation, relu=False)
    return nn.Sequential(Residual(bsconv(channels, channels), second), nn.ReLU(inplace=True))


class ConvNet(nn.Module):
    """Named layers one after the other, global average pooling, a linear layer to the ten classes.

    Args:
        channels: channels of the last layer, which the linear layer reads.
        **layers: modules in forward order; their names appear in the layer table.
    """

    def __init__(self, channels: int, **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.pool(self.layers(images)).flatten(1))


# ---------------------------------------------------------------- the networks


def experiment_1() -> ConvNet:
    return ConvNet(
        64,
        c1_1=conv(3, 32),
        c1_2=conv(32, 64, stride=2),
        c1_1x1=conv1x1(64, 32),
        c2_1=separable(32, 64),
        c2_2=separable(64, 64, stride=2),
        c2_1x1=conv1x1(64, 32),
        c3_1=conv(32, 64),
        c3_2=conv(64, 128, stride=2),
        c3_1x1=conv1x1(128, 32),
        c4_1=conv(32, 64, padding=2),
        c5=conv(64, 64, stride=2, padding=2, dilation=2),
    )


def experiment_2() -> ConvNet:
    return ConvNet(
        64,
        c1_1=conv(3, 32),
        c1_2=conv(32, 64, stride=2),
        c1_1x1=conv1x1(64, 32),
        c2_1=conv(32, 64),
        c2_2=separable(64, 32, stride=2),
        c3_1=conv(32, 64),
        c3_2=conv(64, 64, stride=2),
        c3_1x1=conv1x1(64, 32),
        c4_1=conv(32, 64),
        c5=conv(64, 64, dilation=2),
    )


def experiment_3() -> ConvNet:
    return ConvNet(
        64,
        c1_1=conv(3, 32),
        c1_2=conv(32, 64, stride=2),
        c1_1x1=conv1x1(64, 32),
        c2_1=conv(32, 64),
        c2_2=separable(64, 32, stride=2),
        c3_1=conv(32, 32),
        c3_2=conv(32, 64),
        c3_1x1=conv1x1(64, 32),
        c4_1=conv(32, 64),
        c5=conv(64, 64, dilation=2),
    )


def experiment_4() -> ConvNet:
    return ConvNet(
        64,
        c1_1=conv(3, 32),
        c1_2=conv(32, 64, stride=2),
        c1_1x1=conv1x1(64, 32),
        c2_1=conv(32, 64),
        c2_2=separable(64, 32, stride=2),
        c3_1=conv(32, 32),
        c3_2=conv(32, 64),
        c3_1x1=conv1x1(64, 32),
        c4_1=conv(32, 32),
        c4_2=conv(32, 64),
        c5=conv(64, 64, dilation=2),
    )


def experiment_5() -> ConvNet:
    return ConvNet(
        32,
        c1_1=conv(3, 32),
        c1_2=conv(32, 64, stride=2),
        c1_1x1=conv1x1(64, 16),
        c2_1=conv(16, 32),
        c2_2=separable(32, 16, stride=2),
        c3_1=conv(16, 32),
        c3_2=conv(32, 64),
        c3_1x1=conv1x1(64, 16),
        c4_1=conv(16, 32),
        c4_2=conv(32, 64),
        c5=conv(64, 32, dilation=2),
    )


def small(c1: int = 16, c2: int = 32, c3: int = 32) -> ConvNet:
    """Blueprint separable convolutions behind the first layer, most of them in residual pairs.

    c1, c2 and c3 are the channels of the first block, of the second, and of the last two.
    """
    return ConvNet(
        c3,
        c1_1=conv(3, c1),
        c1_2=bsconv_pair(c1),
        c2_1=bsconv(c1, c2, stride=2),
        c2_2=bsconv_pair(c2),
        c2_3=bsconv_pair(c2),
        c3_1=bsconv(c2, c3, stride=2),
        c3_2=bsconv_pair(c3),
        c4_1=bsconv_pair(c3, dilation=2),
    )


def tiny() -> ConvNet:
    """`small` with fewer channels: how far down it goes."""
    return small(c2=24, c3=24)


def accurate(c1: int = 32, c2: int = 96, c3: int = 128, n2: int = 3) -> ConvNet:
    """Ordinary convolutions where channels are few and pixels many, separable ones elsewhere.

    c1, c2 and c3 are the channels of the first block, of the second, and of the last two; n2 counts the second's pairs.
    """
    return ConvNet(
        c3,
        c1_1=conv(3, c1),
        c1_2=conv_pair(c1),
        c2_1=conv(c1, c2, stride=2),
        **{f"c2_{k + 2}": bsconv_pair(c2) for k in range(n2)},
        c3_1=bsconv(c2, c3, stride=2),
        c3_2=bsconv_pair(c3),
        c4_1=bsconv_pair(c3, dilation=2),
    )


def compact() -> ConvNet:
    """`accurate` with half the parameters."""
    return accurate(32, 64, 80, n2=2)


def quick(c1: int = 48, c2: int = 64) -> ConvNet:
    """Nothing is computed at 32x32, for speed. c1 and c2 are the channels of the first block, and of the others."""
    return ConvNet(
        c2,
        c1_1=conv(3, c1, stride=2),
        c1_2=conv_pair(c1),
        c2_1=conv(c1, c2, stride=2),
        c3_1=conv_pair(c2, dilation=2),
        c4_1=separable(c2, c2),
    )


def strideless(c: int = 16, c5: int = 32) -> ConvNet:
    """Every layer sees 32x32 pixels; where others halve the image, the dilation doubles.

    c and c5 are the channels of the four blocks, and of the last layer.
    """
    return ConvNet(
        c5,
        c1_1=conv(3, c),
        c1_2=conv_pair(c),
        c1_3=conv_pair(c),
        c2=conv_pair(c, dilation=2),
        c3=conv_pair(c, dilation=4),
        c4=conv_pair(c, dilation=8),
        c5=separable(c, c5),
    )


# The same networks under the names of other recipes:
experiment_5_long = experiment_5_short = experiment_5_adam = experiment_5_unaugmented = experiment_5
fast = accurate_long = accurate_longest = accurate_distilled = accurate
compact_short = compact_long = compact_distilled = compact


# ---------------------------------------------------------------- by name


def networks() -> dict[str, Callable[[], nn.Module]]:
    """The networks of this file by name: every function, and module class of its own, without arguments."""
    kinds = inspect.isfunction, lambda f: inspect.isclass(f) and issubclass(f, nn.Module) and f.__module__ == __name__
    own = {name: f for name, f in globals().items() if name != "networks" and any(kind(f) for kind in kinds)}
    needs = {name: inspect.signature(f).parameters.values() for name, f in own.items()}
    return {name: f for name, f in own.items() if all(p.default is not p.empty for p in needs[name])}


def build_model(name: str) -> nn.Module:
    """The network `name` with freshly initialised weights, on the CPU; KeyError if there is none."""
    known = networks()
    if name not in known:
        raise KeyError(f"no network named {name!r}; there are {', '.join(known)}")
    return known[name]()
