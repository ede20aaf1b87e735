"""The building blocks and the networks; `build_model("experiment_5")` returns one of them.

Every network is C1-C2-C3-C4-O: four convolution blocks and an output block, no pooling but the
global average at the end. To try a network of your own, write one more function beside
`experiment_5` and enter it in NETWORKS.
"""

from collections import OrderedDict

import torch
from torch import nn


def conv(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, padding: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Conv2d without bias (the norm has one), BatchNorm2d, ReLU, Dropout."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
            dropout=nn.Dropout(0.0),
        )
    )


def conv1x1(in_channels: int, out_channels: int) -> nn.Sequential:
    """A bottleneck: mixes channels, sees no neighbours."""
    return conv(in_channels, out_channels, kernel=1, padding=0)


def separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3 then pointwise 1x1 convolution, both without bias; BatchNorm2d, ReLU, Dropout.

    Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017.
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
            pointwise=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
            dropout=nn.Dropout(0.0),
        )
    )


class ConvNet(nn.Module):
    """Named layers one after the other, global average pooling, a linear layer to the ten classes.

    Args:
        channels: channels of the last layer, which the linear layer reads.
        **layers: modules in forward order; their names appear in the layer table.

    Shapes: float (N, 3, H, W) in, logits (N, 10) out.
    """

    def __init__(self, channels: int, **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.pool(self.layers(images)).flatten(1))


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


NETWORKS = {f.__name__: f for f in (experiment_1, experiment_2, experiment_3, experiment_4, experiment_5)}
NETWORKS["experiment_5_long"] = experiment_5  # the same network, trained for longer


def build_model(name: str, dropout: float = 0.0) -> nn.Module:
    """The network `name` with freshly initialised weights, on the CPU.

    Args:
        name: a key of NETWORKS, such as "experiment_5".
        dropout: probability of every Dropout layer; 0 costs nothing, the layer then passes its input on.

    Raises:
        KeyError: if there is no such network.
    """
    if name not in NETWORKS:
        raise KeyError(f"no network named {name!r}; there are {', '.join(NETWORKS)}")
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model
