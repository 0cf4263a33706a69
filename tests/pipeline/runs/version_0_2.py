"""A run's folder as version 0.2 wrote it: no `version`, `workers`, and settings since renamed."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runs.schema import IMAGE_FIELDS, REUSE_FIELD, SCORE_FIELDS, result_schema

SCORES = (
    "spips_score", "tradition_score", "percept_score", "semantic_score", "psnr_db", "ssim",
    "ms_ssim",
)  # fmt: skip
"""The score columns of that version."""
FINGERPRINTS = {"manifest": "m1", "model": "d1", "scoring": "s1"}


def plan_json(fingerprints: dict[str, str], uris: tuple[str, str]) -> dict[str, Any]:
    """Return the content of plan.json.

    Args:
        fingerprints: of manifest, model and scoring settings.
        uris: of the manifest and of the folder of runs.
    """
    return {
        "run_id": "night",
        "fingerprints": fingerprints,
        "num_rows": 2,
        "columns": {
            "pair_id": "pair_id",
            "reference": "reference_uri",
            "distorted": "distorted_uri",
        },
        "model": {
            "digest": fingerprints["model"],
            "trained": True,
            "training": {"data": "live", "mode": "lin"},
            "config": {
                "backbone": "alexnet_narrow",
                "streams": ["tradition", "percept", "semantic"],
                "fusion": "weighted",
                "feature_norm": "unit",
            },
            "fusion_weights": {"tradition": 0.25, "percept": 0.25, "semantic": 0.5},
        },
        "config": {
            "manifest": {
                "uri": uris[0],
                "pair_id_column": "pair_id",
                "reference_column": None,
                "distorted_column": None,
            },
            "images": {
                "max_bytes": 67108864,
                "max_pixels": 16777216,
                "min_side_px": 96,
                "size_mismatch": "error",
                "resize": None,
                "allowed_uri_prefixes": None,
            },
            "model": {
                "checkpoint": "embedded",
                "checkpoint_sha256": None,
                "backbone_weights": None,
                "backbone_weights_sha256": None,
                "precision": "float32",
            },
            "compute": {
                "actors": 1,
                "gpus_per_actor": None,
                "pixels_per_batch": 4194304,
                "compile": None,
            },
            "failure": {"max_failed_fraction": 1.0},
            "output": {"uri": uris[1], "run_id": "night", "rows_per_file": 10000},
        },
        "versions": {"python": "3.11.2", "spips": "0.2.0", "ray": "2.60.0", "torch": "2.15.0"},
    }


RUN_JSON = {
    "attempts": [
        {
            "files": ["scores/attempt-1/11_000000_000000-0.parquet"],
            "num_rows": 2,
            "num_rows_resumed": 0,
            "workers": {
                "actors": 1,
                "gpus_per_actor": 0.0,
                "cpus_per_actor": 0.0,
                "threads_per_actor": 2,
                "compile_passes": False,
            },
            "started_at": "2026-11-03T02:00:01+00:00",
            "elapsed_s": 7.25,
            "rows_per_s": 0.276,
            "fetch_retries": 0,
        }
    ],
    "counts_by_status": {
        "ok": 1,
        "missing": 1,
        "forbidden": 0,
        "unreadable": 0,
        "decode_error": 0,
        "too_large": 0,
        "too_small": 0,
        "size_mismatch": 0,
        "non_finite": 0,
    },
    "failed_fraction": 0.5,
    "finished_at": "2026-11-03T02:00:09+00:00",
}
"""What run.json holds beyond plan.json."""


def write_run_0_2(
    output: Path,
    fingerprints: dict[str, str] = FINGERPRINTS,
    *,
    images: tuple[str, str, str] = ("/r.png", "/d.png", "/absent.png"),
    manifest: str = "/pairs.parquet",
    is_finished: bool = True,
) -> Path:
    """Write run "night" of two pairs, "a" scored and "b" missing its distorted image.

    Args:
        output: folder of runs.
        fingerprints: of manifest, model and scoring settings.
        images: URIs of the reference, and of the distorted images of "a" and "b".
        manifest: URI of the manifest.
        is_finished: write run.json and _SUCCESS, too.

    Returns:
        The run's folder.
    """
    folder = output / "run_id=night"
    folder.mkdir(parents=True)
    plan = plan_json(fingerprints, (manifest, str(output)))
    (folder / "plan.json").write_text(json.dumps(plan, indent=2) + "\n")
    if not is_finished:
        return folder
    columns = {
        "pair_id": pa.array(["a", "b"]),
        "reference_uri": pa.array([images[0]] * 2),
        "distorted_uri": pa.array(images[1:]),
    }
    newest = result_schema(pa.schema([(name, pa.string()) for name in columns]))
    later = {field.name for field in (*SCORE_FIELDS, *IMAGE_FIELDS, REUSE_FIELD)} - set(SCORES)
    schema = pa.schema([field for field in newest if field.name not in later])
    columns |= {name: pa.array([0.5, None], pa.float32()) for name in SCORES}
    columns |= {name: pa.array([96, None], pa.int32()) for name in ("height_px", "width_px")}
    columns |= {
        "status": pa.array(["ok", "missing"]),
        "error": pa.array(["", "distorted: expected an image, got no object (/absent.png)"]),
        "fetch_retries": pa.array([0, 0], pa.int32()),
        "model_digest": pa.array([fingerprints["model"]] * 2),
        "run_id": pa.array(["night"] * 2),
        "run_attempt": pa.array([1, 1], pa.int32()),
    }
    file = folder / RUN_JSON["attempts"][0]["files"][0]
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns, schema=schema), file)
    (folder / "run.json").write_text(json.dumps(plan | RUN_JSON, indent=2) + "\n")
    (folder / "_SUCCESS").touch()
    return folder
