"""The graph: read -> load -> score -> write, on Ray Data."""

import re
import warnings
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionOptions, ExecutionResources
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError, UserCodeException

from pipeline.runs.errors import GraphError
from pipeline.runs.schema import result_schema
from pipeline.runs.storage import arrow_filesystem, describe
from pipeline.runs.uris import redact
from pipeline.scoring.graph_progress import GraphProgress
from pipeline.scoring.manifest.opening import KeepIds
from pipeline.scoring.manifest.reading import read_rows
from pipeline.scoring.plan import Plan
from pipeline.scoring.progress import ProgressLine
from pipeline.scoring.resources import (
    BLOCKS_IN_FLIGHT,
    BLOCKS_PER_SCORER,
    BYTES_PER_PIXEL,
    LOAD_CPUS,
    LOAD_CPUS_FOR_GPUS,
    ROWS_PER_GPU_BLOCK,
    Scorers,
)
from pipeline.scoring.reuse.earlier_run import find_contradictions
from pipeline.scoring.reuse.known_scores import KnownScores, read_known_scores
from pipeline.scoring.stage_arguments import load_stage, rows_per_task, score_arguments
from pipeline.scoring.stages.load_and_score import LoadingPairScorer
from pipeline.scoring.stages.score import PairScorer
from pipeline.scoring.stages.suspects import Suspects

RETRIED_STORE_ERRORS = (
    "ClientError", "ConnectionError", "ConnectionRefused", "ConnectionReset", "ClientPayloadError",
    "EndpointConnection", "HTTPClientError", "IncompleteRead", "Timeout", "ResponseStreaming",
    "ServiceUnavailable", "SlowDown", "InternalError",
)  # fmt: skip
"""Ray retries a read or write for minutes if its traceback contains one of these names, after the
retries of s3fs itself have failed. A retried write overwrites the partial file."""
RAYS_ADVICE = re.compile(r"""(\\n|[:\s'"])*Failed to apply UDF transform.*""")
"""What Ray adds to the message of an error in its own stages."""


def run_graph(plan: Plan, scorers: Scorers, num_rows_done: int) -> list[str]:
    """Score the rows of the attempt that have no result yet, and write their results.

    Ray Data leaves out the rows that have one: see the checkpoint in `execution_context`.

    Args:
        plan: the run.
        scorers: the scorers to start.
        num_rows_done: rows of the attempt that have a result, for the progress line.

    Returns:
        Lines for people on images that contradict the earlier run.

    Raises:
        GraphError: Ray gave up.
    """
    get_known: Callable[[], KnownScores] | None = None
    if plan.earlier is not None:  # one copy on each machine, which all its processes share
        get_known = _get_from(ray.put(read_known_scores(plan.earlier.run)))
    context = execution_context(plan, scorers)
    context.enable_progress_bars = False
    line = ProgressLine(plan.attempt.num_rows, num_rows_done)
    show = partial(GraphProgress, PairScorer.__name__, line)
    context.custom_execution_callback_classes = [show]  # type: ignore[list-item]  # it is called
    with DataContext.current(context), warnings.catch_warnings():
        # When Ray cannot record finished rows it only warns, and the run could not be resumed.
        warnings.filterwarnings("error", "You've enabled checkpointing, but", UserWarning)
        path = plan.folder.scores_path(plan.attempt.number)
        try:
            write_results(build_graph(plan, scorers, get_known=get_known), plan, scorers, path)
        except (RayError, UserWarning) as error:
            raise GraphError(_describe_failure(error)) from error
    if get_known is None:
        return []
    files = plan.folder.score_files(plan.attempt.number)
    return find_contradictions(plan.folder.fs, files, plan.manifest.image_columns, get_known())


def _describe_failure(error: RayError | UserWarning) -> str:
    """Return why Ray gave up, in one line."""
    if isinstance(error, UserCodeException):  # of what a stage raised, Ray keeps the text only
        stack_trace, cut, _ = str(error).rpartition("\n\nThe above exception was the direct cause")
        if cut:
            return redact(stack_trace.rpartition("\n")[2])
    return RAYS_ADVICE.sub("", describe(getattr(error, "cause", None) or error))


def _get_from(shared: "ray.ObjectRef[KnownScores]") -> Callable[[], KnownScores]:
    """Return a function that gets an object of Ray's store, in any process."""
    return lambda: ray.get(shared)


def _read_pairs(plan: Plan) -> Dataset:
    """Return the manifest's rows, or in a later attempt only its own."""
    rows = read_rows(plan.manifest)
    if plan.attempt.ids is None:
        return rows
    keep = KeepIds(plan.manifest.pair_id_column, plan.attempt.ids)
    return rows.map_batches(keep, batch_size=None, batch_format="pyarrow")


def build_graph(
    plan: Plan,
    scorers: Scorers,
    score_stage: type[Callable[[pa.Table], pa.Table]] | None = None,
    get_known: Callable[[], KnownScores] | None = None,
) -> Dataset:
    """Return the graph read -> load -> score, which nothing runs yet.

    Scorers that load do so in the score stage.

    Args:
        plan: the run.
        scorers: the scorers to start.
        score_stage: what Ray starts in each scorer; None is the product's, a benchmark has its own.
        get_known: returns the scores of an earlier run in any process; None if there is none.
    """
    on_gpus = scorers.gpus_per_scorer > 0
    suspects = Suspects(
        plan.folder.fs,
        plan.folder.suspects_path(plan.attempt.number),
        plan.manifest.pair_id_column,
    )
    rows = _read_pairs(plan).repartition(target_num_rows_per_block=rows_per_task(plan, scorers))
    load = load_stage(plan, get_known)
    arguments = {**score_arguments(plan, scorers), "suspects": suspects}
    if scorers.load_images:
        arguments["loader"] = load
    else:
        rows = rows.map_batches(
            load,
            batch_size=None,
            batch_format="pyarrow",
            # Must differ from the scorer's num_cpus: otherwise Ray Data fuses both stages.
            num_cpus=LOAD_CPUS_FOR_GPUS if on_gpus else LOAD_CPUS,
        )
    return rows.map_batches(
        score_stage or (LoadingPairScorer if scorers.load_images else PairScorer),
        fn_constructor_kwargs=arguments,
        # None passes each block of the load stage whole. With GPUs Ray requires a batch size.
        batch_size=ROWS_PER_GPU_BLOCK if on_gpus else None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=scorers.num_scorers, max_tasks_in_flight_per_actor=BLOCKS_IN_FLIGHT
        ),
        num_cpus=scorers.cpus_per_scorer,
        num_gpus=scorers.gpus_per_scorer,
    )


def write_results(rows: Dataset, plan: Plan, scorers: Scorers, path: str) -> None:
    """Run a graph, and write its rows to result files as they arrive."""
    rows_per_file = plan.config.output.rows_per_file
    rows_per_block = rows_per_task(plan, scorers)
    rows.write_parquet(
        path,
        filesystem=arrow_filesystem(plan.folder.fs),
        # Ray joins blocks until they have the minimum of rows, one block below the maximum, so the
        # last block cannot overflow into a second file. (On GPUs it can: a block there can
        # hold rows of two load tasks.)
        min_rows_per_file=max(1, rows_per_file // 2, rows_per_file - rows_per_block + 1),
        max_rows_per_file=rows_per_file,
        schema=result_schema(plan.pass_through),
        # Writing must not wait for a CPU: on a small machine the load tasks keep them all until
        # everything is scored.
        ray_remote_args={"num_cpus": 0},
    )


def execution_context(plan: Plan, scorers: Scorers) -> DataContext:
    """Return Ray Data's settings: block sizes, memory, retries and the record of finished rows."""
    context = DataContext.get_current().copy()
    pixels = plan.config.compute.pixels_per_batch
    context.target_max_block_size = BYTES_PER_PIXEL * pixels
    if not scorers.gpus_per_scorer:  # for GPUs the best number of blocks has not been measured
        largest = BYTES_PER_PIXEL * max(pixels, plan.config.images.max_pixels)
        limits = ExecutionResources.for_limits(
            object_store_memory=scorers.num_scorers * BLOCKS_PER_SCORER * largest
        )
        context.execution_options = ExecutionOptions(resource_limits=limits)
    context.use_datasource_v2 = False  # V2 starts processes to read footers that were read already
    context.retried_io_errors = [*context.retried_io_errors, *RETRIED_STORE_ERRORS]
    context.checkpoint_config = checkpoint = CheckpointConfig(
        id_column=plan.manifest.pair_id_column,
        checkpoint_path=plan.folder.checkpoint_path(plan.attempt.number),
        delete_checkpoint_on_success=False,  # resuming after a crash before _SUCCESS needs it
        override_filesystem=arrow_filesystem(plan.folder.fs),
    )
    checkpoint.checkpoint_actor_pool_max_size = 1  # each actor takes a CPU, and one is enough
    return context
