"""A network's forward as a graph: what calls what, with which shapes, and what that says beyond a table of layers."""

import inspect
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.parameter import is_lazy

from utils.errors import NOT_ITS_OWN, NetworkError, first_line, of_a_network, printable

REDUCTIONS = ("mean", "max", "min", "sum", "median")  # of a map cut into windows
POOLS = ("max_pool", "avg_pool", "lp_pool", "MaxPool", "AvgPool", "LPPool")
SCALING = ("interpolate", "Upsample")  # which pools where it makes a map smaller
# What may move or mix positions:
MIXING = """pool roll flip rot90 cum fft index sort softmax transpose permute swap move gather scatter topk take adjoint
    strided""".split()
WEIGHT = (0, 0)  # the field and jump of what does not come from the image
MULTIPLYING = "conv linear matmul mm bmm addmm einsum dot inner attention".split()  # nobody knows how often
AVERAGES = ("mean", "avg_pool", "AvgPool")  # what may be a global average


class _Tracer(fx.Tracer):
    """Takes a layer that forward makes anew, such as nn.ReLU()(x), for a function, and one of a class of one's own that
    computes what PyTorch's does for PyTorch's."""

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if any(m is module for module in self.root.modules()):
            return super().call_module(m, forward, args, kwargs)
        if next(m.parameters(), None) is not None:
            raise NetworkError(NOT_ITS_OWN)
        return forward(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        methods = [getattr(type(m), name, nn.Module.forward) for name in ("forward", "_conv_forward")]
        alike = all(method.__module__.startswith("torch.nn") for method in methods) and not any(m.children())
        return alike or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, input_size: Sequence[int] = (3, 32, 32)) -> fx.GraphModule | None:
    """The network's graph with the shape of every tensor, from one real forward pass; None if it cannot be traced.
    NetworkError if it does not take such an image, or is none."""
    if not isinstance(model, nn.Module):
        what = printable(repr(model), 100)
        raise NetworkError(f"This is asked of a network, and {what} is none; if it builds one, call it.")
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise NetworkError("The network's lazy layers have no sizes yet; build it by runs.build(network).")
    image = torch.zeros(1, *input_size, device=next((p.device for p in model.parameters()), None))
    with torch.no_grad(), of_a_network(f"answer an image of {'x'.join(map(str, input_size))}"):
        model = deepcopy(model).eval()  # a forward may change it
        model(image)
        try:
            given = {name: part.default for name, part in inspect.signature(model.forward).parameters.items()}
            given = {name: value for name, value in given.items() if type(value) in (type(None), bool, int, float, str)}
            traced = fx.GraphModule(model, _Tracer().trace(model, given))  # `if targets is None` is decided by these
        except NetworkError:
            raise
        except Exception as error:  # tracing fails in many ways
            why = first_line(error)
            print(f"{type(model).__name__}.forward cannot be traced ({why}): only the parameters can be told.")
            return None
        traced.graph.eliminate_dead_code(lambda node: has_an_effect(node, traced))
        ShapeProp(traced).propagate(image)
        return traced


def has_an_effect(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether it does more than compute something: takes the image, returns, or changes a tensor in place."""
    module = traced.get_submodule(node.target) if node.op == "call_module" else None
    in_place = getattr(module, "inplace", False) or node.kwargs.get("inplace") or called(node).endswith("_")
    return bool(in_place) or node.op in ("placeholder", "output") or called(node) == "setitem"


def shape_of(node: fx.Node) -> Sequence[int]:
    return getattr(node.meta.get("tensor_meta"), "shape", ())  # none of what is no tensor


def called(node: fx.Node) -> str:
    """What a node that calls a function or a method calls."""
    return node.target if node.op == "call_method" else getattr(node.target, "__name__", "")


def kind_of(module: nn.Module) -> str:
    """The name of its class, or of PyTorch's that it is of."""
    names = [(c.__name__, c.__module__) for c in type(module).__mro__]  # weight_norm makes a class of its own
    return next(name for name, file in names if file.startswith("torch") and file != "torch.nn.utils.parametrize")


def seen_by(node: fx.Node, field: dict, rf: float, jump: float) -> tuple[float, float]:
    """Receptive field and jump behind a function whose sources have this `field`, at most `rf` and `jump`; nan if its
    kernel and stride are not known."""
    name, shape, sources = called(node), shape_of(node), node.all_input_nodes
    maps = [n for n in sources if len(shape_of(n)) == 4 and (field[n] != WEIGHT or shape_of(n)[2:] != (1, 1))]
    sizes = [shape_of(n)[2:] for n in (*maps, node) if len(shape_of(n)) == 4]  # without weights that scale maps
    if maps and (0 < len(shape) < 4 or (any(a in name for a in AVERAGES) and sizes[-1:] == [(1, 1)])):
        return rf + (sizes[0][-1] - 1) * jump, jump  # a flattened map and a global average see all positions
    chosen = name == "getitem" and (sources[1:] or "[" in str(node.args[1])) or name == "getattr" and shape  # x.mT
    if name == "pad":
        sizes, chosen = [], "circular" in (*node.args, *node.kwargs.values())
    elif "mul" in name:
        sizes = [size for size in sizes if size != (1, 1)]  # a gate's, which has seen the whole map
    unseen = not maps and len(shape) == 4 and shape[2:] != (1, 1) and (rf, jump) != WEIGHT
    mixed = chosen or len(set(sizes)) > 1 or any(part in name for part in (*MIXING, *MULTIPLYING))
    return (math.nan, math.nan) if mixed or unseen else (rf, jump)


def separable_layers(traced: fx.GraphModule) -> set[str]:
    """The depthwise layers whose output a pointwise layer reads, or the other way round; norms, activations and gates
    may lie between, but no addition."""
    came: dict[fx.Node, tuple[str, frozenset]] = {}  # node -> kind and names of the layers whose values it carries on
    found, nothing = set(), ("", frozenset())
    for node in traced.graph.nodes:
        count, module = math.prod(shape_of(node)), node.op == "call_module" and traced.get_submodule(node.target)
        layer = isinstance(module, nn.Conv2d | nn.Linear)
        sources = [n for n in node.all_input_nodes if layer or math.prod(shape_of(n)) == count]
        before = came.get(sources[0], nothing) if sources else nothing
        if layer:
            kernel, groups = max(getattr(module, "kernel_size", (1,))), getattr(module, "groups", 1)
            kind = "pointwise" if kernel == groups == 1 and len(shape_of(node)) == 4 else ""
            kind = "depthwise" if kernel > 1 and groups == module.in_channels > 1 else kind
            came[node] = kind, frozenset([node.target.removeprefix("layers.")])
            kinds = dict([before, came[node]])
            found |= kinds["depthwise"] if {"depthwise", "pointwise"} == kinds.keys() else set()
        elif len(node.all_input_nodes) == 1 or "mul" in called(node):
            came[node] = before
        elif "cat" in called(node) and len({came.get(n, nothing)[0] for n in node.all_input_nodes}) == 1:
            kind = came.get(node.all_input_nodes[0], nothing)[0]
            came[node] = kind, frozenset().union(*(came.get(n, nothing)[1] for n in node.all_input_nodes))
    return found


def _kernel(node: fx.Node, traced: fx.GraphModule) -> int | None:
    """The smaller side of the window of a pooling that has one."""
    if node.op == "call_module":
        size = getattr(traced.get_submodule(node.target), "kernel_size", None)
    else:
        windowed = "pool2d" in called(node) and "adaptive" not in called(node)
        size = node.kwargs.get("kernel_size", node.args[1] if len(node.args) > 1 else None) if windowed else None
    sides = size if isinstance(size, tuple | list) else [size]
    return min(sides) if all(isinstance(side, int) for side in sides) else None  # such as x.size(2), which is not known


def poolings(traced: fx.GraphModule) -> tuple[list[str], list[str]]:
    """The names of the global averages that the classifier reads, and of all poolings that leave a map."""
    read, averages, pools = {list(traced.graph.nodes)[-1]}, [], []
    for node in reversed(traced.graph.nodes):
        kind, name, single = called(node), node.name, shape_of(node) and math.prod(shape_of(node)[2:]) == 1
        if node.op == "call_module":
            kind, name = kind_of(traced.get_submodule(node.target)), node.target.removeprefix("layers.")
        if single and node in read:
            read |= set(node.all_input_nodes)
        source = (*map(shape_of, node.all_input_nodes), ())[0]
        before = (*(n for n in node.all_input_nodes[:1] for n in n.all_input_nodes), node)[0]
        of_a_map = len(source) == 4 or (len(source) == 3 and len(shape_of(before)) == 4)  # or of its positions in a row
        means = of_a_map and source[:1] == shape_of(node)[:1] and any(average in kind for average in AVERAGES)
        smaller, kernel = math.prod(shape_of(node)) < math.prod(source), _kernel(node, traced)
        windows = len(source) > 4 and any(word in kind for word in REDUCTIONS)
        reduces = any(pool in kind for pool in POOLS) or smaller and (kind in SCALING or windows)
        if single and means and (kernel is None or kernel >= max(source[2:])):
            averages += [name] if node in read else []  # a gate's is not: behind it is a map once more
        elif reduces and not (single and kernel is None):  # of a whole map, too
            pools.append(name)
    return averages[::-1], pools[::-1]
