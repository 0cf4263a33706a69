"""Finished runs for tests, written without scoring anything."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write_run(tmp_path: Path) -> Any:
    """A function that writes a finished run, as the scoring job does, from columns of results."""
    return run_writer(tmp_path)


@pytest.fixture(scope="module")
def write_shared_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same, of runs that all tests of a module read."""
    return run_writer(tmp_path_factory.mktemp("runs"))


def run_writer(parent: Path) -> Any:
    """Return a function that writes a finished run, by default into `parent`/scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.runs.records import RECORD_VERSION, AttemptRecord, PlanRecord, RunRecord
    from pipeline.runs.run import RunFolder
    from pipeline.runs.schema import IMAGE_FIELDS, SCORE_FIELDS, SIZE_FIELDS, Status, result_schema
    from pipeline.runs.storage import open_store

    def write(
        columns: dict[str, Any],
        run_id: str = "night",
        *,
        finished_at: str = "2026-01-02T02:00:00+00:00",
        retried_at: str | None = None,
        attempts: Sequence[int] | None = None,
        night: str | None = None,
        digest: str = "a" * 64,
        config: dict[str, Any] | None = None,
        is_finished: bool = True,
        absent: Sequence[str] = (),
        folder: Path = parent / "scores",
    ) -> str:
        num_rows = len(columns["pair_id"])
        own = {name: pa.array(values) for name, values in columns.items()}
        own |= {
            "reference_uri": pa.array(
                columns.get("reference_uri", [f"/r{number}.png" for number in range(num_rows)])
            ),
            "distorted_uri": pa.array(columns.get("distorted_uri", ["/d.png"] * num_rows)),
        }
        scored = {field.name for field in (*SCORE_FIELDS, *IMAGE_FIELDS, *SIZE_FIELDS)}
        scored |= {"status", "error"}
        pass_through = pa.schema([(name, v.type) for name, v in own.items() if name not in scored])
        status = columns.get("status", ["ok"] * num_rows)
        blank = {
            field.name: pa.nulls(num_rows, field.type) for field in result_schema(pass_through)
        }
        rest = {
            "status": status,
            "error": columns.get("error", ["" if s == "ok" else "expected x" for s in status]),
            "model_digest": [digest] * num_rows,
            "run_id": [run_id] * num_rows,
            "run_attempt": attempts or [1] * num_rows,
            "fetch_retries": [0] * num_rows,
        }
        table = pa.table(blank | own | rest, schema=result_schema(pass_through))
        table = table.drop_columns([*absent])
        path = folder / f"run-{run_id}"
        (path / "scores").mkdir(parents=True)
        half = max(num_rows // 2, 1)
        files = []
        for number, part in enumerate((table.slice(0, half), table.slice(half))):
            files.append(f"scores/{number}.parquet")
            pq.write_table(part, path / files[-1])
        counts = {name.value: status.count(name.value) for name in Status}
        plan = {
            "version": RECORD_VERSION,
            "run_id": run_id,
            "night": night,
            "num_rows": num_rows,
            "columns": {
                "pair_id": "pair_id",
                "reference": "reference_uri",
                "distorted": "distorted_uri",
            },
            "fingerprints": {"manifest": "m", "model": digest, "scoring": "s"},
            "model": {
                "digest": digest,
                "trained": True,
                "training": {},
                "config": {"streams": ["tradition", "percept", "semantic"]},
                "fusion_weights": {"tradition": 0.2, "percept": 0.3, "semantic": 0.5},
            },
            "config": {"images": {}, "model": {"checkpoint": "embedded"}} | (config or {}),
            "versions": {},
        }
        attempt = AttemptRecord(
            files=files,
            num_rows=num_rows,
            num_rows_resumed=0,
            scorers={},
            started_at=finished_at,
            elapsed_s=1.0,
            rows_per_s=num_rows,
            fetch_retries=0,
        )
        recorded = [attempt]
        if retried_at is not None:
            update = {"files": (), "num_rows": 0, "started_at": retried_at}
            recorded.append(attempt.model_copy(update=update))
        run = RunFolder(*open_store(str(path)), str(path))
        run.write_plan(PlanRecord.model_validate(plan))
        if is_finished:
            run.write_run(
                RunRecord(
                    **plan,
                    attempts=recorded,
                    counts_by_status=counts,
                    failed_fraction=1 - counts["ok"] / max(num_rows, 1),
                    finished_at=retried_at or finished_at,
                )
            )
            run.write_success()
        return str(path)

    return write
