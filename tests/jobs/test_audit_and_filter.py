"""From scores to decisions, by the jobs as people run them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import audit_scores, filter_scores, score_manifest
from jobs.config import load_config
from jobs.run_job import DONE, FAULT, GATE_BROKEN, WRONG
from pipeline.runs.finished import open_run, open_scores
from tests.jobs.conftest import make_rows, write_manifest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    """The folder of a run of sixty pairs."""
    folder = tmp_path_factory.mktemp("runs")
    code = score_manifest.main(
        ["--config=conf/debug/score_manifest.yaml", f"--manifest.uri={manifest}",
         f"--output.uri={folder}"]
    )  # fmt: skip
    assert code == DONE
    (path,) = folder.glob("run-*")
    return path


def test_a_run_is_audited_and_what_is_kept_can_be_scored_again(run, tmp_path, capfd):
    audited = [f"--scores.uri={run}", f"--output.uri={tmp_path}/audit", "--group_by=[]"]
    assert audit_scores.main(["--config=conf/debug/audit_scores.yaml", *audited]) == DONE
    assert capfd.readouterr().out.endswith("verdict    Passed: all 2 gates are kept\n")
    content = json.loads((tmp_path / "audit/audit.json").read_text())
    assert content["run"]["rows"] == 60
    page = (tmp_path / "audit/audit.html").read_text()
    assert page.count("data:image/webp") == 16 * 5  # worst and random, with three heat maps each
    assert len(page) < 5e6
    assert pq.read_table(tmp_path / "audit/audit.parquet").num_rows > 50

    filtered = [f"--scores.uri={run}", f"--output.uri={tmp_path}/kept"]
    bounds = '--bounds=[{"column": "spips_score", "at_most_quantile": 0.5}]'
    assert filter_scores.main([*filtered, bounds, "--dry-run"]) == DONE
    assert not (tmp_path / "kept").exists()
    capfd.readouterr()
    assert filter_scores.main([*filtered, bounds]) == DONE
    assert capfd.readouterr().err == ""  # no bars of Ray
    again = ["--config=conf/debug/score_manifest.yaml", f"--manifest.uri={tmp_path}/kept/manifest",
             f"--output.uri={tmp_path}/again"]  # fmt: skip
    assert score_manifest.main(again) == DONE
    (second,) = (tmp_path / "again").glob("run-*")
    before = open_scores(str(run)).to_table().to_pandas().set_index("pair_id").spips_score
    after = open_scores(str(second)).to_table().to_pandas().set_index("pair_id").spips_score
    assert len(after) == 30
    assert after.max() <= before.median()
    assert (after - before.reindex(after.index)).abs().max() < 1e-6


def test_a_broken_gate_is_an_exit_code_and_the_report_is_there(run, tmp_path, capfd):
    gate = '--gates=[{"column": "spips_score", "figure": "p95", "at_most": 0}]'
    arguments = [f"--scores.uri={run}", f"--output.uri={tmp_path}/audit", gate]
    assert audit_scores.main([*arguments, "--report.pairs_per_sheet=0"]) == GATE_BROKEN
    last = capfd.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"verdict    Failed: all rows: p95 of spips_score .*, allowed 0", last)
    assert last.removeprefix("verdict    ") in (tmp_path / "audit/audit.html").read_text()


def test_a_night_is_compared_with_the_night_before_it_though_that_was_retried_later(
    write_run, tmp_path, capfd
):
    pairs = {"pair_id": [f"p{i}" for i in range(20)]}
    write_run(pairs | {"spips_score": [0.1] * 20}, "20", finished_at="2026-11-20T02:00:00+00:00",
              retried_at="2026-11-22T09:00:00+00:00")  # fmt: skip
    write_run(pairs | {"spips_score": [0.126] * 20}, "21", finished_at="2026-11-21T02:00:00+00:00")
    gate = '--gates=[{"column": "spips_score", "figure": "mean", "rise_at_most": 0.01}]'
    folder = tmp_path / "scores"
    for run in (folder, folder / "run-21"):
        arguments = [f"--scores.uri={run}", f"--baseline.uri={folder}", gate]
        assert audit_scores.main([*arguments, f"--output.uri={tmp_path}/audit"]) == GATE_BROKEN
        out = capfd.readouterr().out
        assert f"run        {folder}/run-21" in out
        assert f"baseline   {folder}/run-20" in out
        assert "0.026, margin -0.016" in out


def test_a_gate_without_a_baseline_fails_unless_the_settings_let_it_pass(
    write_run, tmp_path, capfd
):
    run = write_run({"pair_id": ["a", "b"], "spips_score": [0.1, 0.2]})
    gates = [{"column": "spips_score", "figure": "mean", "rise_at_most": 0.01}]
    arguments = [f"--scores.uri={run}", f"--baseline.uri={tmp_path}/scores",
                 f"--output.uri={tmp_path}/audit", "--report.pairs_per_sheet=0"]  # fmt: skip
    for code, more in ((GATE_BROKEN, ()), (DONE, ("--gates_unjudged=pass",))):
        assert audit_scores.main([*arguments, f"--gates={json.dumps(gates)}", *more]) == code
        verdict = "Not judged: all rows: mean of spips_score: nothing to compare with"
        assert capfd.readouterr().out.endswith(f"verdict    {verdict}\n")
        assert json.loads((tmp_path / "audit/audit.json").read_text())["passed"] is False
        page = (tmp_path / "audit/audit.html").read_text()
        assert f"<title>{verdict}" in page
        assert "Passed" not in page
    gates.append({"column": "spips_score", "figure": "p95", "at_most": 0})
    arguments += [f"--gates={json.dumps(gates)}", "--gates_unjudged=pass"]
    assert audit_scores.main(arguments) == GATE_BROKEN
    assert "p95 of spips_score 0.195, allowed 0; and 1 gate is not judged" in capfd.readouterr().out


def test_models_are_compared_and_a_column_that_is_not_there_is_one_line(write_run, tmp_path, capfd):
    run = write_run({
        "pair_id": [f"p{i}" for i in range(24)], "maker": ["a", "b"] * 12,
        "reference_uri": [f"/r{i // 2}.png" for i in range(24)],
        "spips_score": [0.1 + 0.01 * (i % 7) + 0.05 * (i % 2) for i in range(24)],
    })  # fmt: skip
    arguments = [f"--scores.uri={run}", f"--output.uri={tmp_path}/audit",
                 "--report.pairs_per_sheet=0"]  # fmt: skip
    assert audit_scores.main([*arguments, "--compare_by=model"]) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: compare_by: expected a pass-through column of ")
    assert not (tmp_path / "audit").exists()
    assert audit_scores.main([*arguments, "--compare_by=maker"]) == DONE
    assert "1          a: 12 rows, mean 0.1" in capfd.readouterr().out
    board = json.loads((tmp_path / "audit/audit.json").read_text())["leaderboard"]
    assert [row["model"] for row in board["standings"]] == ["a", "b"]
    assert "Win rates" in (tmp_path / "audit/audit.html").read_text()


def test_a_filtering_among_the_files_of_a_run_is_refused(write_run, capfd):
    run = Path(write_run({"pair_id": ["a", "b"], "spips_score": [0.1, 0.2]}))
    folder = run / "scores/new"
    arguments = [f"--scores.uri={run}", "--bounds=[{column: spips_score, at_most: 0.15}]"]
    assert filter_scores.main([*arguments, f"--output.uri={folder}"]) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert f"output.uri: expected a folder outside of runs, got {folder} in the fol" in line
    assert not folder.exists()


def test_an_audit_among_the_files_of_a_run_is_refused(write_run, tmp_path, capfd):
    pairs = {"pair_id": ["a", "b"], "spips_score": [0.1, 0.2]}
    run, other = Path(write_run(pairs)), Path(write_run(pairs, "other"))
    write_run(pairs, "unfinished", is_finished=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").rglob("*")}
    for folder in (run, run / "scores", run / "scores/new", other, run.parent / "run-unfinished"):
        arguments = [f"--scores.uri={run}", f"--output.uri={folder}"]
        assert audit_scores.main([*arguments, "--report.pairs_per_sheet=0"]) == WRONG
        (line,) = capfd.readouterr().err.splitlines()
        assert f"output.uri: expected a folder outside of runs, got {folder} in the fol" in line
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").rglob("*")}
    for folder in (run.parent / "audit", run.parent):
        arguments = [f"--scores.uri={run}", f"--output.uri={folder}"]
        assert audit_scores.main([*arguments, "--report.pairs_per_sheet=0"]) == DONE


def test_images_in_the_manifest_itself_are_kept_with_it(bytes_manifest, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    monkeypatch.chdir(Path(bytes_manifest).parent)
    name = Path(bytes_manifest).name  # a relative path, which leads nowhere from where it is read
    scored = [f"--config={REPOSITORY}/conf/debug/score_manifest.yaml", f"--manifest.uri={name}"]
    assert score_manifest.main([*scored, f"--output.uri={runs}"]) == DONE
    monkeypatch.chdir(tmp_path)
    (run,) = runs.glob("run-*")
    bounds = '--bounds=[{"column": "spips_score", "at_most_quantile": 0.5}]'
    arguments = [f"--scores.uri={run}", bounds, f"--output.uri={tmp_path}/kept"]
    assert filter_scores.main(arguments) == DONE
    kept = pq.read_table(tmp_path / "kept/manifest")
    assert kept.schema.names == pq.read_schema(bytes_manifest).names
    assert kept.num_rows == 5
    assert kept["distorted_bytes"].null_count == 0
    assert audit_scores.main([f"--scores.uri={run}", f"--output.uri={tmp_path}/audit"]) == DONE
    assert "the manifest holds the images" in (tmp_path / "audit/audit.html").read_text()


@pytest.mark.parametrize("job", [audit_scores, filter_scores])
def test_an_unfinished_run_is_one_clear_line(job, write_run, tmp_path, capfd):
    unfinished = write_run({"pair_id": ["a"]}, is_finished=False)
    assert job.main([f"--scores.uri={unfinished}", f"--output.uri={tmp_path}/out"]) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert "expected a finished run" in line
    assert not (tmp_path / "out").exists()


DAMAGE = {
    "lost": (Path.unlink, "expected all result files, got 1 lost, for example scores/0.parquet"),
    "no Parquet": (lambda path: path.write_bytes(b"no parquet"), "scores/0.parquet"),
    "short": (lambda path: pq.write_table(pq.read_table(path).slice(1), path), "2 rows, got 1 in"),
    "foreign": (lambda path: pq.write_table(pa.table({"a": [1, 2]}), path), "2 rows, got 0 in"),
}


@pytest.mark.parametrize("job", [audit_scores, filter_scores])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_lost_or_damaged_file_of_results_is_one_fault(job, damage, write_run, tmp_path, capfd):
    run = write_run({"pair_id": ["a", "b"], "spips_score": [0.1, 0.2]})
    do, expected = DAMAGE[damage]
    do(Path(run) / "scores/0.parquet")
    assert job.main([f"--scores.uri={run}", f"--output.uri={tmp_path}/out"]) == FAULT
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fault: ")
    assert expected in line


def test_a_run_of_an_older_version_is_refused(write_run, tmp_path, capfd):
    run = Path(write_run({"pair_id": ["a"]}))
    record = json.loads((run / "run.json").read_text())
    del record["columns"]
    (run / "run.json").write_text(json.dumps(record))
    assert audit_scores.main([f"--scores.uri={run}", f"--output.uri={tmp_path}/out"]) == WRONG
    assert "run.json: expected what version 0.2 of this project" in capfd.readouterr().err


def test_the_nightly_script_stops_before_the_filter_when_a_gate_is_broken(
    image_folder, manifest, tmp_path
):
    slight = write_manifest(tmp_path / "slight.parquet", make_rows(str(image_folder), 5))
    store = tmp_path / "store"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    first, second = "2026-11-20", "2026-11-21"
    for night, pairs, code, more in (
        (first, slight, GATE_BROKEN, []),  # nothing to compare with
        (first, slight, DONE, ["--gates_unjudged=pass"]),
        (second, manifest, GATE_BROKEN, []),
    ):
        script = ["bash", "conf/nightly/nightly.sh", pairs, str(store), night, *more]
        done = subprocess.run(
            script, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr[-2000:]
        assert (store / "audits" / night / "audit.html").exists()
    assert pq.read_table(store / "filtered" / first / "manifest").num_rows == 5
    assert not (store / "filtered" / second).exists()
    assert [open_run(str(run)).record.night for run in sorted((store / "scores").iterdir())] == [
        first,
        second,
    ]


def test_the_kubernetes_files_run_the_nightly_script_with_settings_that_are_valid():
    folder = REPOSITORY / "conf/nightly"
    job = yaml.safe_load((folder / "rayjob.yaml").read_text())
    cron = yaml.safe_load((folder / "raycronjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert (cron["apiVersion"], cron["kind"]) == ("ray.io/v1", "RayCronJob")
    assert cron["spec"]["jobTemplate"] == job["spec"]
    assert re.fullmatch(r"(\S+ ){4}\S+", cron["spec"]["schedule"])
    spec = job["spec"]
    assert "conf/nightly/nightly.sh s3://" in spec["entrypoint"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    pinned = re.search(r"^ray==(.*)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert spec["rayClusterSpec"]["rayVersion"] == pinned[1]
    for group in (
        spec["rayClusterSpec"]["headGroupSpec"],
        *spec["rayClusterSpec"]["workerGroupSpecs"],
    ):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert set(yaml.safe_load((folder / "runtime_env.yaml").read_text())) == {
        "env_vars",
        "excludes",
    }


def test_every_command_of_the_nightly_script_names_settings_that_hold():
    from argparse import ArgumentParser

    from pipeline.audits.config import AuditScoresConfig
    from pipeline.filters.config import FilterScoresConfig
    from pipeline.scoring.config import ScoreManifestConfig

    classes = {"score_manifest": ScoreManifestConfig, "audit_scores": AuditScoresConfig,
               "filter_scores": FilterScoresConfig}  # fmt: skip
    script = (REPOSITORY / "conf/nightly/nightly.sh").read_text().replace("\\\n", " ")
    commands = re.findall(r"^python jobs/(\w+)\.py (.*?)(?: \|\| .*)?$", script, re.MULTILINE)
    assert [name for name, _ in commands] == list(classes)
    for name, arguments in commands:
        options = arguments.replace('"', "").replace("$night", "2026-11-20").split()
        options = ["--gates_unjudged=pass" if o == "${@:4}" else o for o in options]
        load_config(classes[name], ArgumentParser(), options)
