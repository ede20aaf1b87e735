"""The thin layer under the notebooks; DESIGN in one line: a room imports only from rooms above it.

errors, transforms, sources, data, models, architecture, training, experiments, plotting, report, __main__
"""

import os

# The smoke switch, read once: a few hundred images, one or two epochs, nothing written.
FAST_RUN = os.environ.get("FAST_RUN", "0") not in ("", "0")
