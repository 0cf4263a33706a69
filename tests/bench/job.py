"""Parts c and d: the whole job against a plain loop, and how long it takes to start."""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.runs.finished import open_run
from tests.bench.images import write_manifest
from tests.bench.timing import Table

REPOSITORY = Path(__file__).parents[2]
LOOP_ROWS_PER_PROCESS = 2_000
NUM_SHORT = 2_000
TIMEOUT_S = 1_200.0
"""Longest wait for a loop, which may have died."""
COLD = "/proc/sys/vm/drop_caches"


def run_job(manifest: Path, output: Path, *options: str) -> dict[str, float]:
    """Run the job as its users do, and return its times in seconds from the command."""
    command = [sys.executable, "jobs/score_manifest.py", f"--manifest.uri={manifest}"]
    command += [f"--output.uri={output}", *options]
    start_s = time.monotonic()
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        first_s = None
        while process.poll() is None:
            if first_s is None and list(output.glob("run-*/scores/*.parquet")):
                first_s = time.monotonic() - start_s
            time.sleep(0.05)
        if process.returncode:
            assert process.stderr is not None
            raise RuntimeError(process.stderr.read()[-2000:])
    (run,) = output.glob("run-*")
    return {
        "exit": time.monotonic() - start_s,
        "first": first_s or float("nan"),
        "scoring": open_run(str(run)).record.attempts[0].elapsed_s,
    }


def loop(manifest: Path, num_rows: int, barrier: object, results: object) -> None:
    """Load and score in one process with the job's own code, once everybody is ready."""
    from pipeline.runs.schema import pass_through_schema
    from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
    from pipeline.scoring.stages.load import PairLoader
    from tests.bench.scoring import scorer_of

    rows = pq.read_table(manifest).slice(0, num_rows)
    columns = ("reference_uri", "distorted_uri")
    pass_through = pass_through_schema(rows.schema, columns)
    loader = PairLoader(ImagesConfig(), columns, pass_through, 2**22)
    score = scorer_of(ModelSourceConfig(), pass_through, compile_kernels=True)

    def run(some: object) -> None:
        for block in loader.load(some):  # type: ignore[arg-type]
            score(block)

    run(rows.slice(0, 128))
    barrier.wait(TIMEOUT_S)  # type: ignore[attr-defined]
    start_s = time.perf_counter()
    for start in range(0, rows.num_rows, 64):
        run(rows.slice(start, 64))
    results.put(rows.num_rows / (time.perf_counter() - start_s))  # type: ignore[attr-defined]


def loop_rate(manifest: Path, num_processes: int, num_rows: int) -> float:
    """Return the pairs per second of as many plain loops as there are cores."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=loop, args=(manifest, num_rows, barrier, results))
        for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    rates = [results.get(timeout=TIMEOUT_S) for _ in processes]
    for process in processes:
        process.join()
    return float(sum(rates))


def steady_state(folder: Path, num_rows: int = 14_000, repeats: int = 5) -> Table:
    """Part c: the job's rate between a short run and a long one, against plain loops."""
    cores = len(os.sched_getaffinity(0))
    short, long = (
        write_manifest(folder / "pairs", rows, side_px=256) for rows in (NUM_SHORT, num_rows)
    )
    table = Table(
        f"c. The job against {cores} plain loops, one a core: 256 px JPEG pairs, compiled",
        ["repeat", "loops, pairs/s", "job, pairs/s", "job / loops", "job's fixed time, s"],
        notes=[
            f"The job's rate is that of the {num_rows - NUM_SHORT:,} rows by which a long run is "
            f"longer than a short one of {NUM_SHORT:,}; what is left is its fixed time. The loops "
            "run before and after each job, with the job's own load and score code; their mean is "
            "what the job is held against.",
        ],
    )
    for repeat in range(repeats):
        before = loop_rate(long, cores, LOOP_ROWS_PER_PROCESS)
        times = [
            run_job(path, folder / f"runs-{repeat}-{path.stem}", "--compute.compile=true")[
                "scoring"
            ]
            for path in (short, long)
        ]
        after = loop_rate(long, cores, LOOP_ROWS_PER_PROCESS)
        rate = (num_rows - NUM_SHORT) / (times[1] - times[0])
        loops = (before + after) / 2
        fixed_s = times[0] - NUM_SHORT / rate
        table.rows.append([str(repeat + 1), loops, rate, rate / loops, fixed_s])
    columns = list(zip(*table.rows, strict=True))[1:]
    table.rows.append(["median", *map(statistics.median, columns)])
    return table


WAYS = {"the job's process": (), "Ray": ("--compute.scorers=1",)}
"""Who scores a small manifest, and the options that lead there."""


def start_up(folder: Path, repeats: int = 3) -> Table:
    """Part d: from the command to the first scored rows and to its end, for 200 pairs."""
    manifest = write_manifest(folder / "start", 200, side_px=256)
    table = Table(
        "d. Start-up: 200 pairs of 256 px",
        ["state", "scored by", "first rows written, s", "exit, s"],
        notes=[f"In files of 32 rows. Warm: medians of {repeats} runs of each, in turn, after one "
               "that is not counted. Cold: the system's file cache was dropped before, where this "
               "user may."],
    )  # fmt: skip

    def measure(way: str, name: str) -> dict[str, float]:
        output = folder / way.rsplit(maxsplit=1)[-1] / name
        return run_job(manifest, output, "--output.rows_per_file=32", *WAYS[way])

    for way in WAYS:
        if os.access(COLD, os.W_OK):
            subprocess.run(["sync"], check=True)
            Path(COLD).write_text("3")
            times = measure(way, "cold")
            table.rows.append(["cold", way, times["first"], times["exit"]])
        measure(way, "not-counted")
    runs = [{way: measure(way, f"warm-{number}") for way in WAYS} for number in range(repeats)]
    for way in WAYS:
        medians = [statistics.median(run[way][name] for run in runs) for name in ("first", "exit")]
        table.rows.append(["warm", way, *medians])
    return table
