"""The package's own errors: each message is one sentence that says what is wrong and what to do."""


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


class DataError(ProjectError):
    """The images cannot be found, read or trusted."""


class NetworkError(ProjectError):
    """A network cannot be built, or not be used on the images."""


class RunError(ProjectError):
    """A training run cannot be started, resumed, shown or published."""
