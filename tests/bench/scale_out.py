"""Part f: many GPUs simulated, each scorer replaced by a wait as long as scoring takes."""

import json
import os
import resource
import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.runs.schema import SCORE_FIELDS, result_schema
from pipeline.scoring.config import ComputeConfig, ScoreManifestConfig
from pipeline.scoring.graph import (
    build_graph,
    execution_context,
    write_results,
)
from pipeline.scoring.plan import make_plan
from pipeline.scoring.resources import PAIRS_PER_SCORER, Scorers
from tests.bench.images import write_manifest
from tests.bench.timing import Table

TIMELINE = "SPIPS_BENCH_TIMELINE"
SECONDS_PER_PAIR = "SPIPS_BENCH_SECONDS_PER_PAIR"
SIDE_PX, WAITED_FOR_SIDE_PX = 96, 512
"""Of the images that are loaded, small enough for one machine to load for all, and of those that
the wait stands for."""


class WaitingScorer:
    """Takes as long as a scorer and gives rows of its schema; imports no model."""

    def __init__(self, run_id: str, pass_through: pa.Schema, **_: Any) -> None:
        self.schema = result_schema(pass_through)
        self.run_id = run_id
        self.seconds_per_pair = float(os.environ[SECONDS_PER_PAIR])
        self.timeline = Path(os.environ[TIMELINE]) / f"{uuid.uuid4().hex}.jsonl"
        self.tell(time.time(), 0)

    def tell(self, start_s: float, num_rows: int) -> None:
        with self.timeline.open("a") as file:
            file.write(json.dumps([start_s, time.time(), num_rows]) + "\n")

    def __call__(self, rows: pa.Table) -> pa.Table:
        start_s = time.time()
        time.sleep(self.seconds_per_pair * rows.num_rows)
        self.tell(start_s, rows.num_rows)
        columns = {name: rows[name] for name in rows.column_names if name in self.schema.names}
        for field in SCORE_FIELDS:
            columns[field.name] = pa.nulls(rows.num_rows, field.type)
        for name in ("model_digest", "run_id"):
            columns[name] = pa.repeat(self.run_id, rows.num_rows)
        columns["run_attempt"] = pa.repeat(pa.scalar(1, pa.int32()), rows.num_rows)
        return pa.table(columns, schema=self.schema)


def simulate(folder: Path, num_gpus: int, *, seconds_per_pair: float) -> dict[str, float]:
    """Run the job's graph with waiting scorers, and return what it reached.

    Args:
        folder: for images and results.
        num_gpus: logical ones.
        seconds_per_pair: how long a scorer waits.
    """
    import ray
    from ray.data import DataContext

    num_rows = num_gpus * PAIRS_PER_SCORER  # the shortest manifest for which the job takes so many
    manifest = write_manifest(folder / "small", num_rows, side_px=SIDE_PX, num_files=64)
    timeline = folder / f"timeline-{num_gpus}"
    timeline.mkdir(parents=True)
    environment = {TIMELINE: str(timeline), SECONDS_PER_PAIR: str(seconds_per_pair)}
    os.environ |= environment
    ray.init(
        "local", num_gpus=num_gpus, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": environment},
    )  # fmt: skip
    try:
        # Blocks of as many pairs as those that are waited for would fill.
        pairs_per_block = ComputeConfig().pixels_per_batch // WAITED_FOR_SIDE_PX**2
        config = {
            "manifest": {"uri": str(manifest)},
            "output": {"uri": str(folder / "out")},
            "compute": {"pixels_per_batch": pairs_per_block * SIDE_PX**2},
        }
        plan = make_plan(ScoreManifestConfig.model_validate(config))
        scorers = Scorers(num_gpus, 1, 0, False)
        start_s = time.process_time()
        with DataContext.current(execution_context(plan, scorers)):
            dataset = build_graph(plan, scorers, score_stage=WaitingScorer)
            write_results(dataset, plan, scorers, str(folder / f"scores-{num_gpus}"))
        cpu_s = time.process_time() - start_s
    finally:
        ray.shutdown()
    actors = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in timeline.glob("*.jsonl")
    ]
    # From when all of them were ready until the last rows were taken.
    begin_s = max(blocks[0][0] for blocks in actors)
    end_s = max(blocks[-1][0] for blocks in actors)
    if end_s <= begin_s:
        raise RuntimeError("expected work left once all scorers were ready, got none")
    busy_s = sum(
        max(0.0, min(end, end_s) - max(start, begin_s))
        for blocks in actors
        for start, end, _ in blocks
    )
    return {
        "efficiency": busy_s / (num_gpus * (end_s - begin_s)),
        "pairs_per_s": busy_s / (end_s - begin_s) / seconds_per_pair,
        "window_s": end_s - begin_s,
        "rows": num_rows,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "driver_cpu_s_per_million": 1e6 * cpu_s / num_rows,
    }


def scale_out(
    folder: Path, *, seconds_per_pair: float, gpus: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
) -> Table:
    """Part f: simulated GPUs, 1 to 32, on one machine that loads and schedules for them all."""
    table = Table(
        "f. Scale-out simulated on this machine",
        [
            "GPUs", "rows", "pairs/s", "ideal pairs/s", "efficiency", "seconds measured",
            "driver's memory, MB", "driver's CPU s per million rows",
        ],
        notes=[
            f"Each scorer waits {1e3 * seconds_per_pair:.1f} ms a pair, what AlexNet's model took "
            "for a 512 px pair on one thread here. Images are 96 px, so that this one machine can "
            "load for all, in blocks of as many pairs as 512 px would give. The manifests are the "
            "shortest for which the job starts so many scorers. Efficiency: the share of time that "
            "scorers were busy, from when all "
            "were ready until the last rows were taken; pairs/s is that share of the ideal. The "
            "driver's memory holds torch too, with which the wait was measured there."
        ],
    )  # fmt: skip
    for num_gpus in gpus:
        got = simulate(folder / str(num_gpus), num_gpus, seconds_per_pair=seconds_per_pair)
        table.rows.append(
            [str(num_gpus), f"{got['rows']:.0f}", got["pairs_per_s"], num_gpus / seconds_per_pair,
             got["efficiency"], got["window_s"], got["driver_mb"], got["driver_cpu_s_per_million"]]
        )  # fmt: skip
    return table
