import pytest

from jobs import audit_scores
from jobs.run_job import WRONG
from pipeline.audits.links import check_template, link_of

CONSOLE = "https://console.example.com/s3/{bucket}/{key}"


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("s3://bucket/a b/c?d#e.png", "https://console.example.com/s3/bucket/a%20b/c%3Fd%23e.png"),
        ("abfs://box@account.net/k.png", "https://console.example.com/s3/box%40account.net/k.png"),
        ("s3://bucket/k.png?versionId=***", None),
        ("s3://bucket", None),
        ("simplecache::s3://bucket/k.png", None),
        ("javascript:alert(1)", None),
        ("javascript://bucket/k", "https://console.example.com/s3/bucket/k"),
        ("https://host/k.png", "https://host/k.png"),
        ("/local/a b.png", "file:///local/a%20b.png"),
        ("//host/k.png", None),
    ],
)
def test_a_template_makes_links_of_stores_that_a_browser_cannot_open(uri, link):
    assert link_of(uri, CONSOLE) == link


def test_without_a_template_only_what_a_browser_can_open_is_a_link():
    assert link_of("s3://bucket/k.png") is None
    assert link_of("https://host/k.png") == "https://host/k.png"


def test_a_template_can_have_the_scheme():
    template = check_template("https://host/{scheme}/{bucket}/{key}")
    assert link_of("gs://b/k", template) == "https://host/gs/b/k"


@pytest.mark.parametrize(
    ("template", "got"),
    [
        ("https://host/{buket}/{key}", "got {buket}, {key}"),
        ("https://host/{bucket}", "got {bucket}"),
        ("https://host/", "got none"),
        ("https://host/{key!r}", "got https://host/{key!r}"),
        ("https://host/{key.__class__}", "got {key.__class__}"),
        ("https://host/{key", "got 'https://host/{key'"),
        ("javascript:{key}", "got 'javascript:{key}'"),
    ],
)
def test_a_wrong_template_is_one_line_before_anything_is_written(
    template, got, write_run, tmp_path, capfd
):
    run = write_run({"pair_id": ["a"], "spips_score": [0.1]})
    arguments = [f"--scores.uri={run}", f"--output.uri={tmp_path}/audit"]
    assert audit_scores.main([*arguments, f"--report.link_template={template}"]) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert "report.link_template: " in line
    assert got in line
    assert ("expected fields {bucket} and {key}" in line) != template.startswith("javascript")
    assert not (tmp_path / "audit").exists()
