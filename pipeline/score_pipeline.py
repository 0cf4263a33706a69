"""The graph: read -> load -> score -> write, on Ray Data; the only place that composes stages."""

from dataclasses import asdict, dataclass

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig

from pipeline.config import ComputeConfig
from pipeline.load import PairLoader
from pipeline.plan import Plan
from pipeline.publish import publish, start_attempt
from pipeline.run import Json
from pipeline.schema import result_schema
from pipeline.score import PairScorer
from pipeline.storage import arrow_filesystem

ROWS_PER_LOAD_TASK = 64
"""Rows that one load task takes: seconds of work, so that retrying or spreading it is cheap."""

LOAD_CPUS = 0.5
"""CPUs of a load task, which waits for its store; another number than the scorer's, too, because
Ray Data fuses stages of equal resources into one process, which loads and scores in turn."""


@dataclass(frozen=True)
class Workers:
    """The scoring processes.

    Attributes:
        actors: how many.
        gpus_per_actor: GPUs of each, 0 to score on CPUs.
    """

    actors: int
    gpus_per_actor: float


def choose_workers(compute: ComputeConfig) -> Workers:
    """Fill in what the config leaves to the cluster that this process is connected to.

    Args:
        compute: the config's section.

    Returns:
        One process per GPU; without GPUs, one for three quarters of the CPUs: the rest load.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_gpus, num_cpus = resources.get("GPU", 0), int(resources.get("CPU", 1))
    gpus_per_actor = compute.gpus_per_actor
    if gpus_per_actor is None:
        gpus_per_actor = 1.0 if num_gpus else 0.0
    by_cluster = int(num_gpus / gpus_per_actor) if gpus_per_actor else num_cpus * 3 // 4
    return Workers(compute.actors or max(1, by_cluster), gpus_per_actor)


def score_pairs(plan: Plan, workers: Workers) -> Dataset:
    """Return the dataset of results, one row for each row of the manifest; nothing runs yet."""
    config = plan.config
    pixels = config.compute.pixels_per_batch
    context = DataContext.get_current()
    context.target_max_block_size = 6 * pixels  # two images, RGB
    context.use_datasource_v2 = False  # V2 starts processes to read the footers read already
    load = PairLoader(config.images, plan.manifest.image_columns, plan.carried, pixels)
    score = {
        "source": config.model,
        "expected_digest": plan.model.digest,
        "run_id": plan.run_id,
        "carried": plan.carried,
        "pixels_per_batch": pixels,
        "use_gpu": workers.gpus_per_actor > 0,
    }
    return (
        ray.data.read_parquet(
            plan.manifest.paths, filesystem=arrow_filesystem(plan.manifest.fs), partitioning=None
        )
        .repartition(target_num_rows_per_block=ROWS_PER_LOAD_TASK)
        .map_batches(load, batch_size=None, batch_format="pyarrow", num_cpus=LOAD_CPUS)
        .map_batches(
            PairScorer,
            fn_constructor_kwargs=score,
            batch_size=None,  # a block of the load stage, cut at the pixel budget
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers.actors),
            num_cpus=1,
            num_gpus=workers.gpus_per_actor,
        )
    )


def run(plan: Plan, workers: Workers) -> Json:
    """Score a manifest and publish the results; what earlier attempts left is kept.

    Args:
        plan: a run that is not finished.
        workers: the scoring processes.

    Returns:
        The content of run.json.

    Raises:
        FaultError: the results do not add up to the manifest; nothing is published.
    """
    folder = plan.folder
    if folder.state() == "new":
        folder.write("plan.json", plan.record())
    attempt = start_attempt(plan)
    filesystem = arrow_filesystem(folder.fs)
    DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column=plan.manifest.pair_id_column,
        checkpoint_path=folder.checkpoint_path,
        delete_checkpoint_on_success=False,  # a crash before _SUCCESS must not score rows again
        override_filesystem=filesystem,
    )
    rows_per_file = plan.config.output.rows_per_file
    score_pairs(plan, workers).write_parquet(
        folder.scores_path,
        filesystem=filesystem,
        min_rows_per_file=rows_per_file,
        max_rows_per_file=rows_per_file,
        schema=result_schema(plan.carried),
    )
    return publish(plan, attempt, asdict(workers))
