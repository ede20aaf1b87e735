"""Statistics against other ways of computing the same: counting by hand, resampling, scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import ROOT
from utils.errors import RunError
from utils.study import statistics

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.random(2000) < 0.86, RNG.random(2000) < 0.84


def test_an_interval_of_an_accuracy_covers_the_truth_as_often_as_it_says():
    assert statistics.accuracy_interval(8, 10) == pytest.approx((49.02, 94.33), abs=0.01)  # Wilson's formula, by hand
    truth, hits = 0.86, 0
    for right in np.random.default_rng(1).binomial(1000, truth, 400):
        low, high = statistics.accuracy_interval(right, 1000)
        hits += low < 100 * truth < high
    assert 0.92 < hits / 400 < 0.98


def test_the_two_by_two_count_is_that_of_the_images():
    found = statistics.paired([True, True, True, False, False], [True, False, False, True, False])
    assert [found[key] for key in ("both", "first_only", "second_only", "neither")] == [1, 2, 1, 1]
    assert found["difference"] == pytest.approx(20) and found["p"] == 1
    assert (
        found["high"] - 20 == 20 - found["low"] == pytest.approx(1.96 * 100 * ((3 / 5 - 0.2**2) / 5) ** 0.5, abs=0.01)
    )


def test_the_paired_test_takes_what_each_got_right_and_nothing_else():
    for wrong in ((FIRST.astype(int), SECOND.astype(int)), (FIRST, SECOND[:1]), (FIRST, SECOND.astype(int))):
        with pytest.raises(RunError, match="compared by what each got right of the same images: predicted == labels"):
            statistics.paired(*wrong)


def test_a_base_that_is_not_there_is_named():
    table = pd.DataFrame(dict(change=["a", "b"], seed=[1, 1], accuracy=[80.0, 81.0]))
    with pytest.raises(RunError, match="There is no change 'c', or no seed that all changes have"):
        statistics.against_base(table, "c", "accuracy")
    with pytest.raises(RunError, match="or no seed that all changes have"):
        statistics.against_base(table.assign(seed=[1, 2]), "a", "accuracy")
    with pytest.raises(RunError, match="There are two runs with the change 'a' and the seed 1; leave one out"):
        statistics.against_base(table.assign(change="a"), "a", "accuracy")


def test_swapping_two_predictions_changes_the_paired_test():
    found = statistics.paired(FIRST, SECOND)
    swapped = FIRST.copy()
    right, wrong = np.flatnonzero(FIRST & ~SECOND)[0], np.flatnonzero(~FIRST & ~SECOND)[0]
    swapped[[right, wrong]] = swapped[[wrong, right]]  # as accurate as before, on other images
    assert statistics.paired(swapped, SECOND) == found
    wrong = np.flatnonzero(~FIRST & SECOND)[0]
    swapped = FIRST.copy()
    swapped[[right, wrong]] = swapped[[wrong, right]]
    other = statistics.paired(swapped, SECOND)
    assert other["difference"] == found["difference"] and other["p"] < found["p"] and other["low"] > found["low"]


def test_the_paired_test_agrees_with_scipy():
    found = statistics.paired(FIRST, SECOND)
    differences = 100 * (FIRST.astype(float) - SECOND)
    assert found["difference"] == pytest.approx(differences.mean())
    resampled = stats.bootstrap((differences,), np.mean, method="basic", random_state=0).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx(tuple(resampled), abs=0.1)
    signs = stats.permutation_test(
        (differences[differences != 0],), np.mean, permutation_type="samples", n_resamples=20_000, random_state=0
    )
    assert found["p"] == pytest.approx(signs.pvalue, abs=0.02)
    assert statistics.paired(SECOND, FIRST)["difference"] == -found["difference"]
    assert statistics.paired(FIRST, FIRST)["p"] == 1


def test_over_seeds_is_students_t():
    found, values = statistics.over_seeds([86.14, 85.86, 85.89]), [86.14, 85.86, 85.89]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found["mean"], found["deviation"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (found["low"], found["high"]) == pytest.approx(expected)
    alone = statistics.over_seeds([85.0])
    assert alone["mean"] == 85 and np.isnan([alone["deviation"], alone["low"], alone["high"]]).all()


def test_nothing_to_judge_is_a_sentence():
    with pytest.raises(RunError, match="what each got right"):
        statistics.paired(np.array([], bool), np.array([], bool))


def test_the_pooled_deviation_is_that_of_the_residuals():
    first, second = [86.1, 85.9, 85.8], [84.2, 84.9]
    squares = 2 * np.var(first, ddof=1) + np.var(second, ddof=1)
    assert statistics.pooled_deviation([first, second, [99.0]]) == pytest.approx(np.sqrt(squares / 3))


def ablation(noise, seeds=(1, 2, 3)):
    rng, rows = np.random.default_rng(2), []
    for seed in seeds:
        luck = rng.normal(0, 2)
        for change, worth in (("base", 0), ("better", 1), ("worse", -1), ("none", 0)):
            rows.append(dict(change=change, seed=seed, validation_accuracy=80 + luck + worth + rng.normal(0, noise)))
    return pd.DataFrame(rows)


def test_against_base_takes_out_what_the_seeds_have_in_common():
    found = statistics.against_base(ablation(noise=1e-3), "base")
    assert found.index.tolist() == ["better", "worse", "none"]
    assert found.difference.tolist() == pytest.approx([1, -1, 0], abs=0.01)
    assert (found.high - found.low < 0.02).all()  # although the seeds differ by points


def test_against_base_takes_a_number_as_base_and_0_is_one():
    """The tries of a recipe are told by the values of a field, such as hole=0.0."""
    names = {"base": 0.0, "better": 0.25, "worse": 0.5, "none": 1.0}
    table = ablation(noise=1e-3)
    found = statistics.against_base(table.assign(change=table.change.map(names)), 0.0)
    assert found.index.tolist() == [0.25, 0.5, 1.0]
    assert found.difference.tolist() == pytest.approx([1, -1, 0], abs=0.01)


def test_runs_that_cannot_be_compared_are_a_sentence():
    for names in (["experiment_5/epochs_5/validation", "experiment_5"], []):
        with pytest.raises(RunError, match="no runs, or they were judged on different images"):
            statistics.by_seed(names)


def test_against_base_agrees_with_the_textbook():
    """The margin is t * sqrt(2 MSE / n), MSE from the two-way analysis of variance: with two changes it is the paired
    t test."""
    table = ablation(noise=0.5)
    two = table[table.change.isin(["base", "better"])]
    found = statistics.against_base(two, "base").loc["better"]
    wide = two.pivot(index="seed", columns="change", values="validation_accuracy")
    test = stats.ttest_rel(wide.better, wide.base)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    wider = statistics.against_base(two, "base", level=0.99).loc["better"]
    assert (wider.low, wider.high) == pytest.approx(tuple(test.confidence_interval(0.99)))


def test_without_a_base_each_change_is_compared_with_the_one_before_it():
    table = ablation(noise=0.5)
    found, all_from_first = statistics.against_base(table, None), statistics.against_base(table, "base")
    assert found.index.tolist() == all_from_first.index.tolist()
    assert found.difference.cumsum().tolist() == pytest.approx(all_from_first.difference.tolist())
    assert (found.high - found.low).tolist() == pytest.approx((all_from_first.high - all_from_first.low).tolist())


def test_a_seed_that_is_not_there_for_every_change_is_left_out():
    table = ablation(noise=0.5)
    table = table[:-1]
    found = statistics.against_base(table, "base")
    assert found.index.tolist() == ["better", "worse", "none"] and set(found.seeds) == {2}


def test_steps_compare_each_network_with_the_one_before(monkeypatch):
    table = ablation(noise=0.5).rename(columns={"validation_accuracy": "accuracy"})
    monkeypatch.setattr(statistics, "by_seed", lambda names: table)
    found = statistics.steps(["base", "better", "none"])
    assert found.index.tolist() == ["base to better", "better to none"]
    for step, base, change in (("base to better", "base", "better"), ("better to none", "better", "none")):
        expected = statistics.against_base(table, base, "accuracy").loc[change]
        assert found.loc[step, expected.index].tolist() == pytest.approx(expected.tolist())


def test_the_published_seeds_are_read_one_by_one():
    found = statistics.by_seed(["experiment_4", "experiment_5"])
    assert found.change.tolist() == ["experiment_4"] * 3 + ["experiment_5"] * 3 and found.seed.tolist() == [1, 2, 3] * 2
    for row in found.itertuples():
        folder = ROOT / "results" / row.change / ("" if row.seed == 1 else f"seed_{row.seed}")
        history = pd.read_csv(folder / "history.csv")
        assert row.accuracy == pytest.approx(history.test_accuracy.iloc[-1], abs=1e-3)
