"""Score a small manifest in this process, through the stages of the graph, without starting Ray.

Ray and its processes take longer to start than a few hundred pairs take to score. Images are
decoded in a process of their own, which a damaged one can kill. Whatever kills this process leaves
its lock behind, and then the next one starts Ray.
"""

import os
import sys
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from queue import Queue

import pyarrow as pa
import pyarrow.parquet
import torch

from pipeline.runs.storage import write_whole
from pipeline.scoring.config import ComputeConfig
from pipeline.scoring.images.decode import DecodeProcess
from pipeline.scoring.manifest.opening import KeepIds
from pipeline.scoring.plan import Plan
from pipeline.scoring.progress import ProgressLine
from pipeline.scoring.resources import PAIRS_PER_SCORER, Scorers
from pipeline.scoring.reuse.earlier_run import find_contradictions
from pipeline.scoring.reuse.known_scores import KnownScores, read_known_scores
from pipeline.scoring.stage_arguments import load_stage, rows_per_task, score_arguments
from pipeline.scoring.stages.score import PairScorer

LARGEST_PIXELS = 1 << 24
"""Largest image that may be scored here, in 4.6 GB; a larger one may kill a scorer instead."""


def no_scorers(compute: ComputeConfig) -> Scorers:
    """Return what stands for scorers where this process scores, on its CPU."""
    return Scorers(
        num_scorers=0, gpus_per_scorer=0, cpus_per_scorer=0, compile_kernels=bool(compute.compile)
    )


def fits_this_process(plan: Plan, *, has_died: bool) -> bool:
    """Return whether to score a plan's rows here.

    They must be few, and none may need much memory. Nobody may have asked for Ray's scorers, a
    cluster or a GPU. No process may have died while it worked on the run (`has_died`), or left
    finished rows.
    """
    compute = plan.config.compute
    return (
        plan.num_standard_pairs() <= PAIRS_PER_SCORER
        and plan.config.images.max_pixels <= LARGEST_PIXELS
        and compute.scorers is None
        and not compute.gpus_per_scorer
        and not os.environ.get("RAY_ADDRESS")
        and not _is_ray_running()
        and not torch.cuda.is_available()
        and not has_died
        and not plan.folder.has_suspects()
        and not plan.folder.score_files(plan.attempt.number)
    )


def _is_ray_running() -> bool:
    """Return whether this process has started Ray, without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


class InProcess:
    """Scores the rows of an attempt in this process; loading starts when it is made."""

    def __init__(self, plan: Plan, scorers: Scorers) -> None:
        """Load the model, while the first images are fetched and decoded.

        Args:
            plan: the run.
            scorers: what `no_scorers` returns, perhaps with the kernels of an earlier run.
        """
        self._known = read_known_scores(plan.earlier.run) if plan.earlier else None
        self._blocks = _made_ahead(_load(plan, scorers, self._known))
        self._score = PairScorer(**score_arguments(plan, scorers))

    def __call__(self, plan: Plan, scorers: Scorers, num_rows_done: int) -> list[str]:  # noqa: ARG002 - as `run_graph`
        """Score all rows, and write their results when all are scored.

        Returns:
            Lines for people on images that contradict the earlier run.
        """
        line = ProgressLine(plan.attempt.num_rows, num_rows_done)
        num_scored, scored = 0, []
        for loaded in self._blocks:
            scored.append(self._score(loaded))
            num_scored += loaded.num_rows
            if line.is_due():
                line.show(num_scored)
        line.complete(num_scored)
        files = _write_results(plan, pa.concat_tables(scored))
        if self._known is None:
            return []
        return find_contradictions(plan.folder.fs, files, plan.manifest.image_columns, self._known)


def _load(plan: Plan, scorers: Scorers, known: KnownScores | None) -> Iterator[pa.Table]:
    """Yield the loaded rows of the attempt in blocks."""
    load = load_stage(plan, (lambda: known) if known else None)
    with DecodeProcess(plan.config.images) as process:
        for rows in _read_pairs(plan, rows_per_task(plan, scorers)):
            yield from load.load(rows, process.decode, load.recall(rows))


def _made_ahead(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield blocks, of which a thread makes the next one meanwhile; it starts at once.

    The thread is a daemon, so that Ctrl-C need not wait for a slow store.
    """
    made: Queue[pa.Table | Exception | None] = Queue(maxsize=1)

    def make() -> None:
        try:
            for block in blocks:
                made.put(block)
            made.put(None)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            made.put(error)

    threading.Thread(target=make, daemon=True).start()
    return iter(partial(_take, made), None)


def _take(made: "Queue[pa.Table | Exception | None]") -> pa.Table | None:
    block = made.get()
    if isinstance(block, Exception):
        raise block
    return block


def _read_pairs(plan: Plan, num_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of the attempt, so many together at most."""
    keep = None
    if plan.attempt.ids is not None:
        keep = KeepIds(plan.manifest.pair_id_column, plan.attempt.ids)
    for rows in plan.manifest.read(num_rows):
        yield keep(rows) if keep else rows


def _write_results(plan: Plan, rows: pa.Table) -> list[str]:
    """Write result files and the record that they are complete, as Ray Data does.

    Returns:
        The files' paths.
    """
    folder, number = plan.folder, plan.attempt.number
    task, rows_per_file = uuid.uuid4().hex, plan.config.output.rows_per_file
    paths = []
    for index, start in enumerate(range(0, rows.num_rows, rows_per_file)):
        paths.append(f"{folder.scores_path(number)}/{task}-{index}.parquet")
        write_whole(folder.fs, paths[-1], _to_parquet(rows.slice(start, rows_per_file)))
    ids = rows.select([plan.manifest.pair_id_column])
    write_whole(folder.fs, f"{folder.checkpoint_path(number)}/{task}.parquet", _to_parquet(ids))
    return paths


def _to_parquet(rows: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(rows, buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content
