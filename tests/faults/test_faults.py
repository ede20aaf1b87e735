"""The short form of `make faults`: a few tries of every attack."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the attacks fork, and limit what a process may write", allow_module_level=True)
pytest.importorskip("resource", reason="it limits what a process may write")
from tests.faults.attacks import ATTACKS, attack


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fault", [fault for fault, (_, _, few) in ATTACKS.items() if few])
def test_nothing_is_lost(fault):
    (row,) = attack([fault], short=True)
    assert row["lost"] == 0, row["first_loss"]
