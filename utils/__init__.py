"""The thin layer under the notebooks. A room imports only from rooms before it in this list:

errors, distributed, transforms, files, sources, data, models, architecture, checkpoints, speed, training,
experiments, plotting, charts, tables, report, benchmark, __main__
"""

import os

# The smoke switch, read once: a few hundred images, one or two epochs, nothing written.
FAST_RUN = os.environ.get("FAST_RUN", "0") not in ("", "0")
