"""`make faults`: every attack in full, into results/faults.csv; with names as arguments only those, into no file."""

import sys

import pandas as pd

from tests.conftest import ROOT
from tests.faults.attacks import ATTACKS, attack

rows = attack(sys.argv[1:] or list(ATTACKS))
if not sys.argv[1:]:
    table = pd.DataFrame(rows)[["fault", "tries", "held", "lost"]]
    table.to_csv(ROOT / "results" / "faults.csv", index=False, lineterminator="\n")
sys.exit(any(row["lost"] for row in rows))
