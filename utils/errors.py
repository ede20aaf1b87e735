"""The package's own errors: each message is one sentence that says what is wrong and what to do."""


class ProjectError(Exception):
    """Anything the user can mend; the command line prints it and exits with code 2."""


class DataError(ProjectError):
    """The images cannot be found, read or trusted."""


class NetworkError(ProjectError):
    """A network cannot be built, or not be used on the images."""


class RunError(ProjectError):
    """A training run cannot be started, resumed, shown or published."""
