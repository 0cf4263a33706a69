"""What the scoring job does with a finished run, and what it refuses before it writes anything."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs.run_job import DONE, FAULT, WRONG
from pipeline.runs.finished import open_scores
from tests.jobs.conftest import listing, make_rows, read, score, write_manifest


@pytest.fixture(scope="module")
def finished(manifest, tmp_path_factory) -> Path:
    """The output folder of a finished run over `manifest`."""
    output = tmp_path_factory.mktemp("finished")
    assert score(manifest, output) == DONE
    return output


def test_a_finished_run_is_left_alone(finished, manifest, capfd):
    before = listing(finished)
    assert score(manifest, finished) == DONE
    assert "this run is finished" in capfd.readouterr().out
    assert listing(finished) == before


def test_a_finished_run_is_written_to_a_delta_table_once(finished, manifest, tmp_path, capfd):
    table = f"--output.delta_uri={tmp_path}/table"
    for _ in range(2):
        assert score(manifest, finished, table) == DONE
    assert "has these results already" in capfd.readouterr().out
    written = DeltaTable(str(tmp_path / "table"))
    assert written.version() == 0
    rows = written.to_pyarrow_table().sort_by("pair_id").to_pylist()
    assert [row["pair_id"] for row in rows] == read(finished)["pair_id"].to_pylist()


def test_a_push_gateway_gets_what_is_in_metrics_prom_and_may_be_away(
    finished, manifest, webhook, monkeypatch, capfd
):
    monkeypatch.setenv("SPIPS_PUSH_GATEWAY", f"http://127.0.0.1:{webhook.port}")
    assert score(manifest, finished) == DONE
    ((path, _, content),) = webhook.received
    assert path == "/metrics/job/spips_score"
    (written,) = finished.glob("run-*/metrics.prom")
    assert f"{content.decode()}# EOF\n" == written.read_text()
    assert 'spips_score_rows{status="ok"} 60.0\n' in written.read_text()
    webhook.stop()
    assert score(manifest, finished) == DONE
    assert capfd.readouterr().err == (
        f"warning: SPIPS_PUSH_GATEWAY: expected 127.0.0.1:{webhook.port} to take the metrics, "
        "got URLError\n"
    )


def test_an_address_that_is_no_push_gateway_s_is_refused_before_anything_is_written(
    manifest, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("SPIPS_PUSH_GATEWAY", "gateway")
    assert score(manifest, tmp_path / "out") == WRONG
    assert capfd.readouterr().err.startswith("error: SPIPS_PUSH_GATEWAY: expected a URL such as ")
    assert not (tmp_path / "out").exists()


def test_without_failed_rows_there_is_nothing_to_retry(finished, manifest, capfd):
    before = listing(finished)
    assert score(manifest, finished, "--retry-failed") == DONE
    assert "no failed row can be retried" in capfd.readouterr().out
    assert listing(finished) == before


def test_a_wrong_manifest_is_refused_before_anything_is_written(image_folder, tmp_path, capfd):
    rows = make_rows(str(image_folder), 4)
    ids = pa.array(["a", "a", "b", None])
    path = write_manifest(tmp_path / "pairs.parquet", rows.set_column(0, "pair_id", ids))
    arguments = ["--model.checkpoint=/nowhere/model.safetensors"]
    assert score(path, tmp_path / "out", *arguments) == WRONG
    problems = capfd.readouterr().err.splitlines()
    assert len(problems) == 3
    assert "expected no null 'pair_id', got 1" in problems[0]
    assert "'a'" in problems[1]
    assert "/nowhere/model.safetensors" in problems[2]
    assert not (tmp_path / "out").exists()


def test_results_that_another_process_adds_later_are_not_read(finished, tmp_path):
    (run,) = shutil.copytree(finished, tmp_path / "out").glob("run-*")
    file = next(run.glob("scores/*.parquet"))
    shutil.copy(file, file.with_name("late.parquet"))
    assert open_scores(str(run)).count_rows() == 60


def test_a_lost_result_file_of_a_finished_run_is_named(finished, manifest, tmp_path, capfd):
    (run,) = shutil.copytree(finished, tmp_path / "out").glob("run-*")
    file = next(run.glob("scores/*.parquet"))
    file.unlink()
    for more in ((), ("--retry-failed",)):
        assert score(manifest, tmp_path / "out", *more) == FAULT
        (line,) = capfd.readouterr().err.splitlines()
        assert f"for example scores/{file.name}; restore them, or score the manifest again" in line


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("{manifest}", "expected a writable folder"),
        ("{manifest}/below", "expected a writable folder"),
        ("memory://out", "expected a store that every process can write"),
        ("nosuch://out", "nosuch"),
        ("{folder}/scores", "expected a folder outside the manifest's"),
    ],
)
def test_an_unusable_output_is_refused_in_a_dry_run(manifest, tmp_path, capfd, output, expected):
    folder = shutil.copytree(Path(manifest).parent, tmp_path / "in")
    (folder / "pairs").rename(folder / "pairs.parquet")
    uri = output.format(manifest=manifest, folder=folder)
    assert score(str(folder), uri, "--dry-run") == WRONG
    assert expected in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["pairs.parquet"]
