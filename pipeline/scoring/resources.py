"""Who runs where: scorers, load tasks, threads, blocks in flight, and the memory that they keep."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ComputeConfig

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
class Scorers:
    """The scoring processes.

    Attributes:
        num_scorers: how many.
        gpus_per_scorer: GPUs of each, 0 to score on CPUs.
        cpus_per_scorer: CPUs that Ray keeps for each.
        threads_per_scorer: threads of each that score on CPUs.
        compile_kernels: whether each compiles the passes over pixels first.
    """

    num_scorers: int
    gpus_per_scorer: float
    cpus_per_scorer: float
    threads_per_scorer: int
    compile_kernels: bool


def choose_scorers(
    compute: ComputeConfig, nodes: Sequence[Mapping[str, float]], num_rows: int
) -> Scorers:
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
    gpus_per_scorer = compute.gpus_per_scorer
    if gpus_per_scorer is None:
        gpus_per_scorer = 1.0 if sum(gpus) else 0.0
    if gpus_per_scorer == 0:
        room = int(sum(cpus))
    elif gpus_per_scorer < 1:  # a share of one GPU does not reach over to the next
        room = sum(int(num) * int(1 / gpus_per_scorer) for num in gpus)
    else:
        room = sum(int(num // gpus_per_scorer) for num in gpus)
    if gpus_per_scorer and not room and compute.scorers is None:
        raise ContractError(
            f"compute.gpus_per_scorer: expected at most the {max(gpus, default=0):g} GPUs of a "
            f"node, got {gpus_per_scorer:g}; on a cluster that scales, give compute.scorers as "
            "well"
        )
    num_scorers = compute.scorers or max(1, min(room, num_rows // PAIRS_PER_SCORER))
    cpus_per_scorer = SCORER_CPUS if max(cpus, default=0) >= ROOMY_NODE_CPUS else 0.0
    threads_per_scorer = 1
    if not gpus_per_scorer and compute.scorers is None:
        most = min(int(max(cpus, default=1)), MAX_THREADS_PER_SCORER)
        threads_per_scorer = max(1, min(room // num_scorers, most))
    compile_kernels = compute.compile
    if compile_kernels is None:
        # What compiling gains on GPUs has not been measured.
        compile_kernels = not gpus_per_scorer and num_rows >= num_scorers * PAIRS_PER_COMPILATION
    return Scorers(
        num_scorers, gpus_per_scorer, cpus_per_scorer, threads_per_scorer, compile_kernels
    )


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""


def keep_freed_memory(kept_bytes: int) -> None:
    """Have the C library keep what images and tensors give back, where it is glibc.

    Else the large ones come as fresh pages, each of which the kernel zeroes when it is first
    touched: on small images that takes as long as scoring them.

    Args:
        kept_bytes: freed memory that the process keeps at most, and the largest piece it is kept
            for.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, kept_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        # Other threads would have arenas of their own, which keep no piece of more than 64 MiB.
        libc.mallopt(_M_ARENA_MAX, 1)
