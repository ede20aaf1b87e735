"""What a network is made of, measured: layer table, receptive field, multiply-adds, the assignment's rules."""

import math
import operator
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import fx, nn

from utils.engine import graphs
from utils.engine.graphs import called, kind_of, shape_of, trace

MAX_PARAMETERS = 200_000  # and strictly fewer
MIN_RECEPTIVE_FIELD = 44  # and strictly more

OF_SOME = ["kernel", "stride", "padding", "dilation", "groups"]  # columns of the layer table that not every layer has
OF_ALL = ["in_channels", "out_channels", "in_size", "out_size", "receptive_field", "jump", "parameters", "macs"]


# ---------------------------------------------------------------- the layer table


def layer_table(model: nn.Module, input_size: Sequence[int] = (3, 32, 32)) -> pd.DataFrame:
    """One row a layer in forward order, additions of residual branches included.

    Sizes are pixels of one side (a vector has size 1); receptive field and jump (the distance of two neighbouring
    outputs) are pixels of the input, computed as in Araujo et al., "Computing Receptive Fields of Convolutional Neural
    Networks", Distill 2019: r += (kernel - 1) * dilation * jump, then jump *= stride; where branches meet, the larger
    field counts, and neither padding nor what a norm averages is counted as seen. macs are multiply-adds of
    convolutions and linear layers for one image. What is not known of a layer is empty, as the field of all behind it.
    Of a network whose forward cannot be traced, such as one with a Python `if` on a tensor, only the parameters are
    known, and a printed line says so. NetworkError if it does not take an image of `input_size`.
    """
    traced = trace(model, input_size)
    if traced is None:  # the modules that have parameters of their own
        known = {name: (m, sum(p.numel() for p in m.parameters(recurse=False))) for name, m in model.named_modules()}
        rows = [dict(layer=name, kind=type(m).__name__, parameters=n) for name, (m, n) in known.items() if n]
        rows = pd.DataFrame(rows, columns=["layer", "kind", *OF_SOME, *OF_ALL])
        return rows.astype(dict.fromkeys(OF_SOME + OF_ALL, "Int64"))
    rows = pd.DataFrame(_rows_of_graph(traced), columns=["layer", "kind", *OF_SOME, *OF_ALL])
    return rows.astype(dict.fromkeys([*OF_SOME, *OF_ALL[:2]], "Int64"))


def _rows_of_graph(traced: fx.GraphModule) -> list[dict]:
    modules, counted = dict(traced.named_modules()), set()
    field: dict[fx.Node, tuple[float, float]] = {}  # node -> receptive field, jump; nan: not known
    rows = []
    for node in traced.graph.nodes:
        sources = node.all_input_nodes
        rf, jump = np.max([field[source] for source in sources] or [graphs.WEIGHT], axis=0)  # nan, if one is nan
        rf, jump = (1, 1) if node.op == "placeholder" else (rf, jump)
        if node.op == "call_module":
            module = modules[node.target]
            row = _row(node.target, module, (sources or [node])[0], node, rf, jump)
            rf, jump = row["receptive_field"], row["jump"]
            row["parameters"] = sum(p.numel() for p in module.parameters() if p not in counted)  # not used once more
            counted |= set(module.parameters())
            rows.append(row)
        elif node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add) and shape_of(node):
            rows.append(_row(node.name, None, sources[0], node, rf, jump))
        elif node.op in ("call_function", "call_method"):
            rf, jump = graphs.seen_by(node, field, rf, jump)
            if any(part in called(node) for part in graphs.MULTIPLYING):
                rows.append(_row(node.name, None, sources[0], node, rf, jump) | dict(kind=called(node), macs=None))
        field[node] = rf, jump
    return rows


def _side(size: int | tuple[int, ...]) -> float:
    """The side of a square kernel, stride or padding; nan if it is none."""
    return size if isinstance(size, int) else size[0] if len(set(size)) == 1 else math.nan


def _row(name: str, module: nn.Module | None, source: fx.Node, node: fx.Node, rf: int, jump: int) -> dict:
    before, after = shape_of(source), shape_of(node)
    in_channels, out_channels = (s[1] if len(s) > 1 else None for s in (before, after))
    in_size, out_size = (s[-1] if len(s) == 4 else 1 for s in (before, after))
    kernel = stride = padding = dilation = groups = None
    macs, rf = 0, rf + (before[-1] - 1) * jump if len(before) == 4 and 0 < len(after) < 4 else rf  # flattened
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, of_kernel = (_side(getattr(module, key, 1)) for key in ("kernel_size", "stride", "dilation"))
        rf, jump = rf + (kernel - 1) * of_kernel * jump, jump * stride
        in_words = {"same": (kernel - 1) * of_kernel // 2, "valid": 0}
        padding = in_words[module.padding] if isinstance(module.padding, str) else _side(module.padding)
        if getattr(module, "padding_mode", "") == "circular":
            rf = jump = math.nan  # it sees the other side, too
        if isinstance(module, nn.Conv2d):
            dilation, groups, macs = of_kernel, module.groups, module.weight.numel() * math.prod(after) // after[1]
    elif isinstance(module, nn.Linear):
        in_channels, out_channels, macs = *module.weight.shape[::-1], module.weight.numel() * math.prod(after[:-1])
        rf, jump = (rf, jump) if len(before) <= 2 else (math.nan, math.nan)  # it may mix positions
    elif isinstance(module, nn.modules.pooling._AdaptiveAvgPoolNd | nn.modules.pooling._AdaptiveMaxPoolNd):
        rf += (in_size - 1) * jump if out_size == 1 else math.nan  # one over the whole map sees all positions
    elif module is not None and ("Pad" not in kind_of(module) or "Circular" in kind_of(module)):
        macs = None if any(p.ndim > 1 for p in module.parameters()) and "Norm" not in kind_of(module) else 0
        mixes = len(after) > 2 and "Softmax" in kind_of(module) and getattr(module, "dim", 1) != 1
        moved = len(after) == 4 and before[2:] != after[2:] and (len(before) == 4 or after[2:] != (1, 1))
        if macs is None or mixes or moved:
            rf = jump = math.nan  # it is not known what it sees
    known = dict(layer=name.removeprefix("layers."), kind="add" if module is None else kind_of(module))
    known |= dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    known |= dict(in_channels=in_channels, out_channels=out_channels, in_size=in_size, out_size=out_size)
    return known | dict(receptive_field=rf, jump=jump, parameters=0, macs=macs)


def receptive_field(table: pd.DataFrame) -> int | None:
    """In pixels, the largest of a convolution on a map, before the average sees everything; None if not known."""
    fields = table[table.kind.str.contains("conv", case=False) & (table.in_size > 1)].receptive_field  # no gate's
    return None if fields.empty or table.receptive_field.isna().any() else int(fields.max())


def totals(model: nn.Module, table: pd.DataFrame | None = None) -> dict[str, int | None]:
    """parameters, macs and receptive_field of the network, whose layer table may be handed over; None for what cannot
    be known without a trace."""
    table = layer_table(model) if table is None else table
    parameters = sum(p.numel() for p in model.parameters())
    macs = None if table.macs.isna().any() else int(table.macs.sum())
    return dict(parameters=parameters, macs=macs, receptive_field=receptive_field(table))


def short_names(paths: pd.Series) -> pd.Series:
    """c1_1 for c1_1.conv, c2_2 pointwise (2) for c2_2.0.layers.1.pointwise: no steps on the way that say nothing."""
    names = paths.str.replace(r"\.(\d+|layers|conv)(?=\.|$)", "", regex=True).str.replace(".", " ")
    number = (names.groupby(names).cumcount() + 1).astype(str)
    return names.mask(names.duplicated(keep=False), names + " (" + number + ")")


# ---------------------------------------------------------------- the rules


def rules(model: nn.Module) -> pd.DataFrame:
    """The assignment's rules for the network: columns `rule`, `found`, `passed`."""
    traced = trace(model)
    parameters = sum(p.numel() for p in model.parameters())
    few = (f"fewer than {MAX_PARAMETERS:,} parameters", f"{parameters:,}", parameters < MAX_PARAMETERS)
    if traced is None:
        found = [("the other rules", "cannot be told without a trace", False), few]
        return pd.DataFrame(found, columns=["rule", "found", "passed"])
    table = layer_table(model)
    convs = table[table.kind.str.contains("conv", case=False)]
    hidden = convs[["kernel", "stride", "dilation"]].isna().any(axis=None)
    averages, pools = graphs.poolings(traced)
    strided = convs[convs.stride > 1]
    separable = convs[convs.layer.isin(graphs.separable_layers(traced))]
    dilated = convs[(convs.dilation > 1) & (convs.kernel > 1)]
    classes = (shape_of(list(traced.graph.nodes)[-1]) or [0])[-1]
    field = receptive_field(table)

    def names(rows: pd.DataFrame) -> str:
        few = len(rows) <= 4  # beyond that their blocks, which still fit into a line
        shown = short_names(convs.layer)[rows.index] if few else rows.layer.str.split(".").str[0].unique()
        return ", ".join(shown) or ("not known" if hidden else "none")

    strides = " and ".join(f"stride {stride} at {names(rows)}" for stride, rows in strided.groupby("stride"))
    downsampling = strides or ("strides not known" if hidden else "no strides")
    found = [
        ("ten classes", f"{classes} outputs", classes == 10),
        ("no pooling between the blocks", ", ".join(pools) or f"none; {downsampling}", not pools),
        (f"receptive field > {MIN_RECEPTIVE_FIELD}", str(field or "not known"), (field or 0) > MIN_RECEPTIVE_FIELD),
        ("depthwise separable convolution", names(separable), len(separable) > 0),
        ("dilated convolution", names(dilated), len(dilated) > 0),
        ("global average pooling", ", ".join(averages) or "none", len(averages) > 0),
        few,
    ]
    return pd.DataFrame(found, columns=["rule", "found", "passed"])


def check_rules(model: nn.Module) -> bool:
    """Print each rule of the assignment with what was found; True if the network passes all."""
    table = rules(model)
    for row in table.itertuples():
        print(f"{'pass' if row.passed else 'FAIL'}  {row.rule:<34} {row.found}")
    return bool(table.passed.all())
