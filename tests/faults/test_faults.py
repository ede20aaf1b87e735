"""The short form of `make faults`: a few tries of every attack, other ones each day."""

from datetime import date

import pytest

from tests.faults.attacks import ATTACKS, attack


@pytest.mark.parametrize("fault", ATTACKS)
def test_nothing_is_lost(fault):
    (row,) = [row for row in attack(short=True, seed=date.today().toordinal(), only=fault) if row["fault"] == fault]
    assert row["lost"] == 0, row["first_loss"]
