"""The thin layer under the notebooks: a hall that a student walks through, and wings entered for a reason.

ROOMS is the house, and every room imports only from rooms before it. The hall, in reading order: models (what
networks are built of, and the networks), transforms (augmentation), architecture (what a network is made of,
measured), data (images, split, loaders), training (the recipe and the loop), experiments (which network is trained
with which recipe), runs (training any network, keeping, loading and comparing what came of it). The wings: engine
(what makes a step fast, a run resumable, several processes one, a forward a graph), cifar10 (where the images come
from), plotting (every figure), study (finding out), report (results/ -> README and images/), serve (your own picture).
"""

import os
import sys
import time
from pathlib import Path

ROOMS = """errors models transforms engine architecture cifar10 plotting data training experiments runs
    study report serve __main__""".split()

if sys.version_info < (3, 10):  # noqa: UP036 (who starts with an older one is told)
    sys.exit(f"Error: Python 3.10 or newer is needed, but this is {sys.version.split()[0]}; start it with another one.")

ROOT = Path(__file__).resolve().parent.parent  # of the project

# What every file here said when this process began: an edit counts in a new one (engine/code.py).
if "SOURCES" not in globals():  # they are those of the beginning, also if this file is loaded again
    BEGAN = time.time()
    SOURCES = {
        file.relative_to(ROOT / "utils").with_suffix("").as_posix(): file.read_bytes()
        for file in (ROOT / "utils").rglob("[!.]*.py")
        if file.is_file()
    }

# Otherwise albumentations asks the package index for its newest version at every import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# The smoke switch, read once: a few hundred images, one or two epochs, nothing written.
_said = os.environ.get("FAST_RUN", "").strip().lower()
FAST_RUN = _said in ("1", "true", "yes", "on")
if not FAST_RUN and _said not in ("", "0", "false", "no", "off"):
    sys.exit(f"Error: FAST_RUN is {_said[:50]!a}; set it to 1 or to 0.")
