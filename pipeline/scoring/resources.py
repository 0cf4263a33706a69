"""Who runs where: the number of scorers, and every tuning constant of the pipeline."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ComputeConfig

ID_ROWS_PER_READ = 16_384
"""Rows per read of the manifest's ids; Arrow's default reads a million rows ahead."""
READ_BYTES = 1 << 26
"""Most bytes of a read of whole rows, which may hold images; one row may have more."""
FOOTER_THREADS = 16
"""Threads that read Parquet footers, because each read only waits for the store."""

ROWS_PER_LOAD_TASK = 128
"""A load task then takes seconds, so retrying it or moving it to another node is cheap."""
ROWS_PER_FETCH = 32
"""Enough concurrent fetches to hide a store's latency, few enough to hold their bytes in memory."""
ROWS_PER_REUSE_TASK = 1_024
"""As ROWS_PER_LOAD_TASK, if rows are reused: most of them are then done in microseconds."""
TASKS_PER_SCORER = 8
"""Fewest tasks of a scorer that loads, so that the last ones end at nearly the same time."""
TAG_THREADS = 8
TAG_REQUESTS = 32
"""Files, and objects of a store, that are asked for their tags at the same time."""
KEYS_PER_PAGE, LEAST_KEYS_PER_PAGE = 1_000, 8
"""Keys that S3 lists at most per request, and the fewest for which listing is as fast as asking for
each."""
LOAD_CPUS = 1.0
"""CPUs of a load task if CPUs score. Ray stops idle workers beyond one per CPU, so with less than
one CPU per task, workers would be stopped and started all the time."""
LOAD_CPUS_FOR_GPUS = 0.5
"""CPUs of a load task if GPUs score, because a load task mostly waits for its store."""
LOADER_KEPT_BYTES = 1 << 26
"""Freed memory that a load worker keeps: most images fit in it."""
DECODE_BYTES, DECODE_BYTES_PER_PIXEL = 1 << 30, 64
"""Memory that decoding may take, beside images.max_bytes: so much, and so much per pixel of
images.max_pixels. A decoder that wants more fails, instead of taking the machine's."""

FETCH_TRIES = 7
"""Fetches of an object before its row fails; the waits between them add up to 31 s."""
FETCH_FIRST_WAIT_S = 0.5
"""Wait before the second fetch; it doubles with each try, so that a busy store can recover."""
FETCH_PATIENCE_S = 600.0
"""A process that has waited this long for a store fetches each object only once until the store
answers, because every 32 rows of a dead store would take half a minute."""
HTTP_CONNECT_S, HTTP_READ_S, HTTP_OBJECT_S = 10, 20, 300
"""Longest waits for a connection, for the next bytes and for a whole object; then it is retried."""
HTTP_CHUNK_BYTES = 1 << 16
"""Bytes per read from an HTTP server, few because a read can go beyond the requested range."""

SCORER_CPUS = 0.01
"""CPUs that Ray reserves for a scorer. Above 0, it keeps scorers off a head node without CPUs. A
larger share could leave no node with the whole CPU that Ray's reader waits for."""
ROOMY_NODE_CPUS = 3
"""From this many CPUs, a node has whole CPUs left beside all shares of SCORER_CPUS."""
PIXELS_PER_PAIR = 256 * 256
"""Pixels of a pair (H x W) where a number of pairs stands for their work."""
PAIRS_PER_SCORER = 500
"""Pairs of 256 px that take as long to score as a scorer takes to start."""
PAIRS_PER_COMPILATION = 6_000
"""Pairs of 256 px per scorer that pay for compiling: it takes 25 to 60 s the first time and saves 4
to 18 ms for each."""
PIXELS_PER_CPU_BATCH = 4 * 256 * 256
"""Pixels (pairs x H x W) that a CPU scores together: enough to amortize torch's cost per call, few
enough to stay in its cache."""
SCORER_KEPT_BYTES = 1 << 30
"""Freed memory that a scorer keeps: the tensors of most batches fit in it."""
SCORES_KEPT = 16_384
"""Pairs whose scores a scorer keeps for other rows with the same images, about 8 MB."""
BLOCKS_IN_FLIGHT = 2
"""Blocks that Ray gives a scorer: one is scored, the other one waits. Ray's own default."""
ROWS_PER_GPU_BLOCK = 64
"""Rows of a scorer's call on a GPU, to which Ray joins the blocks of the load stage."""

BYTES_PER_PIXEL = 6
"""Size of a loaded pair per pixel: two images of three bytes."""
BLOCKS_PER_SCORER = 3
"""Blocks in memory per scorer on a CPU: one being scored, one waiting, one being loaded."""


@dataclass(frozen=True)
class Scorers:
    """The scorers of a run: processes that each hold a model.

    Attributes:
        num_scorers: how many; 0 where the job's own process scores.
        gpus_per_scorer: GPUs of each; 0 scores on CPUs.
        cpus_per_scorer: CPUs that Ray reserves for each.
        compile_kernels: whether each compiles its kernels at its start.
        load_images: whether each also loads the images that it scores.
    """

    num_scorers: int
    gpus_per_scorer: float
    cpus_per_scorer: float
    compile_kernels: bool
    load_images: bool = False


def choose_scorers(
    compute: ComputeConfig,
    nodes: Sequence[Mapping[str, float]],
    num_pairs: float,
    *,
    may_load: bool = False,
) -> Scorers:
    """Choose what the config leaves to the cluster.

    Args:
        compute: the config's section.
        nodes: the resources of each living node, as Ray counts them: "CPU" and "GPU".
        num_pairs: the rows to score, as a number of pairs of 256 px.
        may_load: whether scorers may load images, see `Plan.scorers_may_load`.

    Returns:
        One scorer per GPU; without GPUs one per CPU. Fewer if there is little to score. Where each
        CPU has one and they may, scorers load the images too; elsewhere load tasks do.

    Raises:
        ContractError: no node has the GPUs that the config asks for, and the config gives no
            number of scorers to wait for.
    """
    cpus, gpus = ([node.get(kind, 0) for node in nodes] for kind in ("CPU", "GPU"))
    gpus_per_scorer = compute.gpus_per_scorer
    if gpus_per_scorer is None:
        gpus_per_scorer = 1.0 if sum(gpus) else 0.0
    if gpus_per_scorer == 0:
        room = int(sum(cpus))
    elif gpus_per_scorer < 1:  # a scorer cannot use parts of two GPUs
        room = sum(int(num) * int(1 / gpus_per_scorer) for num in gpus)
    else:
        room = sum(int(num // gpus_per_scorer) for num in gpus)
    if gpus_per_scorer and not room and compute.scorers is None:
        raise ContractError(
            f"compute.gpus_per_scorer: expected at most the {max(gpus, default=0):g} GPUs of a "
            f"node, got {gpus_per_scorer:g}; on a cluster that scales, give compute.scorers as "
            "well"
        )
    num_scorers = compute.scorers or max(1, min(room, int(num_pairs // PAIRS_PER_SCORER)))
    cpus_per_scorer = SCORER_CPUS if max(cpus, default=0) >= ROOMY_NODE_CPUS else 0.0
    compile_kernels = compute.compile
    if compile_kernels is None:  # whether compiling pays on GPUs has not been measured
        compile_kernels = not gpus_per_scorer and num_pairs >= num_scorers * PAIRS_PER_COMPILATION
    load_images = may_load and not gpus_per_scorer and 0 < sum(cpus) <= num_scorers
    return Scorers(num_scorers, gpus_per_scorer, cpus_per_scorer, compile_kernels, load_images)


def describe_scorers(scorers: Scorers) -> str:
    """Return the scorers as a line for people."""
    if not scorers.num_scorers:
        return "scorers   none: this process scores, because there are few rows"
    kernels = "compiled" if scorers.compile_kernels else "not compiled"
    gpus = f"{scorers.gpus_per_scorer:g} GPUs each"
    loading = ", loading too" if scorers.load_images else ""
    return f"scorers   {scorers.num_scorers} with {gpus}, kernels {kernels}{loading}"


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""


def keep_freed_memory(kept_bytes: int) -> None:
    """Make glibc keep the memory of freed images and tensors; other C libraries are left alone.

    Otherwise the kernel zeroes fresh pages for every large image. For small images this takes as
    long as scoring them.

    Args:
        kept_bytes: largest amount of freed memory that the process keeps, and the largest single
            piece that it keeps.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, kept_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        # One arena for all threads: the arenas of other threads keep no piece above 64 MiB.
        libc.mallopt(_M_ARENA_MAX, 1)
