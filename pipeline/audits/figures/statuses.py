"""Rows by status, and the interval of the share that failed."""

from collections.abc import Iterator

from pipeline.audits.figures.distribution import Estimate, share_interval
from pipeline.audits.figures.tables import ScoreTables
from pipeline.audits.records import Side, StatusCounts
from pipeline.runs.schema import Status


def count_statuses(tables: ScoreTables, side: Side, confidence: float) -> Iterator[StatusCounts]:
    """Yield the counts of each group that has rows.

    Rows of one reference fail together if its image is lost, so references are the draws of the
    interval of the failed fraction, as they are of all others.
    """
    spreads = tables.failed_spreads(side)
    for group, counts in tables.count_statuses(side).items():
        rows, spread = sum(counts.values()), spreads[group]
        failed = (rows - counts[Status.OK]) / rows
        (effective,) = spread.effective_rows(rows, confidence)
        interval = share_interval(failed, effective, confidence)
        estimate = Estimate.of(failed, interval, spread.num_draws(rows))
        yield StatusCounts(
            of=side, group=group, rows=rows, failed_fraction=failed, failed_low=estimate.low,
            failed_high=estimate.high, counts=counts,
        )  # fmt: skip
