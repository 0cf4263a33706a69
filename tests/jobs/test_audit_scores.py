"""The audit's command: its last line, and whom it tells."""

import json
from pathlib import Path

import pytest

from jobs import audit_scores
from jobs.run_job import DONE, GATE_BROKEN, WRONG

BROKEN = '--gates=[{"column": "spips_score", "figure": "p95", "at_most": 0.1}]'
KEPT = '--gates=[{"column": "spips_score", "figure": "p95", "at_most": 0.9}]'
RISE = '--gates=[{"column": "spips_score", "figure": "mean", "rise_at_most": 0.1}]'
VERDICT = "Failed: all rows: p95 of spips_score 0.2, allowed 0.1"


@pytest.fixture
def audited(write_run, tmp_path, monkeypatch):
    """A function that audits a run of two pairs in this process, and returns its exit code."""
    for name in ("GITHUB_STEP_SUMMARY", "SPIPS_PUSH_GATEWAY", "SPIPS_WEBHOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    run = write_run({"pair_id": ["a", "b"], "spips_score": [0.2, 0.2]})
    arguments = [f"--scores.uri={run}", f"--output.uri={tmp_path}/audit",
                 "--report.pairs_per_sheet=0"]  # fmt: skip
    return lambda *more: audit_scores.main([*arguments, *more])


def test_every_audit_writes_its_files_and_ends_with_the_verdict(audited, tmp_path, capfd):
    assert audited(KEPT) == DONE
    assert {path.name for path in (tmp_path / "audit").iterdir()} == {
        "audit.html", "audit.json", "audit.parquet", "junit.xml", "summary.md", "metrics.prom",
    }  # fmt: skip
    assert capfd.readouterr().out.endswith("\nverdict    Passed: the gate is kept\n")
    assert audited(BROKEN) == GATE_BROKEN
    assert capfd.readouterr().out.endswith(f"\nverdict    {VERDICT}\n")
    assert "<failure " in (tmp_path / "audit/junit.xml").read_text()
    assert f"## {VERDICT}\n" in (tmp_path / "audit/summary.md").read_text()
    assert json.loads((tmp_path / "audit/audit.json").read_text())["verdict"] in VERDICT


def test_a_webhook_hears_of_broken_gates_and_of_those_that_fail_unjudged(
    audited, webhook, tmp_path, monkeypatch
):
    monkeypatch.setenv("SPIPS_WEBHOOK_URL", webhook.url)
    baseline = f"--baseline.uri={tmp_path}/scores"
    assert audited(KEPT) == DONE
    assert audited(RISE, baseline, "--gates_unjudged=pass") == DONE
    assert webhook.received == []
    assert audited(BROKEN) == GATE_BROKEN
    assert audited(RISE, baseline) == GATE_BROKEN
    texts = [json.loads(content)["text"] for _, _, content in webhook.received]
    assert texts[0] == f"{VERDICT}\n{tmp_path}/audit/audit.html"
    assert texts[1].startswith("Not judged: all rows: mean of spips_score: ")


def test_a_webhook_that_fails_is_one_warning_and_the_exit_code_stands(
    audited, webhook, monkeypatch, capfd
):
    webhook.status = 500
    monkeypatch.setenv("SPIPS_WEBHOOK_URL", webhook.url)
    assert audited(BROKEN) == GATE_BROKEN
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"warning: SPIPS_WEBHOOK_URL: expected 127.0.0.1:{webhook.port} to ")
    assert webhook.url not in printed.out + printed.err
    assert printed.out.endswith(f"{VERDICT}\n")


def test_a_webhook_that_is_no_url_is_refused_before_anything_is_written(
    audited, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("SPIPS_WEBHOOK_URL", "hooks.example.com/secret")
    assert audited(KEPT) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: SPIPS_WEBHOOK_URL: expected a URL such as https://")
    assert not (tmp_path / "audit").exists()


def test_the_summary_is_appended_to_github_s_file(audited, tmp_path, monkeypatch, capfd):
    step = tmp_path / "step"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    assert audited(KEPT) == DONE
    assert audited(BROKEN) == GATE_BROKEN
    text = step.read_text()
    assert text.index("## Passed: the gate is kept") < text.index(f"## {VERDICT}")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert audited(KEPT) == DONE
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: GITHUB_STEP_SUMMARY: expected a file to append to, got ")


def test_a_push_gateway_gets_every_audit_s_metrics_and_cannot_change_its_exit_code(
    audited, webhook, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("SPIPS_PUSH_GATEWAY", f"http://127.0.0.1:{webhook.port}")
    assert audited(KEPT) == DONE
    ((path, _, content),) = webhook.received
    assert path == "/metrics/job/spips_audit"
    assert f"{content.decode()}# EOF\n" == (tmp_path / "audit/metrics.prom").read_text()
    assert capfd.readouterr().err == ""
    webhook.stop()
    assert audited(BROKEN) == GATE_BROKEN
    assert capfd.readouterr().err == (
        f"warning: SPIPS_PUSH_GATEWAY: expected 127.0.0.1:{webhook.port} to take the metrics, "
        "got URLError\n"
    )


def test_an_audit_for_mlflow_is_logged_with_its_report(audited, tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow")
    experiment = "--report.mlflow_experiment=nightly"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert audited(KEPT, experiment) == WRONG
    assert "MLFLOW_TRACKING_URI" in capfd.readouterr().err
    assert not (tmp_path / "audit").exists()
    store = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert audited(BROKEN, experiment) == GATE_BROKEN
    assert "warning" not in capfd.readouterr().err
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("nightly").experiment_id])
    assert run.data.tags["spips.verdict"] in VERDICT
    logged = client.download_artifacts(run.info.run_id, "audit.html")
    assert Path(logged).read_bytes() == (tmp_path / "audit/audit.html").read_bytes()
