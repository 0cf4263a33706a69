"""Score a plan and publish it: reconcile results and manifest, write run.json, then _SUCCESS."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from ray.exceptions import RayError

from pipeline.runs.errors import FaultError
from pipeline.runs.finished import count_by_status
from pipeline.runs.records import AttemptRecord, RunRecord
from pipeline.runs.run import open_run_folder
from pipeline.runs.schema import Status
from pipeline.runs.storage import STORE_ERRORS, arrow_filesystem, describe, is_transient
from pipeline.scoring.graph import run_graph
from pipeline.scoring.lock import RunLock
from pipeline.scoring.manifest import hash_ids
from pipeline.scoring.merge import merge_retry, set_strays_aside
from pipeline.scoring.plan import Plan
from pipeline.scoring.resources import Scorers


def score_and_publish(plan: Plan, scorers: Scorers, lock: RunLock) -> RunRecord:
    """Score the rows of an attempt that have no result yet, and publish all its results.

    Returns:
        The content of run.json.

    Raises:
        ContractError: another process writes there, or has written a different run there.
        FaultError: Ray gave up, or results and manifest do not match; nothing is published.
    """
    lock.check()
    # The plan has checked this, too, but only now no other process writes.
    folder = open_run_folder(plan.config.output.uri, plan.run_id, plan.fingerprints)
    if folder.state() == "new":
        folder.write_plan(plan.record())
    elif folder.state() == "finished":
        record = folder.read_run()
        if len(record.attempts) >= plan.attempt.number:  # another process has published it
            return record
    start = start_attempt(plan)
    try:
        if start.num_rows_done < plan.attempt.num_rows:  # else only publishing was interrupted
            run_graph(plan, scorers)
    except (RayError, UserWarning, *STORE_ERRORS, pa.ArrowException) as error:
        raise FaultError(
            f"{folder.uri}: {_describe_failure(plan, error)}; finished rows are kept, the same "
            "command resumes"
        ) from error
    return publish(plan, start, scorers, lock)


def _describe_failure(plan: Plan, error: Exception) -> str:
    """Return why the graph failed: a store that is away now, or what Ray says."""
    for fs, path in (
        (plan.manifest.fs, plan.manifest.paths[0]),
        (plan.folder.fs, plan.folder.path),
    ):
        try:
            fs.invalidate_cache()
            fs.exists(path)
        except STORE_ERRORS as problem:
            if is_transient(problem):
                return f"the store cannot be reached: {describe(problem)}"
    return describe(getattr(error, "cause", None) or error)


@dataclass(frozen=True)
class Start:
    """The start of a process's work on an attempt.

    Attributes:
        started_at: wall-clock time, UTC.
        start_s: the same moment on the monotonic clock.
        num_rows_done: rows that interrupted processes had already scored.
    """

    started_at: datetime
    start_s: float
    num_rows_done: int


def start_attempt(plan: Plan) -> Start:
    """Return the time, and the number of rows that already have a result."""
    num_rows = len(_result_ids(plan, plan.folder.score_files(plan.attempt.number)))
    return Start(datetime.now(UTC), time.monotonic(), num_rows)


def publish(plan: Plan, start: Start, scorers: Scorers, lock: RunLock) -> RunRecord:
    """Check that each id of the attempt has exactly one result, and finish the run.

    Returns:
        The content of run.json.

    Raises:
        FaultError: ids are lost or repeated; nothing is published.
        ContractError: another process has taken the run.
    """
    elapsed_s = time.monotonic() - start.start_s
    folder, number, num_rows = plan.folder, plan.attempt.number, plan.manifest.num_rows
    scored = folder.score_files(number)
    _reconcile(plan, scored)
    lock.check()
    earlier = folder.read_run().attempts if number > 1 else ()
    rows = _complete_scores(plan, scored, earlier)
    counts = count_by_status(rows)
    if sum(counts.values()) != num_rows:
        raise FaultError(
            f"{folder.uri}: expected {num_rows} rows after attempt {number}, "
            f"got {sum(counts.values())}; not published"
        )
    mine = rows.to_batches(columns=["fetch_retries"], filter=pc.field("run_attempt") == number)
    attempt = AttemptRecord(
        files=tuple(path.removeprefix(f"{folder.path}/") for path in scored),
        num_rows=plan.attempt.num_rows,
        num_rows_resumed=start.num_rows_done,
        scorers=asdict(scorers),
        started_at=start.started_at.isoformat(timespec="seconds"),
        elapsed_s=round(elapsed_s, 3),
        rows_per_s=round((plan.attempt.num_rows - start.num_rows_done) / elapsed_s, 3),
        fetch_retries=sum(pc.sum(batch.column(0), min_count=0).as_py() for batch in mine),
    )
    record = RunRecord(
        **dict(plan.record()),
        attempts=(*earlier, attempt),
        counts_by_status=counts,
        failed_fraction=(num_rows - counts[Status.OK]) / num_rows,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    lock.check()
    folder.write_run(record)
    folder.write_success()
    return record


def _complete_scores(
    plan: Plan, scored: Sequence[str], earlier: Sequence[AttemptRecord]
) -> pyarrow.dataset.Dataset:
    """Leave each row once in scores/, and return these rows."""
    folder, number, files = plan.folder, plan.attempt.number, scored
    if earlier:
        files = [f"{folder.path}/{name}" for name in earlier[0].files]
        merge_retry(folder, number, files, scored, plan.manifest.pair_id_column)
    set_strays_aside(folder, number, files)
    arrow = arrow_filesystem(folder.fs)
    return pyarrow.dataset.dataset(list(files), filesystem=arrow, format="parquet")


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
