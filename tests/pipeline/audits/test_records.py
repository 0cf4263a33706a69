import json

import pytest

from pipeline.audits.records import AuditRecord
from tests.pipeline.audits.conftest import find, run_audit, scores


def test_the_table_holds_every_figure_by_group(write_run):
    found = run_audit(write_run(scores()), write_run(scores(seed=1), "b"), group_by=["maker"])
    table = found.record.to_table().to_pandas()
    row = table[(table.of == "run") & (table.group_maker == "b") & (table.column == "spips_score")
                & (table.figure == "share_above_0.1")]  # fmt: skip
    expected = find(found.record.figures, of="run", group=("b",), column="spips_score")
    assert row.value.item() == expected.share_above[0].value
    assert set(table.of) == {"run", "baseline", "change"}
    assert len(table[(table.figure == "rows_missing") & table.group_maker.isna()]) == 2


def test_audit_json_begins_with_its_version_and_is_read_back_as_the_same_record(write_run):
    gates = [
        {"column": "spips_score", "figure": "mean", "rise_at_most": 0.01},
        {"column": "spips_score", "figure": "p95", "at_most": 0.1, "each_group": True},
    ]
    now = write_run(scores(num_failed=2) | {"maker": ["a", None] * 200})
    record = run_audit(now, write_run(scores(), "b"), group_by=["maker"], gates=gates).record
    text = record.to_json()
    assert AuditRecord.model_validate_json(text) == record
    content = json.loads(text)
    assert next(iter(content.items())) == ("version", 4)
    assert content["verdict"] == record.verdict
    assert content["figures"][0]["mean"].keys() == {"value", "low", "high"}
    assert content["statuses"][0]["counts"]["missing"] == 2
    gates = [gate for gate in content["gates"] if gate["figure"] == "p95"]
    assert {tuple(gate["group"]) for gate in gates} == {("a",), (None,)}
    (change,) = (gate for gate in content["gates"] if gate["figure"] == "mean")
    assert {name: change[name] for name in ("rule", "column", "threshold", "group", "state")} == {
        "rule": "mean of spips_score rises by at most 0.01", "column": "spips_score",
        "threshold": None, "group": [], "state": "kept",
    }  # fmt: skip
    assert (change["bound_kind"], change["bound"]) == ("rise_at_most", 0.01)
    assert change["margin"] == pytest.approx(0.01 - change["value"])
