"""What a network is made of, measured: layer table, receptive field, multiply-adds, the assignment's rules."""

import operator
from collections.abc import Sequence

import pandas as pd
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

MAX_PARAMETERS = 200_000  # and strictly fewer
MIN_RECEPTIVE_FIELD = 44  # and strictly more

POOLS = ("max_pool", "avg_pool", "lp_pool", "MaxPool", "AvgPool", "LPPool")


def _trace(model: nn.Module, input_size: Sequence[int]) -> fx.GraphModule:
    """The network's graph with the shape of every tensor, from one real forward pass in eval mode."""
    traced = fx.symbolic_trace(model)
    was_training = traced.training
    traced.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, *input_size, device=device))
    traced.train(was_training)
    model.train(was_training)
    return traced


def layer_table(model: nn.Module, input_size: Sequence[int] = (3, 32, 32)) -> pd.DataFrame:
    """One row a layer in forward order, additions of residual branches included.

    Sizes are pixels of one side (a vector has size 1); receptive field and jump (the distance of two
    neighbouring outputs) are pixels of the input, computed as in Araujo et al., "Computing Receptive
    Fields of Convolutional Neural Networks", Distill 2019: r += (kernel - 1) * dilation * jump, then
    jump *= stride; where branches meet, the larger field counts. Padding is not counted as seen image.
    macs are multiply-adds of convolutions and linear layers for one image.
    """
    traced = _trace(model, input_size)
    modules = dict(traced.named_modules())
    field: dict[fx.Node, tuple[int, int]] = {}  # node -> receptive field, jump
    rows = []
    for node in traced.graph.nodes:
        sources = node.all_input_nodes
        rf, jump = (max(field[s][i] for s in sources) for i in (0, 1)) if sources else (1, 1)
        if node.op == "call_module":
            module = modules[node.target]
            row = _row(node.target, module, sources[0], node, rf, jump)
            rf, jump = row["receptive_field"], row["jump"]
            rows.append(row)
        elif node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add):
            rows.append(_row(node.name, None, sources[0], node, rf, jump))
        field[node] = rf, jump
    table = pd.DataFrame(rows)
    integers = ["kernel", "stride", "padding", "dilation", "groups"]
    table[integers] = table[integers].astype("Int64")
    return table


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _row(name: str, module: nn.Module | None, source: fx.Node, node: fx.Node, rf: int, jump: int) -> dict:
    before, after = _shape(source), _shape(node)
    in_size, out_size = (s[-1] if len(s) == 4 else 1 for s in (before, after))
    kernel = stride = padding = dilation = groups = None
    macs = 0
    if isinstance(module, nn.Conv2d):
        kernel, stride, dilation, groups = module.kernel_size[0], module.stride[0], module.dilation[0], module.groups
        padding = module.padding[0]
        macs = module.weight.numel() * after[-1] * after[-2]
        rf, jump = rf + (kernel - 1) * dilation * jump, jump * stride
    elif isinstance(module, nn.Linear):
        macs = module.weight.numel()
    elif isinstance(module, nn.modules.pooling._AdaptiveAvgPoolNd):
        rf += (in_size - 1) * jump  # a global average sees all positions
    elif hasattr(module, "kernel_size"):  # any other pooling
        kernel, stride, padding = (
            value if isinstance(value, int) else value[0]
            for value in (module.kernel_size, module.stride, module.padding)
        )
        rf, jump = rf + (kernel - 1) * jump, jump * stride
    return dict(
        layer=name.removeprefix("layers."),
        kind=type(module).__name__ if module is not None else "add",
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        in_channels=before[1],
        out_channels=after[1],
        in_size=in_size,
        out_size=out_size,
        receptive_field=rf,
        jump=jump,
        parameters=sum(p.numel() for p in module.parameters()) if module is not None else 0,
        macs=macs,
    )


def main_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with weights to learn in a convolution or linear layer, and poolings: the table to read."""
    return table[table.kind.str.contains("Conv|Linear|Pool")].set_index("layer")


def receptive_field(table: pd.DataFrame) -> int:
    """Receptive field in pixels of the last convolution, before the global average sees everything."""
    return int(table[table.kind == "Conv2d"].receptive_field.iloc[-1])


def rules(model: nn.Module, input_size: Sequence[int] = (3, 32, 32)) -> pd.DataFrame:
    """The assignment's rules for the network: columns `rule`, `found`, `passed`."""
    traced = _trace(model, input_size)
    table = layer_table(model, input_size)
    convs = table[table.kind == "Conv2d"]
    names = [str(node.target).rsplit(".", 1)[-1] for node in traced.graph.nodes if node.op != "call_module"]
    names += [getattr(node.target, "__name__", "") for node in traced.graph.nodes if node.op == "call_function"]
    pools = [n for n in names if any(p in n for p in POOLS)]
    pools += [r.layer for r in table.itertuples() if any(p in r.kind for p in POOLS) and r.kind != "AdaptiveAvgPool2d"]
    strided = convs[convs.stride > 1]
    depthwise = (convs.groups > 1) & (convs.groups == convs.in_channels) & (convs.kernel > 1)
    pointwise = (convs.kernel == 1) & (convs.groups == 1)
    separable = convs[depthwise & (pointwise.shift(-1, fill_value=False) | pointwise.shift(1, fill_value=False))]
    dilated = convs[(convs.dilation > 1) & (convs.kernel > 1)]
    average = table[(table.kind == "AdaptiveAvgPool2d") & (table.out_size == 1)]
    classes = int(table.out_channels.iloc[-1])
    field, parameters = receptive_field(table), sum(p.numel() for p in model.parameters())

    def layers(rows: pd.DataFrame) -> str:
        few = len(rows) <= 4  # beyond that their blocks, which still fit into a line
        names = rows.layer.str.removesuffix(".conv") if few else rows.layer.str.split(".").str[0].unique()
        return ", ".join(names) or "none"

    downsampling = f"stride 2 at {layers(strided)}" if len(strided) else "no strides"
    found = [
        ("ten classes", f"{classes} outputs", classes == 10),
        ("no pooling between the blocks", ", ".join(pools) or f"none; {downsampling}", not pools),
        (f"receptive field > {MIN_RECEPTIVE_FIELD}", f"{field}", field > MIN_RECEPTIVE_FIELD),
        ("depthwise separable convolution", layers(separable), len(separable) > 0),
        ("dilated convolution", layers(dilated), len(dilated) > 0),
        ("global average pooling", layers(average), len(average) > 0),
        (f"fewer than {MAX_PARAMETERS:,} parameters", f"{parameters:,}", parameters < MAX_PARAMETERS),
    ]
    return pd.DataFrame(found, columns=["rule", "found", "passed"])


def check_rules(model: nn.Module, input_size: Sequence[int] = (3, 32, 32)) -> bool:
    """Print each rule of the assignment with what was found; True if the network passes all."""
    table = rules(model, input_size)
    for row in table.itertuples():
        print(f"{'pass' if row.passed else 'FAIL'}  {row.rule:<34} {row.found}")
    return bool(table.passed.all())
