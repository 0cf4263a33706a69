"""Break things while runs of thousands of rows go on, and count what became of the rows.

Kills scorers, load workers, nodes and the driver of runs on a Ray cluster of three nodes on this
machine, from and to local disk and S3; has a real S3 gateway fail, stall and restart; fills a disk.
Ends with a table, and with exit code 1 if a row is lost, doubled or wrong.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.chaos.cluster import Machines
from tests.chaos.faults import KILLS, Chaos, can_mount, table
from tests.chaos.proxy import FAULTS, FaultProxy
from tests.chaos.runs import REPOSITORY, Job, write_images, write_manifest

SHARES = {"stall": 0.01}
"""Share of requests spoiled, where it is not 0.02: a stall takes 15 s until it is given up."""
GATEWAY = REPOSITORY / ".ci/s3_gateway.sh"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=12, help="runs under kills, five in each")
    parser.add_argument("--rows", type=int, default=3000, help="pairs of each run")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what breaks when")
    parser.add_argument("--output", type=Path, default=Path("build/chaos"), help="folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {options.seed}; the jobs' output is in {options.output}\n")
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        gateway = Path(folder, "gateway")
        subprocess.run(["bash", GATEWAY, "start", gateway], check=True)
        try:
            chaos = run(Path(folder), gateway, options)
        finally:
            subprocess.run(["bash", GATEWAY, "stop", gateway], check=True)
    outcomes = {name: asdict(outcome) for name, outcome in chaos.outcomes.items()}
    (options.output / "chaos.json").write_text(json.dumps(outcomes, indent=1))
    (options.output / "chaos.md").write_text(table(chaos.outcomes))
    sys.stdout.write(table(chaos.outcomes))
    return int(any(one.lost or one.doubled or one.wrong for one in chaos.outcomes.values()))


def run(folder: Path, gateway: Path, options: argparse.Namespace) -> Chaos:
    given = dict(
        line.removeprefix("export SPIPS_TEST_S3_").split("=", 1)
        for line in (gateway / "env").read_text().splitlines()
    )
    proxy = FaultProxy(given["ENDPOINT"], options.seed)
    os.environ |= {
        "AWS_ENDPOINT_URL": proxy.endpoint, "AWS_ACCESS_KEY_ID": given["ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": given["SECRET_KEY"], "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    import s3fs

    s3fs.S3FileSystem().mkdir("spips-chaos")
    places = {"local": str(folder / "data"), "s3": "s3://spips-chaos/data"}
    expected: list[str] = []
    for place in places.values():
        write_images(f"{place}/images")
        expected = write_manifest(f"{place}/pairs.parquet", f"{place}/images", options.rows)

    def job(name: str, place: str, address: str | None = None, output: str | None = None) -> Job:
        where = places[place]
        log = options.output / f"{name}.log"
        log.unlink(missing_ok=True)
        return Job(f"{where}/pairs.parquet", output or f"{where}/out", name, address, log)

    calm = job("undisturbed", "local")
    start_s = time.monotonic()
    calm.start()
    calm.finish(max_starts=1)
    sys.stdout.write(f"{options.rows} rows undisturbed: {time.monotonic() - start_s:.0f} s\n")
    choice = random.Random(options.seed)
    chaos = Chaos(expected, calm.results(), choice, options.output)

    def tell(name: str) -> None:
        (options.output / "chaos.md").write_text(table(chaos.outcomes))
        sys.stdout.write(f"{name} done: {[(k, o.injected) for k, o in chaos.outcomes.items()]}\n")
        sys.stdout.flush()

    machines = Machines()
    try:
        for number in range(options.runs):
            place = ("local", "s3")[number % 2]
            kinds = [*KILLS[place]]
            kinds += choice.choices(kinds, k=5 - len(kinds))
            choice.shuffle(kinds)
            name = f"kill-{number}"
            killed, longest_s = job(name, place, machines.address), 6.0
            if place == "local":
                killed.more = (f"--compute.scorers={machines.num_cpus}",)  # then they load
                longest_s = 1.0  # they are done in seconds
            chaos.kill(killed, machines, kinds, longest_s=longest_s)
            tell(name)
    finally:
        machines.stop()
    for fault in FAULTS:
        name = fault.replace(" ", "-")
        chaos.spoil(job(name, "s3"), proxy, fault, SHARES.get(fault, 0.02))
        tell(name)

    def restart() -> None:
        environment = os.environ | {"DOWN_S": str(choice.randint(0, 8))}
        subprocess.run(["bash", GATEWAY, "restart", gateway], check=True, env=environment)

    for number in range(2):
        chaos.restart_store(job(f"restart-{number}", "s3"), restart, times=6)
        tell(f"restart-{number}")
    if can_mount(folder / "probe"):
        disk = folder / "disk"
        one_tenth_kb = max(24, options.rows // 10 * 200 // 1024)
        full = job("disk-full", "local", output=str(disk / "out"))
        chaos.fill_disk(full, disk, first_kb=64, step_kb=one_tenth_kb)
        tell("disk-full")
    else:
        sys.stdout.write("disk full: left out, mounting a small disk needs root\n")
    proxy.stop()
    return chaos


if __name__ == "__main__":
    sys.exit(main())
