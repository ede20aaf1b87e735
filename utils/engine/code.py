"""The code that trains, as a part of what a run is: whoever changes the loss or a loader sees what that does."""

import ast
import dis
import inspect
import os
import runpy
import secrets
import sys
import textwrap
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from functools import cache, cached_property, partial, partialmethod
from hashlib import sha256
from importlib.machinery import PathFinder, SourcelessFileLoader
from importlib.util import cache_from_source
from numbers import Number
from operator import attrgetter
from pathlib import Path
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution

import utils
from utils.engine.checkpoints import rng_from
from utils.errors import RunError, first_line

UTILS = Path(__file__).resolve().parent.parent
BEGUN = time.time()  # what was edited last before that is as it was loaded
TRAINED_BY = """transforms data training runs engine/batches engine/steps engine/speed
    engine/distributed""".split()  # from the images to the weights
# What these import and that is known otherwise (such as the images), or keeps and compares what was trained:
BESIDE = """errors architecture experiments engine/__init__ engine/checkpoints engine/records engine/code
    cifar10/__init__ cifar10/files cifar10/sources""".split()
BUILT_IN = (tuple, list, set, frozenset, Mapping, Number, str, bytes, bytearray)  # and classes made of these
PYTHONS = ("torch", "builtins", "typing", "abc")  # whose classes nobody here changes
HOOKS = [key for key in vars(nn.Module()) if key.endswith("_hooks")]  # where a module keeps its own
COMPUTES = ("torch", "albumentations", "numpy", "cv2")  # the libraries that decide the weights
# Digest of a file as it is now -> as it was when published runs were trained. Whoever changes one of these files but
# not what is trained adds a line here, once an epoch of training gave the same weights before and after, bit for bit.
SAME = {
    "292e84c4": "a8bafd62",  # training.py: Muon, another optimizer; a teacher; no bar without stderr; lr, momentum
    "6e6f6ff2": "b9364c7c",  # engine/steps.py: the same
    "e440e5a0": "6477d3ff",  # engine/batches.py: what cannot be handed over ends its worker; few large ones wait
    "9fedf3bc": "afff66b6",  # engine/speed.py: weights of 64 bits
    "80452ed3": "a1428291",  # runs.py: a teacher; gradients also where a cell switched them off; lock; what it compares
}


def code() -> dict[str, str]:
    """What the files TRAINED_BY say, and others of utils/ or of one's own that these import, a digest each; comments,
    docstrings and the breaks of lines do not count; and where a cell put something in the place of what is there, with
    digits that no other run has. RunError if one of them, models.py, experiments.py or another file of one's own was
    edited after loading.
    """
    refuse_edits([*TRAINED_BY, "models", "experiments"])
    told_by_nothing = {place: secrets.token_hex(4) for place in replaced([*_reached(TRAINED_BY)])}
    _refuse_edits_of_ones_own([])
    return {f"{name}.py": digest for name, digest in told().items()} | _outside() | told_by_nothing


def classes_of(model: nn.Module) -> dict[str, str]:
    """Class, function or value -> digest of what it says, of the classes of a network's modules that are not
    PyTorch's, of their hooks, what these and the modules hold, and of what all these name that is of no library, for
    not all that they do shows in a few images; without what a forward changes, such as a counter. RunError if a file of
    these was edited after loading."""
    before = _told_by(model)
    images = 100 * torch.sin(torch.arange(7 * 3 * 32 * 32)).reshape(7, 3, 32, 32)  # stronger than any
    with suppress(Exception), torch.random.fork_rng(devices=[]), rng_from(0), torch.no_grad():  # training tells why
        copy = deepcopy(model).cpu()
        for training in (True, False):
            copy.train(training)(images)
    after = _told_by(model)
    digests = {name: sha256(text.encode()).hexdigest()[:8] for name, text in before.items() if text == after.get(name)}
    return {name: SAME.get(digest, digest) for name, digest in digests.items()}


def _told_by(model: nn.Module) -> dict[str, str]:
    kinds = dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__)
    own = [kind for kind in kinds if kind.__module__.split(".")[0] not in (*PYTHONS, "torchvision")]
    held = [{key: v for key, v in vars(module).items() if key != "_modules"} for module in model.modules()]
    own += filter(_of_no_library, _inside(held))  # also hooks
    own += [
        part for kind in kinds if kind not in own for part in map(_inner, _parts(kind).values()) if _of_no_library(part)
    ]  # put by a cell into a class of PyTorch
    said, values = {}, _and_what_they_name(own)
    refuse_edits([_place(value) for value in values if value.__module__.startswith("utils.")])
    _refuse_edits_of_ones_own([function.__code__ for value in values for function in _functions(value)])
    for value in values:
        for function in _functions(value):
            text = _said(function, function.__code__)
            said.setdefault(f"{value.__module__}.{value.__qualname__}", []).append(text)  # two lambdas share a name
            read = _read_by(function).items()
            told = [
                (name, text) for one in read for name, text in _apart(*one) if text and text != repr(f"is {one[0]}")
            ]
            for name, text in told:  # two closures of one function share a name, too
                said.setdefault(f"{value.__module__}.{name}, its value", []).append(text)
        constants = {name: _inner(constant) for name, constant in _parts(value).items()}
        told = {name: briefly(constant) for name, constant in constants.items() if not _of_no_library(constant)}
        of_class = f"{value.__module__}.{value.__qualname__}"
        said |= {f"{of_class}.{name}, its value": [text] for name, text in told.items() if text}
    for name, module in model.named_modules():
        hooks = [hook for key in HOOKS for hook in vars(module).get(key, {}).values()]
        said |= {f"hooks of {name or 'the network'}": [name, str(briefly(hooks))]} if hooks else {}
    return {name: "".join(texts) for name, texts in said.items()}


# ---------------------------------------------------------------- what the files say


def told() -> dict[str, str]:
    """File -> digest, or the one of SAME in its place, of those TRAINED_BY and what they import."""
    digests = {name: _digest(source) for name, source in _reached(TRAINED_BY).items()}
    return {name: SAME.get(digest, digest) for name, digest in digests.items()}


def _reached(names: list[str]) -> dict[str, bytes]:
    """What these files say now, and others of utils/ that they import."""
    found, waiting = {}, [*names]
    for name in waiting:  # which grows
        if name not in found:
            found[name] = source = (UTILS / f"{name}.py").read_bytes()
            imported = [other for other in _imported(source, _module_of(name)) if other.startswith("utils.")]
            imported = [other.removeprefix("utils.").replace(".", "/") for other in imported]
            files = [file for other in imported for file in (other, f"{other}/__init__")]
            waiting += [file for file in files if file not in BESIDE and (UTILS / f"{file}.py").is_file()]
    return found


def _outside() -> dict[str, str]:
    """Module -> digest, of the modules of one's own outside utils/ that the files which train import, and these."""
    files = _reached(TRAINED_BY).items()
    found, waiting = {}, [other for name, source in files for other in _imported(source, _module_of(name))]
    for name in waiting:  # which grows
        waiting += [name.rpartition(".")[0]] if "." in name else []  # the package is loaded first
        file = _file_of(name)
        if name not in found and file.endswith(".py") and UTILS not in Path(file).parents and _is_own(name, file):
            with suppress(OSError, SyntaxError, ValueError):  # to import it fails, too
                source = Path(file).read_bytes()
                found[name] = _digest(source)
                waiting += _imported(source, f"{name}.__init__" if Path(file).stem == "__init__" else name)
    return found


def _file_of(module: str) -> str:
    """Where a module is loaded from, or would be, without loading it; nothing of what is no module of one's own."""
    if loaded := sys.modules.get(module):
        return str(getattr(loaded, "__file__", None) or "")
    package, _, name = module.rpartition(".")
    place = Path(_file_of(package)) if package else None
    if place and (place.stem != "__init__" or not _is_own(package, str(place))):
        return ""
    spec = PathFinder.find_spec(name, place and [str(place.parent)])
    return str(spec and spec.origin or "")


def _module_of(name: str) -> str:
    """What Python calls a file of utils/, such as utils.engine.steps."""
    return f"utils.{name.replace('/', '.')}"


def _and_what_they_name(values: list) -> list:
    """These functions and classes, and others of no library: the bases of classes, what these hold, and what their
    functions look up in their files."""
    found = [*values]
    for value in found:  # which grows
        read = [value for function in _functions(value) for value in _read_by(function).values()]
        held = [part for part in map(_inner, _parts(value).values()) if not inspect.isfunction(part)]  # told with it
        read += [*value.__mro__, *held] if inspect.isclass(value) else []
        named = [part for value in read for part in _inside(value)]
        for other in filter(_of_no_library, named):
            found += [other] if other not in found else []
    return found


def _read_by(function: FunctionType) -> dict[str, Any]:
    """What a function looks up in its file, by name, or in a file that it imports, such as helpers.scale; and what it
    encloses or has as defaults, by its own name, too."""
    found = {}
    for name in _names(function.__code__):
        first, *others = name.split(".")
        with suppress(KeyError, AttributeError):
            value, own = function.__globals__[first], True
            while inspect.ismodule(value) and others:
                own = own and _is_own(value.__name__)
                value, first = getattr(value, others[0]), f"{first}.{others.pop(0)}"
            found |= {first: value} if own or _of_no_library(value) else {}  # what a cell put into a library
    defaults, names = function.__defaults__ or (), function.__code__.co_varnames[: function.__code__.co_argcount]
    own = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)) | (function.__kwdefaults__ or {})
    own |= {f".{key}": value for key, value in vars(function).items() if key != "__wrapped__"}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it may be empty
            own |= {name: cell.cell_contents} if name != "__class__" else {}  # of super()
    return found | {f"{function.__qualname__}({name})": value for name, value in own.items()}


def _apart(name: str, value: Any) -> Iterator[tuple[str, str | None]]:
    """The value as text by its name; of a dict or object each part, so that a counter beside them hides none."""
    parts = value if isinstance(value, Mapping) else _attributes(value)
    if parts is None or _named(value):
        yield name, briefly(value)
        return
    yield name, f"a {type(value).__qualname__} of {briefly([*parts])}"  # in their order
    for key, part in parts.items():
        yield f"{name}.{key}", briefly([part])  # of what cannot be told at least the name


def _inside(value: Any, depth: int = 5) -> Iterator[Any]:
    """The value, and what it holds: the parts of a partial, a method, a list, a dict, an object of the user's own."""
    yield value
    parts: Iterable = ()
    if isinstance(value, partial):
        parts = value.func, *value.args, *value.keywords.values()
    elif inspect.ismethod(value) or inspect.isbuiltin(value):  # such as the apply of a torch.autograd.Function
        parts = getattr(value, "__func__", None), value.__self__
    elif inspect.isfunction(value):
        parts = (part for key, part in vars(value).items() if key != "__wrapped__")  # such as those of singledispatch
    elif isinstance(value, list | tuple | set | frozenset | Mapping):
        parts = value.values() if isinstance(value, Mapping) else value
    elif isinstance(value, type(cache(len))):
        parts = (value.__wrapped__,)
    elif (attributes := _attributes(value)) is not None:
        parts = type(value), *attributes.values()
    for part in parts if depth else ():
        yield from _inside(part, depth - 1)


def _attributes(value: Any) -> dict[str, Any] | None:
    """Those of an object of a class of no library, of one that only keeps names, of a layer, or of a distribution; None
    for all others."""
    if _named(value) or isinstance(value, BUILT_IN):
        return None
    known = isinstance(value, SimpleNamespace | Namespace | nn.Module | Distribution)
    if not known and not _is_own(type(value).__module__):
        return None
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return dict(vars(value)) if hasattr(value, "__dict__") else {key: getattr(value, key, None) for key in slots}


def briefly(value: Any) -> str | None:
    """The value as text, the same in any process; None if it cannot be told."""
    with suppress(Exception):  # an object of the user's own fails in any way
        return repr(_plain(value))
    return None


def _plain(value: Any, above: tuple = ()) -> Any:
    """The value in Python's own kinds, which look the same whatever a cell set for printing, and in any version of
    NumPy: of a function or class its name, of an object its attributes; TypeError if it is of another kind. `above` is
    what it is a part of."""
    within = (*above, value)

    def inner(part: Any) -> Any:
        try:
            return "itself" if any(part is other for other in within) else _plain(part, within)
        except TypeError:
            return f"a {type(part).__qualname__} {getattr(part, '__qualname__', '')}"

    if _named(value) or inspect.isbuiltin(value):
        return f"is {value.__qualname__}"
    if isinstance(value, partial):
        return [inner(value.func), inner(value.args), inner(value.keywords)]
    if inspect.ismethod(value):
        return inner(value.__func__), None if isinstance(value.__self__, nn.Module) else inner(value.__self__)
    if isinstance(value, Mapping):
        return [(inner(key), inner(part)) for key, part in value.items()]
    if isinstance(value, slice):
        return "a slice", inner((value.start, value.stop, value.step))
    if isinstance(value, tuple | list | range | deque):
        return (list if isinstance(value, list) else tuple)(map(inner, value))
    if isinstance(value, set | frozenset):
        return sorted(map(repr, map(inner, value)))
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, Number | str | bytes | bytearray):
        return value
    if (attributes := _attributes(value)) is not None:
        return type(value).__qualname__, inner(attributes)
    if isinstance(value, Enum):
        return type(value).__qualname__, value.name
    if not isinstance(value, torch.Tensor | np.ndarray):
        raise TypeError
    values = value
    if torch.is_tensor(value):
        value = value.detach().to_dense().cpu().resolve_conj()
        values = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # which NumPy does not know
    shape, values = values.shape, values.ravel()
    if values.dtype.kind in "fc":
        return str(value.dtype), shape, _size_of(values[:: values.size // 4_000_000 + 1])  # of a data set a part
    few = values.size <= 1000 or values.dtype.hasobject
    return str(value.dtype), shape, inner(values.tolist()) if few else sha256(values.tobytes()).hexdigest()


def _size_of(values: np.ndarray) -> list[float]:
    """How large they are, and of that size their mean and, which depends on their order, a part; rounded so that
    their last digits, which depend on the machine, do not show."""
    values = values.astype(complex).ravel()
    size = (np.abs(values) ** 2).mean() ** 0.5 if len(values) else 0.0
    parts = [values.mean(), (values * np.exp(1j * np.arange(len(values)))).mean()] if size > 0 else []
    shares = [round(n, 3) + 0.0 for part in parts for n in (part.real / size, part.imag / size)]
    return [float(f"{size:.4g}"), *shares]


def _functions(value: Any) -> list[FunctionType]:
    """The function itself, or those of a class; of a decorated one the wrapper, too, unless it is a library's."""
    found = [_inner(part) for part in (value, *_parts(value).values())]
    found = [part.func if isinstance(part, partialmethod) else part for part in found]
    for part in found:  # which grows
        found += [part.__wrapped__] if inspect.isfunction(part) and hasattr(part, "__wrapped__") else []
    return [part for part in found if inspect.isfunction(part) and _is_own(part.__globals__.get("__name__"))]


def _names(code: CodeType) -> list[str]:
    """What a function and those in it look up in their file, with the attributes that they take of it at once, such as
    helpers.scale."""
    found, at_once = [], False
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        of_file = instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        if of_file:
            found.append(instruction.argval)
        elif at_once and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            found[-1] += f".{instruction.argval}"
        at_once = of_file or at_once and instruction.opname == "LOAD_ATTR"
    found = [name for name in found if not f".{name}".count(".__")]  # __file__ is another in another folder
    return [*found, *(name for c in code.co_consts if isinstance(c, CodeType) for name in _names(c))]


def _of_no_library(value: Any) -> bool:
    """Whether it is a function or class of a cell, of a file of the user's own, or of utils/."""
    return _named(value) and _is_own(value.__module__)


def _is_own(module: str | None, file: str = "") -> bool:
    """Whether a module of this name, in this file, is of no library."""
    if not isinstance(module, str) or module.split(".")[0] in (*PYTHONS, *COMPUTES):  # None: made by exec
        return False
    file = file or getattr(sys.modules.get(module), "__file__", None) or ""
    if module.split(".")[0] in sys.stdlib_module_names - {"__main__"} and not file:
        return False
    libraries = {"site-packages", "dist-packages"} & {*Path(file).parts}
    return not libraries and not file.startswith(str(Path(inspect.__file__).parent))


_is_own_file = cache(_is_own)  # asked of thousands of files each time


@cache
def _said(function: FunctionType, code: CodeType) -> str:  # which autoreload changes in the same function
    if function.__name__ == "<lambda>":  # there may be two in a line, or one in half of a call
        return _instructions(code)
    with suppress(Exception):  # what cannot be read fails in many ways
        if not function.__module__.startswith("utils."):
            return _text(ast.parse(textwrap.dedent(inspect.getsource(code))))
        found = [ast.parse((UTILS / f"{_place(function)}.py").read_bytes())]
        for name in function.__qualname__.replace("<locals>.", "").split("."):  # not by its line, which comments move
            found = [inner for outer in found for inner in ast.walk(outer) if getattr(inner, "name", None) == name]
        if found:
            return _text(ast.Module(found, []))  # more than one where it is defined again, or under an if
    return _instructions(code)


def _instructions(code: CodeType) -> str:
    """What Python made of a function: of a lambda, or of one whose source cannot be read."""
    inner = [_instructions(part) if isinstance(part, CodeType) else part for part in code.co_consts]
    return repr(briefly([code.co_code, code.co_names, code.co_freevars, code.co_varnames, inner]))


def _place(value: Any) -> str:
    """The file of utils/ that a function or class is of, such as engine/steps."""
    return value.__module__.removeprefix("utils.").replace(".", "/")


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


@cache
def _imported(source: bytes, module: str) -> list[str]:
    """What the file of a module imports, such as utils.engine.steps; some are names in a file."""
    names = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Import):
            names += [alias.name for alias in part.names]
        elif isinstance(part, ast.ImportFrom):
            above = module.split(".")[: -part.level] if part.level else []
            package = ".".join([*above, *filter(None, [part.module])])
            names += [package, *(f"{package}.{alias.name}" for alias in part.names)]
    return names


# ---------------------------------------------------------------- whether they say what was loaded


def refuse_edits(names: list[str]) -> None:
    """RunError if one of these files, or one that they import, was edited after loading."""
    try:
        now = _reached(names)
        stale = [name for name in now if _digest(now[name]) != _digest(utils.SOURCES.get(name, b""))]
    except (OSError, SyntaxError, ValueError) as error:  # no file, or half of one
        raise RunError(f"A file of utils/ cannot be read ({first_line(error)}); mend it.") from None
    if stale:
        raise RunError(
            f"utils/{stale[0]}.py was edited after it was loaded; restart the kernel, or the program, and it counts."
        )


def _refuse_edits_of_ones_own(codes: list[CodeType]) -> None:
    """RunError if a file outside utils/ that was loaded, or from which one of these was, does not say it any more."""
    modules = {name: getattr(module, "__dict__", {}) for name, module in [*sys.modules.items()]}
    named = {str(found.get("__file__")): name for name, found in modules.items()}
    of_libraries = {file for file, name in named.items() if not _is_own_file(name, file)}
    files = {*named, *(code.co_filename for code in codes)} - of_libraries
    files = {file for file in files if file.endswith(".py")}  # a cell is in none
    stats = {file: os.stat(file) for file in files if os.path.isfile(file)}
    edited = {file for file, s in stats.items() if max(s.st_mtime, s.st_ctime) > BEGUN}  # or an older one put there
    for file in sorted(file for file in edited if UTILS not in Path(file).parents):
        with suppress(OSError, SyntaxError, ValueError):  # half of one says nothing
            now = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
            there = [now]
            for code in there:  # which grows
                there += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
            said = {*map(_instructions, there)}
            loaded = [code for code in codes if code.co_filename == file]
            if (name := named.get(file, "__main__")) != "__main__":
                held = [function.__code__ for value in modules[name].values() for function in _functions(value)]
                loaded += [code for code in held if code.co_filename == file]
                # What Python kept when it loaded the file, numbers, too; if it could, and no other process did since.
                with suppress(ImportError, OSError):
                    loaded.append(SourcelessFileLoader(name, cache_from_source(file)).get_code(name))
            if said.issuperset(map(_instructions, loaded)):
                continue
        raise RunError(f"{file} was edited after it was loaded; restart the kernel, or the program, and it counts.")


def replaced(names: list[str]) -> list[str]:
    """Where a cell put another one in the place of a function, class, number or word of these files, of a function of
    such a class, or of what they name of libraries, such as "training.py (train_epoch)" or "engine/steps.py
    (F.cross_entropy)"."""
    (loaded, again), found = _loaded(names), []
    for module, name in loaded.items():
        now = vars(sys.modules[module])
        pairs = {key: (there, now.get(key)) for key, there in again[module].items() if not key.startswith("__")}
        for key, (there, value) in pairs.copy().items():
            if inspect.isclass(there) and inspect.isclass(value) and there.__module__ == module:
                own, others = _parts(there), _parts(value)  # a method may also be new
                pairs |= {f"{key}.{inner}": (own.get(inner), others.get(inner)) for inner in own | others}
        if name == "runs":  # what it calls trains, but not what it keeps and shows
            calls = [f"utils.{other.replace('/', '.')}" for other in names if other != "runs"]
            pairs = {key: pair for key, pair in pairs.items() if getattr(pair[0], "__module__", None) in calls}
        changed = [key for key, (there, value) in pairs.items() if _is_another(there, value)]
        dotted = _dotted((UTILS / f"{name}.py").read_bytes())
        changed += [key for key in dotted if _of_a_cell(again[module].get(key.partition(".")[0]), key)]
        found += [f"{name}.py ({key})" for key in changed]
    return found


@cache
def _dotted(source: bytes) -> list[str]:
    """The names with dots that a file uses, such as F.cross_entropy; annotations only name them."""
    parts = [*ast.walk(ast.parse(source))]
    only = [getattr(part, key, None) for part in parts for key in ("annotation", "returns")]
    only = {inner for note in only if note for inner in ast.walk(note)}
    used = [part for part in parts if isinstance(part, ast.Attribute)]
    found = {ast.unparse(part) for part in used if part not in only}
    return sorted(name for name in found if all(map(str.isidentifier, name.split("."))))


def _of_a_cell(library: Any, name: str) -> bool:
    """Whether what is named like this in a library that computes is not its; which device there is is no such thing."""
    if not inspect.ismodule(library) or library.__name__.split(".")[0] not in COMPUTES or name.startswith("torch.cuda"):
        return False
    try:
        value = attrgetter(name.partition(".")[2])(library)
    except AttributeError:
        return False
    other = callable(value) and getattr(value, "__name__", None) != name.rpartition(".")[2]  # such as a partial
    return _is_changed(value) or other and library.__name__.startswith(("torch", "albumentations"))


def _is_changed(value: Any) -> bool:
    """Whether a function or class of a library, or a function of such a class or of its bases, is of no library."""
    kinds = [kind for kind in getattr(value, "__mro__", [value]) if kind is not nn.Module]  # which anybody may extend
    parts = [value, *(_inner(part) for kind in kinds for part in _parts(kind).values())]
    functions = filter(inspect.isfunction, parts)  # a wrapper says that it is of the module of what it wraps
    return any(map(_of_no_library, parts)) or any(_is_own(f.__globals__.get("__name__")) for f in functions)


def _is_another(there: Any, value: Any) -> bool:
    """Whether `value` is not what belongs there: another function, class, number or word, or the same function in a
    wrapper. PyTorch's own wrapper around the step of an optimizer's class does not count.
    """
    there, value = _inner(there), _inner(value)
    if inspect.ismodule(there):
        return value is not there
    if not _named(there):
        plain = isinstance(there, int | float | str | tuple)
        return type(value) is not type(there) or plain and value != there
    if not (there.__module__ or "").startswith("utils."):
        return value is not there or not _is_own(there.__module__) and _is_changed(value)
    if not _named(value) or (value.__module__, value.__qualname__) != (there.__module__, there.__qualname__):
        return True
    return _wrappers(value) != _wrappers(there) and not hasattr(value, "hooked")


def _loaded(names: list[str]) -> tuple[dict[str, str], dict[str, dict]]:
    """Of these files those that are loaded, by the name of the module, and what each defines now."""
    loaded = {f"utils.{name.removesuffix('/__init__').replace('/', '.')}": name for name in names}
    loaded = {module: name for module, name in loaded.items() if module in sys.modules}
    paths = {module: UTILS / f"{name}.py" for module, name in loaded.items()}
    return loaded, {module: _again(path, module, path.read_bytes()) for module, path in paths.items()}


@cache
def _again(path: Path, module: str, source: bytes) -> dict:
    """What a file defines, executed beside the module that was loaded of it."""
    try:
        with torch.random.fork_rng(devices=[]), rng_from(0):
            return runpy.run_path(str(path), run_name=module)
    except Exception as error:
        raise RunError(f"{path} cannot be loaded any more ({first_line(error)}); mend it.") from None


def _parts(value: Any) -> dict[str, Any]:
    """The functions and the constants of a class, by name."""
    own = {**vars(value)} if inspect.isclass(value) else {}
    own.pop("__annotate_func__", None)  # Python 3.14's
    return {key: inner for key, inner in own.items() if not key.startswith("__") or inspect.isfunction(_inner(inner))}


def _wrappers(value: Any) -> int:
    """How many decorators that keep what they decorate a function has."""
    return 1 + _wrappers(value.__wrapped__) if hasattr(value, "__wrapped__") else 0


def _inner(value: Any) -> Any:
    """The function in a property, a method of the class, or one whose results are kept; else the value itself."""
    if isinstance(value, property | cached_property):
        return value.fget if isinstance(value, property) else value.func
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    return getattr(value, "__wrapped__", value) if callable(value) and not inspect.isfunction(value) else value


def _named(value: Any) -> bool:
    """Whether it is a function or a class, which knows the file it is of."""
    return inspect.isfunction(value) or inspect.isclass(value)
