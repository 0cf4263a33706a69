import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.runs.errors import ContractError
from pipeline.runs.records import RECORD_VERSION, AttemptRecord, PlanRecord, RunRecord
from pipeline.runs.run import open_run_folder
from pipeline.runs.storage import arrow_filesystem

MINE = {"manifest": "m1", "model": "d1", "scoring": "s1"}


PLAN = PlanRecord(
    version=RECORD_VERSION,
    run_id="r1",
    fingerprints=MINE,
    num_rows=1,
    columns={"pair_id": "pair_id", "reference": "reference_uri", "distorted": "distorted_uri"},
    model={"digest": "d1", "trained": True, "training": {}, "config": {}, "fusion_weights": None},
    config={},
    versions={},
)


def record_of(*files: str, num_rows: int = 1) -> RunRecord:
    """Return the record of a run of so many rows, with one attempt for each file."""
    attempts = [
        AttemptRecord(
            files=[file], num_rows=1, num_rows_resumed=0, scorers={}, started_at="2026-01-01",
            elapsed_s=1, rows_per_s=1, fetch_retries=0,
        )
        for file in files
    ]  # fmt: skip
    plan = dict(PLAN) | {"num_rows": num_rows}
    return RunRecord(
        **plan, attempts=attempts, counts_by_status={}, failed_fraction=0.0,
        finished_at="2026-01-01",
    )  # fmt: skip


def write_scores(
    run,
    task: str,
    statuses: dict[str, str],
    *,
    attempt: int = 1,
    folder: str | None = None,
    is_recorded: bool = True,
) -> str:
    """Write a result file and the checkpoint's record of it; return the file's name.

    It goes to `folder` in the run's folder; None: where this attempt writes its results.
    """
    rows = {"pair_id": list(statuses), "spips_score": pa.nulls(len(statuses), pa.float32()),
            "status": list(statuses.values()),
            "run_attempt": pa.array([attempt] * len(statuses), pa.int32())}  # fmt: skip
    path = f"{run.path}/{folder}" if folder else run.scores_path(attempt)
    files = [f"{path}/{task}-0.parquet"]
    if is_recorded:
        files.append(f"{run.checkpoint_path(attempt)}/{task}.parquet")
    for path in files:
        run.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        pyarrow.parquet.write_table(pa.table(rows), path, filesystem=arrow_filesystem(run.fs))
    return files[0].removeprefix(f"{run.path}/")


def make_run(folder: str, run_id: str = "r1"):
    run = open_run_folder(folder, run_id, MINE)
    run.write_plan(PLAN)
    return run


def problems_of(call, *arguments, **options) -> list[str]:
    with pytest.raises(ContractError) as caught:
        call(*arguments, **options)
    return caught.value.problems
