"""What the networks are built of; each takes and returns float tensors (N, C, H, W)."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn


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
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True) if relu else nn.Identity(),
            dropout=nn.Dropout(0.0),
        )
    )


def conv1x1(in_channels: int, out_channels: int) -> nn.Sequential:
    """A bottleneck: mixes channels, sees no neighbours."""
    return conv(in_channels, out_channels, kernel=1, padding=0)


def separable(
    in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1, relu: bool = True
) -> nn.Sequential:
    """Depthwise 3x3 then pointwise 1x1 convolution, both without bias; BatchNorm2d, ReLU (or none), Dropout.

    Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017.
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(
                in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False
            ),
            pointwise=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True) if relu else nn.Identity(),
            dropout=nn.Dropout(0.0),
        )
    )


def bsconv(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1, relu: bool = True) -> nn.Sequential:
    """Blueprint separable convolution: as `separable`, but pointwise first, then depthwise.

    Source: Haase & Amthor, "Rethinking Depthwise Separable Convolutions: How Intra-Kernel Correlations Lead to
    Improved MobileNets", 2020 (BSConv-U).
    """
    return nn.Sequential(
        OrderedDict(
            pointwise=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            depthwise=nn.Conv2d(
                out_channels, out_channels, 3, stride, dilation, dilation, groups=out_channels, bias=False
            ),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True) if relu else nn.Identity(),
            dropout=nn.Dropout(0.0),
        )
    )


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
    """Two ordinary 3x3 convolutions in a residual branch, then ReLU; the second has none of its own: it may
    also take away."""
    first, second = (conv(channels, channels, padding=dilation, dilation=dilation, relu=relu) for relu in (True, False))
    return nn.Sequential(Residual(first, second), nn.ReLU(inplace=True))


def separable_pair(layer: Callable[..., nn.Sequential], channels: int, dilation: int = 1) -> nn.Sequential:
    """As `conv_pair`, of `separable` or `bsconv`; only the second is dilated (a CPU takes long for it)."""
    second = layer(channels, channels, dilation=dilation, relu=False)
    return nn.Sequential(Residual(layer(channels, channels), second), nn.ReLU(inplace=True))


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
