"""The graph: read -> load -> score -> write, on Ray Data; the only place that composes stages."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionOptions, ExecutionResources
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from pipeline.config import ComputeConfig
from pipeline.errors import ContractError, FaultError
from pipeline.lease import Lease
from pipeline.load import PairLoader
from pipeline.manifest import KeepIds
from pipeline.plan import Plan
from pipeline.publish import publish, start_attempt
from pipeline.run import Json, open_run_folder
from pipeline.schema import result_schema
from pipeline.score import PairScorer
from pipeline.storage import STORE_ERRORS, arrow_filesystem, describe

ROWS_PER_LOAD_TASK = 128
"""Rows that one load task takes: seconds of work, so that retrying or spreading it is cheap."""

ROWS_PER_GPU_BLOCK = 64
"""Rows to which Ray joins blocks for a scorer on a GPU."""

LOAD_CPUS = 1.0
"""CPUs of a load task where CPUs score, which need few of them. Ray ends workers that idle beyond
one per CPU; were there more, each pause of theirs would cost a start."""

LOAD_CPUS_FOR_GPUS = 0.5
"""CPUs of a load task where GPUs score: most of its time it waits for its store."""

SCORER_CPUS = 0.01
"""CPUs that Ray keeps for a scorer, whose time is shared as it comes. Enough to keep it off nodes
that are to have no work (a head node without CPUs); more could leave no node with the whole CPU
that Ray's reader, or the actor that skips rows done before, waits for without end."""

ROOMY_NODE_CPUS = 3
"""CPUs of a node that has room for these two beside any number of scorers' shares."""

BYTES_PER_PIXEL = 6
"""Of a loaded pair: two images of three bytes."""

BLOCKS_PER_SCORER = 3
"""Blocks of the largest images that are held for each scorer on a CPU: one that it scores, one that
waits, one that is loaded. More would not be scored sooner, and pages that the object store has used
before come cheaper than fresh ones."""

PAIRS_PER_SCORER = 500
"""Pairs that make another scorer worth its start, which takes as long as scoring these."""

MAX_THREADS_PER_SCORER = 2
"""Threads of a scorer where CPUs would be left without one; they score in a third less time than
one. More have not been measured."""

PAIRS_PER_COMPILATION = 6_000
"""Pairs that a scorer must have for compiling to pay even where nothing is kept from before: 25 to
60 s, where it saves 10 to 18 ms a pair of 256 px."""

PASSING_STORE_ERRORS = (
    "ClientError", "ConnectionError", "ConnectionRefused", "ConnectionReset", "ClientPayloadError",
    "EndpointConnection", "HTTPClientError", "IncompleteRead", "Timeout", "ResponseStreaming",
    "ServiceUnavailable", "SlowDown", "InternalError",
)  # fmt: skip
"""What Ray's reads and writes try again for, up to minutes, where s3fs's own tries are used up;
names that occur in a trace. A file written again replaces what there was of it."""


@dataclass(frozen=True)
class Workers:
    """The scoring processes.

    Attributes:
        actors: how many.
        gpus_per_actor: GPUs of each, 0 to score on CPUs.
        cpus_per_actor: CPUs that Ray keeps for each.
        threads_per_actor: threads of each that score on CPUs.
        compile_passes: whether each compiles the passes over pixels first.
    """

    actors: int
    gpus_per_actor: float
    cpus_per_actor: float
    threads_per_actor: int
    compile_passes: bool


def choose_workers(
    compute: ComputeConfig, nodes: Sequence[Mapping[str, float]], num_rows: int
) -> Workers:
    """Fill in what the config leaves to the cluster.

    Args:
        compute: the config's section.
        nodes: the resources of each living node, as Ray counts them: "CPU" and "GPU".
        num_rows: rows to score.

    Returns:
        One process per GPU; without GPUs, one per CPU, which share the CPUs with those that load
        for them; fewer for a short manifest, with two threads each if there are CPUs for them.

    Raises:
        ContractError: GPUs are asked for that no node has, and nothing says how many processes to
            wait for.
    """
    cpus, gpus = ([node.get(kind, 0) for node in nodes] for kind in ("CPU", "GPU"))
    gpus_per_actor = compute.gpus_per_actor
    if gpus_per_actor is None:
        gpus_per_actor = 1.0 if sum(gpus) else 0.0
    if gpus_per_actor == 0:
        room = int(sum(cpus))
    elif gpus_per_actor < 1:  # a share of one GPU does not reach over to the next
        room = sum(int(num) * int(1 / gpus_per_actor) for num in gpus)
    else:
        room = sum(int(num // gpus_per_actor) for num in gpus)
    if gpus_per_actor and not room and compute.actors is None:
        raise ContractError(
            [
                f"compute.gpus_per_actor: expected at most the {max(gpus, default=0):g} GPUs of a "
                f"node, got {gpus_per_actor:g}; on a cluster that scales, give compute.actors as "
                "well"
            ]
        )
    actors = compute.actors or max(1, min(room, num_rows // PAIRS_PER_SCORER))
    cpus_per_actor = SCORER_CPUS if max(cpus, default=0) >= ROOMY_NODE_CPUS else 0.0
    threads_per_actor = 1
    if not gpus_per_actor and compute.actors is None:
        most = min(int(max(cpus, default=1)), MAX_THREADS_PER_SCORER)
        threads_per_actor = max(1, min(room // actors, most))
    compile_passes = compute.compile
    if compile_passes is None:
        # What compiling gains on GPUs has not been measured.
        compile_passes = not gpus_per_actor and num_rows >= actors * PAIRS_PER_COMPILATION
    return Workers(actors, gpus_per_actor, cpus_per_actor, threads_per_actor, compile_passes)


def score_pairs(
    plan: Plan, workers: Workers, scorer: type[Callable[[pa.Table], pa.Table]] = PairScorer
) -> Dataset:
    """Return the dataset of results, one row for each row of the manifest; nothing runs yet.

    Args:
        plan: the run.
        workers: the scoring processes.
        scorer: the score stage; the benchmark's waits instead.
    """
    config = plan.config
    pixels = config.compute.pixels_per_batch
    # Never the scorer's: Ray Data fuses stages of equal resources into one process, which loads and
    # scores in turn.
    load_cpus = LOAD_CPUS_FOR_GPUS if workers.gpus_per_actor else LOAD_CPUS
    load = PairLoader(config.images, plan.manifest.image_columns, plan.carried, pixels)
    score = {
        "source": config.model,
        "expected_digest": plan.model.digest,
        "run_id": plan.run_id,
        "run_attempt": plan.attempt.number,
        "carried": plan.carried,
        "pixels_per_batch": pixels,
        "use_gpu": workers.gpus_per_actor > 0,
        "threads": workers.threads_per_actor,
        "compile_passes": workers.compile_passes,
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
            batch_size=ROWS_PER_GPU_BLOCK if workers.gpus_per_actor else None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers.actors),
            num_cpus=workers.cpus_per_actor,
            num_gpus=workers.gpus_per_actor,
        )
    )


def execution_context(plan: Plan, workers: Workers) -> DataContext:
    """Return how Ray Data is to run the graph: block sizes, and where rows done are recorded.

    Args:
        plan: the run.
        workers: the scoring processes.
    """
    context = DataContext.get_current().copy()
    pixels = plan.config.compute.pixels_per_batch
    context.target_max_block_size = BYTES_PER_PIXEL * pixels
    if not workers.gpus_per_actor:  # how much GPUs want to have ready has not been measured
        largest = BYTES_PER_PIXEL * max(pixels, plan.config.images.max_pixels)
        held = ExecutionResources.for_limits(
            object_store_memory=workers.actors * BLOCKS_PER_SCORER * largest
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


def run(plan: Plan, workers: Workers, lease: Lease) -> Json:
    """Score a manifest and publish the results; what interrupted processes left is kept.

    Args:
        plan: an attempt that is not published.
        workers: the scoring processes.
        lease: the right to write into the run's folder.

    Returns:
        The content of run.json.

    Raises:
        ContractError: another process writes there, or has written another run there meanwhile.
        FaultError: Ray gave up, or the results do not add up to the manifest; nothing is published.
    """
    lease.check()
    number = plan.attempt.number
    # As in the plan, but now that nobody else writes.
    folder = open_run_folder(plan.config.output.uri, plan.run_id, plan.fingerprints)
    if folder.state() == "new":
        folder.write("plan.json", plan.record())
    elif folder.state() == "finished":
        record = folder.read("run.json")
        if len(record["attempts"]) >= number:  # published by another process meanwhile
            return record
    start = start_attempt(plan)
    try:
        _score(plan, workers)
    except (RayError, UserWarning, *STORE_ERRORS, pa.ArrowException) as error:
        cause = getattr(error, "cause", None) or error
        raise FaultError(
            f"{folder.uri}: {describe(cause)}; what was scored is kept, the same command goes on"
        ) from error
    return publish(plan, start, asdict(workers), lease)


def _score(plan: Plan, workers: Workers) -> None:
    """Write the results of the attempt's rows that have none."""
    with DataContext.current(execution_context(plan, workers)), warnings.catch_warnings():
        # Ray would go on without recording rows: what is interrupted then could not be resumed.
        warnings.filterwarnings("error", "You've enabled checkpointing, but", UserWarning)
        path = plan.folder.scores_path(plan.attempt.number)
        write_results(score_pairs(plan, workers), plan, path)


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
        schema=result_schema(plan.carried),
        # It waits for its store, and must not wait for a CPU: on a small machine those that
        # load never leave one, and nothing would be written before all is scored.
        ray_remote_args={"num_cpus": 0},
    )
