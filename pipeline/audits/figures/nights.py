"""The figures of single nights, from which gates learn the noise."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import duckdb
import numpy as np

from pipeline.audits.config import MIN_NIGHTS, FigureName
from pipeline.audits.figures.keys import stream
from pipeline.audits.records import Key
from pipeline.runs.finished import FinishedRun
from pipeline.runs.summary import counted

SAME_PAIRS = 0.99
"""Two runs have the same manifest if they share at least this part of their pairs."""
QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99}


class Night(NamedTuple):
    """The figures of one run.

    Attributes:
        name: its run_id.
        rows: its rows.
        manifest: a hash of its pair_ids.
        shared: how many of its pairs the audited run has, too.
        figures: by group and name; those without a value are left out.
    """

    name: str
    rows: int
    manifest: int
    shared: int
    figures: Mapping[tuple[Key, FigureName], float]

    def has_pairs_of(self, num_rows: int) -> bool:
        """Return whether it has the manifest of the audited run, which has this many rows."""
        return self.shared >= SAME_PAIRS * max(self.rows, num_rows)


def measure_night(
    connection: duckdb.DuckDBPyConnection, run: FinishedRun, names: Collection[FigureName],
    group_by: Sequence[str],
) -> Night:  # fmt: skip
    """Compute figures of a run, for all rows and for each group.

    Args:
        connection: to a database whose table `run` has the audited run's pair_ids.
        run: the run.
        names: the figures.
        group_by: the columns that make groups.
    """
    columns = sorted({name.column for name in names if name.column is not None})
    keys = [f"key{i}" for i in range(len(group_by))]
    source = stream(run, [run.pair_id_column, "status", *columns], group_by)
    connection.register("source", source)
    values = [f"CASE WHEN NOT isnan(c{i}) THEN c{i}::DOUBLE END AS {name}"
              for i, name in enumerate(columns, start=2)]  # fmt: skip
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE night AS SELECT "
        f"{', '.join(['c0::VARCHAR AS pair_id', 'c1 AS status', *keys, *values])} FROM source"
    )
    connection.unregister("source")
    ((rows, manifest, shared),) = connection.execute(
        "SELECT count(*), bit_xor(hash(night.pair_id)), count(run.pair_id) "
        "FROM night LEFT JOIN run ON night.pair_id = run.pair_id::VARCHAR"
    ).fetchall()
    listed = ", ".join(keys)
    sets = f"((), ({listed}))" if keys else "(())"
    is_group = "grouping(key0) = 0" if keys else "false"
    found = connection.execute(
        f"SELECT {', '.join([is_group, *keys, *map(_in_sql, names)])} FROM night "
        f"GROUP BY GROUPING SETS {sets}"
    ).fetchall()
    connection.execute("DROP TABLE night")
    figures = {
        (tuple(row[: len(keys)]) if is_of_group else (), name): value
        for is_of_group, *row in found
        for name, value in zip(names, row[len(keys) :], strict=True)
        if value is not None
    }
    return Night(run.run_id, rows, manifest, shared, figures)


def _in_sql(name: FigureName) -> str:
    """Return SQL for a figure; it is NULL if no row has a value."""
    x = name.column
    if x is None:
        return "count(*) FILTER (status <> 'ok') / count(*)"
    if name.threshold is not None:
        limit = float(np.float32(name.threshold))  # values are float32, so a threshold is, too
        return f"count(*) FILTER ({x} > '{limit!r}'::DOUBLE) / nullif(count({x}), 0)"
    if name.figure == "mean":
        return f"coalesce(avg({x}) FILTER (isfinite({x})), avg({x}))"
    return f"quantile_cont({x}, {QUANTILES[name.figure]})"


def choose_nights(nights: Sequence[Night], num_rows: int) -> tuple[list[Night], list[str]]:
    """Return the nights that tell how tonight's figures vary, and notes for people.

    Those are nights with tonight's manifest: what varies is the model. If there are too few, they
    are nights of different manifests, one of each: what varies is the choice of pairs, too.

    Args:
        nights: earlier nights, oldest first.
        num_rows: rows of tonight's run.
    """
    same = [night for night in nights if night.has_pairs_of(num_rows)]
    num_others = len(nights) - len(same)
    if len(same) >= MIN_NIGHTS:
        note = f"gates of noise leave out {counted(num_others, 'night')} with other pairs"
        return same, [note] if num_others else []
    different = list({night.manifest: night for night in nights}.values())
    if len(different) >= MIN_NIGHTS:
        return different, [
            f"gates of noise learn from {len(different)} nights of different manifests, so their "
            "noise includes that of the choice of pairs"
        ]
    others = f" and {counted(num_others, 'night')} with other pairs" if num_others else ""
    return same or different, [
        f"gates of noise hold their fixed bounds: expected at least {MIN_NIGHTS} good nights of "
        f"the same pairs, got {len(same)}{others}"
    ]
