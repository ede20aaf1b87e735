"""The networks; `build_model("experiment_5")` returns one of them.

Every network is C1-C2-C3-C4-O: four convolution blocks and an output block, no pooling but the
global average at the end. To try a network of your own, write one more function beside
`experiment_5` and enter it in NETWORKS.
"""

from torch import nn

from utils.blocks import ConvNet, bsconv, conv, conv1x1, conv_pair, separable, separable_pair


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


def small(
    c1: int = 16, c2: int = 32, c3: int = 32, n1: int = 1, n2: int = 2, n3: int = 2, blueprint: int = 1
) -> ConvNet:
    """Separable convolutions only, two and two in residual pairs; blueprint=0 takes the ordinary separable ones."""
    layer = bsconv if blueprint else separable
    return ConvNet(
        c3,
        c1_1=conv(3, c1),
        **{f"c1_{i + 1}": separable_pair(layer, c1) for i in range(1, n1 + 1)},
        c2_1=layer(c1, c2, stride=2),
        **{f"c2_{i + 1}": separable_pair(layer, c2) for i in range(1, n2 + 1)},
        c3_1=layer(c2, c3, stride=2),
        **{f"c3_{i + 1}": separable_pair(layer, c3) for i in range(1, n3)},
        c4_1=separable_pair(layer, c3, dilation=2),
    )


def tiny() -> ConvNet:
    """`small` with fewer channels: how far down it goes."""
    return small(c2=24, c3=24)


def accurate(c1: int = 32, c2: int = 96, c3: int = 128, n1: int = 1, n2: int = 3, n3: int = 2) -> ConvNet:
    """Ordinary convolutions where channels are few and pixels many, separable ones where it is the other way round."""
    return ConvNet(
        c3,
        c1_1=conv(3, c1),
        **{f"c1_{i + 1}": conv_pair(c1) for i in range(1, n1 + 1)},
        c2_1=conv(c1, c2, stride=2),
        **{f"c2_{i + 1}": separable_pair(bsconv, c2) for i in range(1, n2 + 1)},
        c3_1=bsconv(c2, c3, stride=2),
        **{f"c3_{i + 1}": separable_pair(bsconv, c3) for i in range(1, n3)},
        c4_1=separable_pair(bsconv, c3, dilation=2),
    )


def strideless(c: int = 16, c5: int = 64, n: int = 2) -> ConvNet:
    """Every layer sees 32x32 pixels; where others halve the image, the dilation doubles."""
    blocks = {f"c{k + 1}": 2**k for k in range(4)}
    return ConvNet(
        c5,
        c1_1=conv(3, c),
        **{f"{block}_{i + 2}": conv_pair(c, dilation) for block, dilation in blocks.items() for i in range(n)},
        c5=separable(c, c5),
    )


NETWORKS = {
    f.__name__: f
    for f in (experiment_1, experiment_2, experiment_3, experiment_4, experiment_5, small, tiny, accurate, strideless)
}
# Other recipes for the same networks:
NETWORKS |= {"experiment_5_long": experiment_5, "experiment_5_unaugmented": experiment_5, "fast": accurate}


def build_model(name: str, dropout: float = 0.0, **arguments: int) -> nn.Module:
    """The network `name` with freshly initialised weights, on the CPU.

    Args:
        name: a key of NETWORKS, such as "experiment_5".
        dropout: probability of every Dropout layer; 0 costs nothing, the layer then passes its input on.
        **arguments: of the network's function, other than its defaults.

    Raises:
        KeyError: if there is no such network.
    """
    if name not in NETWORKS:
        raise KeyError(f"no network named {name!r}; there are {', '.join(NETWORKS)}")
    model = NETWORKS[name](**arguments)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model
