"""The tables of an evaluation: figures with intervals, scores, and both as Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.learning.judged_sets import JudgedSet
from spips_core.learning.evaluate import FIGURES, MAIN_FIGURE, agreements

Array = NDArray[np.float64]
Scores = dict[tuple[str, str], Array]
"""(N, K) by model and set, lower is better."""


@dataclass(frozen=True)
class FigureRow:
    """One figure of one model on a set, or on a part of it.

    Attributes:
        subset: kind of distortion, or "" for the whole set.
        value: None if there is none; `note` says why.
        low: lower end of the 95 % interval; None without an interval.
        high: upper end.
    """

    model: str
    set: str
    kind: str
    subset: str = ""
    figure: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    num_examples: int = 0
    note: str = ""


def figure_rows(
    model: str, item: JudgedSet, scores: Array, num_samples: int
) -> Iterator[FigureRow]:
    """Yield a row for each figure of the whole set, then one for each kind of distortion in it.

    num_samples is the number of bootstrap draws for each interval; 0 gives no intervals.
    """
    targets, references = item.examples.targets, item.examples.references
    for figure in agreements(item.kind, scores, targets, references, num_samples=num_samples):
        yield _row(model, item, **asdict(figure))
    kinds = np.asarray(item.examples.kinds)
    main = FIGURES[item.kind][MAIN_FIGURE[item.kind]]
    for kind in sorted(set(kinds) - {""}):
        chosen = np.flatnonzero(kinds == kind)
        value = main(scores[chosen], targets[chosen], chosen)  # no main figure uses references
        yield _row(model, item, subset=str(kind), value=value, num_examples=len(chosen))


def note_row(model: str, item: JudgedSet, note: str) -> FigureRow:
    """Return a row that says why a model has no figures for a set."""
    return _row(model, item, note=note)


def _row(model: str, item: JudgedSet, **values: Any) -> FigureRow:
    main = MAIN_FIGURE[item.kind]
    return FigureRow(model, item.name, item.kind, **({"figure": main} | values))


def figure_table(rows: Sequence[FigureRow]) -> pa.Table:
    """Return rows as a table, one column for each field of `FigureRow`."""
    types = {str: pa.string(), int: pa.int64(), float | None: pa.float64()}
    schema = pa.schema([(field.name, types[field.type]) for field in fields(FigureRow)])  # type: ignore[index]
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def score_table(scores_of: Scores, sets: Sequence[JudgedSet]) -> pa.Table:
    """Return every score: one row for each model and example.

    `targets` has one number for each score of a jury's series, otherwise one.
    """
    by_name = {item.name: item for item in sets}
    parts = []
    for (model, name), scores in scores_of.items():
        examples = by_name[name].examples
        columns = {
            "model": [model] * len(scores),
            "set": [name] * len(scores),
            "reference": [Path(r).name for r in examples.references],
            "distortion": examples.kinds,
            "targets": pa.array(
                [np.atleast_1d(target) for target in examples.targets], pa.list_(pa.float64())
            ),
            "scores": pa.array(scores.tolist(), pa.list_(pa.float64())),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def describe(rows: Sequence[FigureRow], sets: Sequence[JudgedSet]) -> str:
    """Return rows as Markdown: each set's figures, then those of its subsets."""
    text = ["# Evaluation", "", "Higher is better in every column; in brackets the 95 % interval."]
    for item in sets:
        own = [row for row in rows if row.set == item.name]
        text += ["", f"## {item.name} ({item.kind}, {len(item.examples)} examples)", ""]
        text += _figure_grid(own, list(FIGURES[item.kind]))
        if any(row.subset for row in own):
            text += ["", f"{MAIN_FIGURE[item.kind]} of each kind of distortion:", ""]
            text += _subset_grid(own)
    notes = dict.fromkeys((row.model, row.note) for row in rows if row.note)
    text += ["", *(f"- {model} could not be measured: {note}" for model, note in notes)]
    return "\n".join(text).rstrip() + "\n"


def _figure_grid(rows: Sequence[FigureRow], figures: Sequence[str]) -> list[str]:
    """Return a line for each model and a column for each figure of the whole set."""
    cell = {(row.model, row.figure): row for row in rows if not row.subset}
    models = dict.fromkeys(row.model for row in rows)
    lines = [[m, *(_with_interval(cell.get((m, figure))) for figure in figures)] for m in models]
    return _grid([["model", *figures], *lines])


def _subset_grid(rows: Sequence[FigureRow]) -> list[str]:
    """Return a line for each kind of distortion and a column for each model."""
    models = list(dict.fromkeys(row.model for row in rows if not row.note))
    value = {(row.subset, row.model): row.value for row in rows if row.subset}
    subsets = sorted({subset for subset, _ in value})
    lines = [[subset, *(_number(value[subset, model]) for model in models)] for subset in subsets]
    return _grid([["", *models], *lines])


def _grid(rows: list[list[str]]) -> list[str]:
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _with_interval(row: FigureRow | None) -> str:
    if row is None or row.value is None or row.low is None or not np.isfinite(row.value + row.low):
        return _number(row.value if row else None)
    return f"{_number(row.value)} ({_number(row.low)} to {_number(row.high)})"


def _number(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.4f}".replace("0.", ".", 1)
