"""Networks that every reader knows, trained with our recipes; over the assignment's limit, and marked so.

`python -m utils train baselines/resnet_20` trains one as any other; what is published of them is in results/baselines.
"""

import torch
from torch import nn

from utils import models
from utils.engine.records import Network
from utils.experiments import EXPERIMENTS, RECIPE, Experiment, experiment
from utils.models import ConvNet, conv


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(in_channels, out_channels, stride=stride), conv(out_channels, out_channels, relu=False)
        )
        project = conv(in_channels, out_channels, kernel=1, stride=stride, padding=0, relu=False)
        self.shortcut = nn.Identity() if in_channels == out_channels else project
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.shortcut(x) + self.layers(x))


def resnet_20() -> ConvNet:
    """20 layers in three stages, 272,474 parameters; a shortcut that changes shape is a 1x1 convolution.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2 (zeros there).
    """
    stages = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
    blocks = {
        f"c{stage}_{number}": Block(before if number == 1 else channels, channels, stride if number == 1 else 1)
        for stage, (before, channels, stride) in enumerate(stages, 2)
        for number in (1, 2, 3)
    }
    return ConvNet(64, c1=conv(3, 16), **blocks)


BASELINES = {
    "baselines/resnet_20_long": Experiment(EXPERIMENTS["accurate"].recipe),
    "baselines/resnet_20": Experiment(RECIPE),
}


def chosen(name: str) -> tuple[Network, Experiment]:
    """The network `name` of `models`, or a baseline, and how it is trained; RunError if there is none."""
    if name in BASELINES:
        return resnet_20, BASELINES[name]
    row = experiment(name)
    return models.networks()[name], row
