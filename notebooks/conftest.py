"""Under pytest the notebooks run in fast mode: a few hundred images, one epoch, nothing written."""

import os

os.environ["FAST_RUN"] = "1"  # before nbval starts the kernels, which inherit it
