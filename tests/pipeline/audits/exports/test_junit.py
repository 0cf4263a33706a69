from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
import xmltodict
from junitparser import JUnitXml

from pipeline.audits.exports.junit import to_junit
from pipeline.audits.gates.verdicts import describe_gate
from tests.pipeline.audits.conftest import run_audit, scores

HOSTILE = "<b>\"a\" & 'b'\x00\x1b ]]> \ud7ff\ufffe\n"
GATES = [
    {"column": "spips_score", "figure": "p95", "at_most": 0.1, "each_group": True},
    {"column": "spips_score", "figure": "mean", "at_most": 9, "each_group": True},
    {"column": "spips_score", "figure": "mean", "rise_at_most": 0.1},
    {"figure": "failed_fraction", "at_most": 0.5},
]


@pytest.fixture(scope="module")
def record(write_shared_run):
    """Of a first night with two makers: two gates broken, one not judged, three kept."""
    columns = scores()
    columns["maker"] = [HOSTILE if i % 2 else None for i in range(400)]
    run = Path(write_shared_run(columns))
    return run_audit(str(run), str(run.parent), group_by=["maker"], gates=GATES).record


def test_each_gate_and_group_is_a_case_with_its_state(record):
    (suite,) = JUnitXml.fromstring(to_junit(record))
    assert (suite.tests, suite.failures, suite.skipped, suite.errors) == (6, 2, 1, 0)
    broken, unjudged = record.gates[:2], record.gates[2]
    cases = list(suite)
    assert [case.result[0].message for case in cases[:2]] == [describe_gate(one) for one in broken]
    assert [case.is_failure for case in cases] == [True] * 2 + [False] * 4
    assert cases[2].is_skipped
    assert cases[2].result[0].message == unjudged.reason == "nothing to compare with"
    assert all(case.is_passed for case in cases[3:])
    assert "(null): p95 of spips_score at most 0.1" in [case.name for case in cases]


def test_another_parser_reads_what_the_schema_asks_for(record):
    content = xmltodict.parse(to_junit(record))["testsuites"]
    suite = content["testsuite"]
    assert list(suite)[-2:] == ["properties", "testcase"]  # in the schema's order
    assert suite["@name"] == "spips audit of night"
    assert datetime.fromisoformat(suite["@timestamp"]).tzinfo is None
    for counted in (content, suite):
        counts = {name: int(counted[f"@{name}"]) for name in ("tests", "failures", "skipped")}
        assert counts == {"tests": 6, "failures": 2, "skipped": 1}
    cases = suite["testcase"]
    assert all(case["@name"] and case["@classname"] and float(case["@time"]) == 0 for case in cases)
    found = Counter(name for case in cases for name in case if not name.startswith("@"))
    assert found == {"failure": 2, "skipped": 1}
    failure = next(case["failure"] for case in cases if "failure" in case)
    assert failure["@type"] == "broken"
    assert "margin -" in failure["#text"]
    properties = {one["@name"]: one["@value"] for one in suite["properties"]["property"]}
    assert properties["verdict"] == record.verdict
    assert properties["model_digest"] == "a" * 64


def test_the_name_of_a_case_is_the_same_every_night(write_run):
    runs = [write_run(scores(seed=seed), f"night{seed}") for seed in (1, 2)]
    first, second = (run_audit(run, gates=[GATES[0], GATES[3]]).record for run in runs)
    assert first.gates[0].value != second.gates[0].value
    names = [
        [case.name for case in next(iter(JUnitXml.fromstring(to_junit(one))))]
        for one in (first, second)
    ]
    assert names[0] == names[1]


def test_an_audit_without_gates_is_an_empty_suite(write_run):
    (suite,) = JUnitXml.fromstring(to_junit(run_audit(write_run(scores())).record))
    assert (suite.tests, len(suite)) == (0, 0)
