"""Publish a run: results reconciled against the manifest, then run.json, then _SUCCESS."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from pipeline.errors import FaultError
from pipeline.manifest import hash_ids
from pipeline.plan import Plan
from pipeline.run import Json, count_by_status
from pipeline.schema import Status


@dataclass(frozen=True)
class Attempt:
    """One process's try at a run.

    Attributes:
        started_at: wall-clock time, UTC.
        start_s: the same on the monotonic clock.
        num_rows_before: results that earlier attempts left.
    """

    started_at: datetime
    start_s: float
    num_rows_before: int


def start_attempt(plan: Plan) -> Attempt:
    """Return the state before anything is scored.

    Args:
        plan: the run.
    """
    num_rows = len(_result_ids(plan, plan.folder.score_files()))
    return Attempt(datetime.now(UTC), time.monotonic(), num_rows)


def publish(plan: Plan, attempt: Attempt, workers: Json) -> Json:
    """Check that every id of the manifest has exactly one result, and declare the run finished.

    Args:
        plan: the run, all of its results written.
        attempt: when this try began.
        workers: the scoring processes, for the record.

    Returns:
        The content of run.json.

    Raises:
        FaultError: ids are lost or repeated; nothing is published.
    """
    elapsed_s = time.monotonic() - attempt.start_s
    files = plan.folder.score_files()
    _reconcile(plan, files)
    counts = count_by_status(plan.folder, files)
    num_rows = plan.manifest.num_rows
    record = plan.record() | {
        "files": [path.removeprefix(plan.folder.path + "/") for path in files],
        "counts_by_status": counts,
        "failed_fraction": (num_rows - counts[Status.OK]) / num_rows,
        "workers": workers,
        "started_at": attempt.started_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": round(elapsed_s, 3),
        "num_rows_from_earlier_attempts": attempt.num_rows_before,
        "rows_per_s": round((num_rows - attempt.num_rows_before) / elapsed_s, 3),
    }
    plan.folder.write("run.json", record)
    plan.folder.write("_SUCCESS", None)
    return record


def _result_ids(plan: Plan, files: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the sorted hashes of the ids that have a result."""
    if not files:
        return np.empty(0, np.uint64)
    return hash_ids(plan.folder.fs, files, plan.manifest.pair_id_column)[0]


def _reconcile(plan: Plan, files: Sequence[str]) -> None:
    expected, got = plan.manifest.id_hashes, _result_ids(plan, files)
    if not np.array_equal(got, expected):
        num_lost = len(np.setdiff1d(expected, got))
        num_repeated = len(got) - len(np.unique(got))
        raise FaultError(
            f"{plan.folder.uri}: expected each of {len(expected)} ids once, got {len(got)} rows, "
            f"{num_lost} ids lost, {num_repeated} repeated; not published"
        )
