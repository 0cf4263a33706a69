import io
import json
import logging
import re
import shutil
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.data import DataContext

from jobs import audit_scores
from jobs.run_job import DONE, FAULT, TOO_MANY_FAILED, WRONG
from pipeline.runs.finished import open_run, open_scores
from pipeline.runs.schema import Status, result_schema
from pipeline.scoring import progress
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.graph import build_graph, execution_context
from pipeline.scoring.plan import make_plan
from pipeline.scoring.resources import Scorers
from spips_core import SPIPS, ModelConfig
from tests.jobs.conftest import REPOSITORY, listing, make_rows, plant, read, score, write_manifest

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def finished(ray_cluster, manifest, tmp_path_factory) -> Path:
    """The output folder of a finished run over `manifest`."""
    output = tmp_path_factory.mktemp("finished")
    assert score(manifest, output) == DONE
    return output


@pytest.fixture(scope="module")
def planted(ray_cluster, image_folder, tmp_path_factory) -> tuple[pa.Table, list[str], Path]:
    """A manifest with rows of each status, their expected statuses, and the folder of its run."""
    rows, expected = plant(make_rows(str(image_folder), 260), image_folder)
    folder = tmp_path_factory.mktemp("planted")
    path = write_manifest(folder / "pairs.parquet", rows)
    arguments = [f"--images.allowed_uri_prefixes={image_folder}", "--failure.max_failed_fraction=1"]
    arguments += ["--output.rows_per_file=200"]
    assert score(path, folder / "out", *arguments) == DONE
    return rows, expected, folder / "out"


def test_each_row_comes_back_once_with_its_status(planted, finished):
    rows, expected, output = planted
    results = read(output)
    assert results.schema.equals(result_schema(rows.schema))
    assert results["pair_id"].to_pylist() == rows["pair_id"].to_pylist()
    assert results["status"].to_pylist() == expected
    for name in rows.column_names:
        assert results[name].to_pylist() == rows[name].to_pylist()
    for row in results.to_pylist():
        assert (row["error"] == "") == (row["status"] == "ok")
        assert (row["spips_score"] is None) == (row["status"] != "ok")

    (run,) = output.glob("run-*")
    files = list((run / "scores").rglob("*.parquet"))
    assert len(files) == 2
    assert max(pq.read_metadata(file).num_rows for file in files) <= 200
    record = open_run(str(run)).record
    assert record.counts_by_status == {s.value: expected.count(s.value) for s in Status}
    assert record.failed_fraction == pytest.approx(26 / 260)
    assert record.model.trained is True
    assert set(results["model_digest"].to_pylist()) == {record.model.digest}
    assert set(results["run_id"].to_pylist()) == {record.run_id} == {run.name.removeprefix("run-")}
    weights = record.model.fusion_weights
    table = results.to_pandas().query("status == 'ok'")
    total = sum(weight * table[f"{stream}_score"] for stream, weight in weights.items())
    assert np.abs(total - table["spips_score"]).max() < 1e-6

    # Failed rows change no bit of the other rows' scores.
    clean = {row["pair_id"]: row["spips_score"] for row in read(finished).to_pylist()}
    same = [row for row in results.to_pylist() if row["pair_id"] in clean and row["status"] == "ok"]
    assert len(same) == 54
    assert all(row["spips_score"] == clean[row["pair_id"]] for row in same)


def scrape() -> dict[tuple[str, ...], float]:
    """What Ray's metrics endpoint says of this project: values by name, run and status."""
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    values: dict[tuple[str, ...], float] = {}
    for sample in (one for family in families for one in family.samples):
        if "spips" in sample.name:
            key = (sample.name, sample.labels["run_id"], sample.labels["status"])
            values[key] = values.get(key, 0) + sample.value
    return values


def test_ray_counts_rows_by_status_and_the_grafana_board_reads_what_is_exported(
    planted, finished, tmp_path
):
    _, expected, output = planted
    (run,) = output.glob("run-*")
    deadline_s = time.monotonic() + 120
    counted: dict[str, float] = {}
    exported: dict[tuple[str, ...], float] = {}
    # Ray collects them every ten seconds, from one process after the other.
    while counted != Counter(expected) and time.monotonic() < deadline_s:
        time.sleep(1)
        try:
            exported = scrape()
        except OSError:  # on a busy machine Ray's agent may not answer yet
            continue
        counted = {
            status: n for (_, run_id, status), n in exported.items() if run.name == f"run-{run_id}"
        }
    assert counted == Counter(expected)

    gates = "--gates=[{column: spips_score, figure: p95, at_most: 0.9}]"
    audit_scores.main([f"--scores.uri={finished}", f"--output.uri={tmp_path}/audit", gates,
                       "--report.pairs_per_sheet=0"])  # fmt: skip
    files = [tmp_path / "audit/metrics.prom", *finished.glob("run-*/metrics.prom")]
    names = {name for name, _, _ in exported}
    names |= set(re.findall(r"^(spips_\w+)", "".join(map(Path.read_text, files)), re.MULTILINE))
    board = json.loads((REPOSITORY / "conf/nightly/grafana.json").read_text())
    queries = [query["expr"] for panel in board["panels"] for query in panel["targets"]]
    queries += [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]
    used = [re.findall(r"\b(?:ray_)?spips_\w+", re.sub('"[^"]*"', "", query)) for query in queries]
    assert len(queries) > 10
    assert all(used)
    assert not {name for some in used for name in some} - names


def test_a_graph_whose_finished_rows_ray_cannot_record_is_a_fault(
    manifest, tmp_path, monkeypatch, capfd
):
    def shuffled(plan, scorers, **options):
        rows = build_graph(plan, scorers, **options)
        return rows.union(ray.data.from_arrow(rows.take_batch(1, batch_format="pyarrow")))

    monkeypatch.setattr("pipeline.scoring.graph.build_graph", shuffled)
    assert score(manifest, tmp_path / "out") == FAULT
    assert "checkpointing" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("*/_SUCCESS"))


def full_disk(_: pa.Table) -> pa.Table:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (full_disk, "OSError: [Errno 28] No space left on device; "),  # raised by a stage
        # Ray's own stage, which writes:
        (lambda rows: rows.drop_columns(["error"]), """Field "error" does not exist in schema; """),
    ],
)
def test_what_fails_in_a_graph_is_a_fault_without_a_stack_trace(
    manifest, tmp_path, monkeypatch, capfd, change, expected
):
    shown = io.StringIO()
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            monkeypatch.setattr(handler, "stream", shown)

    def changed(plan, scorers, **options):
        rows = build_graph(plan, scorers, **options)
        return rows.map_batches(change, batch_format="pyarrow")

    monkeypatch.setattr("pipeline.scoring.graph.build_graph", changed)
    assert score(manifest, tmp_path / "out") == FAULT
    printed = capfd.readouterr().err
    (line,) = [line for line in printed.splitlines() if line.startswith("fault: ")]
    assert expected in line
    for word in ("Traceback", "stack trace", "UDF"):
        assert word not in printed + shown.getvalue()


def test_too_many_failed_rows_publish_and_alarm(image_folder, tmp_path, capfd):
    rows, _ = plant(make_rows(str(image_folder), 20), image_folder)
    path = write_manifest(tmp_path / "pairs.parquet", rows)
    assert score(path, tmp_path / "out") == TOO_MANY_FAILED
    assert "got 10.0000%" in capfd.readouterr().err
    assert read(tmp_path / "out").num_rows == 20
    # A scheduler's retry must not turn the alarm into a success.
    assert score(path, tmp_path / "out") == TOO_MANY_FAILED
    assert score(path, tmp_path / "out", "--failure.max_failed_fraction=0.1") == DONE


@pytest.mark.parametrize(
    "arguments",
    [
        ["--compute.scorers=2"],
        ["--compute.pixels_per_batch=1"],
        ["--compute.pixels_per_batch=100000", "--output.rows_per_file=7"],
    ],
)
def test_scores_do_not_depend_on_scorers_or_batches_or_order(
    finished, image_folder, tmp_path, arguments
):
    rows = make_rows(str(image_folder), 60).take(np.random.default_rng(0).permutation(60))
    path = write_manifest(tmp_path / "pairs.parquet", rows)
    assert score(path, tmp_path / "out", *arguments) == DONE
    scores = ["pair_id", "spips_score", "tradition_score", "percept_score", "semantic_score"]
    assert read(tmp_path / "out").select(scores).equals(read(finished).select(scores))


def test_images_in_the_manifest_score_as_files_do(finished, images, tmp_path):
    rows = make_rows("", 60)
    for index, (name, new_name) in enumerate(
        [("reference_uri", "ref"), ("distorted_uri", "dist")], start=1
    ):
        content = [images[uri.lstrip("/")] for uri in rows[name].to_pylist()]
        rows = rows.set_column(index, new_name, pa.array(content, pa.binary()))
    rows = rows.rename_columns(["id", "ref", "dist", "level", "prompt"])
    for number in range(2):  # a folder of two Parquet files and another file
        write_manifest(tmp_path / "in" / f"{number}.parquet", rows.slice(number * 30, 30))
    (tmp_path / "in" / "_notes.txt").write_text("not a manifest")
    columns = ["pair_id_column=id", "reference_column=ref", "distorted_column=dist"]
    arguments = [f"--manifest.{column}" for column in columns]
    assert score(str(tmp_path / "in"), tmp_path / "out", *arguments) == DONE
    assert score(f"{tmp_path}/in/*.parquet", tmp_path / "glob", *arguments) == DONE

    (run,) = (tmp_path / "out").glob("run-*")
    results = open_scores(str(run)).to_table().sort_by("id")
    assert results.column_names[:3] == ["id", "level", "prompt"]
    assert results["spips_score"].equals(read(finished)["spips_score"])


def test_a_dry_run_prints_the_plan_and_the_config_and_writes_nothing(manifest, tmp_path, capfd):
    assert score(manifest, tmp_path / "out", "--dry-run") == DONE
    out = capfd.readouterr().out
    for expected in ("60 pairs in 1 file ", ", trained", "8 of 8 rows", "rows_per_file: 100"):
        assert expected in out
    assert "scorers   processes of Ray; how many" in out  # which this process has started
    assert score(manifest, tmp_path / "out", "--dry-run", "--compute.scorers=4") == DONE
    assert "scorers   processes of Ray; 4 of them" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_run_shows_its_progress_and_ends_with_what_matters(
    manifest, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    assert score(manifest, tmp_path / "out") == DONE
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("scored    ")]
    counts = [int(line.split()[1]) for line in lines]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 60)
    assert "Running Dataset" not in captured.err
    assert "INFO" not in captured.err
    assert re.search(r"^score     mean \d\.\d{4}, p95 \d\.\d{4}$", captured.out, re.MULTILINE)
    assert re.search(r"^speed     [\d.]+ rows/s in \d+ s$", captured.out, re.MULTILINE)
    assert captured.out.splitlines()[-1].startswith("next      spips audit ")


def test_a_manifest_of_which_no_sampled_image_can_be_loaded_is_not_scored(
    image_folder, tmp_path, capfd
):
    rows = make_rows(str(tmp_path / "nowhere"), 12)
    path = write_manifest(tmp_path / "lost.parquet", rows)
    assert score(path, tmp_path / "out") == WRONG
    captured = capfd.readouterr()
    assert "expected images that can be loaded, got none in the sample of 8 rows" in captured.err
    assert "0 of 8 rows could be loaded" in captured.out
    assert not (tmp_path / "out").exists()
    assert score(path, tmp_path / "out", "--failure.max_failed_fraction=1") == DONE
    assert "missing               12" in capfd.readouterr().out


def test_an_explicit_run_id_refuses_other_manifests_models_and_settings(
    manifest, image_folder, tmp_path, capfd
):
    output, run_id = tmp_path / "out", "--output.run_id=nightly"
    assert score(manifest, output, run_id) == DONE
    before = listing(output)
    other = write_manifest(tmp_path / "other.parquet", make_rows(str(image_folder), 59))
    SPIPS.untrained(ModelConfig(), seed=1).save(tmp_path / "other.safetensors")
    capfd.readouterr()
    for arguments, named in (
        ((other, output, run_id), "a different manifest"),
        ((manifest, output, run_id, "--images.resize=128"), "a different scoring"),
        (
            (manifest, output, run_id, f"--model.checkpoint={tmp_path}/other.safetensors"),
            "a different model",
        ),
    ):
        assert score(*arguments) == WRONG
        assert named in capfd.readouterr().err
    assert score(manifest, output, run_id, "--compute.scorers=2") == DONE
    assert listing(output) == before


def test_the_graph_can_be_built_for_gpus(manifest, tmp_path):
    config = ScoreManifestConfig.model_validate(
        {"manifest": {"uri": manifest}, "output": {"uri": str(tmp_path / "out")}}
    )
    plan = make_plan(config)
    for gpus_per_scorer in (0.5, 1.0):
        scorers = Scorers(2, gpus_per_scorer, 1.0, False)
        with DataContext.current(execution_context(plan, scorers)):
            assert "PairScorer" in str(build_graph(plan, scorers))


def test_a_file_that_is_not_a_result_is_set_aside_before_a_run_is_published(
    finished, manifest, tmp_path, capfd
):
    (run,) = shutil.copytree(finished, tmp_path / "out").glob("run-*")
    for name in ("_SUCCESS", "run.json"):
        (run / name).unlink()
    (run / "scores/stray.parquet").write_bytes(b"PAR1")
    assert score(manifest, tmp_path / "out", "--retry-failed") == DONE
    assert "--retry-failed has no effect" in capfd.readouterr().out
    assert (run / "superseded/attempt-1/stray.parquet").exists()
    assert len(pd.read_parquet(run / "scores")) == 60
