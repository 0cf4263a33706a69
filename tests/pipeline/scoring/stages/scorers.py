"""A score stage and loaded rows for it."""

import numpy as np
import pyarrow as pa

from pipeline.runs.schema import loaded_schema
from pipeline.scoring.config import ModelSourceConfig
from pipeline.scoring.stages.model import load_model
from pipeline.scoring.stages.score import PairScorer

PASS_THROUGH = pa.schema([("pair_id", pa.string()), ("model", pa.string())])


def make_scorer(
    source: ModelSourceConfig | None = None, stage: type[PairScorer] = PairScorer, **changes
) -> PairScorer:
    source = source or ModelSourceConfig()
    settings = {
        "source": source,
        "expected_digest": load_model(source).digest,
        "run_id": "run",
        "run_attempt": 1,
        "pass_through": PASS_THROUGH,
        "pixels_per_batch": 1_000_000,
        "use_gpu": False,
        "compile_kernels": False,
    }
    return stage(**(settings | changes))


def make_rows(num_rows: int, sizes=((96, 100),), broken=()) -> pa.Table:
    generator = np.random.default_rng(0)
    columns = {field.name: [] for field in loaded_schema(PASS_THROUGH)}
    for i in range(num_rows):
        height_px, width_px = sizes[i % len(sizes)]
        reference = generator.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
        distorted = (reference // 2 + i % 7).astype(np.uint8)
        is_ok = i not in broken
        row = {
            "pair_id": str(i),
            "model": "m",
            "height_px": height_px if is_ok else None,
            "width_px": width_px if is_ok else None,
            "status": "ok" if is_ok else "missing",
            "error": "" if is_ok else "distorted: expected an image, got no object",
            "fetch_retries": 0,
            "reference_pixels": reference.tobytes() if is_ok else None,
            "distorted_pixels": distorted.tobytes() if is_ok else None,
        }
        for name, values in columns.items():
            values.append(row.get(name))
    return pa.table(columns, schema=loaded_schema(PASS_THROUGH))
