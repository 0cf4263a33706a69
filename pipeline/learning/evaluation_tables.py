"""The tables of an evaluation: figures with intervals, scores, and both as Markdown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.learning.judged_sets import JudgedSet
from spips_core.learning.evaluate import FIGURES, MAIN_FIGURE, agreements
from spips_core.learning.metrics import rising_share, srcc

TABLE_SCHEMA = pa.schema(
    [
        ("model", pa.string()), ("set", pa.string()), ("kind", pa.string()),
        ("subset", pa.string()), ("figure", pa.string()), ("value", pa.float64()),
        ("low", pa.float64()), ("high", pa.float64()), ("num_examples", pa.int64()),
        ("note", pa.string()),
    ]
)  # fmt: skip
"""One row for each model, set, subset and figure.

subset is a kind of distortion, or "" for the whole set; low and high are the 95 % interval; note
says why value is null.
"""

Array = NDArray[np.float64]


def figure_rows(
    model: str, item: JudgedSet, scores: Array, num_samples: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure of the whole set, then one for each kind of distortion in it.

    Args:
        model: the model's name.
        item: the data set.
        scores: (N, K), lower is better.
        num_samples: bootstrap draws for each interval; 0 gives no intervals.
    """
    targets, references = item.examples.targets, item.examples.references
    for figure in agreements(item.kind, scores, targets, references, num_samples=num_samples):
        yield _row(
            model, item, "", figure.figure, value=figure.value, low=figure.low, high=figure.high,
            num_examples=figure.num_examples,
        )  # fmt: skip
    kinds = np.asarray(item.examples.kinds)
    for kind in sorted(set(kinds) - {""}):
        chosen = kinds == kind
        if item.kind == "rated":
            value = srcc(scores[chosen, 0], targets[chosen])
        else:
            value = rising_share(scores[chosen])
        num_examples = int(chosen.sum())
        figure_name = MAIN_FIGURE[item.kind]
        yield _row(model, item, str(kind), figure_name, value=value, num_examples=num_examples)


def note_row(model: str, item: JudgedSet, note: str) -> dict[str, Any]:
    """Return a row that says why a model has no figures for a set."""
    return _row(model, item, "", MAIN_FIGURE[item.kind], note=note)


def _row(model: str, item: JudgedSet, subset: str, figure: str, **columns: Any) -> dict[str, Any]:
    empty = {"value": None, "low": None, "high": None, "num_examples": 0, "note": ""}
    names = {"model": model, "set": item.name, "kind": item.kind}
    return names | {"subset": subset, "figure": figure} | empty | columns


def score_table(scores_of: dict[tuple[str, str], Array], sets: Sequence[JudgedSet]) -> pa.Table:
    """Return every score: one row for each model and example.

    Args:
        scores_of: (N, K) by model and set.
        sets: the data sets.
    """
    by_name = {item.name: item for item in sets}
    parts = []
    for (model, name), scores in scores_of.items():
        examples = by_name[name].examples
        parts.append(
            pa.table(
                {
                    "model": [model] * len(scores),
                    "set": [name] * len(scores),
                    "reference": [Path(r).name for r in examples.references],
                    "distortion": examples.kinds,
                    "target": examples.targets,
                    "scores": pa.array(scores.tolist(), pa.list_(pa.float64())),
                }
            )
        )
    return pa.concat_tables(parts)


def describe(table: pa.Table, sets: Sequence[JudgedSet]) -> str:
    """Return the tables as Markdown: the figures of each set, then those of its subsets.

    Args:
        table: a table of `TABLE_SCHEMA`.
        sets: the data sets, in the order to show.
    """
    rows = table.to_pylist()
    text = ["# Evaluation", "", "Higher is better in every column; in brackets the 95 % interval."]
    for item in sets:
        own = [row for row in rows if row["set"] == item.name]
        text += ["", f"## {item.name} ({item.kind}, {len(item.examples)} examples)", ""]
        text += _figure_grid(own, list(FIGURES[item.kind]))
        if any(row["subset"] for row in own):
            text += ["", f"{MAIN_FIGURE[item.kind]} of each kind of distortion:", ""]
            text += _subset_grid(own)
    notes = dict.fromkeys((row["model"], row["note"]) for row in rows if row["note"])
    text += ["", *(f"- {model} could not be measured: {note}" for model, note in notes)]
    return "\n".join(text).rstrip() + "\n"


def _figure_grid(rows: Sequence[dict[str, Any]], figures: Sequence[str]) -> list[str]:
    """Return a line for each model and a column for each figure of the whole set."""
    cell = {(row["model"], row["figure"]): row for row in rows if not row["subset"]}
    lines = _heading(["model", *figures])
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [_with_interval(cell.get((model, figure))) for figure in figures]
        lines.append(_line([model, *cells]))
    return lines


def _subset_grid(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each kind of distortion and a column for each model."""
    models = list(dict.fromkeys(row["model"] for row in rows if not row["note"]))
    value = {(row["subset"], row["model"]): row["value"] for row in rows if row["subset"]}
    lines = _heading(["", *models])
    for subset in sorted({subset for subset, _ in value}):
        lines.append(_line([subset, *(_number(value[subset, model]) for model in models)]))
    return lines


def _heading(columns: Sequence[str]) -> list[str]:
    return [_line(columns), "|---" * len(columns) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _with_interval(row: dict[str, Any] | None) -> str:
    if row is None or row["low"] is None or not np.isfinite([row["value"], row["low"]]).all():
        return _number(row["value"] if row else None)
    return f"{_number(row['value'])} ({_number(row['low'])} to {_number(row['high'])})"


def _number(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.4f}".replace("0.", ".", 1)
