import json
from pathlib import Path

import pytest

from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.exports.tracking import check_mlflow, log_audit
from pipeline.runs.errors import ContractError
from tests.pipeline.audits.conftest import find, run_audit, scores

mlflow = pytest.importorskip("mlflow")
SECRET = "sw0rdfish"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A tracking store of files; MLflow 3 asks for a flag."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return (tmp_path / "mlruns").as_uri()


@pytest.fixture(scope="module")
def record(write_shared_run):
    columns = scores(num_failed=3)
    columns["maker"] = ["a/b" if i % 2 else "a_b" for i in range(400)]
    columns["maker"][:3] = ["ünï"] * 3
    gates = [{"column": "spips_score", "figure": "p95", "at_most": 0.1}]
    return run_audit(write_shared_run(columns), group_by=["maker"], gates=gates).record


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "audit"
    folder.mkdir()
    for name in ("audit.html", "audit.json", "summary.md"):
        (folder / name).write_text(json.dumps(name))
    settings = {"scores": {"uri": "in"}, "output": {"uri": str(folder)},
                "report": {"mlflow_experiment": "nightly"}}  # fmt: skip
    return AuditScoresConfig.model_validate(settings)


def test_figures_and_report_of_every_audit_are_read_back_from_a_real_store(
    record, config, store, tmp_path
):
    assert log_audit(record, config, store) == ""
    assert log_audit(record, config, store) == ""  # the experiment exists
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("nightly").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert {run.info.run_name for run in runs} == {"night"}
    metrics, tags = runs[0].data.metrics, runs[0].data.tags
    figures = [row for row in record.figures if row.of == "run"]
    everything = find(figures, group=(), column="psnr_db").by_name
    assert metrics["median.psnr_db"] == everything["median"].value
    for name, group in (("p95.spips_score", ("a/b",)), ("p95.spips_score_", ("a_b",))):
        assert (
            metrics[f"a_b/{name}"]
            == find(figures, group=group, column="spips_score").by_name["p95"].value
        )
    assert "a_b/median.psnr_db" not in metrics
    assert metrics["_n_/failed_fraction"] == 1
    assert (metrics["gates.broken"], metrics["failed_fraction"]) == (1, 3 / 400)
    assert (tags["spips.verdict"], tags["spips.outcome"]) == (record.verdict, "failed")
    for name in ("audit.html", "audit.json", "summary.md"):
        copy = Path(client.download_artifacts(runs[0].info.run_id, name, str(tmp_path)))
        assert json.loads(copy.read_text()) == name


def test_a_server_that_is_away_is_named_without_its_secret(record, config, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    problem = log_audit(record, config, f"http://user:{SECRET}@127.0.0.1:9")
    assert problem.startswith("MLFLOW_TRACKING_URI: expected MLflow to take the audit, got ")
    assert "127.0.0.1" in problem
    assert SECRET not in problem
    assert "\n" not in problem


def test_without_a_place_to_log_to_an_audit_does_not_start():
    check_mlflow("sqlite:///m.db")
    with pytest.raises(ContractError, match="expected MLFLOW_TRACKING_URI in the environment"):
        check_mlflow(None)
