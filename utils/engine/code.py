"""The code that trains, as a part of what a run is: whoever changes the loss or a loader sees what that does.

What a network computes is compared on a few images (records.py). Here stands what those may not show: the text of the
files that train, and of the classes and functions of a network. A cell may also put something into their place.
"""

import ast
import dis
import inspect
import linecache
import logging
import re
import secrets
import sys
import textwrap
import warnings
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from enum import Enum, Flag
from functools import cache, cached_property, partial, partialmethod, reduce
from hashlib import sha256
from importlib.util import find_spec, resolve_name
from io import IOBase
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import utils
from utils.engine.checkpoints import rng_from
from utils.errors import RunError, first_line

UTILS = Path(__file__).resolve().parent.parent
TRAINED_BY = """transforms data training runs engine/batches engine/steps engine/speed
    engine/distributed""".split()  # from the images to the weights
# What these import and that is known otherwise (such as the images), or keeps and compares what was trained:
BESIDE = """__init__ errors architecture experiments engine/__init__ engine/checkpoints engine/records engine/code
    cifar10/__init__ cifar10/files cifar10/sources""".split()
COMPUTES = ("torch", "albumentations", "numpy", "cv2")  # the libraries that decide the weights
LIBRARIES = {*COMPUTES, "torchvision", *sys.stdlib_module_names} - {"__main__"}  # and what lies in site-packages
# Digest of a file as it is now -> as it was when published runs were trained. Whoever changes one of these files but
# not what is trained adds a line here, once an epoch of training gave the same weights before and after, bit for bit.
SAME = {
    "e3cd5b37": "a8bafd62",  # training.py: Muon, another optimizer; a teacher; no bar without stderr; first_steps
    "6e6f6ff2": "b9364c7c",  # engine/steps.py: the same
    "e440e5a0": "6477d3ff",  # engine/batches.py: what cannot be handed over ends its worker; few large ones wait
    "9fedf3bc": "afff66b6",  # engine/speed.py: weights of 64 bits
    "68f97624": "a1428291",  # runs.py: a teacher; gradients where a cell switched them off; first_steps; seal
}
BASES = (int, float, complex, str, bytes)  # of numbers and words of the user's own classes
FIXED = (*BASES, type, FunctionType)
PLAIN = (*BASES, bool, type(None))  # which hold nothing
CONTAINERS = (list, tuple, deque, set, frozenset, dict, partial, np.ndarray, torch.Tensor, pd.Series, pd.DataFrame)
# They print little of what they hold:
SILENT = ("torchvision.transforms", "torch.distributions", "torch.autograd.grad_mode")
OF_PARTS = (nn.Module, SimpleNamespace, Namespace)
DEEPEST = 20  # objects in objects: where Python's own limit ends it depends on who calls
ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # where something lies in the memory of this process
USUAL = vars(nn.Module())
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
SHOWING = ("plotting", "report", "serve", "__main__")  # what these say decides no weights
CHANGES = "changes"  # instead of a digest: of a value that a forward changes, such as a counter
EDITED = "{} was edited after it was loaded; restart the kernel, or the program, and it counts."


def code() -> dict[str, str]:
    """What the files TRAINED_BY say, and others of utils/ or of one's own that these import, a digest each; comments,
    docstrings and the breaks of lines do not count; and where a cell put something in the place of what is there, with
    digits that no other run has. RunError as in `refuse_edits`.
    """
    refuse_edits()
    files = {f"{name}.py" if (UTILS / f"{name}.py").is_file() else name: digest for name, digest in told().items()}
    return files | {place: secrets.token_hex(4) for place in replaced()}


def told() -> dict[str, str]:
    """File -> digest, or the one of SAME in its place, of those TRAINED_BY and what they import."""
    digests = {name: _digest(source) for name, source in _reached(TRAINED_BY).items()}
    return {name: SAME.get(digest, digest) for name, digest in digests.items()}


def classes_of(model: nn.Module) -> dict[str, str]:
    """Class, function or value -> digest of what it says: of the classes of a network's modules and the functions that
    these hold, as far as they are of no library, and of the classes, functions, numbers and words that these name;
    CHANGES of what a forward changes. RunError if one of these is not what its file says now, or an iterator."""
    refuse_edits()
    before = _told_by(model)
    images = 100 * torch.sin(torch.arange(7 * 3 * 32 * 32)).reshape(7, 3, 32, 32)  # stronger than any
    with suppress(Exception), torch.random.fork_rng(devices=[]), rng_from(0), torch.no_grad():  # training tells why
        copy = deepcopy(model).cpu()
        for some in (images, images[..., ::2, ::2]):  # a cache may keep something for each size
            for training in (True, False):
                copy.train(training)(some)
    after = _told_by(model)
    alike = {name: before.get(name) == text for name, text in (before | after).items() if name in after}
    return {name: sha256(after[name].encode()).hexdigest()[:8] if same else CHANGES for name, same in alike.items()}


def _told_by(model: nn.Module) -> dict[str, str]:
    said = {}
    held = [part for m in model.modules() for part in (*type(m).__mro__, *vars(m).values())]  # also hooks
    kinds = dict.fromkeys(kind for m in model.modules() for kind in type(m).__mro__ if not _is_of_no_library(kind))
    held += [f for kind in kinds if kind is not nn.Module for f in _functions(kind)]  # which a cell put there
    for m in model.modules():
        _refuse_iterators({f"{type(m).__name__}.{key}": part for key, part in vars(m).items()})
    for name, functions, named in _reach(held):
        for function in functions:
            said.setdefault(name, []).append(_said(function, function.__code__))  # two lambdas share a name
        apart = {name: part for key, value in named.items() for name, part in _apart(key, value).items()}
        _refuse_iterators(apart)
        for key, text in ((key, briefly(part)) for key, part in apart.items()):
            if text and text != key.rpartition(".")[2]:  # of a function or class its own name
                known = said.setdefault(f"{key}, its value", [])
                known += [text] if "<" in key or text not in known else []  # one number, which two classes may name
    return {name: "".join(texts) for name, texts in said.items()}


def _refuse_iterators(named: Mapping[str, Any]) -> None:
    """RunError if one of these values is a generator, or another iterator of a library."""
    for name, value in named.items():
        if isinstance(value, Iterator) and not isinstance(value, IOBase) and not _is_own(type(value).__module__):
            raise RunError(
                f"{name} is an iterator ({type(value).__name__}); what comes next in it is not kept with a network. "
                "Use a list, and count in a buffer."
            )


def _apart(name: str, value: Any) -> dict[str, Any]:
    """What a dict or an object of the user's own holds, by name, so that a counter in it does not hide the rest."""
    plain = _is_of_no_library(type(value)) and not isinstance(value, (nn.Module, Enum, type, *CONTAINERS, *BASES))
    held = value if type(value) is dict else _state(value) if plain else {}
    if not 0 < len(held) <= 100 or not all(isinstance(key, str) for key in held):  # each gets a line in metrics.json
        return {name: value}
    return {name: [type(value), *held], **{f"{name}.{key}": part for key, part in held.items()}}


def _reach(held: list) -> Iterator[tuple[str, list[FunctionType], dict[str, Any]]]:
    """The name of each class and function of no library among these and among what they name, its functions, and what
    it names. RunError as in `_refuse_old`."""
    waiting = [*{id(value): value for value in _own(held)}.values()]  # its class may compare in any way
    for value in waiting:  # which grows
        name, functions = f"{value.__module__}.{value.__qualname__}", _functions(value)
        _refuse_old(functions)
        named = {f"{name}.{key}": part for key, part in _parts(value).items() if not any(part is f for f in functions)}
        found = [item for function in functions for item in _named_by(function).items()]
        for wrapper in _wrapped(value):  # of a library, such as of singledispatch, which holds others of this name
            if wrapper not in functions and inspect.unwrap(wrapper) in functions:
                held = {n: part for n, part in enumerate(_given(wrapper)) if part is not wrapper.__wrapped__}
                held |= {key: part for key, part in vars(wrapper).items() if _is_set(key)}
                found += [(f"{wrapper.__qualname__} ({n})", part) for n, part in held.items()]
        for key, part in found:
            key = f"{value.__module__}.{key}"
            while named.get(key, part) is not part:  # such as of two decorators of one function
                key += "'"
            named[key] = part
        others = _own([*named.values(), *getattr(value, "__mro__", ())])
        waiting += {id(other): other for other in others if all(other is not one for one in waiting)}.values()
        yield name, functions, named


def _named_by(function: FunctionType) -> dict[str, Any]:
    """What a function, with those in it, looks up in its file or in a file of one's own that it imports, such as
    helpers.scale; and what it encloses or has as defaults."""
    codes = _with_inner([function.__code__])
    read = {i.argval for i in _lines(function) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    found = {name: value for name, value in function.__globals__.items() if name in read}
    found = {name: value for name, value in found.items() if not (name.startswith("__") and name.endswith("__"))}
    taken = [name for code in codes for name in code.co_names]  # attributes, too
    imported = {i.argval for i in _lines(function) if i.opname == "IMPORT_NAME"} & {*sys.modules}  # when it is called
    found |= {name: sys.modules[name] for name in imported if _is_own(name)}
    files = [(name, [value]) for name, value in found.items() if inspect.ismodule(value)]
    for name, path in files:  # which grows; files may import each other
        known = vars(path[-1]) if _is_own(path[-1].__name__) else {}
        inner = {f"{name}.{key}": known[key] for key in taken if key in known}
        files += [(key, [*path, part]) for key, part in inner.items() if inspect.ismodule(part) and part not in path]
        found |= inner
    found |= {f"{function.__qualname__}.{key}": part for key, part in vars(function).items() if _is_set(key)}
    return found | {f"{function.__qualname__} ({number})": value for number, value in enumerate(_given(function))}


def _is_set(name: str) -> bool:
    """Whether an attribute of a function may be the user's; torch.compile keeps there where it lies in memory."""
    return name != "__wrapped__" and not name.startswith("_torchdynamo")


def _lines(function: FunctionType) -> Iterator[dis.Instruction]:
    """Its instructions, and those of the functions in it."""
    return (line for code in _with_inner([function.__code__]) for line in dis.get_instructions(code))


def _fixed(function: FunctionType) -> list:
    """Of these the numbers, words, functions and classes, unless it counts with some; a list may be filled later."""
    stored = {i.argval for i in _lines(function) if i.opname == "STORE_DEREF"}
    counts = stored & {*function.__code__.co_freevars}
    return [] if counts else [value for value in _given(function) if isinstance(value, FIXED)]


def _given(function: FunctionType) -> list:
    """What a function has as defaults, and what it encloses."""
    given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it may be empty
            given += [cell.cell_contents] if name != "__class__" else []  # which is for super()
    return given


def briefly(value: Any, known: Mapping[int, tuple[str, Any]] | None = None) -> str | None:
    """Numbers, words, arrays, functions, and lists, dicts and objects of these, as text that is the same in any
    process, whatever a cell set for printing; None for what says of itself only where it lies in memory. Objects that
    are `known`, by where they lie, are only named."""
    with suppress(Exception):  # an object of the user's own fails in any way
        return _briefly(value, dict(known or {}), 0)
    return None


def _part(value: Any, seen: dict[int, tuple[str, Any]], depth: int) -> str | None:
    """As `_briefly`; one part that fails does not hide the others."""
    try:
        return _briefly(value, seen, depth)
    except RecursionError:
        raise
    except Exception:
        return None


def _briefly(value: Any, seen: dict[int, tuple[str, Any]], depth: int) -> str | None:
    inner, kind = partial(_part, seen=seen, depth=depth + 1), type(value).__qualname__
    if _is_of_no_library(value) and "<" in value.__qualname__:  # many have this name
        if id(value) in seen:
            return f"{value.__qualname__} {seen[id(value)][0]}"
        seen[id(value)] = str(len(seen)), value
        functions = _functions(value)
        said = sha256("".join(_said(f, f.__code__) for f in functions).encode()).hexdigest()[:8]
        lines = [i for kind in getattr(value, "__mro__", ()) for f in _functions(kind) for i in _lines(f)]
        counted = {i.argval for i in lines if i.opname == "STORE_ATTR"}
        constants = [part for key, part in _parts(value).items() if isinstance(part, FIXED) and key not in counted]
        constants = [part for part in constants if part not in functions]
        given = [*map(_fixed, functions), *getattr(value, "__bases__", ()), *constants]
        return f"{value.__qualname__} {said} {inner(given)}"
    if inspect.isclass(value) or type(value) in (bool, int, float, str, type(None)):
        return value.__qualname__ if inspect.isclass(value) else repr(value)
    own = _is_of_no_library(type(value))
    if inspect.isroutine(value) and hasattr(value, "__qualname__") and not own:
        owner = getattr(value, "__self__", None)
        of_none = owner is None or inspect.isclass(owner) or inspect.ismodule(owner)
        return value.__qualname__ if of_none else f"{value.__qualname__} of {inner(owner)}"
    if isinstance(value, Enum):
        more = {key: part for key, part in _state(value).items() if not key.endswith("_")}
        named = kind if isinstance(value, Flag) else f"{kind}.{value.name}"
        return f"{named} {inner(value.value)}{inner(more) if more else ''}"
    of_parts = own or str(type(value).__module__).startswith(SILENT) or isinstance(value, OF_PARTS)
    if of_parts or isinstance(value, list | dict | deque):  # what may hold itself
        if id(value) in seen or depth > DEEPEST:
            return f"{kind} {seen[id(value)][0]}" if id(value) in seen else f"a {kind}"
        seen[id(value)] = str(len(seen)), value
    if not of_parts:
        return _content(value, inner)
    if isinstance(value, nn.Module):
        kept = [*value.buffers(), *(p for p in value.parameters() if not p.requires_grad)]
        held = [held for module in value.modules() if (held := attributes(module))]
        return f"{ADDRESS.sub('', repr(value))} {inner([*held, *kept])}"
    # What a class of the user's own prints may leave things out:
    content = next((basis.__repr__(value) for basis in BASES if isinstance(value, basis)), None)
    content = _content(value, inner) if isinstance(value, CONTAINERS) else content
    state = {} if isinstance(value, pd.DataFrame | pd.Series) else _state(value)  # which is how pandas keeps it
    return f"{kind} {content or ''}{inner(state)}"


def _content(value: Any, inner: Callable[[Any], str | None]) -> str | None:
    parts = lambda values, told=inner: [told(part) or f"a {type(part).__qualname__}" for part in values]  # noqa: E731
    if isinstance(value, partial | partialmethod):
        return inner([value.func, value.args, value.keywords])
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, pd.Series | pd.DataFrame | pd.Index):  # of long ones only the ends are printed
        if isinstance(value, pd.DataFrame):
            return inner([[*value.columns], *(column for _, column in value.items())])
        return inner([value.name, value.to_numpy(), *([value.index] if isinstance(value, pd.Series) else [])])
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        return inner(value.tolist())
    if isinstance(value, np.ndarray) and value.dtype.kind in "biu":  # an order of many differs little from another
        return f"{value.dtype} {[*value.shape]} {sha256(np.ascontiguousarray(value)).hexdigest()[:8]}"
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex() or value.is_quantized):
        return inner(value.detach().cpu().to_dense().as_subclass(torch.Tensor).numpy())
    if isinstance(value, torch.Tensor | np.ndarray):
        plain = value  # a sparse one can be no other class, an array no other order
        if isinstance(value, np.ndarray):
            plain = torch.tensor(np.array(value, complex if value.dtype.kind == "c" else float))
        elif type(value) is not torch.Tensor:
            plain = value.as_subclass(torch.Tensor)
        found = size_of(plain)
        share = lambda part, size: round(part / size, 3) + 0.0 if size else 0.0  # noqa: E731 (where 0, digits are noise)
        told = [(size, [share(mean, size), share(part, size)]) for mean, size, part in (found[:3], found[3:])]
        return f"{value.dtype} {[*value.shape]} {told}"
    if isinstance(value, list | tuple | deque):
        longest = getattr(value, "maxlen", None)  # of a queue
        return f"[{', '.join(parts(value))}]{'' if longest is None else f' of {longest}'}"
    if isinstance(value, set | frozenset):
        apart = lambda part: inner(part, seen={**inner.keywords["seen"]})  # noqa: E731 (their order is another each time)
        return f"{{{', '.join(sorted(parts(value, apart)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(map(': '.join, zip(parts(value), parts(value.values()), strict=True)))}}}"
    if inspect.ismodule(value) or isinstance(value, logging.Logger):
        return None
    text = repr(value)
    return None if ADDRESS.search(text) else text


def attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside its parameters, buffers and children and does not print, by name; and its hooks."""
    silent = type(module).extra_repr is nn.Module.extra_repr  # such as nn.MultiheadAttention
    shown = not silent and type(module).__module__.partition(".")[0] == "torch"
    hooks = [hook for key in HOOKS for hook in vars(module).get(key, {}).values()]
    found = {key: value for key, value in vars(module).items() if key not in USUAL}
    if shown:  # but for a number that somebody else put there
        inits = [getattr(base.__init__, "__code__", None) for base in type(module).__mro__]
        usual = {name for init in inits for name in getattr(init, "co_names", ())}
        found = {key: value for key, value in found.items() if isinstance(value, BASES) and key not in usual}
    return found | ({"hooks": hooks} if hooks else {})


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, also where its class has slots for them."""
    found = {}
    for name, slot in (item for base in type(value).__mro__ for item in vars(base).items()):
        if inspect.ismemberdescriptor(slot) and not name.endswith("__"):
            with suppress(AttributeError):  # an empty one
                found[name] = slot.__get__(value)
    with suppress(Exception):  # it has slots alone; its class may answer in any way
        found |= vars(value)
    return found


def size_of(values: torch.Tensor) -> list[float]:
    """Mean, root mean square and, which depends on their order, a part; without last digits, which depend on the
    machine. And the same of about their logarithms, in which small values beside large ones count, too, and where some
    are not finite."""
    values = values.detach().cpu().to_dense()
    values = (torch.view_as_real(values) if values.is_complex() else values).float()
    logarithms = torch.asinh(1e6 * values.double().nan_to_num(7e29, 1e30, -1e30))
    found = []
    for numbers in (values.nan_to_num(0, 0, 0), logarithms):
        part = (numbers.flatten() * torch.arange(numbers.numel()).cos()).sum() / max(numbers.numel(), 1) ** 0.5
        found += [f"{numbers.mean():.4g}", f"{numbers.square().mean().sqrt():.4g}", f"{part:.6g}"]
    return [*map(float, found)]


# ---------------------------------------------------------------- what is said where


def _is_own(module: str | None) -> bool:
    """Whether a module of this name is of no library: a cell, a file of one's own, or of utils/."""
    if not module or module.partition(".")[0] in LIBRARIES or module.startswith("_cython"):  # by exec; compiled
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module == "__main__" or not _of_packages(file)  # a cell's is that of the program that runs it


def _of_packages(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file


def _is_of_no_library(value: Any) -> bool:
    """Whether it is a function or class of a cell, of a file of one's own, or of utils/."""
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return False
    by_exec = value.__module__ in (None, "builtins") and any(map(inspect.isfunction, (value, *vars(value).values())))
    wraps = inspect.isfunction(value) and _is_own(_file_name(value))  # one of a library
    return by_exec or wraps or _is_own(value.__module__)


def _own(values: Iterable) -> list:
    """The functions and classes of no library among these, their classes, and what they hold, such as a pipeline of
    torchvision; not deeper than five levels, because an object may make others without end."""
    seen, level = {}, {id(value): value for value in map(_inner, values)}
    for _ in range(5):
        seen |= level
        parts = [part for value in level.values() for part in map(_inner, _held_by(value))]
        level = {id(part): part for part in parts if type(part) not in PLAIN and id(part) not in seen}
    return [*filter(_is_of_no_library, (other for value in seen.values() for other in (value, type(value))))]


def _held_by(value: Any) -> list:
    """The parts of a list, a dict, a method or a network, or the attributes of another object."""
    with suppress(Exception):  # many have none, and those of the user's own may fail in any way
        if inspect.ismethod(value) or inspect.isbuiltin(value):
            return [value.__self__, getattr(value, "__func__", None)]
        if isinstance(value, nn.Module):  # also one that is no layer of another, such as in a list
            return [part for module in value.modules() for part in (module, *vars(module).values())]
        if isinstance(value, set | frozenset):
            return sorted(value, key=lambda part: briefly(part) or "")  # their order is another each time
        if isinstance(value, list | tuple | deque):
            return [*value]
        if isinstance(value, Mapping):
            return [*value, *value.values()]
        if not (inspect.isclass(value) or inspect.ismodule(value) or inspect.isfunction(value)):
            return [*_state(value).values()]
    return []


def _functions(value: Any) -> list[FunctionType]:
    """The function itself, or those of a class; of a decorated one the wrapper, too, unless it is a library's."""
    return [part for part in _wrapped(value) if _is_own(_file_name(part))]


def _wrapped(value: Any) -> list[FunctionType]:
    """The same, and the wrappers of libraries."""
    found = [_inner(part) for part in (value, *_parts(value).values())]
    properties = [part for part in vars(value).values() if isinstance(part, property)] if inspect.isclass(value) else []
    found += [part for each in properties for part in (each.fset, each.fdel)]
    for part in found:  # which grows
        found += [part.__wrapped__] if inspect.isfunction(part) and hasattr(part, "__wrapped__") else []
    return [part for part in found if inspect.isfunction(part)]


def _file_name(function: FunctionType) -> str:
    """The name of the file that a function is of, which a wrapper does not copy; %run and exec leave it out."""
    return function.__globals__.get("__name__", "__main__")


def _parts(value: Any) -> dict[str, Any]:
    """The functions and the constants of a class, by name."""
    own = {key: _inner(part) for key, part in vars(value).items()} if inspect.isclass(value) else {}
    own.pop("__annotate_func__", None)  # Python 3.14's
    return {key: part for key, part in own.items() if not key.startswith("__") or inspect.isfunction(part)}


def _inner(value: Any) -> Any:
    """The function in a property, a method of the class, or one whose results are kept; else the value itself."""
    if isinstance(value, property | cached_property):
        return value.fget if isinstance(value, property) else value.func
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if not callable(value) or inspect.isfunction(value) or inspect.isclass(value) or _is_of_no_library(type(value)):
        return value
    return inspect.getattr_static(value, "__wrapped__", value)  # which asks no code of the user's


def _with_inner(codes: list[CodeType]) -> list[CodeType]:
    """These, and the functions that are written in them."""
    for code in codes:  # which grows
        codes += [part for part in code.co_consts if isinstance(part, CodeType)]
    return codes


@cache
def _said(function: FunctionType, code: CodeType) -> str:  # which autoreload changes in the same function
    if function.__name__ == "<lambda>":  # there may be two in a line, or one in half of a call
        return _instructions(code)
    with suppress(Exception):  # what cannot be read fails in many ways
        if not _file_name(function).startswith("utils."):
            linecache.checkcache(code.co_filename)
            codes = _compiled("".join(linecache.getlines(code.co_filename)), code.co_filename)[1]
            # None where a decorator or a loader made another one of it; a comment may have moved it
            same = [other for other in codes if _named(other) == _named(code)]
            near = min(same, key=lambda other: abs(other.co_firstlineno - code.co_firstlineno))
            return _text(ast.parse(textwrap.dedent(inspect.getsource(near))))
        place = _file_name(function).removeprefix("utils.").replace(".", "/")  # such as engine/steps
        found = [ast.parse((UTILS / f"{place}.py").read_bytes())]
        for name in function.__qualname__.replace("<locals>.", "").split("."):  # not by its line, which comments move
            found = [inner for outer in found for inner in ast.walk(outer) if getattr(inner, "name", None) == name]
        if found:
            return _text(ast.Module(found, []))  # more than one where it is defined again, or under an if
    return _instructions(code)


def _named(code: CodeType) -> tuple[str, str]:
    return getattr(code, "co_qualname", code.co_name), _instructions(code)  # Python 3.10 lacks the longer name


@cache
def _instructions(code: CodeType) -> str:
    """What Python made of a function: of a lambda, or of one whose source cannot be read."""

    def said(constant: Any) -> str:
        if isinstance(constant, CodeType):
            return _instructions(constant)
        return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)

    return repr([code.co_code, code.co_names, code.co_freevars, code.co_varnames, [*map(said, code.co_consts)]])


@cache
def _digest(source: bytes) -> str:
    return sha256(_text(ast.parse(source)).encode()).hexdigest()[:8]


def _text(part: Any) -> str:
    """A syntax tree as text, in any version of Python the same."""
    if isinstance(part, list):
        return f"[{', '.join(map(_text, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = {key: value for key, value in ast.iter_fields(part) if value not in (None, [])}
    if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
        fields["body"] = part.body[1:]
    if isinstance(part, ast.JoinedStr):  # Python 3.12 adds empty ones
        fields["values"] = [value for value in part.values if getattr(value, "value", None) != ""]
    return f"{type(part).__name__}({', '.join(f'{key}={_text(value)}' for key, value in fields.items())})"


def _reached(names: list[str]) -> dict[str, bytes]:
    """What these files of utils/ say now, and others of no library that they import, by name: engine/steps, or, outside
    utils/, that of the module."""
    found = {name: (UTILS / f"{name}.py").read_bytes() for name in names}
    waiting = [other for name in names for other in _imported(found[name], f"utils.{name.replace('/', '.')}")]
    for module in waiting:  # which grows
        file = _file_of(module)
        name = file.relative_to(UTILS).with_suffix("").as_posix() if file and UTILS in file.parents else module
        if file and name not in [*found, *BESIDE]:
            with suppress(SyntaxError):  # to import it fails, too
                found[name] = file.read_bytes()
                waiting += _imported(found[name], f"{module}.__init__" if file.stem == "__init__" else module)
            waiting.append(module.rpartition(".")[0])  # the package is loaded first
    return found


def _file_of(module: str) -> Path | None:
    """Where a module of no library lies; None if there is none of this name."""
    if module.startswith("utils."):
        place = UTILS / module.removeprefix("utils.").replace(".", "/")
        return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    with suppress(Exception):  # many a name is that of a function in a file
        package = module.partition(".")[0]
        if not _is_own(package) or _of_packages(str(find_spec(package).origin)):  # to look further would load it
            return None
        file = Path(find_spec(module).origin)
        return file if file.suffix == ".py" and not _of_packages(str(file)) else None
    return None


@cache
def _imported(source: bytes, module: str) -> list[str]:
    """What the file of a module imports, such as utils.engine.steps; some are names in a file."""
    names = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Import):
            names += [alias.name for alias in part.names]
        elif isinstance(part, ast.ImportFrom):
            package = resolve_name("." * part.level + (part.module or ""), module.rpartition(".")[0])
            names += [package, *(f"{package}.{alias.name}" for alias in part.names)]
    return names


# ---------------------------------------------------------------- whether that is what was loaded


def refuse_edits() -> None:
    """RunError if a file of utils/, or one of one's own, was edited after it was loaded here."""
    modules = {name: f"utils.{name.replace('/', '.')}".removesuffix(".__init__") for name in utils.SOURCES}
    loaded = [name for name in modules if modules[name] in sys.modules and name.partition("/")[0] not in SHOWING]
    try:
        now = {name: (UTILS / f"{name}.py").read_bytes() for name in loaded}
        stale = [name for name in loaded if now[name] != utils.SOURCES[name]]
        stale = [name for name in stale if _digest(now[name]) != _digest(utils.SOURCES[name])]
    except (OSError, SyntaxError, ValueError) as error:  # no file, or half of one
        why = first_line(error)
        raise RunError(f"A file of utils/ cannot be read ({why}); mend it, or restart the kernel.") from None
    if files := [f"utils/{name}.py" for name in stale] + _edited():
        raise RunError(EDITED.format(files[0]))


def refuse_old(value: Any) -> None:
    """RunError if a function that `value` is or holds, or that these name, is not what its file says now."""
    for _ in _reach([value]):
        pass


def _refuse_old(functions: list[FunctionType]) -> None:
    """RunError if one of these functions is not what its file says now, such as one that was imported from a file
    before this was loaded again; of files of one's own that were written since this process began."""
    for function in functions:
        file, known = Path(function.__code__.co_filename), []
        with suppress(OSError):  # a cell lies in no file
            if not _file_name(function).startswith("utils.") and file.stat().st_mtime > utils.BEGAN:
                with suppress(SyntaxError, ValueError):  # half of a file
                    known = _compiled(file.read_bytes(), str(file))[1]
                if _named(function.__code__) not in map(_named, known):
                    raise RunError(EDITED.format(file))


def _edited() -> list[str]:
    """The files of one's own that say something else than when they were first seen here."""
    found = []
    for name, module in [*sys.modules.items()]:
        file = str(getattr(module, "__dict__", {}).get("__file__") or "")  # a lazy module would be loaded by asking
        if _is_ones_own_file(name, file):
            source = Path(file).read_bytes() if Path(file).is_file() else b""
            loading = vars(getattr(module, "__spec__", None) or module)  # who loads a module again gives it another one
            first = loading.setdefault("first_seen", source)
            with suppress(SyntaxError, ValueError):  # half of a file
                if first == source or _digest(first) == _digest(source):
                    continue
            found.append(file)
    return found


@cache  # asked of thousands of files each time
def _is_ones_own_file(module: str, file: str) -> bool:
    if not (file.endswith(".py") and _is_own(module)):
        return False
    path = Path(file).resolve()  # of those of utils/ only what came later is new here
    return UTILS not in path.parents or path.relative_to(UTILS).with_suffix("").as_posix() not in utils.SOURCES


def replaced() -> list[str]:
    """Where a cell put another one in the place of a function, class, number or word of a file that trains, of a
    function of such a class, or of what they name of libraries, such as "training.py (train_epoch)" or
    "engine/steps.py (F.cross_entropy)"."""
    found = []
    for name in TRAINED_BY:
        if module := sys.modules.get(f"utils.{name.replace('/', '.')}"):
            found += [f"{name}.py ({key})" for key in _replaced_in(module, utils.SOURCES[name], name == "runs")]
    return found


@cache
def _compiled(source: str | bytes, file: str) -> tuple[ast.Module, list[CodeType]]:
    """A file or cell, and all its functions; Jupyter compiles statements one by one, which makes other instructions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were said when it was loaded
        tree = ast.parse(source)
        parts = [tree, *(ast.Module([part], []) for part in tree.body)]
        how = dict(flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        return tree, _with_inner([compile(part, file, "exec", **how) for part in parts])


def _replaced_in(module: ModuleType, source: bytes, only_calls: bool) -> list[str]:
    (tree, codes), found = _compiled(source, module.__file__), []
    for part in tree.body:
        if isinstance(part, ast.Import | ast.ImportFrom):
            for alias in part.names:
                key, value = alias.asname or alias.name, vars(module).get(alias.asname or alias.name)
                library = sys.modules.get(getattr(part, "module", None) or alias.name)
                usual = getattr(library, alias.name, value) if isinstance(part, ast.ImportFrom) else library
                other = value is not usual and not _is_loaded_again(value, usual)
                found += [key] if "." not in key and (other or _is_of_a_cell(value)) else []
        elif only_calls:  # runs.py calls what trains, and keeps and shows it
            continue
        elif isinstance(part, ast.FunctionDef | ast.ClassDef):
            value, name = vars(module).get(part.name), part.name
            inner = {f"{name}.{key}": p for key, p in _parts(value).items()} or {name: value}
            kind = inspect.isclass if isinstance(part, ast.ClassDef) else inspect.isfunction
            found += [name] if not kind(value) or value.__qualname__ != name else []
            for key, one in inner.items():
                others = [f for f in _functions(one) if f.__code__ not in codes]
                written = [f for f in others if f.__code__.co_filename == "<string>" and f.__name__[:2] == "__"]
                found += [key] if len(others) > len(written) and key not in found else []  # written by a dataclass
        elif isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            with suppress(ValueError):  # no literal
                name = part.targets[0].id
                found += [name] if ast.literal_eval(part.value) != vars(module).get(name) else []
    dotted = [name for name in _dotted(source) if name.partition(".")[0] not in found]
    return found + [name for name in dotted if _is_of_a_cell_in_a_library(module, name)]


def _is_loaded_again(value: Any, other: Any) -> bool:
    """Whether these are one function or class, whose file a cell has loaded again."""
    if not (_is_of_no_library(value) and _is_of_no_library(other)):
        return False
    one, again = [
        (part.__module__, part.__qualname__, [_instructions(f.__code__) for f in _functions(part)])
        for part in (value, other)
    ]
    return one == again


def _is_of_a_cell(value: Any) -> bool:
    """Whether a function or class of a library, or a function of such a class or of its bases, is of no library."""
    if _is_own(getattr(value, "__module__", None)):
        return False
    kinds = [kind for kind in getattr(value, "__mro__", [value]) if kind is not nn.Module]  # which anybody may extend
    return any(_functions(kind) for kind in kinds)


@cache
def _dotted(source: bytes) -> list[str]:
    """The names with dots that a file uses, such as F.cross_entropy; annotations only name them."""
    parts = [*ast.walk(ast.parse(source))]
    only = [getattr(part, key, None) for part in parts for key in ("annotation", "returns")]
    only = {inner for note in only if note for inner in ast.walk(note)}
    found = {ast.unparse(part) for part in parts if isinstance(part, ast.Attribute) and part not in only}
    return sorted(name for name in found if all(map(str.isidentifier, name.split("."))))


def _is_of_a_cell_in_a_library(module: ModuleType, name: str) -> bool:
    """Whether what a file names like this in a library that computes is not its; which device there is is no such
    thing."""
    library = vars(module).get(name.partition(".")[0])
    if not inspect.ismodule(library) or library.__name__.partition(".")[0] not in COMPUTES or "torch.cuda" in name:
        return False
    value = reduce(lambda part, key: getattr(part, key, None), name.split(".")[1:], library)  # None in another PyTorch
    other = callable(value) and getattr(value, "__name__", None) != name.rpartition(".")[2]  # such as a partial
    return _is_of_a_cell(value) or _is_own(getattr(value, "__module__", None)) or other and library.__name__ != "numpy"
