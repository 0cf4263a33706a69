"""What to print at the end of a run: rows by status, the score, failures, where to look next."""

import shlex
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset

from pipeline.runs.finished import FIRST_SCORE, FinishedRun
from pipeline.runs.run import PREFIX
from pipeline.runs.schema import RETRIED_STATUSES, Status
from pipeline.runs.uris import one_line, redact

NUM_FAILURES = 3
"""Failed rows that are shown."""


def summarise(run: FinishedRun) -> Iterator[str]:
    """Yield the lines; reading them takes 4 bytes of memory per row.

    Raises:
        OSError, or another of STORE_ERRORS: a result file is lost, or the store fails.
    """
    for status, count in run.record.counts_by_status.items():
        if count:
            yield f"{status:<14}{count:>10}"
    if run.record.reused_rows:
        yield describe_reused(run.record.reused_rows)
    if figures := score_figures(run.scores):
        yield f"score     mean {figures['mean']:.4f}, p95 {figures['p95']:.4f}"
    attempt = run.record.attempts[-1]
    if attempt.rows_per_s:
        yield f"speed     {attempt.rows_per_s:,.1f} rows/s in {attempt.elapsed_s:,.0f} s"
    yield from (redact(one_line(note)) for note in attempt.notes)
    failed = pc.field("status") != Status.OK
    columns = [run.pair_id_column, "status", "error"]
    for row in run.scores.head(NUM_FAILURES, columns=columns, filter=failed).to_pylist():
        pair_id, status, error = row.values()
        yield f"failed    {redact(one_line(pair_id))}: {status}: {error}"
    num_retried = sum(run.record.counts_by_status.get(status, 0) for status in RETRIED_STATUSES)
    if num_retried:
        num_failed = run.record.num_rows - run.record.counts_by_status.get(Status.OK, 0)
        some = f"{num_retried:,} of the " if num_retried < num_failed else ""
        yield f"retry     --retry-failed scores {some}{counted(num_failed, 'failed row')} again"
    yield f"next      spips audit {shlex.quote(run.uri)} -o audit/"


def describe_reused(reused_rows: Mapping[str, int]) -> str:
    """Return how many rows have scores of earlier runs, and of which, as a line.

    Args:
        reused_rows: as in run.json, at least one.
    """
    first, *others = reused_rows
    more = f" and {counted(len(others), 'other run')}" if others else ""
    return f"reused    {sum(reused_rows.values()):,} rows of {PREFIX}{first}{more}"


def score_figures(rows: pyarrow.dataset.Dataset) -> dict[str, float]:
    """Return mean and p95 of the score, by name; nothing if no row has a score.

    Raises:
        OSError, or another of STORE_ERRORS: a result file is lost, or the store fails.
    """
    scores = rows.to_table(columns=[FIRST_SCORE]).column(0).drop_null().to_numpy()
    if not len(scores):
        return {}
    return {
        "mean": float(scores.mean(dtype=np.float64)), "p95": float(np.quantile(scores, 0.95)),
    }  # fmt: skip


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, such as "1 gate" or "2 gates"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
