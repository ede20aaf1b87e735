"""The package's own errors: each message is one sentence that says what is wrong and what to do."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb


def printable(text: str, longest: int = 1000) -> str:
    """`text` in one line without control characters, which a terminal would obey, its middle left out if too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= longest else f"{shown[: longest // 2]} ... {shown[-longest // 2 :]}"


class ProjectError(Exception):
    """Anything the user can mend; the command line prints it and exits with code 2."""

    def __str__(self) -> str:
        return printable(super().__str__())


def first_line(error: Exception) -> str:
    """What an error of somebody else's code says, as a part of one sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def lacks_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch or the system says that there is too little memory."""
    said = (
        "can't allocate memory|not enough memory|out of memory|failed to map|can't start new thread|create a primitive$"
    )
    return isinstance(error, MemoryError) or bool(re.search(said, str(error)))


TOO_LITTLE = "there is too little memory; close other programs, or train with smaller batches."
NOT_ITS_OWN = (
    "The network computes with weights that are not among its parameters, so they would never be trained: keep its "
    "layers as attributes or in an nn.ModuleList, and call them in forward by self."
)


class DataError(ProjectError):
    """The images cannot be found, read or trusted."""


class NetworkError(ProjectError):
    """A network cannot be built, or not be used on the images."""


class RunError(ProjectError):
    """A training run cannot be started, resumed, shown or published."""


@contextmanager
def of_a_network(what: str) -> Iterator[None]:
    """Whatever a network of the user's own raises in the block becomes a NetworkError that says where it was raised;
    `what` says what was tried with the network, such as "be built". RunError if it only lacks memory.
    """
    try:
        yield
    except ProjectError:
        raise
    except Exception as error:
        # Of a killed worker, which PyTorch raises wherever the process happens to be:
        if first_line(error).startswith("DataLoader worker (pid"):
            raise
        if lacks_memory(error):
            raise RunError(f"The network cannot {what}: {TOO_LITTLE}") from error
        torch, here = Path(sys.modules["torch"].__file__).parents[1], Path(__file__).parent
        ours = (str(here / "engine"), str(here / "architecture.py"), __file__)
        others = (os.path.dirname(os.__file__), str(torch), *ours)  # what is its own lies elsewhere
        own = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
        cell = own and ("ipykernel" in own[-1].filename or "ipython-input" in own[-1].filename)
        file = own and ("the cell" if cell else Path(own[-1].filename).name)
        why = f"{type(error).__name__}{f' in line {own[-1].lineno} of {file}' if own else ''}: {first_line(error)}"
        raise NetworkError(f"The network cannot {what} ({why}); mend it.") from error
