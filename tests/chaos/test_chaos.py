"""A short share of `make chaos`: processes killed while rows are scored, and a failing store."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.cluster import Machines
from tests.chaos.faults import Chaos
from tests.chaos.proxy import FaultProxy
from tests.chaos.runs import Job, compare, write_images, write_manifest

NUM_ROWS = 800


@pytest.fixture(scope="module")
def chaos(tmp_path_factory) -> Chaos:
    """Pairs on local disk, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("chaos")
    write_images(f"{folder}/images")
    expected = write_manifest(f"{folder}/pairs.parquet", f"{folder}/images", NUM_ROWS)
    calm = Job(f"{folder}/pairs.parquet", f"{folder}/out", "calm", None, folder / "calm.log")
    calm.start()
    calm.finish(max_starts=1)
    results = calm.results()
    assert results["status"].to_pylist() == expected
    return Chaos(expected, results, random.Random(0), folder)


@pytest.fixture
def machines() -> Iterator[Machines]:
    machines = Machines(num_workers=1)
    yield machines
    machines.stop()


@pytest.mark.parametrize(
    ("num_scorers", "kinds"),
    [(2, ("load worker", "scorer", "driver")), (3, ("loading scorer", "driver"))],
)
def test_rows_survive_the_death_of_processes(chaos, machines, tmp_path, num_scorers, kinds):
    manifest = f"{chaos.logs}/pairs.parquet"
    job = Job(manifest, f"{tmp_path}/out", "killed", machines.address, tmp_path / "log")
    job.more = (f"--compute.scorers={num_scorers}",)
    chaos.outcomes.clear()
    job.start()
    chaos.settle_kills(job, Counter({kind: chaos.kill_one(kind, job, machines) for kind in kinds}))
    killed = {kind: one.injected for kind, one in chaos.outcomes.items()}
    assert killed == dict.fromkeys(kinds, 1)
    for outcome in chaos.outcomes.values():
        assert (outcome.lost, outcome.doubled, outcome.wrong) == (0, 0, 0)
    assert chaos.outcomes["driver"].restarts == 1


def test_rows_survive_a_store_that_fails_now_and_then(chaos, one_s3_store, monkeypatch, tmp_path):
    folder = f"{one_s3_store.bucket}/data"
    write_images(f"{folder}/images")
    expected = write_manifest(f"{folder}/pairs.parquet", f"{folder}/images", NUM_ROWS)
    proxy = FaultProxy(one_s3_store.server.environment["AWS_ENDPOINT_URL"])
    job = Job(f"{folder}/pairs.parquet", str(tmp_path / "out"), "spoiled", None, tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.fault, proxy.share = "503 SlowDown", 0.05
        job.start()
        while proxy.injected["503 SlowDown"] < 20 and job.is_running:
            job.wait_for_files(job.num_files())
        proxy.fault = "truncated body"
        job.finish(max_starts=1)
    proxy.stop()
    assert min(proxy.injected["503 SlowDown"], proxy.injected["truncated body"]) > 0
    assert compare(job.results(), expected, chaos.undisturbed) == {
        "lost": 0, "doubled": 0, "wrong": 0,
    }  # fmt: skip


def test_a_lost_doubled_or_wrong_row_is_found(chaos):
    rows = chaos.undisturbed
    assert compare(rows, chaos.expected, rows) == {"lost": 0, "doubled": 0, "wrong": 0}
    some = rows.take([0, 1, 1, *range(3, NUM_ROWS)])
    assert compare(some, chaos.expected, rows) == {"lost": 1, "doubled": 1, "wrong": 0}
    number = rows.schema.get_field_index("spips_score")
    moved = rows.set_column(
        number, "spips_score", rows["spips_score"].take([*range(1, NUM_ROWS), 0])
    )
    assert compare(moved, chaos.expected, rows)["wrong"] > NUM_ROWS / 2
