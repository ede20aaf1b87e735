"""The code that trains, as a part of what a run is: whoever changes the loss or a loader sees what that does."""

import ast
import inspect
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from utils.errors import RunError

UTILS = Path(__file__).resolve().parent.parent
TRAINED_BY = "transforms data training runs engine/batches engine/steps".split()  # from the images to the weights
# Digest of a file as it is now -> as it was when published runs were trained. Whoever changes one of these files but
# not what is trained adds a line here, once an epoch of training gave the same weights before and after, bit for bit.
SAME: dict[str, str] = {}


def code() -> dict[str, str]:
    """What the files TRAINED_BY say, a digest each; comments, docstrings and the breaks of lines do not count.

    RunError if one of them, or models.py, was edited after it was loaded.
    """
    for name in ("models", *TRAINED_BY):
        module = sys.modules.get(f"utils.{name.replace('/', '.')}")
        if module and not _loaded_as_written(module):
            raise RunError(f"utils/{name}.py was edited after it was loaded; restart the kernel, and it counts.")
    found = {f"{name}.py": _digest((UTILS / f"{name}.py").read_bytes()) for name in TRAINED_BY}
    return {file: SAME.get(value, value) for file, value in found.items()}


@cache
def _digest(source: bytes) -> str:
    return sha256(_told(ast.parse(source)).encode()).hexdigest()[:8]


def _told(part: Any) -> str:
    """A syntax tree as text, in any version of Python the same."""
    if isinstance(part, list):
        return f"[{', '.join(map(_told, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = {key: value for key, value in ast.iter_fields(part) if value not in (None, [])}
    if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
        fields["body"] = part.body[1:]
    if isinstance(part, ast.JoinedStr):  # Python 3.12 adds empty ones
        fields["values"] = [value for value in part.values if getattr(value, "value", None) != ""]
    return f"{type(part).__name__}({', '.join(f'{key}={_told(value)}' for key, value in fields.items())})"


def _loaded_as_written(module: ModuleType) -> bool:
    """Whether what `module` loaded from its file, functions, methods and constants, stands there now."""
    try:
        source = Path(module.__file__).read_bytes()
        written, waiting = set(), [_compiled(source)]
    except (OSError, SyntaxError, ValueError):
        return False
    while waiting:
        written.add(code := waiting.pop())
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    for part in ast.parse(source).body:
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant):
            if any(vars(module).get(name.id, part) != part.value.value for name in part.targets):
                return False
    owners = [module, *filter(inspect.isclass, vars(module).values())]
    functions = [inspect.unwrap(f) for owner in owners for f in vars(owner).values() if inspect.isroutine(f)]
    loaded = [f.__code__ for f in functions if inspect.isfunction(f) and f.__code__.co_filename == module.__file__]
    return all(code in written for code in loaded)


@cache
def _compiled(source: bytes) -> CodeType:
    return compile(source, "", "exec")
