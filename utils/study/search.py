"""How a recipe or a network was found: something changed, judged on the held-out images, one row a try.

`python -m utils search fast c2=48 lr=0.2` trains `fast` with those changes on nine in ten of the training images
and adds a row to runs/search/fast.csv; the notebooks read what is published of it.
"""

import inspect
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

import utils
from utils import architecture, models, runs
from utils.cifar10.files import ImageData
from utils.engine import records
from utils.engine.checkpoints import UNKNOWN, alone_in, write_atomically
from utils.engine.code import code
from utils.errors import RunError, printable
from utils.experiments import experiment
from utils.training import Recipe

KEPT = """seed parameters macs receptive_field epochs_to_85 data_source train_accuracy validation_accuracy
    seconds_per_epoch""".split()  # of the metrics of a try, beside its recipe and channels
COMPARED = ["modules", "first_response", "code"]  # to know whether the code still builds what was trained

KINDS = {int: int, float: float, str: str, bool: lambda word: {"True": True, "False": False}[word]}
KINDS[str | None] = lambda word: None if word == "None" else word


def choices(name: str) -> tuple[dict, dict]:
    """What can be changed of `name` and its values now: the fields of its recipe, and its network's channels."""
    recipe = asdict(experiment(name).recipe)
    parameters = inspect.signature(models.networks()[name]).parameters
    return recipe, {key: parameter.default for key, parameter in parameters.items()}


def parse(name: str, changes: list[str]) -> tuple[Recipe, dict]:
    """["c2=48", "lr=0.2"] as the recipe with lr=0.2 and {"c2": 48}; RunError says what is wrong with it."""
    recipe, channels = choices(name)
    if both := recipe.keys() & channels.keys():
        raise RunError(f"{min(both)} is a field of the recipe and an argument of {name}; rename the argument.")
    now, parsed = recipe | channels, {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in now:
            raise RunError(f"{change!r} changes nothing of {name}; write NAME=VALUE with one of {', '.join(now)}.")
        if key in parsed:
            raise RunError(f"{key} is given twice; one run has one value.")
        kind = Recipe.__dataclass_fields__[key].type if key in recipe else type(now[key])
        if kind not in KINDS:
            raise RunError(f"{key} of {name} is {now[key]!r}, which no search can change; give it a number as default.")
        try:
            parsed[key] = KINDS[kind](value)
        except (ValueError, KeyError):
            raise RunError(f"{change!r}: {key} must be of the kind of {now[key]!r}.") from None
    changed = replace(experiment(name).recipe, **{key: value for key, value in parsed.items() if key in recipe})
    return changed, {key: value for key, value in parsed.items() if key in channels}


def attempt(name: str, changes: list[str], data: ImageData, seed: int = 1) -> pd.DataFrame:
    """Train `name` with `changes`; returns the table of all tries so far, also kept in runs/search/."""
    path, published = (utils.ROOT / place / "search" / f"{name}.csv" for place in ("runs", "results"))

    def so_far() -> pd.DataFrame | None:
        before = path if path.exists() else published
        return sound(records.read_table(before), before) if before.exists() else None

    recipe, channels = parse(name, changes)
    so_far()  # what is damaged is said before the training
    usual = choices(name)[1]  # handed over, too, so that the run tells them when they are others in the code
    told = {key: value for key, value in (usual | channels).items() if type(value) in KINDS}
    network = partial(models.networks()[name], **told)
    found = records.row_of(runs.train(network, recipe, data, name=f"search/{name}", seed=seed).metrics)
    row = {key: found[key] for key in asdict(recipe) if key != "precision" and found.get(key) is not None}
    row |= {key: str(value) if isinstance(value, list | tuple) else value for key, value in (usual | channels).items()}
    row |= {key: found[key] for key in [*KEPT, *COMPARED]}
    table = pd.DataFrame([row])
    with alone_in(None if utils.FAST_RUN else path.parent):  # two searches at once lose no row, nor does publishing
        if (before := so_far()) is not None:
            both = pd.DataFrame([*before.to_dict("records"), row])
            known = [column for column in both if column not in COMPARED]  # the first tries lack them
            table = both.round(12).drop_duplicates(known, ignore_index=True)  # reading a file may change last digits
        if not utils.FAST_RUN:
            write_atomically(table.to_csv(index=False, lineterminator="\n").encode(), path)
    return table


def sound(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The table of tries; RunError if it lacks a column, or a row the number in one, that each has."""
    if lacking := {"epochs", "lr", *KEPT} - {*table}:
        raise RunError(f"{file} lacks the column {min(lacking)}; mend or delete it.")
    numbers = table[["epochs", "lr", "seed", "parameters", "train_accuracy", "validation_accuracy"]]
    damaged = numbers.apply(pd.to_numeric, errors="coerce").isna().any(axis=1)
    if table.empty or damaged.any():
        what = f"row {damaged.idxmax() + 1} is damaged" if damaged.any() else "it holds no row"
        raise RunError(f"{file} is not whole: {what}; mend or delete it.")
    return table


def tried(name: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """The published tries of `name`, or those of `table`, with a column `network` in the place of what is compared for
    it: "now" if the code builds what was trained then, as far as the row knows, "earlier" if its function has other
    layers, or these compute something else, or another code trains them, since."""
    table = records.read_table(utils.ROOT / "results" / "search" / f"{name}.csv") if table is None else table
    kinds = {key: type(default) for key, default in choices(name)[1].items() if type(default) in KINDS}
    trained_by = records.digest_of(code())

    @cache
    def built(seed: int, **given: Any) -> tuple[dict, list[float], bool]:
        model = records.build(partial(models.networks()[name], **given), seed)
        known = records.described(model)
        first = known == records.modules(model)  # of its classes; all rows without `modules` are of these
        told = architecture.totals(model) | dict(modules=records.digest_of(known), code=trained_by)
        return told, records.response(model), first

    def network(row: dict) -> str:
        row = {key: value for key, value in row.items() if pd.notna(value)}
        try:
            given = {key: kind(row[key]) for key, kind in kinds.items() if key in row}
            told, response, of_first = built(int(row.get("seed", 1)), **given)
            same = all(row[key] == value for key, value in told.items() if key in row)
            same &= of_first or "modules" in row
            if row.get("first_response", UNKNOWN) != UNKNOWN:  # the first tries lack it
                same &= records.alike(response, [*map(float, str(row["first_response"]).split())])
        except Exception:  # today's function may refuse what it took then
            same = False
        return "now" if same else "earlier"

    columns = [column for column in table if column not in COMPARED]
    return table[columns].assign(network=[network(row) for row in table.to_dict("records")])


def shown(tried: pd.DataFrame, **words: str) -> pd.DataFrame:
    """Tries as a page shows them, the best first: accuracies with two digits, multiply-adds in millions, whole numbers
    without a point, "-" where one has no such value; only the columns that have `words`, and their headings."""
    words = dict(validation_accuracy="held out (%)") | words

    def text(column: pd.Series) -> pd.Series:
        if column.name.endswith("_accuracy"):
            return column.map("{:.2f}".format)
        if column.name == "macs":
            return (column / 1e6).map("{:.1f} M".format, na_action="ignore")
        numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        whole = numbers and (column.dropna() % 1 == 0).all()
        return column.map("{:,.0f}".format, na_action="ignore") if whole else column

    best = tried.sort_values("validation_accuracy", ascending=False)
    return best[[*words]].apply(text).astype(object).fillna("-").rename(columns=words).set_index("held out (%)")


def tries() -> pd.DataFrame:
    """Every finished run in runs/, a row each, oldest first; of the recipes only what differs between them."""
    paths = (path for path in (utils.ROOT / "runs").glob("**/metrics.json") if path.is_file())
    paths = sorted(paths, key=lambda path: path.stat().st_mtime)
    rows = {}
    for path in paths:
        try:
            m = records.read_metrics(path.parent)
            teacher = records.taught_by(m)
        except (RunError, OSError) as error:  # others can be listed
            print(error)
            continue
        row = dict(accuracy=round(records.last_accuracy(m), 2), network=m.get("built_by", {}).get("function", UNKNOWN))
        row |= dict(parameters=m["parameters"])
        row |= {"multiply-adds": m["macs"], "receptive field": m["receptive_field"], "seed": m["seed"]}
        row |= {"judged on": m["evaluated_on"], "images": records.images_of(m)} | records.LATER | m["recipe"]
        rows[printable(records.title_of(path.parent))] = row | dict(teacher=teacher)
    found = pd.DataFrame(rows.values(), list(rows))  # pandas 2 loses the order in from_dict(orient="index")
    recipe = [key for key in asdict(Recipe(1)) if key != "epochs" and key in found]
    return found.drop(columns=[key for key in recipe if found[key].nunique(dropna=False) < 2])
