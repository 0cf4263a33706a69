"""Measure how fast SPIPS is, on this machine, against its peers and against itself.

Writes bench.md and bench.json. Every figure that is compared was measured in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.bench.timing import Table, machine

PARTS = {
    "a": "scoring in memory against lpips and piq",
    "b": "what a score is made of, against the machine's ceilings",
    "c": "the job against plain loops",
    "d": "start-up",
    "e": "references that pairs share",
    "f": "scale-out simulated",
    "g": "memory by the manifest's length",
    "h": "a second night that reuses the first",
    "i": "scoring in a GPU's memory",
    "j": "the score stage on a GPU",
    "k": "loading, and a GPU's decoder",
    "l": "the job on a GPU",
    "m": "commands beside a busy core",
    "n": "memory of a night that reuses another, by the manifest's length",
}
GPU_PARTS = "ijkl"


def measure(part: str, folder: Path, weights: str | None) -> Table:
    """Measure one part in this process."""
    if part in ("a", "b", "e"):
        from tests.bench import scoring

        if part == "a":
            return scoring.against_peers()
        return (
            scoring.shares() if part == "b" else scoring.shared_references(folder, weights=weights)
        )
    if part in ("c", "d"):
        from tests.bench import job

        return job.steady_state(folder) if part == "c" else job.start_up(folder)
    if part == "g":
        from tests.bench.memory import by_length

        return by_length(folder)
    if part == "n":
        from tests.bench import reuse_memory

        return reuse_memory.by_length(folder)
    if part == "m":
        from tests.bench.contention import beside_a_busy_core

        return beside_a_busy_core(folder)
    if part == "h":
        from tests.bench.reuse import second_night

        return second_night(folder)
    if part in GPU_PARTS:
        from tests.bench import gpu

        if part in "kl":
            return gpu.decoding(folder) if part == "k" else gpu.whole_job(folder)
        return gpu.in_memory() if part == "i" else gpu.stage()
    import torch

    from pipeline.scoring.resources import SCORER_KEPT_BYTES, keep_freed_memory
    from tests.bench.images import batch
    from tests.bench.scale_out import scale_out
    from tests.bench.scoring import alexnet
    from tests.bench.timing import medians

    torch.set_num_threads(1)  # as the job's scorers
    keep_freed_memory(SCORER_KEPT_BYTES)
    model, pair = alexnet(), batch(1, 512)
    seconds = medians({"alexnet": lambda: model.score(*pair)}, 9)["alexnet"]
    return scale_out(folder, seconds_per_pair=seconds)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {key}  {text}" for key, text in PARTS.items()),
    )  # fmt: skip
    parser.add_argument(
        "--parts", help=f"some of {''.join(PARTS)} (all; without a GPU, all but {GPU_PARTS})"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder")
    parser.add_argument("--alexnet-weights", help="torchvision's AlexNet, for part e")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:  # in a process of its own, so that no part inherits another's threads or memory
        with tempfile.TemporaryDirectory() as folder:
            table = measure(options.one, Path(folder), options.alexnet_weights)
        (options.output / f"{options.one}.json").write_text(json.dumps(asdict(table)))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    described = machine()
    texts, tables = [], {}
    without = "" if described["GPU"] != "none" else GPU_PARTS
    for part in options.parts or [part for part in PARTS if part not in without]:
        sys.stdout.write(f"{part}: {PARTS[part]}\n")
        sys.stdout.flush()
        command = [sys.executable, "-m", "tests.bench", "--one", part, f"--output={options.output}"]
        if options.alexnet_weights:
            command.append(f"--alexnet-weights={os.path.abspath(options.alexnet_weights)}")  # noqa: PTH100
        subprocess.run(command, check=True)
        tables[part] = json.loads((options.output / f"{part}.json").read_text())
        texts.append(Table(**tables[part]).markdown())
        sys.stdout.write(texts[-1] + "\n")
    head = "# Benchmark\n\n" + "".join(f"- {key}: {value}\n" for key, value in described.items())
    (options.output / "bench.md").write_text("\n".join([head, *texts]))
    (options.output / "bench.json").write_text(
        json.dumps({"machine": described, "parts": tables}, indent=1)
    )
    sys.stdout.write(f"{options.output / 'bench.md'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
