"""Questions about the results of runs, answered with DuckDB.

Batches of rows are copied into a database file. DuckDB then groups, joins and sorts millions of
rows exactly, in bounded memory.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.audits.config import FigureName
from pipeline.audits.figures.candidates import Candidates
from pipeline.audits.figures.distribution import BINS_PER_OCTAVE, SMALLEST_MAGNITUDE, Distribution
from pipeline.audits.figures.keys import problems_of_keys, reference_column_of, stream
from pipeline.audits.figures.nights import QUANTILES, Night, measure_night
from pipeline.audits.figures.spread import Spread, mask_references, measure_spreads
from pipeline.audits.records import SCORE, Key, Side
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import SCORE_FIELDS, Status
from pipeline.runs.storage import describe

MEMORY_LIMIT = "800MB"
MAX_GROUPS = 1000
VALUE_COLUMNS = tuple(field.name for field in SCORE_FIELDS)

MEAN = "coalesce(avg(x) FILTER (isfinite(x)), avg(x))"
DIFFERENCE = "CASE WHEN run.{0} = base.{0} THEN 0 ELSE run.{0} - base.{0} END AS {0}"
"""Images that are identical in both runs have an infinite psnr_db twice: it did not change."""

Order = Literal["worst", "most changed", "random"]
Sign = Literal["<", "<=", ">", ">="]
LARGEST = 2.0**200
"""The bin of infinite values begins here, far above every finite float32."""
_FIRST_BIN = 1 - int(np.log2(SMALLEST_MAGNITUDE)) * BINS_PER_OCTAVE


class Values(NamedTuple):
    """Figures of a column's values in one group; it has at least one."""

    rows: int
    mean: float  # of the finite values; infinite if there are none
    quantiles: list[float]  # in the order of QUANTILES
    above: list[int]  # number of values above each threshold


class Differences(NamedTuple):
    """Figures of the differences, run minus baseline, of one group's pairs that are in both."""

    pairs: int = 0
    mean: float = 0.0  # of the finite differences; without any, infinite, or NaN for both signs
    standard_deviation: float | None = None  # of the finite ones; None for fewer than two
    rose: int = 0
    fell: int = 0
    equal: int = 0


class ScoreTables:
    """The rows of a run and its baseline, and the differences of the pairs in both.

    Attributes:
        group_by: the columns that make groups.
        groups: all groups; the first one is that of all rows.
        columns: the score columns in which the run has values.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, run: FinishedRun,
        baseline: Sequence[FinishedRun], group_by: Sequence[str], reference: str | None,
    ) -> None:  # fmt: skip
        """Copy the rows into a database that `open_tables` makes."""
        self._connection = connection
        self.group_by = tuple(group_by)
        keys = [f"key{i}" for i in range(len(group_by))]
        self._copy("run", [run], keys, reference)
        self._copy("baseline", baseline, keys, reference)
        self.groups = self._number_groups(keys)
        # A row's group has the number g in SQL: its place in `groups`.
        self._group, sets = ("coalesce(g, 0)", "((), (g))") if keys else ("0", "(())")
        self._group_by = f"GROUPING SETS {sets}"
        (counts,) = self._ask(f"SELECT {_each('count({0})')} FROM run")
        self.columns = tuple(compress(VALUE_COLUMNS, counts))
        self._connection.execute(
            f"CREATE TABLE paired AS SELECT run.pair_id, reference, g, {_each(DIFFERENCE)} "
            f"FROM run JOIN (SELECT pair_id, {_each('avg({0}) AS {0}')} FROM baseline "
            f"WHERE status = 'ok' GROUP BY pair_id) AS base USING (pair_id) "
            f"WHERE run.status = 'ok'"
        )
        mask_references(self._connection, "run", "baseline", "paired")

    def _copy(
        self, table: Side, runs: Sequence[FinishedRun], keys: Sequence[str], reference: str | None
    ) -> None:
        texts = "".join(f", {key} VARCHAR" for key in keys)
        self._connection.execute(
            f"CREATE TABLE {table} (run INTEGER, pair_id VARCHAR, status VARCHAR, "
            f"reference UBIGINT{texts}, {_each('{0} FLOAT')})"
        )
        for number, run in enumerate(runs):
            # Of images in the manifest itself no reference is known: each row is its own.
            of_reference, problems = reference_column_of("", run, reference)
            name = run.pair_id_column if problems else of_reference
            columns = [run.pair_id_column, "status", name, *VALUE_COLUMNS]
            self._connection.register("source", stream(run, columns, self.group_by))
            values = ", ".join(f"c{i}" for i in range(3, len(columns)))
            names = "".join(f"{key}, " for key in keys)
            self._connection.execute(
                f"INSERT INTO {table} SELECT {number}, c0, c1, hash(c2::VARCHAR), "
                f"{names}{values} FROM source"
            )
            self._connection.unregister("source")

    def _number_groups(self, keys: Sequence[str]) -> tuple[Key, ...]:
        """Add a column g with the number of each row's group, and return the groups."""
        found: list[Key] = []
        if keys:
            listed = ", ".join(keys)
            union = f"SELECT {listed} FROM run UNION SELECT {listed} FROM baseline"
            found = self._ask(f"SELECT * FROM ({union}) LIMIT {MAX_GROUPS + 1}")
        if len(found) > MAX_GROUPS:
            raise ContractError(
                f"group_by: expected columns that make at most {MAX_GROUPS} groups, got more"
            )
        found.sort(key=lambda key: [(value is None, value or "") for value in key])
        numbers = {"g": pa.array(range(1, len(found) + 1), pa.int32())}
        for i, key in enumerate(keys):
            numbers[key] = pa.array([values[i] for values in found], pa.string())
        self._connection.register("groups", pa.table(numbers))
        same = " AND ".join(f"t.{k} IS NOT DISTINCT FROM groups.{k}" for k in keys) or "true"
        for table in ("run", "baseline"):
            self._connection.execute(
                f"CREATE TABLE grouped AS SELECT t.*, groups.g FROM {table} AS t "
                f"LEFT JOIN groups ON {same}; DROP TABLE {table}; "
                f"ALTER TABLE grouped RENAME TO {table}"
            )
        self._connection.unregister("groups")
        return ((), *found)

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def count_statuses(self, table: Side) -> dict[Key, dict[Status, int]]:
        """Return the number of rows with each status, 0 included, of each group that has rows."""
        rows = self._ask(
            f"SELECT {self._group}, status, count(*) FROM {table} "
            f"GROUP BY status, {self._group_by} ORDER BY ALL"
        )
        counts: dict[Key, dict[Status, int]] = {}
        for group, status, count in rows:
            of_group = counts.setdefault(self.groups[group], dict.fromkeys(Status, 0))
            of_group[Status(status)] = count
        return counts

    def describe(self, table: Side, column: str, thresholds: Sequence[float]) -> dict[Key, Values]:
        """Return figures of each group with values, in the order of `groups`."""
        # Values are float32, so a threshold is, too: the value 0.3 is not above 0.3.
        limits = [float(np.float32(threshold)) for threshold in thresholds]
        above = ", ".join(f"count(*) FILTER (x > '{limit!r}'::DOUBLE)" for limit in limits)
        levels = list(QUANTILES.values())
        figures = f"count(*), {MEAN}, quantile_cont(x, {levels}), [{above}]::BIGINT[]"
        return {key: Values(*row) for key, row in self._describe(table, column, figures)}

    def describe_differences(self, column: str) -> dict[Key, Differences]:
        """Return figures of each group with differences, in the order of `groups`."""
        figures = (
            f"count(*), {MEAN}, stddev_samp(x) FILTER (isfinite(x)), count(*) FILTER (x > 0), "
            "count(*) FILTER (x < 0), count(*) FILTER (x = 0)"
        )
        return {key: Differences(*row) for key, row in self._describe("paired", column, figures)}

    def _describe(self, table: str, column: str, figures: str) -> list[tuple[Key, list[Any]]]:
        rows = self._ask(
            f"SELECT {self._group}, {figures} "
            f"FROM (SELECT g, {column}::DOUBLE AS x FROM {table}) WHERE NOT isnan(x) "
            f"GROUP BY {self._group_by} HAVING count(*) > 0 ORDER BY 1"
        )
        return [(self.groups[group], figures) for group, *figures in rows]

    def spreads(
        self, table: Literal["run", "baseline", "paired"], column: str,
        limits: Mapping[Key, Sequence[float]],
    ) -> dict[Key, Spread]:  # fmt: skip
        """Return how the values of groups depend on their references; see `measure_spreads`."""
        numbers = {group: number for number, group in enumerate(self.groups)}
        numbered = {numbers[group]: values for group, values in limits.items()}
        found = measure_spreads(self._connection, table, column, numbered) if limits else {}
        return {self.groups[number]: spread for number, spread in found.items()}

    def failed_spreads(self, table: Side) -> dict[Key, Spread]:
        """Return how the rows of groups that are not ok depend on their references."""
        groups = self.count_statuses(table)
        return self.spreads(table, "(status <> 'ok')::TINYINT", dict.fromkeys(groups, (0.0,)))

    def measure_nights(
        self, nights: Sequence[FinishedRun], names: Collection[FigureName]
    ) -> list[Night]:
        """Return figures of each night by group; see `measure_night`."""
        return [measure_night(self._connection, one, names, self.group_by) for one in nights]

    def distributions(
        self, table: Literal["run", "baseline", "paired"], column: str
    ) -> dict[Key, Distribution]:
        """Return the distribution of each group with values; paired has the differences."""
        counted = self._connection.execute(
            f"SELECT {self._group}, bin, count(*), sum(x) FROM (SELECT g, x, "
            f"CASE WHEN abs(x) < {SMALLEST_MAGNITUDE!r} THEN 0 ELSE sign(x) * "
            f"(floor(log2(least(abs(x), {LARGEST!r})) * {BINS_PER_OCTAVE}) + {_FIRST_BIN}) "
            f"END::BIGINT AS bin "
            f"FROM (SELECT g, {column}::DOUBLE AS x FROM {table}) WHERE NOT isnan(x)) "
            f"GROUP BY bin, {self._group_by} ORDER BY 1, bin"
        ).fetchnumpy()
        numbers, bins, counts, sums = counted.values()
        groups, starts = np.unique(numbers, return_index=True)
        ends = np.append(starts, len(numbers))[1:]
        return {
            self.groups[group]: Distribution(bins[start:end], counts[start:end], sums[start:end])
            for group, start, end in zip(groups, starts, ends, strict=True)
        }

    def describe_baseline_runs(self) -> dict[int, dict[str, float]]:
        """Return figures of the score in each run that has scores, by its place in the baseline."""
        rows = self._ask(
            f"SELECT run, avg({SCORE}::DOUBLE), median({SCORE}::DOUBLE), "
            f"quantile_cont({SCORE}::DOUBLE, 0.95) FROM baseline "
            f"WHERE isfinite({SCORE}) GROUP BY run"
        )
        return {n: {"mean": mean, "median": median, "p95": p95} for n, mean, median, p95 in rows}

    def pick_pairs(self, order: Order, num_pairs: int, seed: int) -> dict[str, float | None]:
        """Return the first ok pairs in an order: by how much the score of each rose, by pair_id.

        The rise is None for a pair that the baseline does not have.
        """
        by = {
            "worst": f"run.{SCORE} DESC",
            "most changed": "abs(rise) DESC",
            "random": f"hash(run.pair_id || '{int(seed)}')",
        }[order]
        return self._pick("rise <> 0" if order == "most changed" else "true", by, num_pairs)

    def pick_nearest(
        self, group: Key, column: str, sign: Sign, limit: float,
        num_pairs: int,
    ) -> dict[str, float | None]:  # fmt: skip
        """Return the ok pairs of a group nearest to a limit on one side, as `pick_pairs` does."""
        side = f"run.{column} {sign} '{limit!r}'::DOUBLE AND NOT isnan(run.{column})"
        if group:
            side += f" AND run.g = {self.groups.index(group)}"
        by = f"run.{column} {'DESC' if sign.startswith('<') else 'ASC'}"
        return self._pick(side, by, num_pairs)

    def _pick(self, condition: str, by: str, num_pairs: int) -> dict[str, float | None]:
        rows = self._ask(
            f"SELECT run.pair_id, paired.{SCORE} AS rise FROM run "
            f"LEFT JOIN paired USING (pair_id) WHERE status = 'ok' AND {condition} "
            f"ORDER BY {by}, run.pair_id LIMIT {int(num_pairs)}"
        )
        return dict(rows)

    def pick_siblings(self, pair_ids: Sequence[str], num_models: int) -> dict[str, list[str]]:
        """Return the best other models' pairs of each pair's reference, best first, by pair_id.

        Of several pairs of a model the best one counts. Needs a call of `candidates` before it.
        """
        self._connection.register("chosen", pa.table({"pair_id": pa.array(pair_ids, pa.string())}))
        rows = self._ask(
            "SELECT pair_id, list(other ORDER BY score, other) FROM ("
            "SELECT own.pair_id, other.pair_id AS other, other.score AS score FROM chosen "
            "JOIN candidates AS own USING (pair_id) JOIN candidates AS other USING (reference) "
            "WHERE own.model IS DISTINCT FROM other.model AND other.score IS NOT NULL "
            "QUALIFY row_number() OVER (PARTITION BY own.pair_id, other.model "
            "ORDER BY other.score, other.pair_id) = 1) GROUP BY pair_id"
        )
        self._connection.unregister("chosen")
        return {pair_id: others[:num_models] for pair_id, others in rows}

    def candidates(self, run: FinishedRun, column: str, reference: str) -> Candidates:
        """Copy the run's rows for a comparison of the models in a column; see `Candidates`."""
        return Candidates(self._connection, run, column, reference)

    def pick_failures(self, num_examples: int) -> list[tuple[str, str]]:
        """Return the status and pair_id of at most `num_examples` rows of each status but ok."""
        return self._ask(
            "SELECT status, pair_id FROM run WHERE status <> 'ok' QUALIFY row_number() OVER "
            f"(PARTITION BY status ORDER BY pair_id) <= {int(num_examples)} ORDER BY ALL"
        )


@contextmanager
def open_tables(
    run: FinishedRun, baseline: Sequence[FinishedRun], group_by: Sequence[str],
    reference: str | None = None,
) -> Iterator[ScoreTables]:  # fmt: skip
    """Open a run and its baseline for questions. The copies are deleted when the context ends.

    Args:
        run: the run.
        baseline: the runs to compare with.
        group_by: the columns that make groups.
        reference: column that names each pair's reference; None takes the manifest's own.

    Raises:
        ContractError: a column is missing or cannot make groups, or the columns make too many.
    """
    problems = [
        problem
        for one in (run, *baseline)
        for problem in problems_of_keys("group_by", one, group_by)
    ]
    if reference is not None:
        for one in (run, *baseline):
            problems += reference_column_of("compare.reference_column", one, reference)[1]
    if problems:
        raise ContractError(*problems)
    with open_database() as connection:
        yield ScoreTables(connection, run, baseline, group_by, reference)


@contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database of bounded memory. It is deleted when the context ends."""
    with TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "rows")) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET preserve_insertion_order = false")  # true holds rows in memory
        yield connection


@contextmanager
def reported_as_faults() -> Iterator[None]:
    """Turn the error of a lost or damaged results file, or of a full disk, into a fault.

    Raises:
        FaultError: one of these errors was raised; the message is one line.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise FaultError(describe(error)) from error


def _each(template: str) -> str:
    """Return SQL with the template filled in for each score column."""
    return ", ".join(template.format(name) for name in VALUE_COLUMNS)
