"""The layer table, to be read by people: all layers of a network, and what changed between two networks."""

from collections import Counter
from difflib import SequenceMatcher

import pandas as pd
from torch import nn

from utils.architecture import layer_table, short_names, totals

NUMBERS = ["receptive field", "multiply-adds", "parameters"]
WORDS = ["kind", "channels", "size", "stride", "padding", "dilation"]


def table(model: nn.Module) -> pd.DataFrame:
    """The layer table to be read, every value a text: convolutions, linear layers and poolings by short names, what all
    other layers (batch norms) have together, and the totals. `kind` has stride and dilation where they are not 1.
    NetworkError as in `layer_table`."""
    read = _read(model)
    for row in read.values():
        said = [f"{word} {row[word]}" for word in ("stride", "dilation") if row.get(word, 1) != 1]
        row |= {"kind": ", ".join([row["kind"], *said])} if said else {}
    rows = pd.DataFrame(read, dtype=object).T  # from_dict of pandas 2 loses their order
    columns = [*NUMBERS, "kind", "channels", "size"]  # which shows what the padding does
    return rows.reindex(columns=columns).apply(lambda column: column.map(_text)).rename_axis("layer")


def changes(before: nn.Module, after: nn.Module) -> pd.DataFrame:
    """Every layer in which two networks differ, in forward order: in what (one that a network lacks is "-" there), and
    how many parameters and multiply-adds the second has more. NetworkError as in `layer_table`."""
    old, new = map(_read, (before, after))
    steps = SequenceMatcher(None, list(old), list(new), autojunk=False).get_opcodes()
    found = {}
    for name in dict.fromkeys(n for _, i, j, k, m in steps for n in (*list(old)[i:j], *list(new)[k:m])):
        was, now = old.get(name, {}), new.get(name, {})
        keys = [key for key in was | now if key not in NUMBERS and was.get(key) != now.get(key)]
        if not (was and now):  # all of it is new or gone; what goes without saying is left out
            keys = [key for key in keys if key != "size" and (was | now)[key] not in (0, 1)]
        if name == "in all":
            keys = NUMBERS[:1]
        more = [_text(now.get(count, 0) - was.get(count, 0), "+") for count in ("parameters", "multiply-adds")]
        if keys or more != ["0", "0"]:
            named = {key: "" if key in ("kind", "channels") else f"{key} " for key in keys}
            sides = [", ".join(named[key] + _text(row[key]) for key in keys if key in row) for row in (was, now)]
            found[name] = [side or "-" for side in sides] + more
    columns = ["before", "after", "parameters", "multiply-adds"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("layer")


def _read(model: nn.Module) -> dict[str, dict]:
    """Short name -> what is known of the layer, under the titles that `table` shows; the last two are "other layers",
    with the number of each kind, and "in all"."""
    table = layer_table(model)
    main, rows = table.kind.str.contains("Conv|Linear|Pool"), {}
    total = {key: pd.NA if value is None else value for key, value in totals(model, table).items()}
    for name, row in zip(short_names(table.layer[main]), table[main].itertuples(), strict=True):
        kind = {"AdaptiveAvgPool2d": "average", "Linear": "linear"}.get(row.kind, row.kind.removesuffix("2d"))
        if not pd.isna(row.kernel):
            kind = f"{kind} {row.kernel}x{row.kernel}".removeprefix("Conv ")
        if not pd.isna(row.groups) and row.groups > 1:
            kind += " depthwise" if row.groups == row.in_channels else f", {row.groups} groups"
        channels, size = f"{row.in_channels} to {row.out_channels}", f"{row.in_size} to {row.out_size}"
        values = [row.receptive_field, row.macs, row.parameters, kind, channels, size]
        known = zip(NUMBERS + WORDS, [*values, row.stride, row.padding, row.dilation], strict=True)
        rows[name] = {key: value for key, value in known if key in NUMBERS or "<NA>" not in str(value)}
    others = total["parameters"] - table.parameters[main].sum()
    rows["other layers"] = {"parameters": others, **Counter(table.kind[~main])}
    rows["in all"] = dict(zip(NUMBERS, (total[k] for k in ("receptive_field", "macs", "parameters")), strict=True))
    return rows


def _text(value: float | str | None, sign: str = "") -> str:
    return value if isinstance(value, str) else "-" if pd.isna(value) else f"{value:{sign if value else ''},.0f}"
