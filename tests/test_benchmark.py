import itertools
import sys

import numpy as np
import pytest
import torch

import utils
from utils.__main__ import main, parse
from utils.experiments import experiment
from utils.study import benchmark


def test_the_loops_run_and_are_compared(cache, monkeypatch, capsys):
    """On a few images of the stand-in; the plain loop in a process of its own, as `make bench` runs them all."""
    monkeypatch.setenv("FAST_RUN", "1")
    monkeypatch.setattr(utils, "FAST_RUN", True)
    in_own_process = benchmark.in_own_process

    def own_process(function, loop, *arguments):
        return in_own_process(function, loop, *arguments) if loop == "plain" else function(loop, *arguments)

    monkeypatch.setattr(benchmark, "in_own_process", own_process)
    table = benchmark.compare(rounds=1, count=256)
    assert table.loop.tolist() == ["plain", "no dropout", "our"] and (table.images_per_second > 0).all()
    parts = table[["data", "forward", "random_numbers", "backward", "optimiser"]]
    assert np.allclose(parts.sum(axis=1), 100, atol=1)
    assert (table.random_numbers > 0).tolist() == [True, False, False], "only the plain loop draws dropout"
    assert table.product_share.between(0, 100, inclusive="neither").all()
    out = capsys.readouterr().out
    assert "our / plain: median" in out and "our / no dropout: median" in out and "peak memory" in out
    assert "Kept" not in out


def test_the_rate_of_a_matrix_product_counts_its_multiply_adds(monkeypatch):
    """Of 4 x 4 matrices 64, in the shortest time, half a second."""
    seconds = itertools.chain.from_iterable((start, start + (2 if start else 0.5)) for start in range(0, 100, 10))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(seconds))
    assert benchmark.product_rate("float32", side=4) == 128


def test_whole_trainings_are_timed_in_turn(cache, monkeypatch, capsys):
    """In this process; every epoch of each recipe counts."""
    monkeypatch.setattr(utils, "FAST_RUN", True)
    monkeypatch.setattr(benchmark, "in_own_process", lambda function, *arguments: function(*arguments))
    epochs = []

    def trained(loop, network, recipe, data, seed=1):
        epochs.append((loop, network, recipe.epochs, len(data.train_images)))
        return None, [1.0] * recipe.epochs

    monkeypatch.setattr(benchmark, "train", trained)
    benchmark.compare_minutes(rounds=2, count=50)
    with pytest.raises(SystemExit):
        main(["bench", "--minutes", "--rounds", "5"])  # it has three
    assert parse(["bench", "--rounds", "5"]).rounds == 5
    asked = []
    for name in ("compare", "compare_accuracy", "compare_minutes", "grow"):
        monkeypatch.setattr(benchmark, name, lambda *given, name=name: asked.append((name, *given)))
    for options in ([], ["--rounds", "3"], ["--accuracy"], ["--minutes"], ["--growth"]):
        assert main(["bench", *options]) == 0
    assert asked == [("compare", 5), ("compare", 3), ("compare_accuracy",), ("compare_minutes",), ("grow",)]
    turns = [("our", name, experiment(name).recipe.epochs, 50) for name in ("quick", "experiment_5")]
    share = turns[0][2] / turns[1][2]
    assert epochs == 2 * turns and f"quick takes {share:.3f} of the time of experiment_5" in capsys.readouterr().out


def test_peak_memory_is_in_mib():
    pytest.importorskip("resource", reason="this system does not tell it")
    assert 50 < benchmark._peak_memory() < 100_000


def test_peak_memory_is_not_known_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert np.isnan(benchmark._peak_memory())


def test_shares_tell_the_parts_of_a_step_apart():
    net = torch.nn.Linear(500, 500)
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            torch.nn.functional.dropout(net(torch.randn(64, 500)), 0.5).sum().backward()
    found = benchmark.shares(profiler)
    assert found["backward"] > 0 and found["random_numbers"] > 0 and found["data"] == found["optimiser"] == 0
