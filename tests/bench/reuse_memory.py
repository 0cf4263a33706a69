"""Part n: what a night that reuses another one holds in memory, by the manifest's length."""

import hashlib
import sys
import time
from datetime import UTC, datetime
from math import isqrt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runs.records import AttemptRecord, RunRecord
from pipeline.runs.schema import SCORE_FIELDS, SIZE_FIELDS, Status, result_schema
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.images.tags import UNSETTLED_S, tags_of
from pipeline.scoring.plan import Plan, make_plan
from tests.bench.images import write_manifest
from tests.bench.memory import DRIVER, RAY_ACTOR, WORKERS, peaks
from tests.bench.timing import Table

NUM_ROWS = (10_000, 1_000_000)
SIDE_PX = 96
ROWS_PER_FILE = 10_000  # as the job does


def write_every_pair(folder: Path, num_rows: int) -> Path:
    """Write a manifest of pairs that all differ: each reference with each distorted image."""
    num_images = isqrt(num_rows)
    some = pq.read_table(write_manifest(folder, num_images, side_px=SIDE_PX))
    rows = np.arange(num_rows)
    columns = {
        "pair_id": pa.array([f"{row:08d}" for row in rows]),
        "reference_uri": some["reference_uri"].take(pa.array(rows // num_images)),
        "distorted_uri": some["distorted_uri"].take(pa.array(rows % num_images)),
    }
    manifest = folder / f"every-{num_rows}.parquet"
    pq.write_table(pa.table(columns), manifest)
    return manifest


def make_up_results(plan: Plan, rows: pa.Table) -> pa.Table:
    """Return the rows of a manifest of local images with made-up scores, as results have them."""
    num_rows = rows.num_rows
    schema = result_schema(plan.pass_through)
    columns = {field.name: pa.nulls(num_rows, field.type) for field in schema}
    columns |= {name: rows[name].combine_chunks() for name in rows.column_names}
    time.sleep(UNSETTLED_S + 1)  # what was written just now has no tag
    for role in ("reference", "distorted"):
        names = rows[f"{role}_uri"].combine_chunks().dictionary_encode()
        uris = names.dictionary.to_pylist()
        tags = tags_of(uris)
        of_images = {
            "tag": [tags[uri] for uri in uris],
            "sha256": [hashlib.sha256(Path(uri).read_bytes()).hexdigest() for uri in uris],
        }
        for name, values in of_images.items():
            columns[f"{role}_{name}"] = pa.array(values).take(names.indices)
    scores = np.random.default_rng(0).random(num_rows)
    columns |= {field.name: pa.array(scores, field.type) for field in SCORE_FIELDS}
    same = {field.name: SIDE_PX for field in SIZE_FIELDS} | {
        "status": "ok", "error": "", "fetch_retries": 0, "model_digest": plan.model.digest,
        "run_id": plan.run_id, "run_attempt": 1,
    }  # fmt: skip
    columns |= {
        name: pa.repeat(pa.scalar(value, schema.field(name).type), num_rows)
        for name, value in same.items()
    }
    return pa.table(columns, schema=schema)


def make_up_night(manifest: Path, output: Path) -> Path:
    """Write the finished run of a manifest with made-up scores; return its folder."""
    settings = {"manifest": {"uri": str(manifest)}, "output": {"uri": str(output)}}
    plan = make_plan(ScoreManifestConfig.model_validate(settings))
    results = make_up_results(plan, pq.read_table(manifest))
    num_rows = results.num_rows
    run, files = Path(plan.folder.path), []
    (run / "scores").mkdir(parents=True)
    for start in range(0, num_rows, ROWS_PER_FILE):
        files.append(f"scores/{start:08d}.parquet")
        pq.write_table(results.slice(start, ROWS_PER_FILE), run / files[-1])
    record, now = plan.record(), datetime.now(UTC).isoformat()
    scorers = {"gpus_per_scorer": 0, "compile_kernels": False}
    attempt = AttemptRecord(
        files=files, num_rows=num_rows, num_rows_resumed=0, scorers=scorers, started_at=now,
        elapsed_s=1.0, rows_per_s=num_rows, fetch_retries=0,
    )  # fmt: skip
    counts = {status.value: num_rows * (status == Status.OK) for status in Status}
    plan.folder.write_plan(record)
    plan.folder.write_run(
        RunRecord(
            **record.model_dump(), attempts=[attempt], counts_by_status=counts, failed_fraction=0.0,
            finished_at=now,
        )
    )  # fmt: skip
    plan.folder.write_success()
    return run


def by_length(folder: Path) -> Table:
    """Part n: peaks of memory of runs that find all of their pairs in an earlier run."""
    table = Table(
        "n. Memory at its peak where every pair is reused, by the manifest's length, MB",
        ["rows", *DRIVER, *dict.fromkeys(WORKERS.values()), RAY_ACTOR, "object store", "minutes"],
        notes=["As in part g. All pairs differ; the earlier run's scores are made up."],
    )
    for num_rows in NUM_ROWS:
        manifest = write_every_pair(folder / "in", num_rows)
        night = make_up_night(manifest, folder / f"night-{num_rows}")
        # A name of its own: the manifest and settings of both nights are the same.
        options = f"--reuse-from={night}", "--output.run_id=second"
        got = peaks(manifest, folder / f"out-{num_rows}", *options)
        table.rows.append([str(num_rows), *got.values()])
        sys.stdout.write(f"{num_rows} rows: {got['minutes']:.1f} min\n")
        sys.stdout.flush()
    return table
