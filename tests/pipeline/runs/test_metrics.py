import base64

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.runs.errors import ContractError
from pipeline.runs.finished import open_run
from pipeline.runs.metrics import check_gateway, push_metrics, to_metrics
from pipeline.runs.summary import score_figures

SECRET = "p%40ssw0rd"


@pytest.fixture
def content(write_run):
    columns = {
        "pair_id": list("abc"),
        "spips_score": [0.1, 0.3, None],
        "status": ["ok", "ok", "missing"],
    }
    run = open_run(write_run(columns, night="2026-01-01"))
    return to_metrics(run.record, score_figures(run.scores))


def read(text):
    """The samples by name and labels, by the parser of the format that a gateway takes."""
    families = list(text_string_to_metric_families(text))
    assert {family.type for family in families} == {"gauge"}
    return {
        (one.name.removeprefix("spips_score_"), *one.labels.values()): one.value
        for family in families
        for one in family.samples
    }


def test_every_figure_of_a_run_is_read_back(content):
    got = read(content.decode())
    assert (got["rows", "ok"], got["rows", "missing"], got["rows", "forbidden"]) == (2, 1, 0)
    assert got["figure", "mean"] == pytest.approx(0.2)
    assert got["figure", "p95"] == pytest.approx(0.29)
    assert got["failed_fraction",] == pytest.approx(1 / 3)
    assert (got["rows_per_second",], got["elapsed_seconds",]) == (3, 1)
    assert got["started_timestamp_seconds",] == got["finished_timestamp_seconds",] == 1767319200
    assert got["run_info", "embedded", "a" * 64, "2026-01-01", "night"] == 1


def test_a_run_without_a_score_has_no_figure_of_it(write_run):
    run = open_run(write_run({"pair_id": ["a"], "spips_score": [None], "status": ["missing"]}))
    got = read(to_metrics(run.record, score_figures(run.scores)).decode())
    assert not [key for key in got if key[0] == "figure"]


def test_a_gateway_gets_the_metrics_of_the_job(webhook, content):
    url = f"http://user:{SECRET}@127.0.0.1:{webhook.port}/behind/"
    assert push_metrics(url, "spips_score", content) == ""
    ((path, kind, pushed),) = webhook.received
    assert path == "/behind/metrics/job/spips_score"
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert read(pushed.decode()) == read(content.decode())
    assert base64.b64decode(webhook.authorization.removeprefix("Basic ")) == b"user:p@ssw0rd"


@pytest.mark.parametrize("status", [302, 400, 500])
def test_a_gateway_that_refuses_is_named_without_its_secret(webhook, content, status):
    webhook.status = status
    problem = push_metrics(f"http://u:{SECRET}@127.0.0.1:{webhook.port}", "spips_score", content)
    assert problem == (
        f"SPIPS_PUSH_GATEWAY: expected 127.0.0.1:{webhook.port} to take the metrics, "
        f"got HTTP status {status}"
    )


@pytest.mark.parametrize("url", [f"gateway:9091/{SECRET}", f"ftp://{SECRET}", "http://"])
def test_a_url_that_is_no_gateway_is_refused_without_its_secret(url):
    with pytest.raises(ContractError) as caught:
        check_gateway(url)
    (problem,) = caught.value.problems
    assert problem.startswith("SPIPS_PUSH_GATEWAY: expected a URL such as http://gateway")
    assert SECRET not in problem
