"""How far an accuracy, or the difference of two, can be trusted; everything in percent and points.

Three questions, three answers. Another set of test images: `accuracy_interval`, and `paired` for two networks on the
same images. Another seed: `over_seeds`. Several networks or recipes with the same seeds: `against_base`. Every interval
is a 95 % interval: of twenty such, one misses the true value on average.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

import utils
from utils.engine.checkpoints import KEPT, SUMS
from utils.engine.records import last_accuracy, path_of, read_metrics, title_of
from utils.errors import RunError
from utils.experiments import EXPERIMENTS

LEVEL = 0.95


def accuracy_interval(right: int, images: int) -> tuple[float, float]:
    """Of an accuracy measured on so many images, `right` of them right (Wilson, "Probable Inference, the Law of
    Succession", 1927)."""
    interval = stats.binomtest(right, images).proportion_ci(LEVEL, method="wilson")
    return 100 * interval.low, 100 * interval.high


def paired(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Two networks on the same images, from what each got right: bool (N,), bool (N,).

    Only the images on which they disagree tell them apart.

    Returns:
        The two-by-two count `both`, `first_only`, `second_only`, `neither`; `difference` = accuracy of the first minus
        that of the second, with `low` and `high` (Agresti, "Categorical Data Analysis", 2013, section 11.1); `p` of
        McNemar's exact test (1947) that both are equally accurate.
    """
    first, second = np.asarray(first), np.asarray(second)
    if not first.dtype == second.dtype == bool or first.shape != second.shape or not first.size:
        raise RunError("Two networks are compared by what each got right of the same images: predicted == labels.")
    n, a, b = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    difference = (a - b) / n
    margin = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((a + b) / n - difference**2) / np.sqrt(n)
    p = stats.binomtest(a, a + b).pvalue if a + b else 1.0
    count = dict(both=int((first & second).sum()), first_only=a, second_only=b, neither=int((~first & ~second).sum()))
    found = dict(difference=difference, low=difference - margin, high=difference + margin)
    return count | {key: 100 * float(value) for key, value in found.items()} | dict(p=float(p))


def over_seeds(accuracies: Sequence[float]) -> dict[str, float]:
    """`mean` and standard `deviation` over `seeds` runs that differ in nothing else; `low` and `high` of the mean
    (Student's t). With one run only the mean is known, the others are nan."""
    values = np.asarray(accuracies, float)
    n, mean = len(values), float(values.mean())
    deviation = float(values.std(ddof=1)) if n > 1 else float("nan")
    margin = stats.t.ppf((1 + LEVEL) / 2, max(n - 1, 1)) * deviation / n**0.5
    return dict(seeds=n, mean=mean, deviation=deviation, low=mean - margin, high=mean + margin)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float:
    """One standard deviation between seeds for several networks, each around its own mean."""
    groups = [np.asarray(group, float) for group in groups]
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in groups)))


def against_base(
    table: pd.DataFrame, base: str | float | None, value: str = "validation_accuracy", level: float = LEVEL
) -> pd.DataFrame:
    """What each change is worth: its mean `value` minus that of `base`, paired by seed.

    A seed's luck (the order of the images, the augmentations) is common to all changes and is taken out; what is left
    over, pooled over all changes, is the noise: a randomised block design (Montgomery, "Design and Analysis of
    Experiments", chapter 4). All changes are taken to be equally noisy.

    Args:
        table: one row a run, with the columns `change`, `seed` and `value`; a seed that some change lacks is left out.
        base: what all are compared with; None compares each change with the one before it.
        level: of each interval; 1 - 0.05 / m for m differences of which none may miss its true value (Bonferroni).

    Returns:
        One row a change but the base, in the table's order: mean, difference, low, high, seeds.
    """
    if (twice := table.duplicated(["change", "seed"])).any():
        row = table[twice].iloc[0]
        raise RunError(f"There are two runs with the change {row.change!r} and the seed {row.seed}; leave one out.")
    wide = table.pivot(index="change", columns="seed", values=value).loc[table.change.unique()].dropna(axis=1)
    if base not in (None, *wide.index) or wide.empty:
        raise RunError(f"There is no change {base!r}, or no seed that all changes have; see the table.")
    k, n = wide.shape
    rest = wide.sub(wide.mean(axis=1), axis=0).sub(wide.mean(axis=0), axis=1) + wide.to_numpy().mean()
    freedom = (k - 1) * (n - 1)
    noise = np.sqrt((rest.to_numpy() ** 2).sum() / freedom) if freedom else float("nan")
    margin = stats.t.ppf((1 + level) / 2, max(freedom, 1)) * noise * np.sqrt(2 / n)
    mean = wide.mean(axis=1)
    difference = mean.diff() if base is None else mean - mean[base]
    found = pd.DataFrame(dict(mean=mean, difference=difference, low=difference - margin, high=difference + margin))
    return found.assign(seeds=n).drop(index=wide.index[0] if base is None else base)


# ---------------------------------------------------------------- of the published runs


def seeds(name: str) -> pd.DataFrame:
    """The metrics of every seed with which the run `name` is published, a row each, indexed by the seed."""
    folder = path_of(name)
    held_out = folder.name == "validation"  # then "seed_2/validation" lies beside it
    others = folder.parent.glob("seed_*/validation") if held_out else folder.glob("seed_*")
    others = sorted(path for path in others if any((path / file).exists() for file in (*KEPT, SUMS)))
    return pd.DataFrame(map(read_metrics, (folder, *others))).set_index("seed").sort_index()


def published(held_out: int | None = None) -> pd.DataFrame:
    """The metrics of every published main run, one row a name, in the order of EXPERIMENTS, and what it is to be called
    (`title`); with `held_out`, of those runs on the held-out images that have so many epochs.

    Of all `seeds` of a run: `accuracy` after the last epoch in percent, their mean, and `deviation`, their standard
    deviation (nan where there is one seed).
    """
    results, pattern = utils.ROOT / "results", "[!.]*/*" if held_out is None else "[!.]*/**/validation/*"
    folders = sorted({path.parent for path in results.glob(pattern) if path.name in KEPT})
    folders = [path for path in folders if "/." not in path.as_posix().removeprefix(results.as_posix())]
    # of several seeds the first wins: "validation" comes after "seed_2/validation"
    known = [read_metrics(path) | {"title": title_of(path)} for path in folders]
    known = [m for m in known if not m["title"].startswith("baselines/")]
    found = {m["title"].split("/")[0]: m for m in known if held_out in (None, m["epochs"])}
    names = [name for name in {**EXPERIMENTS, **found} if name in found]
    if held_out and not names:
        there = ", ".join(str(epochs) for epochs in sorted({m["epochs"] for m in known})) or "none"
        raise RunError(f"No run of {held_out} epochs is published on held-out images; there are those of {there}.")
    rows = []
    for name in names:
        reached = seeds(found[name]["title"]).apply(last_accuracy, axis=1)
        over = dict(seeds=len(reached), accuracy=reached.mean(), deviation=reached.std())
        rows.append(found[name] | over)
    return pd.DataFrame(rows, index=names)


def by_seed(names: Sequence[str]) -> pd.DataFrame:
    """Accuracy after the last epoch of every published seed, a row a run: `change` (the name), `seed`, `accuracy`."""
    judged = {title: read_metrics(title)["evaluated_on"] for title in names}
    if len({*judged.values()}) != 1:
        raise RunError(f"There are no runs, or they were judged on different images ({judged}); name some of one kind.")
    found = {name: seeds(name).apply(last_accuracy, axis=1) for name in names}
    return pd.concat(found, names=["change"]).rename("accuracy").reset_index()


def steps(names: Sequence[str]) -> pd.DataFrame:
    """Each network against the one before it in `names`, as `against_base` gives it; indexed by "1 to 2", ..."""
    table, found = by_seed(names), {}
    for before, after in zip(names, names[1:], strict=False):
        step = f"{before.split('_')[-1]} to {after.split('_')[-1]}"
        found[step] = against_base(table, before, "accuracy").loc[after]
    return pd.DataFrame(found, ["mean", "difference", "low", "high", "seeds"]).T
