"""Feed damaged image files of every format to the load stage, and to the scorer what it accepts.

Each file must end as pixels or a status, within a time and a memory limit, and the process must
live. Ends with a table, and with exit code 1 if a file broke that; --only=N repeats one file.
"""

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from pipeline.runs.schema import Status
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
from pipeline.scoring.load import PairLoader
from tests.fuzz.images import encode_all, mutate

LIMIT_S = 10
MEMORY_LIMIT_BYTES = 4 << 30
SCORED_EVERY = 10
RULES = ImagesConfig(size_mismatch="resize", max_pixels=4_000_000)
NAMES = ("reference_bytes", "distorted_bytes")


def feed(numbers: range, progress: Path) -> None:
    """Load files one by one, in this process; the number of the file at work is noted first.

    Args:
        numbers: of the files.
        progress: where the number, and at the end a summary, is written.
    """
    from pipeline.scoring.score import PairScorer, load_model

    seeds = encode_all()
    reference = seeds[0][1]
    pass_through = pa.schema([("pair_id", pa.string())])
    loader = PairLoader(RULES, NAMES, pass_through, pixels_per_block=1 << 40)
    source = ModelSourceConfig()
    digest = load_model(source).digest
    scorer = PairScorer(source, digest, "fuzz", 1, pass_through, 1, False, False)
    before = _rss_mb()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES + _size_bytes(),) * 2)
    statuses: Counter[str] = Counter()
    slowest = (0.0, -1)
    for number in numbers:
        progress.write_text(str(number))
        name, content = mutate(seeds, number)
        rows = pa.table({"pair_id": [str(number)], NAMES[0]: [reference], NAMES[1]: [content]})
        start_s = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # ends this process
        (block,) = loader.load(rows)
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, (time.perf_counter() - start_s, number))
        status = block["status"][0].as_py()
        if number % SCORED_EVERY == 0 and status == Status.OK:
            status = scorer(block)["status"][0].as_py()
            if status not in (Status.OK, Status.NON_FINITE):
                raise RuntimeError(f"expected a score, got {status}")
            statuses["scored"] += 1
        error = block["error"][0].as_py()
        if (status == Status.OK) == bool(error) or "\n" in error:
            raise RuntimeError(f"expected an error of one line unless ok, got {error!r}")
        statuses[f"{name.partition('-')[0]} {status}"] += 1
    summary = {"statuses": statuses, "slowest_s": slowest[0], "slowest": slowest[1],
               "rss_mb": _rss_mb(), "grown_mb": _rss_mb() - before}  # fmt: skip
    progress.write_text(json.dumps(summary))


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _size_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run(num_files: int, first: int = 0) -> tuple[Counter[str], list[str], list[dict[str, object]]]:
    """Feed files in processes of their own, a new one after each that died.

    Args:
        num_files: how many.
        first: number of the first.

    Returns:
        Files by format and status, what broke, and each process's summary.
    """
    statuses: Counter[str] = Counter()
    broken: list[str] = []
    summaries = []
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder, "progress")
        start, end = first, first + num_files
        while start < end:
            command = [sys.executable, "-m", "tests.fuzz", f"--range={start}:{end}", str(progress)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            text = progress.read_text() if progress.exists() else ""
            if done.returncode == 0:
                summaries.append(json.loads(text))
                statuses += Counter(summaries[-1]["statuses"])
                break
            if not text:
                raise RuntimeError(done.stderr)
            lines = done.stderr.strip().splitlines()
            why = "took too long" if done.returncode == -signal.SIGALRM else lines[-1:]
            broken.append(f"file {text}: exit code {done.returncode}: {why}")
            start = int(text) + 1
    return statuses, broken, summaries


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--only", type=int, help="the number of one file")
    parser.add_argument("--range", help=argparse.SUPPRESS)
    parser.add_argument("progress", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.range:
        feed(range(*map(int, options.range.split(":"))), options.progress)
        return 0
    first, num_files = (0, options.files) if options.only is None else (options.only, 1)
    statuses, broken, summaries = run(num_files, first)
    states = [status.value for status in Status]
    sys.stdout.write(f"| format | {' | '.join(states)} |\n|---|{'---|' * len(states)}\n")
    for name in dict.fromkeys(key.split()[0] for key in statuses if " " in key):
        counts = [str(statuses[f"{name} {state}"]) for state in states]
        sys.stdout.write(f"| {name} | {' | '.join(counts)} |\n")
    sys.stdout.write(f"{num_files} files, {statuses['scored']} of them scored as well\n")
    for one in summaries:
        sys.stdout.write(f"slowest: file {one['slowest']}, {one['slowest_s']:.2f} s; memory at "
                         f"most {one['rss_mb']:.0f} MB, {one['grown_mb']:.0f} MB more than at "
                         "first\n")  # fmt: skip
    sys.stdout.write(f"{len(broken)} crashes or hangs\n" + "".join(f"{b}\n" for b in broken))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
