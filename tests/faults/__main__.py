"""`make faults`: every attack in full, into results/faults.csv; with names as arguments only those, into no file."""

import sys

import pandas as pd
import torch

from tests.conftest import ROOT
from tests.faults.attacks import ATTACKS, attack
from utils.engine.checkpoints import seal

torch.set_num_threads(1)  # small networks: two threads would wait for each other
rows = attack(sys.argv[1:] or list(ATTACKS))
if not sys.argv[1:]:
    table = pd.DataFrame(rows)[["fault", "tries", "held", "lost"]]
    table.to_csv(ROOT / "results" / "faults.csv", index=False, lineterminator="\n")
    seal(ROOT / "results")
sys.exit(any(row["lost"] for row in rows))
