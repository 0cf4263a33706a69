import json

import pytest

from pipeline.audits.exports.webhook import check_webhook, post_verdict
from pipeline.runs.errors import ContractError

SECRET = "T000-B000-XXXX"
HEADLINE = "Failed: <a> & b: p95 of spips_score 0.4, allowed 0.35"


def test_the_verdict_and_the_link_are_posted_as_slack_reads_them(webhook):
    assert post_verdict(webhook.url, HEADLINE, "https://bucket/audit.html") == ""
    ((path, kind, content),) = webhook.received
    assert (path, kind) == (f"/services/{SECRET}?key={SECRET}", "application/json")
    assert json.loads(content) == {
        "text": "Failed: &lt;a&gt; &amp; b: p95 of spips_score 0.4, allowed 0.35\n"
        "https://bucket/audit.html"
    }


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_refuses_is_named_without_its_secret(webhook, status):
    webhook.status = status
    problem = post_verdict(webhook.url, HEADLINE, "/audit.html")
    assert problem == (
        f"SPIPS_WEBHOOK_URL: expected 127.0.0.1:{webhook.port} to take the verdict, "
        f"got HTTP status {status}"
    )
    assert len(webhook.received) == 1  # a redirect is not followed


def test_a_webhook_that_is_away_is_named_without_its_secret(webhook):
    webhook.stop()
    problem = post_verdict(webhook.url, HEADLINE, "/audit.html")
    assert problem.startswith(f"SPIPS_WEBHOOK_URL: expected 127.0.0.1:{webhook.port} to take the ")
    assert SECRET not in problem


@pytest.mark.parametrize(
    "url",
    [f"hooks.example.com/{SECRET}", f"ftp://host/{SECRET}", f"https:///{SECRET}", f"http://[{SECRET}",
     f"https://host:{SECRET}/x"],
)  # fmt: skip
def test_a_url_that_nothing_can_be_posted_to_is_refused_without_its_secret(url):
    with pytest.raises(ContractError) as caught:
        check_webhook(url)
    (problem,) = caught.value.problems
    assert problem.startswith("SPIPS_WEBHOOK_URL: expected a URL such as https://")
    assert SECRET not in problem
    check_webhook(f"https://user:{SECRET}@hooks.example.com:8443/{SECRET}")
