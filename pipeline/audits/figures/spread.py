"""How much wider intervals are because pairs share references.

Pairs of one reference depend on each other: a hard picture is hard for every model. So references
are the draws, not rows. The variance of a mean or share is then that of a ratio in cluster sampling
(Cochran 1977, Sec. 11.12):
    R / (R - 1) * sum_r (s_r - mean * n_r)^2 / (sum_r n_r)^2
with R references, and the sum s_r and number n_r of the values of reference r. Its quotient with
the variance for independent rows is the design effect.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from scipy import stats

from pipeline.audits.figures.distribution import Floats
from pipeline.runs.summary import counted

BLOCKS = 4096
"""Up to about this many references in a group, each counts by itself. More are counted in this many
blocks (a power of 2), chosen by a hash. Then several can share one, which keeps the tables small
and the answer right on average."""
ROUGH_REFERENCES = 60
"""With fewer references, intervals are rough: the page says so."""


class Spread(NamedTuple):
    """How the values of one column in one group depend on their references.

    Attributes:
        references: number of references with a value; if there are many, of blocks of them.
        mean: design effect of the mean of the finite values.
        shares: design effect of the share of values at or below each limit.
    """

    references: int
    mean: float
    shares: list[float]

    def num_draws(self, num_rows: int) -> int:
        """Return the number of rows that make an interval: none if they have one reference."""
        return num_rows if self.references > 1 else 0

    def widen(self, draws: Floats, mean: float, confidence: float) -> Floats:
        """Return bootstrap draws of rows' mean, (N,), as far from the mean as those of references.

        Infinite means stay what they are.
        """
        if not math.isfinite(mean):
            return draws
        return mean + (draws - mean) * widening(self.mean, self.references, confidence)

    def effective_rows(self, num_rows: int, confidence: float) -> Floats:
        """Return, for each limit, how many independent rows would have intervals as wide, (L,).

        Where all rows are on one side of a limit, their dependence cannot be told. Then each
        reference counts once.
        """
        widths = np.array([
            widening(effect, self.references, confidence) for effect in self.shares
        ])  # fmt: skip
        return np.where(widths > 0, num_rows / np.maximum(widths, 1e-9) ** 2, self.references)


def warn_of_few(references: int) -> list[str]:
    """Return a note for people if there are too few references for exact intervals."""
    if references >= ROUGH_REFERENCES:
        return []
    few = counted(references, "reference")
    return [f"the intervals are rough: {few} instead of {ROUGH_REFERENCES} or more"]


def mask_references(connection: duckdb.DuckDBPyConnection, *tables: str) -> None:
    """Add, for `measure_spreads` of each table, which bits of references its groups tell apart."""
    for table in tables:
        connection.execute(
            f"CREATE OR REPLACE TABLE {table}_masks AS SELECT g, CASE WHEN num > {BLOCKS} "
            f"THEN {BLOCKS - 1}::UBIGINT ELSE {2**64 - 1}::UBIGINT END AS mask FROM ("
            f"SELECT 0 AS g, approx_count_distinct(reference) AS num FROM {table} UNION ALL "
            f"SELECT g, approx_count_distinct(reference) FROM {table} WHERE g > 0 GROUP BY g)"
        )


def measure_spreads(
    connection: duckdb.DuckDBPyConnection, table: str, column: str,
    limits: Mapping[int, Sequence[float]],
) -> dict[int, Spread]:  # fmt: skip
    """Return the spread of a column's values in each group that has some, by the group's number.

    Args:
        connection: to a database with the table, of which `mask_references` was called.
        table: has the column, g (the group's number, or null) and reference (a hash of 64 bits).
        column: name of the value column.
        limits: by number of the group, 0 for all rows: values for `Spread.shares`.
    """
    num_limits = len(next(iter(limits.values())))
    columns = {f"l{i}": [values[i] for values in limits.values()] for i in range(num_limits)}
    numbers = pa.table({"g": pa.array(limits, pa.int32())} | columns)
    sums = {"m": "count(*) FILTER (isfinite(x))", "s": "coalesce(sum(x) FILTER (isfinite(x)), 0)"}
    sums |= {f"k{i}": f"count(*) FILTER (x <= l{i})" for i in range(num_limits)}
    pairs = [("m", "s"), *(("n", f"k{i}") for i in range(num_limits))]
    moments = ", ".join(
        f"sum({n}), sum({n} * {n}), sum({s}), sum({s} * {s}), sum({n} * {s})" for n, s in pairs
    )
    connection.register("limits", numbers)
    rows = connection.execute(
        f"SELECT g, count(*), sum(q), {moments} FROM (SELECT g, count(*)::DOUBLE AS n, "
        f"coalesce(sum(x * x) FILTER (isfinite(x)), 0) AS q, "
        f"{', '.join(f'{sum_}::DOUBLE AS {name}' for name, sum_ in sums.items())} "
        f"FROM (SELECT 0 AS g, reference, {column}::DOUBLE AS x FROM {table} UNION ALL "
        f"SELECT g, reference, {column}::DOUBLE FROM {table} WHERE g > 0) JOIN limits USING (g) "
        f"JOIN {table}_masks USING (g) WHERE NOT isnan(x) "
        "GROUP BY g, reference & mask) GROUP BY g"
    ).fetchall()
    connection.unregister("limits")
    found = {}
    for group, references, squares, *values in rows:
        of_mean, *of_shares = (values[5 * i : 5 * i + 5] for i in range(len(pairs)))
        mean = design_effect(references, of_mean, squares)
        # A share is the mean of ones and zeros, which are their own squares.
        shares = [design_effect(references, one, one[2]) for one in of_shares]
        found[group] = Spread(references, mean, shares)
    return found


def design_effect(references: int, moments: Sequence[float], value_squares: float) -> float:
    """Return the variance of a mean with references as draws, divided by that with rows as draws.

    It is 0 where it cannot be told: for one reference, or if all values are equal.

    Args:
        references: R.
        moments: sums over the references of n_r, n_r^2, s_r, s_r^2 and n_r s_r.
        value_squares: sum of the squares of the values themselves.
    """
    num, num_squares, total, squares, products = moments
    if references < 2 or not num:
        return 0.0
    mean = total / num
    of_references = squares - 2 * mean * products + mean**2 * num_squares
    of_rows = value_squares - mean * total
    if of_rows <= 1e-12 * value_squares:  # equal, but for rounding
        return 0.0
    return max(references / (references - 1) * of_references / of_rows, 0.0)


def widening(effect: float, references: int, confidence: float) -> float:
    """Return by which factor an interval for independent rows is too narrow.

    That is the root of the design effect, times Student's t by the normal distribution's quantile:
    the variance between few references is itself uncertain. 0 if the effect cannot be told.
    """
    if references < 2:
        return 0.0
    tail = (1 - confidence) / 2
    return float(math.sqrt(effect) * stats.t.isf(tail, references - 1) / stats.norm.isf(tail))
