"""Feed damaged image files of every format to the load stage, and to the scorer what it accepts.

Files are damaged in their structure: chunks, segments, blocks, directory entries and boxes are
dropped, repeated, moved and cut, numbers in them and lengths are changed, and checksums are made to
fit. Each file must end as pixels or a status, within a time and a memory limit, and the process
must live. Ends with a table, and with exit code 1 if a file broke that. With --files, the files of
a folder are fed instead, each as a pair with itself.
"""

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.runs.schema import Status
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
from pipeline.scoring.stages.load import PairLoader
from spips_core.decode import decode_image
from spips_core.errors import ImageError
from tests.fuzz.images import encode_all, mutate

LIMIT_S = 10
MEMORY_LIMIT_BYTES = 4 << 30
SCORED_EVERY = 10
RULES = ImagesConfig(size_mismatch="resize", max_pixels=4_000_000)
NAMES = ("reference_bytes", "distorted_bytes")

Source = Callable[[int], tuple[str, bytes, bytes]]
"""From a file's number to its format, a reference, and the file."""


def damaged() -> Source:
    seeds = encode_all()

    def source(number: int) -> tuple[str, bytes, bytes]:
        name, content = mutate(seeds, number)
        return name, seeds[0][1], content

    return source


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def from_folder(folder: Path) -> Source:
    paths = files_of(folder)

    def source(number: int) -> tuple[str, bytes, bytes]:
        content = paths[number].read_bytes()
        return paths[number].suffix.lower().lstrip(".") or "none", content, content

    return source


def feed(numbers: range, source: Source, scored_every: int, progress: Path) -> None:
    """Load files one by one, in this process; the number of the file at work is noted first.

    Args:
        numbers: of the files.
        source: of the files.
        scored_every: one in this many is scored if it is decoded.
        progress: where the number, and at the end a summary, is written.
    """
    from pipeline.scoring.stages.model import load_model
    from pipeline.scoring.stages.score import PairScorer

    pass_through = pa.schema([("pair_id", pa.string())])
    loader = PairLoader(RULES, NAMES, pass_through, pixels_per_block=1 << 40)
    model = ModelSourceConfig()
    digest = load_model(model).digest
    scorer = PairScorer(model, digest, "fuzz", 1, pass_through, 1, False, False)
    before = _rss_mb()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES + _size_bytes(),) * 2)
    statuses: Counter[str] = Counter()
    reasons: dict[str, set[str]] = {}
    slowest = (0.0, -1)
    for number in numbers:
        progress.write_text(str(number))
        name, reference, content = source(number)
        rows = pa.table({"pair_id": [str(number)], NAMES[0]: [reference], NAMES[1]: [content]})
        start_s = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # ends this process
        (block,) = loader.load(rows)
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, (time.perf_counter() - start_s, number))
        status, error = (block[column][0].as_py() for column in ("status", "error"))
        if (status == Status.OK) == bool(error) or "\n" in error:
            raise RuntimeError(f"expected an error of one line unless ok, got {error!r}")
        if status == Status.DECODE_ERROR:
            reasons.setdefault(name, set()).add(_reason(content))
        if number % scored_every == 0 and status == Status.OK:
            status = scorer(block)["status"][0].as_py()
            if status not in (Status.OK, Status.NON_FINITE):
                raise RuntimeError(f"expected a score, got {status}")
            statuses["scored"] += 1
        statuses[f"{name} {status}"] += 1
    summary = {"statuses": statuses, "reasons": {name: sorted(reasons[name]) for name in reasons},
               "slowest_s": slowest[0], "slowest": slowest[1], "rss_mb": _rss_mb(),
               "grown_mb": _rss_mb() - before}  # fmt: skip
    progress.write_text(json.dumps(summary))


def _reason(content: bytes) -> str:
    """Return what a decoder raised, without the numbers and bytes in it."""
    try:
        decode_image(content, RULES.max_pixels)
    except ImageError as error:
        cause = error.__cause__ or error
        shape = re.sub(
            r"b?'[^']*'|b?\"[^\"]*\"|-?\d+|\\x..", "#", str(cause).partition(" <_io.")[0]
        )
        return f"{type(cause).__name__}: {shape}"
    return "only as the reference"


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _size_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run(
    num_files: int, first: int = 0, folder: Path | None = None
) -> tuple[Counter[str], list[str], list[dict[str, object]]]:
    """Feed files in processes of their own, a new one after each that died.

    Args:
        num_files: how many.
        first: number of the first.
        folder: where the files are; None for damaged ones.

    Returns:
        Files by format and status, what broke, and each process's summary.
    """
    statuses: Counter[str] = Counter()
    broken: list[str] = []
    summaries = []
    with tempfile.TemporaryDirectory() as work:
        progress = Path(work, "progress")
        start, end = first, first + num_files
        while start < end:
            command = [sys.executable, "-m", "tests.fuzz", f"--range={start}:{end}", str(progress)]
            command += [f"--files={folder}"] if folder else []
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
    parser.add_argument("--num", type=int, default=100_000, help="how many damaged files")
    parser.add_argument("--only", type=int, help="the number of one file, to repeat it")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="feed a folder's files")
    parser.add_argument("--range", help=argparse.SUPPRESS)
    parser.add_argument("progress", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.range:
        source = from_folder(options.files) if options.files else damaged()
        numbers = range(*map(int, options.range.split(":")))
        feed(numbers, source, 1 if options.files else SCORED_EVERY, options.progress)
        return 0
    num_files = len(files_of(options.files)) if options.files else options.num
    first, num_files = (0, num_files) if options.only is None else (options.only, 1)
    statuses, broken, summaries = run(num_files, first, options.files)
    report(num_files, statuses, broken, summaries)
    return int(bool(broken))


def report(
    num_files: int, statuses: Counter[str], broken: list[str], summaries: list[dict[str, object]]
) -> None:
    states = [status for status in Status if any(key.endswith(f" {status}") for key in statuses)]
    names = sorted({key.split()[0] for key in statuses if " " in key})
    write = sys.stdout.write
    write(f"| format | files | {' | '.join(states)} | kinds of decoder errors |\n")
    write(f"|---|{'---|' * (len(states) + 2)}\n")
    for name in names:
        counts = [statuses[f"{name} {state}"] for state in states]
        reasons = {reason for one in summaries for reason in one["reasons"].get(name, ())}
        write(f"| {' | '.join(map(str, (name, sum(counts), *counts, len(reasons))))} |\n")
    write(f"{num_files} files, {statuses['scored']} of them scored as well\n")
    for one in summaries:
        write(
            f"slowest: file {one['slowest']}, {one['slowest_s']:.2f} s; memory at most "
            f"{one['rss_mb']:.0f} MB, {one['grown_mb']:.0f} MB more than at first\n"
        )
    write(f"{len(broken)} crashes or hangs\n" + "".join(f"{line}\n" for line in broken))


if __name__ == "__main__":
    sys.exit(main())
