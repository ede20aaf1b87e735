"""`make faults`: every attack in full, into results/faults.csv."""

import sys

import pandas as pd

from tests.conftest import ROOT
from tests.faults.attacks import attack

rows = attack(short=False, only=" ".join(sys.argv[1:]))
if not sys.argv[1:]:
    table = pd.DataFrame(rows)[["fault", "tries", "held", "lost"]]
    table.to_csv(ROOT / "results" / "faults.csv", index=False, lineterminator="\n")
sys.exit(any(row["lost"] for row in rows))
