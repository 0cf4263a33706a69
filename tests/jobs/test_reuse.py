"""Nights that follow each other: what changed is scored, everything else is used again."""

import json
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.run_job import DONE, WRONG
from pipeline.runs.finished import open_run
from pipeline.runs.schema import SCORE_FIELDS, SIZE_FIELDS, Status
from spips_core import SPIPS, ModelConfig
from tests.jobs.conftest import make_rows, plant, read, score, write_manifest

pytestmark = pytest.mark.usefixtures("ray_cluster")
SCORES = ["pair_id", *(field.name for field in (*SCORE_FIELDS, *SIZE_FIELDS)), "status"]


def results(output: Path, run_id: str) -> pa.Table:
    return open_run(f"{output}/run-{run_id}").scores.to_table().sort_by("pair_id")


def night(manifest: str, output: Path, run_id: str, *more: str) -> pa.Table:
    assert score(manifest, output, f"--output.run_id={run_id}", *more) == DONE
    return results(output, run_id)


def by_id(table: pa.Table, column: str) -> dict:
    return dict(zip(table["pair_id"].to_pylist(), table[column].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def first(ray_cluster, image_folder, tmp_path_factory) -> tuple[Path, Path, str]:
    """The folder of a first night's images, its output folder, and its manifest of 20 pairs."""
    root = tmp_path_factory.mktemp("nights")
    shutil.copytree(image_folder, root / "images")
    manifest = write_manifest(root / "pairs.parquet", make_rows(str(root / "images"), 20))
    night(manifest, root / "out", "one")
    return root / "images", root / "out", manifest


@pytest.fixture
def copy_of_first(first, tmp_path):
    """The same with images and results of its own. The images' times of change are new."""
    images, output, _ = first
    shutil.copytree(output, tmp_path / "out")
    return images, tmp_path / "out"


def test_a_chain_of_nights_scores_what_changed_to_the_bit(first, tmp_path, capfd):
    images, output, _ = first
    one = results(output, "one")
    assert set(one["reused_from"].to_pylist()) == {None}
    assert one["distorted_tag"].null_count == 0

    rows = make_rows(str(images), 20).to_pylist()
    (images / "d2_0.png").touch()  # same bytes
    shutil.copy(images / "d3_1.png", images / "d3_0.png")  # other bytes, known in this pair
    (images / "d4_0.png").write_bytes((images / "d4_1.png").read_bytes() + b"\0")  # new bytes
    shutil.copy(images / "r0.png", images / "new_r0.png")
    rows += [
        {**rows[10], "pair_id": "new name", "reference_uri": str(images / "new_r0.png")},
        {**rows[1], "pair_id": "same again"},
        {**rows[4], "pair_id": "new twice"},
        {**rows[0], "pair_id": "absent", "distorted_uri": str(images / "absent.png")},
    ]
    second = write_manifest(tmp_path / "second.parquet", pa.Table.from_pylist(rows))
    capfd.readouterr()
    two = night(second, output, "two", "--reuse-from=newest")
    out = capfd.readouterr().out
    assert f"reuse     {output}/run-one" in out
    assert "reused    21 rows of run-one" in out
    scored = {"pair-00004", "new twice", "absent"}
    assert {id_ for id_, run in by_id(two, "reused_from").items() if run is None} == scored
    assert open_run(f"{output}/run-two").record.reused_rows == {"one": 21}
    assert set(two["run_id"].to_pylist()) == {"two"}

    fresh = night(second, tmp_path / "fresh", "fresh")
    for name in SCORES:
        assert fresh[name].to_pylist() == two[name].to_pylist(), name
    for name in ("reference_sha256", "distorted_sha256", "reference_tag", "distorted_tag", "error"):
        assert fresh[name].equals(two[name])
    is_old = pc.is_in(two["pair_id"], one["pair_id"])
    same = two.filter(pc.and_(is_old, pc.invert(pc.is_in(two["pair_id"], pa.array(
        ["pair-00003", "pair-00004"])))))  # fmt: skip
    assert same.select(SCORES).equals(
        one.filter(pc.is_in(one["pair_id"], same["pair_id"])).select(SCORES)
    )

    capfd.readouterr()
    three = night(second, output, "three", f"--reuse-from={output}/run-two")
    assert "reused    23 rows of run-one and 1 other run" in capfd.readouterr().out
    assert three.select(SCORES).equals(two.select(SCORES))
    runs = by_id(three, "reused_from")
    assert (runs["pair-00000"], runs["pair-00004"], runs["absent"]) == ("one", "two", None)


def test_an_image_whose_bytes_contradict_its_tag_is_scored_and_named(
    copy_of_first, tmp_path, capfd
):
    images, output = copy_of_first
    (file,) = (output / "run-one/scores").glob("*.parquet")
    table = pq.read_table(file)
    name = "reference_sha256"
    is_r1 = pc.equal(table["reference_uri"], str(images / "r1.png"))
    wrong = pc.if_else(is_r1, "0" * 63 + "1", table[name])
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, wrong), file)
    rows = make_rows(str(images), 20).slice(1, 1).to_pylist()
    rows = [{**rows[0], "distorted_uri": str(images / "d2_3.png").replace("d2_3", "d1_0_new")}]
    (images / "d1_0_new.png").write_bytes((images / "d1_0.png").read_bytes() + b"\0")
    manifest = write_manifest(tmp_path / "m.parquet", pa.Table.from_pylist(rows))
    two = night(manifest, output, "other", f"--reuse-from={output}/run-one")
    assert two["reused_from"].to_pylist() == [None]
    assert "warning: 1 image have other bytes than in the earlier" in capfd.readouterr().out
    (attempt,) = open_run(f"{output}/run-other").record.attempts
    assert f"for example {images}/r1.png" in attempt.notes[0]


def test_a_finished_run_scores_changed_images_again(image_folder, tmp_path, capfd):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    manifest = write_manifest(tmp_path / "pairs.parquet", make_rows(str(folder), 20))
    output = tmp_path / "out"
    one = night(manifest, output, "one")
    capfd.readouterr()
    assert score(manifest, output, "--output.run_id=one", "--rescan") == DONE
    assert "this run is finished, and no image has changed" in capfd.readouterr().out
    (folder / "d1_0.png").touch()
    shutil.copy(folder / "d1_2.png", folder / "d2_0.png")  # sizes differ now
    (folder / "d3_0.png").write_bytes((folder / "d3_1.png").read_bytes() + b"\0")
    assert score(manifest, output, "--output.run_id=one") == DONE
    assert "images of 3 of 20 rows that were looked at have changed" in capfd.readouterr().err
    arguments = ("--rescan", "--failure.max_failed_fraction=1")
    again = night(manifest, output, "one", *arguments)
    assert "retry     3 changed rows, attempt 2" in capfd.readouterr().out
    attempts = by_id(again, "run_attempt")
    changed = {"pair-00001", "pair-00002", "pair-00003"}
    assert {id_ for id_, attempt in attempts.items() if attempt == 2} == changed
    assert set(again["reused_from"].to_pylist()) == {None}
    now, before = by_id(again, "spips_score"), by_id(one, "spips_score")
    assert {id_ for id_ in now if now[id_] != before[id_]} == {"pair-00002", "pair-00003"}
    assert by_id(again, "status")["pair-00002"] == "size_mismatch"
    assert score(manifest, output, "--output.run_id=one") == DONE
    assert "have changed" not in capfd.readouterr().err


def test_runs_that_cannot_be_reused_are_refused_in_one_line(first, copy_of_first, tmp_path, capfd):
    _, output = copy_of_first
    manifest = first[2]
    one = f"{output}/run-one"
    SPIPS.untrained(ModelConfig(), seed=1).save(tmp_path / "other.safetensors")
    unfinished, old = (shutil.copytree(one, tmp_path / name) for name in ("unfinished", "old"))
    (unfinished / "_SUCCESS").unlink()
    (file,) = (old / "scores").glob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["reference_tag"]), file)
    reuse = "--reuse-from"
    for arguments, expected in (
        ((f"{reuse}={one}", f"--model.checkpoint={tmp_path}/other.safetensors"), "of the model"),
        ((f"{reuse}={one}", "--images.resize=128"), "a run with images.resize 128, got"),
        ((f"{reuse}={unfinished}",), "got an unfinished one (no _SUCCESS)"),
        ((f"{reuse}={tmp_path}/nowhere",), "got no run"),
        ((f"{reuse}={old}",), "have the column reference_tag"),
    ):
        assert score(manifest, tmp_path / "new", "--dry-run", *arguments) == WRONG
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: output.reuse_from: expected a")
        assert expected in line
    assert score(manifest, tmp_path / "new", "--dry-run", f"{reuse}=newest") == DONE
    assert "note: every row is scored: output.reuse_from is newest" in capfd.readouterr().out
    assert score(manifest, output, "--dry-run", f"{reuse}=newest", "--images.resize=128") == DONE
    assert "expected a run with images.resize 128" in capfd.readouterr().out
    arguments = (f"{reuse}={one}", "--output.run_id=eager", "--compute.compile=true")
    assert score(manifest, output, *arguments) == WRONG
    assert "on CPUs with eager kernels, as" in capfd.readouterr().err


def test_failed_rows_are_retried_and_their_new_results_replace_the_old_ones(
    image_folder, tmp_path, capfd
):
    rows, expected = plant(make_rows(str(image_folder), 120), image_folder)
    (tmp_path / "images").mkdir()
    late = str(tmp_path / "images" / "late.png")
    uris = rows["distorted_uri"].to_pylist()
    uris[5] = late
    rows = rows.set_column(2, "distorted_uri", pa.array(uris))
    expected[5] = "missing"
    path = write_manifest(tmp_path / "pairs.parquet", rows)
    allowed = json.dumps([str(image_folder), str(tmp_path / "images")])
    arguments = [f"--images.allowed_uri_prefixes={allowed}", "--failure.max_failed_fraction=0.2",
                 "--output.rows_per_file=50"]  # fmt: skip
    assert score(path, tmp_path / "out", *arguments) == DONE
    before = read(tmp_path / "out")
    assert before["status"].to_pylist() == expected
    (run,) = (tmp_path / "out").glob("run-*")
    old = {file.name: file.read_bytes() for file in run.glob("scores/*")}
    old_record = (run / "run.json").read_bytes()

    shutil.copy(image_folder / "d1_0.png", late)  # the reference r0 has a different size
    assert score(path, tmp_path / "out", *arguments, "--retry-failed") == DONE
    assert "9 failed rows, attempt 2" in capfd.readouterr().out
    results = read(tmp_path / "out")
    expected[5] = "size_mismatch"
    assert results["status"].to_pylist() == expected
    assert results["pair_id"].to_pylist() == rows["pair_id"].to_pylist()
    assert results.schema.equals(before.schema)
    attempts = results["run_attempt"].to_pylist()
    retried = ("missing", "forbidden", "unreadable", "decode_error")
    assert [i for i, number in enumerate(attempts) if number == 2] == [
        i for i, status in enumerate(expected) if status in retried or i == 5
    ]
    same = ["pair_id", "spips_score", "status", "error"]
    kept = [i for i, number in enumerate(attempts) if number == 1]
    assert results.take(kept).equals(before.take(kept))
    assert results.select(same).take([0]).equals(before.select(same).take([0]))
    superseded = {file.name: file.read_bytes() for file in run.glob("superseded/attempt-2/*")}
    assert superseded
    assert superseded.items() <= old.items()
    record = open_run(str(run)).record
    assert [attempt.num_rows for attempt in record.attempts] == [120, 9]
    assert record.counts_by_status == {s.value: expected.count(s.value) for s in Status}
    glob = f"{tmp_path}/out/run-*/scores/*.parquet"
    assert duckdb.sql(f"SELECT count(*), count(DISTINCT pair_id) FROM '{glob}'").fetchall() == [
        (120, 120)
    ]

    # As if it was killed while it published: one file has its new rows, another one does not yet.
    (run / "run.json").write_bytes(old_record)
    name, content = superseded.popitem()
    (run / "scores" / name).write_bytes(content)
    assert score(path, tmp_path / "out", *arguments, "--retry-failed") == DONE
    assert "9 failed rows, attempt 2" in capfd.readouterr().out
    assert read(tmp_path / "out").equals(results)

    # Without the option the run is finished. With it, a third attempt gives the same results.
    assert score(path, tmp_path / "out", *arguments) == DONE
    num_failed = sum(status != "ok" for status in expected)
    again = f"retry     --retry-failed scores 8 of the {num_failed} failed rows again\n"
    assert again in capfd.readouterr().out
    assert score(path, tmp_path / "out", *arguments, "--retry-failed") == DONE
    assert "8 failed rows, attempt 3" in capfd.readouterr().out
    assert read(tmp_path / "out")["status"].to_pylist() == expected
