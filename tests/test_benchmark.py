import numpy as np
import torch

import utils
from utils import benchmark
from utils.benchmark import plain, shares
from utils.models import build_model
from utils.training import Recipe
from utils.transforms import normalise_batch

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def test_both_loops_run_and_are_compared(monkeypatch, capsys):
    """In processes of their own, as `make bench` runs them, on a few images."""
    monkeypatch.setenv("FAST_RUN", "1")
    monkeypatch.setattr(utils, "FAST_RUN", True)
    table = benchmark.compare(rounds=1, count=256)
    assert table.loop.tolist() == ["plain", "our"] and (table.images_per_second > 0).all()
    parts = table[["data", "forward", "random_numbers", "backward", "optimiser"]]
    assert np.allclose(parts.sum(axis=1), 100, atol=1)
    assert table.random_numbers[0] > 0 and table.random_numbers[1] == 0, "only the plain loop draws dropout"
    out = capsys.readouterr().out
    assert "ratio: median" in out and "peak memory" in out and "Kept" not in out


def test_the_plain_loop_learns():
    torch.manual_seed(1)
    labels = np.arange(40) % 10
    images = np.broadcast_to((25 * labels).astype(np.uint8)[:, None, None, None], (40, 32, 32, 3))
    model, batch = build_model("experiment_5"), normalise_batch(np.array(images), MEAN, STD)

    def loss():
        return torch.nn.functional.cross_entropy(model.train()(batch), torch.from_numpy(labels)).item()

    before = loss()
    assert len(plain(model, Recipe(epochs=4, batch_size=20), images, labels, MEAN, STD)) == 4
    assert loss() < before - 0.2


def test_shares_tell_the_parts_of_a_step_apart():
    net = torch.nn.Linear(500, 500)
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            torch.nn.functional.dropout(net(torch.randn(64, 500)), 0.5).sum().backward()
    found = shares(profiler)
    assert found["backward"] > 0 and found["random_numbers"] > 0 and found["data"] == found["optimiser"] == 0
