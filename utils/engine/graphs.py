"""A network's forward as a graph: what calls what, with which shapes, and what that says beyond a table of layers."""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from utils.errors import NOT_ITS_OWN, NetworkError, first_line, of_a_network

POOLS = ("amax", "max_pool", "avg_pool", "lp_pool", "MaxPool", "AvgPool", "LPPool")
SCALING = ("interpolate", "Upsample")  # which pools where it makes a map smaller
AVERAGES = ("mean", "avg_pool", "AvgPool")  # what may be a global average


def trace(model: nn.Module, input_size: Sequence[int]) -> fx.GraphModule | None:
    """The network's graph with the shape of every tensor, from one real forward pass; None if it cannot be traced."""
    image = torch.zeros(1, *input_size, device=next((p.device for p in model.parameters()), None))
    with torch.no_grad(), of_a_network(f"answer an image of {'x'.join(map(str, input_size))}"):
        model = deepcopy(model).eval()  # a forward may change it
        model(image)
        try:
            traced = fx.symbolic_trace(model)
        except Exception as error:  # tracing fails in many ways, of which one is the network's fault
            if "not installed as a submodule" in (why := first_line(error)):
                raise NetworkError(NOT_ITS_OWN) from None
            print(f"{type(model).__name__}.forward cannot be traced ({why}): only the parameters can be told.")
            return None
        ShapeProp(traced).propagate(image)
        return traced


def shape_of(node: fx.Node) -> Sequence[int]:
    return getattr(node.meta.get("tensor_meta"), "shape", ())  # none of what is no tensor


def called(node: fx.Node) -> str:
    """What a node that calls a function or a method calls."""
    return node.target if node.op == "call_method" else getattr(node.target, "__name__", "")


def separable_layers(traced: fx.GraphModule) -> set[str]:
    """The depthwise layers whose output a pointwise layer reads, or the other way round; norms, activations and gates
    may lie between, but no addition."""
    came: dict[fx.Node, tuple[str, str]] = {}  # node -> kind and name of the layer whose values it carries on
    found = set()
    for node in traced.graph.nodes:
        count, module = math.prod(shape_of(node)), node.op == "call_module" and traced.get_submodule(node.target)
        layer = isinstance(module, nn.Conv2d | nn.Linear)
        sources = [n for n in node.all_input_nodes if layer or math.prod(shape_of(n)) == count]
        before = came.get(sources[0], ("", "")) if sources else ("", "")
        if layer:
            kernel, groups = max(getattr(module, "kernel_size", (1,))), getattr(module, "groups", 1)
            kind = "pointwise" if kernel == groups == 1 and len(shape_of(node)) == 4 else ""
            kind = "depthwise" if kernel > 1 and groups == module.in_channels > 1 else kind
            came[node] = kind, node.target.removeprefix("layers.")
            kinds = dict([before, came[node]])
            found |= {kinds["depthwise"]} if {"depthwise", "pointwise"} == kinds.keys() else set()
        elif len(node.all_input_nodes) == 1 or "mul" in called(node):
            came[node] = before
    return found


def poolings(traced: fx.GraphModule) -> tuple[list[str], list[str]]:
    """The names of the global averages that the classifier reads, and of all poolings that leave a map."""
    read, averages, pools = {list(traced.graph.nodes)[-1]}, [], []
    for node in reversed(traced.graph.nodes):
        kind, name, single = called(node), node.name, math.prod(shape_of(node)[2:]) == 1
        if node.op == "call_module":
            kind, name = type(traced.get_submodule(node.target)).__name__, node.target.removeprefix("layers.")
        if single and node in read:
            read |= set(node.all_input_nodes)
        source = (*map(shape_of, node.all_input_nodes), ())[0]
        means = len(source) > 2 and source[:1] == shape_of(node)[:1] and any(average in kind for average in AVERAGES)
        if single and means:
            averages += [name] if node in read else []  # a gate's is not: behind it is a map once more
        elif any(pool in kind for pool in POOLS) or (kind in SCALING and math.prod(shape_of(node)) < math.prod(source)):
            pools.append(name)
    return averages[::-1], pools[::-1]
