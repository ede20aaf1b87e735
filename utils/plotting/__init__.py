"""Every figure of the project; one import for all: `from utils import plotting`."""

from utils.plotting.concepts import *  # noqa: F403
from utils.plotting.images import *  # noqa: F403
from utils.plotting.insight import *  # noqa: F403
from utils.plotting.runs import *  # noqa: F403
from utils.plotting.style import *  # noqa: F403
