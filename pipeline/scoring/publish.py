"""Score a plan and publish it: reconcile results and manifest, write run.json, then _SUCCESS.

Publishing keeps scores/ such that its files hold each row once: it merges retried rows, and sets
stray files aside. A process can be killed at any point: the next one does the same again.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.runs.errors import FaultError, GraphError
from pipeline.runs.lock import RunLock
from pipeline.runs.metrics import to_metrics
from pipeline.runs.records import AttemptRecord, RunRecord
from pipeline.runs.run import RunFolder, open_run_folder
from pipeline.runs.schema import REUSE_FIELD, Status
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    describe,
    is_transient,
    write_whole,
)
from pipeline.runs.summary import score_figures
from pipeline.scoring.manifest.opening import hash_array, hash_ids
from pipeline.scoring.plan import Plan
from pipeline.scoring.resources import Scorers

ScoreFunction = Callable[[Plan, Scorers, int], list[str]]
"""Scores the rows of an attempt that have no result yet, given the number of those that have one.
Returns lines for people."""


def score_and_publish(
    plan: Plan, scorers: Scorers, lock: RunLock, score: ScoreFunction
) -> RunRecord:
    """Score the rows of an attempt that have no result yet, and publish all its results.

    Args:
        plan: the run.
        scorers: what scores.
        lock: of the run's folder.
        score: `graph.run_graph`, or an `in_process.InProcess`.

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
    elif published := find_published(plan):
        return published
    start = start_attempt(plan)
    notes: list[str] = []
    try:
        if start.num_rows_done < plan.attempt.num_rows:  # else only publishing was interrupted
            notes = score(plan, scorers, start.num_rows_done)
    except (GraphError, *STORE_ERRORS, pa.ArrowException) as error:
        raise FaultError(
            f"{folder.uri}: {_describe_failure(plan, error)}; finished rows are kept, the same "
            "command resumes"
        ) from error
    return publish(plan, start, scorers, lock, notes)


def find_published(plan: Plan) -> RunRecord | None:
    """Return the content of run.json if another process has published the attempt meanwhile."""
    if plan.folder.state() != "finished":
        return None
    record = plan.folder.read_run()
    return record if len(record.attempts) >= plan.attempt.number else None


def _describe_failure(plan: Plan, error: Exception) -> str:
    """Return why scoring failed: a store that is away now, or what Ray says."""
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
    return str(error) if isinstance(error, GraphError) else describe(error)


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


def publish(
    plan: Plan, start: Start, scorers: Scorers, lock: RunLock, notes: Sequence[str] = ()
) -> RunRecord:
    """Check that each id of the attempt has exactly one result, and finish the run.

    Args:
        plan: the run.
        start: of this process's work.
        scorers: what scored.
        lock: of the run's folder.
        notes: lines for people on what the attempt found.

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
        notes=tuple(notes),
    )
    record = RunRecord(
        **dict(plan.record()),
        attempts=(*earlier, attempt),
        counts_by_status=counts,
        failed_fraction=(num_rows - counts[Status.OK]) / num_rows,
        reused_rows=count_reused(rows),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    lock.check()
    folder.write_metrics(to_metrics(record, score_figures(rows)))
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
    return _open(folder, files)


def _open(folder: RunFolder, files: Sequence[str]) -> pyarrow.dataset.Dataset:
    arrow = arrow_filesystem(folder.fs)
    return pyarrow.dataset.dataset(list(files), filesystem=arrow, format="parquet")


def _result_ids(plan: Plan, files: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the sorted hashes of the ids that have a result."""
    if not files:
        return np.empty(0, np.uint64)
    return hash_ids(_open(plan.folder, files), plan.manifest.pair_id_column)[0]


def _reconcile(plan: Plan, files: Sequence[str]) -> None:
    expected, got = plan.attempt.id_hashes, _result_ids(plan, files)
    if not np.array_equal(got, expected):
        num_lost = len(np.setdiff1d(expected, got))
        num_repeated = len(got) - len(np.unique(got))
        raise FaultError(
            f"{plan.folder.uri}: expected each of {len(expected)} ids once, got {len(got)} rows, "
            f"{num_lost} ids lost, {num_repeated} repeated; not published"
        )


def merge_retry(
    folder: RunFolder, attempt: int, files: Sequence[str], retried: Sequence[str], id_column: str
) -> None:
    """Replace the retried rows in the result files by their new results, in the same order.

    Each file is replaced in one step, so a reader finds each row once, old or new, at any moment.
    The old files are kept in superseded/. Memory holds one result file, its new rows, and about 30
    bytes for each retried row.

    Args:
        folder: the run's folder.
        attempt: number of the retry.
        files: paths of the run's result files.
        retried: paths of the retry's result files; each id in them is in one of `files`.
        id_column: column with each pair's id.
    """
    fs, arrow = folder.fs, arrow_filesystem(folder.fs)
    hashes, sources = _index(retried, id_column, arrow)
    for path in files:
        ids = pyarrow.parquet.read_table(path, columns=[id_column], filesystem=arrow).column(0)
        hashed = hash_array(ids)
        places = np.searchsorted(hashes, hashed).clip(max=len(hashes) - 1)
        chosen = np.unique(sources[places[hashes[places] == hashed]])
        if not len(chosen):
            continue
        content = fs.cat_file(path)
        kept = f"{folder.superseded_path(attempt)}/{PurePosixPath(path).name}"
        if not fs.exists(kept):  # else `content` can already have new rows
            write_whole(fs, kept, content)
        old = pyarrow.parquet.read_table(pa.BufferReader(content))
        rows = pyarrow.dataset.dataset([retried[i] for i in chosen], old.schema, filesystem=arrow)
        new = rows.to_table(filter=pc.field(id_column).isin(ids))
        order = np.arange(old.num_rows)
        order[pc.index_in(new[id_column], ids).to_numpy()] = old.num_rows + np.arange(new.num_rows)
        merged = pa.concat_tables([old, new.cast(old.schema)]).take(order)
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(merged, buffer)
        write_whole(fs, path, buffer.getvalue().to_pybytes())


def _index(
    paths: Sequence[str], id_column: str, arrow: pa.fs.FileSystem
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return the sorted hashes of the ids in files, and the number of each one's file."""
    hashes = [
        hash_array(
            pyarrow.parquet.read_table(path, columns=[id_column], filesystem=arrow).column(0)
        )
        for path in paths
    ]
    joined = np.concatenate(hashes)
    sources = np.repeat(np.arange(len(paths), dtype=np.int32), [len(part) for part in hashes])
    order = np.argsort(joined)
    return joined[order], sources[order]


def set_strays_aside(folder: RunFolder, attempt: int, files: Sequence[str]) -> None:
    """Move what a killed writer left in scores/ to superseded/.

    Args:
        folder: the run's folder.
        attempt: number of the attempt that is about to be published.
        files: paths of the run's result files, which stay.
    """
    for path in sorted(set(folder.files(attempt=1)) - set(files)):
        folder.fs.makedirs(folder.superseded_path(attempt), exist_ok=True)
        folder.fs.mv(path, f"{folder.superseded_path(attempt)}/{PurePosixPath(path).name}")


def count_by_status(rows: pyarrow.dataset.Dataset) -> dict[str, int]:
    """Return the number of rows with each status, zeros included."""
    counts = _count_values(rows, "status")
    return {status.value: counts[status.value] for status in Status}


def count_reused(rows: pyarrow.dataset.Dataset) -> dict[str, int]:
    """Return the number of rows with scores of an earlier run, by that run's id, largest first."""
    if REUSE_FIELD.name not in rows.schema.names:
        return {}
    return dict(_count_values(rows, REUSE_FIELD.name).most_common())


def _count_values(rows: pyarrow.dataset.Dataset, column: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for batch in rows.to_batches(columns=[column]):
        for entry in pc.value_counts(batch.column(0).drop_null()).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return counts
