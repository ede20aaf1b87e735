"""What the networks are built of; each takes and returns float tensors (N, C, H, W)."""

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


def separable(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 then pointwise 1x1 convolution, both without bias; BatchNorm2d, ReLU, Dropout.

    Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017.
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(
                in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False
            ),
            pointwise=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
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


@torch.no_grad()
def whiten(layer: nn.Conv2d, images: torch.Tensor) -> None:
    """Start `layer` with the principal directions of the patches it will see, scaled to equal variance, with both signs.

    The channels then say different things from the first step on; random filters of natural images mostly repeat
    their brightness.

    Args:
        layer: reads the images, without stride; its weights are overwritten, the strongest directions first.
        images: normalised float (N, 3, H, W).

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.
    """
    size = layer.kernel_size[0]
    patches = images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * size * size)
    patches = patches.double() - patches.double().mean(0)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + 1e-2).sqrt()).T.flip(0)[: layer.out_channels // 2]
    filters = torch.cat([filters, -filters]).reshape(-1, *layer.weight.shape[1:])
    # a unit response is far above what PyTorch's own start gives; the norm behind it does not mind, weight decay does
    layer.weight[: len(filters)] = filters * layer.weight.std() / filters.std()
