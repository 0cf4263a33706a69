"""Questions to the results of runs, answered by DuckDB.

Rows are copied by batches into a database file, so that millions are grouped, joined and sorted
exactly, in bounded memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audits.distribution import BINS_PER_OCTAVE, SMALLEST_MAGNITUDE, Distribution
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import SCORE_FIELDS, Status
from pipeline.runs.storage import describe

MEMORY_LIMIT = "800MB"
MAX_GROUPS = 1000
VALUE_COLUMNS = tuple(field.name for field in SCORE_FIELDS)
QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99}
ALL_ROWS = 0
"""Number of the group that holds every row; groups by columns count from 1."""

Key = tuple[str | None, ...]
Row = dict[str, Any]
Table = Literal["run", "baseline", "paired"]
Order = Literal["worst", "most changed", "random"]
_FIRST_BIN = 1 - int(np.log2(SMALLEST_MAGNITUDE)) * BINS_PER_OCTAVE


class ScoreTables:
    """The rows of a run, of its baseline, and the differences of the pairs that are in both.

    Attributes:
        group_by: the columns that make groups.
        groups: by number, the values of these columns as text, None for null.
        columns: score columns in which the run has values.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        run: FinishedRun,
        baseline: Sequence[FinishedRun],
        group_by: Sequence[str],
    ) -> None:
        """Copy the rows; `open_tables` makes the database.

        Raises:
            ContractError: the columns make too many groups.
        """
        self._connection = connection
        self.group_by = tuple(group_by)
        self._keys = [f"key{i}" for i in range(len(group_by))]
        self._copy("run", [run])
        self._copy("baseline", baseline)
        self.groups = self._number_groups()
        (counts,) = self._ask(f"SELECT {_each('count({0}) AS {0}')} FROM run")
        self.columns = tuple(name for name in VALUE_COLUMNS if counts[name])
        self._connection.execute(
            f"CREATE TABLE paired AS SELECT run.pair_id, g, {_each('run.{0} - base.{0} AS {0}')} "
            f"FROM run JOIN (SELECT pair_id, {_each('avg({0}) AS {0}')} FROM baseline "
            f"WHERE status = 'ok' GROUP BY pair_id) AS base USING (pair_id) "
            f"WHERE run.status = 'ok'"
        )

    def _copy(self, table: Table, runs: Sequence[FinishedRun]) -> None:
        keys = "".join(f", {key} VARCHAR" for key in self._keys)
        self._connection.execute(
            f"CREATE TABLE {table} (run INTEGER, pair_id VARCHAR, status VARCHAR{keys}, "
            f"{_each('{0} FLOAT')})"
        )
        for number, run in enumerate(runs):
            columns = [run.pair_id_column, "status", *self.group_by]
            self._connection.register("source", _stream(run, [*columns, *VALUE_COLUMNS]))
            texts = ", ".join(f"c{i}::VARCHAR" for i in range(len(columns)))
            values = ", ".join(f"c{len(columns) + i}" for i in range(len(VALUE_COLUMNS)))
            self._connection.execute(
                f"INSERT INTO {table} SELECT {number}, {texts}, {values} FROM source"
            )
            self._connection.unregister("source")

    def _number_groups(self) -> dict[int, Key]:
        """Give every row its group's number, in column g, and return the groups."""
        listed = ", ".join(self._keys) or "NULL"
        found: list[Key] = []
        if self._keys:
            union = f"SELECT {listed} FROM run UNION SELECT {listed} FROM baseline"
            limited = f"SELECT * FROM ({union}) LIMIT {MAX_GROUPS + 1}"
            found = [tuple(row.values()) for row in self._ask(limited)]
        if len(found) > MAX_GROUPS:
            raise ContractError(
                f"group_by: expected columns that make at most {MAX_GROUPS} groups, got more"
            )
        found.sort(key=lambda key: [(value is None, value or "") for value in key])
        groups = dict(enumerate(found, start=1))
        columns = {
            name: pa.array([key[i] for key in found], pa.string())
            for i, name in enumerate(self._keys)
        }
        numbers = pa.table({"g": pa.array(list(groups), pa.int32()), **columns})
        self._connection.register("groups", numbers)
        same = " AND ".join(f"t.{k} IS NOT DISTINCT FROM groups.{k}" for k in self._keys) or "true"
        for table in ("run", "baseline"):
            self._connection.execute(
                f"CREATE TABLE grouped AS SELECT t.*, groups.g FROM {table} AS t "
                f"LEFT JOIN groups ON {same}; DROP TABLE {table}; "
                f"ALTER TABLE grouped RENAME TO {table}"
            )
        self._connection.unregister("groups")
        return {ALL_ROWS: (), **groups}

    def _ask(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        cursor = self._connection.execute(query, list(parameters))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @property
    def _sets(self) -> str:
        """For GROUP BY: all rows together and, if there are any, the groups."""
        return "((), (g))" if self._keys else "(())"

    def count_statuses(self, table: Table) -> dict[int, dict[str, int]]:
        """Return the number of rows with each status, by group; groups without rows are absent.

        Args:
            table: run or baseline.
        """
        sets = "((status), (g, status))" if self._keys else "((status))"
        group = "coalesce(g, 0)" if self._keys else "0"
        counts: dict[int, dict[str, int]] = {}
        for row in self._ask(
            f"SELECT {group} AS g, status, count(*) AS n FROM {table} GROUP BY GROUPING SETS {sets}"
        ):
            zeros = {status.value: 0 for status in Status}
            counts.setdefault(row["g"], zeros)[row["status"]] = row["n"]
        return counts

    def describe(self, table: Table, column: str, thresholds: Sequence[float]) -> dict[int, Row]:
        """Return figures of a column's finite values, by group; groups without any are absent.

        Args:
            table: run, baseline, or paired.
            column: one of the score columns.
            thresholds: count values above these.

        Returns:
            By group: rows, mean, standard_deviation (None of one row), the names in QUANTILES,
            and above, a list of counts.
        """
        above = ", ".join(
            f"count(*) FILTER ({column} > {float(value)!r}::DOUBLE)" for value in thresholds
        )
        rows = self._ask(
            f"SELECT {self._group} AS g, count(*) AS rows, avg({column}) AS mean, "
            f"stddev_samp({column}) AS standard_deviation, "
            f"quantile_cont({column}, {list(QUANTILES.values())}) AS quantiles, "
            f"[{above}]::BIGINT[] AS above "
            f"FROM (SELECT g, {column}::DOUBLE AS {column} FROM {table}) WHERE isfinite({column}) "
            f"GROUP BY GROUPING SETS {self._sets} HAVING count(*) > 0"
        )
        return {
            row.pop("g"): row | dict(zip(QUANTILES, row.pop("quantiles"), strict=True))
            for row in rows
        }

    @property
    def _group(self) -> str:
        return "coalesce(g, 0)" if self._keys else "0"

    def distributions(self, table: Table, column: str) -> dict[int, Distribution]:
        """Return the distribution of a column's finite values, by group.

        Args:
            table: run, baseline, or paired.
            column: one of the score columns.
        """
        sets = "((bin), (g, bin))" if self._keys else "((bin))"
        counted = self._connection.execute(
            f"SELECT {self._group} AS g, bin, count(*) AS n, sum(x) AS total FROM (SELECT g, x, "
            f"CASE WHEN abs(x) < {SMALLEST_MAGNITUDE!r} THEN 0 ELSE "
            f"sign(x) * (floor(log2(abs(x)) * {BINS_PER_OCTAVE}) + {_FIRST_BIN}) "
            f"END::BIGINT AS bin "
            f"FROM (SELECT g, {column}::DOUBLE AS x FROM {table}) WHERE isfinite(x)) "
            f"GROUP BY GROUPING SETS {sets} ORDER BY g, bin"
        ).fetchnumpy()
        groups, starts = np.unique(counted["g"], return_index=True)
        ends = np.append(starts, len(counted["g"]))[1:]
        return {
            int(group): Distribution(
                counted["bin"][start:end].astype(np.int64),
                counted["n"][start:end].astype(np.int64),
                counted["total"][start:end].astype(np.float64),
            )
            for group, start, end in zip(groups, starts, ends, strict=True)
        }

    def count_changes(self, column: str) -> dict[int, Row]:
        """Return how many pairs rose, fell or stayed equal against the baseline, by group.

        Args:
            column: one of the score columns.
        """
        rows = self._ask(
            f"SELECT {self._group} AS g, count(*) FILTER ({column} > 0) AS rose, "
            f"count(*) FILTER ({column} < 0) AS fell, count(*) FILTER ({column} = 0) AS equal "
            f"FROM paired WHERE isfinite({column}) GROUP BY GROUPING SETS {self._sets}"
        )
        return {row.pop("g"): row for row in rows}

    def baseline_runs(self, column: str) -> dict[int, Row]:
        """Return mean, median and p95 of a column in each run of the baseline, by its number.

        Args:
            column: one of the score columns.
        """
        rows = self._ask(
            f"SELECT run, avg({column}::DOUBLE) AS mean, median({column}::DOUBLE) AS median, "
            f"quantile_cont({column}::DOUBLE, 0.95) AS p95 FROM baseline "
            f"WHERE isfinite({column}) GROUP BY run"
        )
        return {row.pop("run"): row for row in rows}

    def pick(self, order: Order, num_pairs: int, seed: int) -> dict[str, float | None]:
        """Return some ok pairs' ids, first things first, with how much their score rose.

        Args:
            order: worst by score, most changed by score, or random.
            num_pairs: at most so many.
            seed: of the random order.
        """
        by = {
            "worst": "run.spips_score DESC",
            "most changed": "abs(rise) DESC",
            "random": f"hash(run.pair_id || '{int(seed)}')",
        }[order]
        only = "AND rise <> 0" if order == "most changed" else ""
        rows = self._ask(
            f"SELECT run.pair_id AS pair_id, paired.spips_score AS rise FROM run "
            f"LEFT JOIN paired USING (pair_id) WHERE status = 'ok' {only} "
            f"ORDER BY {by}, run.pair_id LIMIT {int(num_pairs)}"
        )
        return {row["pair_id"]: row["rise"] for row in rows}

    def pick_failures(self, num_examples: int) -> dict[str, list[str]]:
        """Return the ids of a few rows of each status but ok.

        Args:
            num_examples: of each status.
        """
        rows = self._ask(
            "SELECT status, pair_id FROM run WHERE status <> 'ok' QUALIFY row_number() OVER "
            f"(PARTITION BY status ORDER BY pair_id) <= {int(num_examples)} ORDER BY ALL"
        )
        return {
            status: [row["pair_id"] for row in group]
            for status, group in groupby(rows, key=lambda row: str(row["status"]))
        }


@contextmanager
def open_tables(
    run: FinishedRun, baseline: Sequence[FinishedRun], group_by: Sequence[str]
) -> Iterator[ScoreTables]:
    """Open a run and its baseline for questions, for as long as the context lasts.

    Args:
        run: the run to ask about.
        baseline: runs that it is compared with, together; maybe none.
        group_by: pass-through columns; each combination of their values is a group.

    Raises:
        ContractError: a column is missing, or they make too many groups.
    """
    problems = [
        f"group_by: expected a pass-through column of {one.uri}, one of "
        f"{', '.join(one.pass_through_columns)}, got {name!r}"
        for one in (run, *baseline)
        for name in group_by
        if name not in one.pass_through_columns
    ]
    if problems:
        raise ContractError(*problems)
    with TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "rows")) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET preserve_insertion_order = false")  # holds rows in memory
        yield ScoreTables(connection, run, baseline, group_by)


@contextmanager
def reported_as_faults(*others: type[Exception]) -> Iterator[None]:
    """Turn what a lost or damaged results file or a full disk raises into a fault of one line.

    Args:
        others: further errors to be told so.

    Raises:
        FaultError: one of these errors was raised.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, *others) as error:
        raise FaultError(describe(error)) from error


def count_values(run: FinishedRun) -> dict[str, int]:
    """Return how many rows of a run have a value, by score column.

    Args:
        run: whose results are asked.
    """
    with duckdb.connect() as connection:
        connection.register("source", _stream(run, VALUE_COLUMNS))
        counted = ", ".join(f"count(c{i})" for i in range(len(VALUE_COLUMNS)))
        counts = connection.execute(f"SELECT {counted} FROM source").fetchone()
    return dict(zip(VALUE_COLUMNS, counts or (), strict=True))


def quantiles(run: FinishedRun, column: str, q: float, within: Sequence[str]) -> dict[Key, float]:
    """Return the quantile of a column among ok rows with the same values of other columns.

    Args:
        run: whose results are asked.
        column: one of the score columns.
        q: 0 to 1.
        within: pass-through columns; none makes one quantile of all rows, with key ().

    Returns:
        By the values of `within`, as `key_of` gives them. Rows without values give nothing.
    """
    keys = "".join(f", c{i + 2}" for i in range(len(within)))
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.register("source", _stream(run, [column, "status", *within]))
        rows = connection.execute(
            f"SELECT quantile_cont(c0::DOUBLE, {float(q)}){keys} "
            f"FROM source WHERE c1 = 'ok' AND c0 IS NOT NULL "
            f"GROUP BY ALL HAVING count(*) > 0"
        ).fetchall()
    return {key_of(key): float(value) for value, *key in rows}


def key_of(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return values of a row so that equal ones, NaN too, are one key.

    Args:
        values: Python's own, as DuckDB and pyarrow give them.
    """
    return tuple("NaN" if value != value else value for value in values)


def _each(template: str) -> str:
    """Return SQL with the template filled in for each score column."""
    return ", ".join(template.format(name) for name in VALUE_COLUMNS)


def _stream(run: FinishedRun, columns: Sequence[str]) -> pa.RecordBatchReader:
    """Return columns of the results as c0, c1 ...: to SQL, names that differ in case are one."""
    numbered = {f"c{i}": pc.field(name) for i, name in enumerate(columns)}
    return run.scores.scanner(columns=numbered).to_reader()
