"""The graph: read -> load -> score -> write, on Ray Data; the only place that composes stages."""

import warnings
from collections.abc import Callable
from dataclasses import asdict

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionOptions, ExecutionResources
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from pipeline.runs.errors import FaultError
from pipeline.runs.records import RunRecord
from pipeline.runs.run import open_run_folder
from pipeline.runs.schema import result_schema
from pipeline.runs.storage import STORE_ERRORS, arrow_filesystem, describe
from pipeline.scoring.load import PairLoader
from pipeline.scoring.lock import RunLock
from pipeline.scoring.manifest import KeepIds
from pipeline.scoring.plan import Plan
from pipeline.scoring.publish import publish, start_attempt
from pipeline.scoring.resources import (
    BLOCKS_PER_SCORER,
    BYTES_PER_PIXEL,
    LOAD_CPUS,
    LOAD_CPUS_FOR_GPUS,
    PASSING_STORE_ERRORS,
    ROWS_PER_GPU_BLOCK,
    ROWS_PER_LOAD_TASK,
    Scorers,
)
from pipeline.scoring.score import PairScorer


def score_pairs(
    plan: Plan, scorers: Scorers, scorer: type[Callable[[pa.Table], pa.Table]] = PairScorer
) -> Dataset:
    """Return the dataset of results, one row for each row of the manifest; nothing runs yet.

    Args:
        plan: the run.
        scorers: the scoring processes.
        scorer: the score stage; the benchmark's waits instead.
    """
    config = plan.config
    pixels = config.compute.pixels_per_batch
    # Never the scorer's: Ray Data fuses stages of equal resources into one process, which loads and
    # scores in turn.
    load_cpus = LOAD_CPUS_FOR_GPUS if scorers.gpus_per_scorer else LOAD_CPUS
    load = PairLoader(config.images, plan.manifest.image_columns, plan.pass_through, pixels)
    score = {
        "source": config.model,
        "expected_digest": plan.model.digest,
        "run_id": plan.run_id,
        "run_attempt": plan.attempt.number,
        "pass_through": plan.pass_through,
        "pixels_per_batch": pixels,
        "use_gpu": scorers.gpus_per_scorer > 0,
        "compile_kernels": scorers.compile_kernels,
    }
    rows = ray.data.read_parquet(
        plan.manifest.paths,
        filesystem=arrow_filesystem(plan.manifest.fs),
        partitioning=None,
        file_extensions=None,  # the plan chose the files, whatever their names
    )
    if plan.attempt.ids is not None:
        keep = KeepIds(plan.manifest.pair_id_column, plan.attempt.ids)
        rows = rows.map_batches(keep, batch_size=None, batch_format="pyarrow")
    return (
        rows.repartition(target_num_rows_per_block=ROWS_PER_LOAD_TASK)
        .map_batches(load, batch_size=None, batch_format="pyarrow", num_cpus=load_cpus)
        .map_batches(
            scorer,
            fn_constructor_kwargs=score,
            # A block of the load stage, cut at the pixel budget. For GPUs Ray wants a number of
            # rows, to which it joins small blocks; the scorer keeps to the pixel budget itself.
            batch_size=ROWS_PER_GPU_BLOCK if scorers.gpus_per_scorer else None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=scorers.num_scorers),
            num_cpus=scorers.cpus_per_scorer,
            num_gpus=scorers.gpus_per_scorer,
        )
    )


def execution_context(plan: Plan, scorers: Scorers) -> DataContext:
    """Return how Ray Data is to run the graph: block sizes, and where rows done are recorded.

    Args:
        plan: the run.
        scorers: the scoring processes.
    """
    context = DataContext.get_current().copy()
    pixels = plan.config.compute.pixels_per_batch
    context.target_max_block_size = BYTES_PER_PIXEL * pixels
    if not scorers.gpus_per_scorer:  # how much GPUs want to have ready has not been measured
        largest = BYTES_PER_PIXEL * max(pixels, plan.config.images.max_pixels)
        held = ExecutionResources.for_limits(
            object_store_memory=scorers.num_scorers * BLOCKS_PER_SCORER * largest
        )
        context.execution_options = ExecutionOptions(resource_limits=held)
    context.use_datasource_v2 = False  # V2 starts processes to read the footers read already
    context.retried_io_errors = [*context.retried_io_errors, *PASSING_STORE_ERRORS]
    context.checkpoint_config = checkpoint = CheckpointConfig(
        id_column=plan.manifest.pair_id_column,
        checkpoint_path=plan.folder.checkpoint_path(plan.attempt.number),
        delete_checkpoint_on_success=False,  # a crash before _SUCCESS must not score rows again
        override_filesystem=arrow_filesystem(plan.folder.fs),
    )
    checkpoint.checkpoint_actor_pool_max_size = 1  # each takes a CPU; one keeps up
    return context


def run(plan: Plan, scorers: Scorers, lock: RunLock) -> RunRecord:
    """Score a manifest and publish the results; what interrupted processes left is kept.

    Args:
        plan: an attempt that is not published.
        scorers: the scoring processes.
        lock: the right to write into the run's folder.

    Returns:
        The content of run.json.

    Raises:
        ContractError: another process writes there, or has written another run there meanwhile.
        FaultError: Ray gave up, or the results do not add up to the manifest; nothing is published.
    """
    lock.check()
    number = plan.attempt.number
    # As in the plan, but now that nobody else writes.
    folder = open_run_folder(plan.config.output.uri, plan.run_id, plan.fingerprints)
    if folder.state() == "new":
        folder.write_plan(plan.record())
    elif folder.state() == "finished":
        record = folder.read_run()
        if len(record.attempts) >= number:  # published by another process meanwhile
            return record
    start = start_attempt(plan)
    try:
        _score(plan, scorers)
    except (RayError, UserWarning, *STORE_ERRORS, pa.ArrowException) as error:
        cause = getattr(error, "cause", None) or error
        raise FaultError(
            f"{folder.uri}: {describe(cause)}; what was scored is kept, the same command goes on"
        ) from error
    return publish(plan, start, asdict(scorers), lock)


def _score(plan: Plan, scorers: Scorers) -> None:
    """Write the results of the attempt's rows that have none."""
    with DataContext.current(execution_context(plan, scorers)), warnings.catch_warnings():
        # Ray would go on without recording rows: what is interrupted then could not be resumed.
        warnings.filterwarnings("error", "You've enabled checkpointing, but", UserWarning)
        path = plan.folder.scores_path(plan.attempt.number)
        write_results(score_pairs(plan, scorers), plan, path)


def write_results(rows: Dataset, plan: Plan, path: str) -> None:
    """Run a graph, and write its rows as they come.

    Args:
        rows: as `score_pairs` returns them.
        plan: the run.
        path: folder in the store of the run.
    """
    rows_per_file = plan.config.output.rows_per_file
    rows.write_parquet(
        path,
        filesystem=arrow_filesystem(plan.folder.fs),
        # Ray joins blocks until they have so many; a block over the top would be one more file (as
        # it can be on GPUs, where a block may be of two load tasks).
        min_rows_per_file=max(1, rows_per_file // 2, rows_per_file - ROWS_PER_LOAD_TASK + 1),
        max_rows_per_file=rows_per_file,
        schema=result_schema(plan.pass_through),
        # It waits for its store, and must not wait for a CPU: on a small machine those that
        # load never leave one, and nothing would be written before all is scored.
        ray_remote_args={"num_cpus": 0},
    )
