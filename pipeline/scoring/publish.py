"""Publish a run: results reconciled against the manifest, then run.json, then _SUCCESS."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from pipeline.runs.errors import FaultError
from pipeline.runs.finished import count_by_status, open_newest
from pipeline.runs.records import AttemptRecord, Json, RunRecord
from pipeline.runs.schema import Status
from pipeline.scoring.lock import RunLock
from pipeline.scoring.manifest import hash_ids
from pipeline.scoring.plan import Plan


@dataclass(frozen=True)
class Start:
    """When a process took up an attempt, and what it found.

    Attributes:
        started_at: wall-clock time, UTC.
        start_s: the same on the monotonic clock.
        num_rows_done: results that interrupted processes left.
    """

    started_at: datetime
    start_s: float
    num_rows_done: int


def start_attempt(plan: Plan) -> Start:
    """Return the state before anything is scored.

    Args:
        plan: the run.
    """
    num_rows = len(_result_ids(plan, plan.folder.score_files(plan.attempt.number)))
    return Start(datetime.now(UTC), time.monotonic(), num_rows)


def publish(plan: Plan, start: Start, scorers: Json, lock: RunLock) -> RunRecord:
    """Check that every id of the attempt has exactly one result, and declare the run finished.

    Args:
        plan: the run, all of its results written.
        start: when this process began.
        scorers: the scoring processes, for the record.
        lock: the right to publish.

    Returns:
        The content of run.json.

    Raises:
        FaultError: ids are lost or repeated; nothing is published.
        ContractError: another process has taken the run.
    """
    elapsed_s = time.monotonic() - start.start_s
    folder, number = plan.folder, plan.attempt.number
    files = folder.score_files(number)
    _reconcile(plan, files)
    attempts = folder.read_run().attempts if number > 1 else ()
    names = tuple(path.removeprefix(f"{folder.path}/") for path in files)
    rows = open_newest(
        folder, [*(one.files for one in attempts), names], plan.manifest.pair_id_column
    )
    counts = count_by_status(rows)
    num_rows = plan.manifest.num_rows
    if sum(counts.values()) != num_rows:
        raise FaultError(
            f"{folder.uri}: expected {num_rows} rows after attempt {number}, "
            f"got {sum(counts.values())}; not published"
        )
    mine = rows.to_batches(columns=["fetch_retries"], filter=pc.field("run_attempt") == number)
    attempt = AttemptRecord(
        files=names,
        num_rows=plan.attempt.num_rows,
        num_rows_resumed=start.num_rows_done,
        scorers=scorers,
        started_at=start.started_at.isoformat(timespec="seconds"),
        elapsed_s=round(elapsed_s, 3),
        rows_per_s=round((plan.attempt.num_rows - start.num_rows_done) / elapsed_s, 3),
        fetch_retries=sum(pc.sum(batch.column(0), min_count=0).as_py() for batch in mine),
    )
    record = RunRecord(
        **dict(plan.record()),
        attempts=(*attempts, attempt),
        counts_by_status=counts,
        failed_fraction=(num_rows - counts[Status.OK]) / num_rows,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    lock.check()
    folder.write_run(record)
    folder.write_success()
    return record


def _result_ids(plan: Plan, files: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the sorted hashes of the ids that have a result."""
    if not files:
        return np.empty(0, np.uint64)
    return hash_ids(plan.folder.fs, files, plan.manifest.pair_id_column)[0]


def _reconcile(plan: Plan, files: Sequence[str]) -> None:
    expected, got = plan.attempt.id_hashes, _result_ids(plan, files)
    if not np.array_equal(got, expected):
        num_lost = len(np.setdiff1d(expected, got))
        num_repeated = len(got) - len(np.unique(got))
        raise FaultError(
            f"{plan.folder.uri}: expected each of {len(expected)} ids once, got {len(got)} rows, "
            f"{num_lost} ids lost, {num_repeated} repeated; not published"
        )
