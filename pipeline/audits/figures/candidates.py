"""Questions about the rows of several models, answered with DuckDB, for the leaderboard."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np

from pipeline.audits.figures.distribution import Floats
from pipeline.audits.figures.keys import stream
from pipeline.audits.records import SCORE
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun

MAX_MODELS = 50


class ModelRows(NamedTuple):
    """The scores of one model; without any, mean and quantiles are None.

    Its failed fraction counts all its rows, also those without a reference.
    """

    model: str | None
    rows: int
    mean: float | None
    quantiles: list[float] | None  # median and p95
    failed_fraction: float = 0.0


class Candidates:
    """The rows of a run that name a reference, by model.

    Attributes:
        models: what each model has of them.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, run: FinishedRun, column: str, reference: str
    ) -> None:
        """Copy the rows.

        Args:
            connection: to a database without a table of candidates.
            run: the run.
            column: pass-through column that names the model.
            reference: pass-through column that names the reference.

        Raises:
            ContractError: there are fewer than two models or more than MAX_MODELS, or no two of
                them share a reference.
        """
        self._connection = connection
        self._copy(run, column, reference)
        self._check(run, column, reference)
        rows = self._ask(
            "SELECT model, count(score), avg(score), quantile_cont(score, [0.5, 0.95]), "
            "avg(failed) FROM candidate_rows GROUP BY model HAVING count(reference) > 0 "
            "ORDER BY model NULLS LAST"
        )
        self.models = [ModelRows(*row) for row in rows]

    def _copy(self, run: FinishedRun, column: str, reference: str) -> None:
        self._connection.register(
            "source", stream(run, [SCORE, "status", run.pair_id_column], [column, reference])
        )
        self._connection.execute(
            "CREATE TABLE candidate_rows AS SELECT c2 AS pair_id, key0 AS model, "
            "key1 AS reference, (c1 <> 'ok')::TINYINT AS failed, "
            "CASE WHEN c1 = 'ok' AND key1 IS NOT NULL THEN c0::DOUBLE END AS score FROM source; "
            "CREATE VIEW candidates AS SELECT pair_id, model, reference, score "
            "FROM candidate_rows WHERE reference IS NOT NULL"
        )
        self._connection.unregister("source")

    def _check(self, run: FinishedRun, column: str, reference: str) -> None:
        query = f"SELECT DISTINCT model FROM candidates LIMIT {MAX_MODELS + 1}"
        num_models = len(self._ask(query))
        if not 2 <= num_models <= MAX_MODELS:
            got = f"more than {MAX_MODELS}" if num_models > MAX_MODELS else num_models
            raise ContractError(
                f"compare_by: expected a column with 2 to {MAX_MODELS} models, got {got} in "
                f"column {column!r} of {run.uri}"
            )
        if not self._ask(
            "SELECT 1 FROM candidates GROUP BY reference "
            "HAVING count(DISTINCT coalesce('=' || model, '')) > 1 LIMIT 1"
        ):
            raise ContractError(
                f"compare_by: expected references that two models share, got none in column "
                f"{reference!r} of {run.uri}"
            )

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def stream_references(
        self, models: Sequence[str | None]
    ) -> Iterator[tuple[list[str], Floats, Floats]]:
        """Yield up to 2,048 references at a time, in a random but fixed order.

        Yields:
            Their names; and (references, models) number and sum of the scores, NaN without any.
        """
        columns = [f"{figure} FILTER (model IS NOT DISTINCT FROM ?)"
                   for figure in ("count(score)", "sum(score)") for _ in models]  # fmt: skip
        found = self._connection.execute(
            f"SELECT reference, {', '.join(columns)} FROM candidates "
            "GROUP BY reference ORDER BY hash(reference), reference",
            [*models, *models],
        )
        while len(frame := found.fetch_df_chunk()):
            values = frame.iloc[:, 1:].to_numpy(np.float64)
            yield list(frame.iloc[:, 0]), values[:, : len(models)], values[:, len(models) :]

    def hide_references(self) -> bool:
        """Return whether the results hold some reference without its secrets, shown as ***."""
        return bool(self._ask("SELECT 1 FROM candidates WHERE contains(reference, '***') LIMIT 1"))
