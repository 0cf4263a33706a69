import pytest
from markdown_it import MarkdownIt

from pipeline.audits.exports.summary import MAX_ROWS, append_summary, to_summary
from tests.pipeline.audits.conftest import run_audit, scores

HOSTILE = "<script>|`*_a_*`[b](javascript:c) &lt; $x$ ~~d~~ # \\"
PAGE = "s3://bucket/audit/audit.html"
GATES = [
    {"figure": "failed_fraction", "at_most": 0.5},
    {"column": "spips_score", "figure": "p95", "at_most": 0.1, "each_group": True},
    {"column": "spips_score", "figure": "mean", "rise_at_most": 0.1},
]


def read(text):
    """The headings, the cells of each table, and the HTML, by a parser of Markdown."""
    headings, tables, html, where = [], [], [], ""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        where = token.type if token.type.endswith("_open") else where
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline":
            shown = "".join(child.content for child in token.children)
            html += [one.type for one in token.children if one.type not in ("text", "text_special")]
            if where == "heading_open":
                headings.append(shown)
            elif where in ("th_open", "td_open"):
                tables[-1][-1].append(shown)
        elif token.type == "html_block":
            html.append(token.type)
    return headings, tables, html


@pytest.fixture(scope="module")
def record(write_shared_run):
    columns = scores()
    columns["maker"] = [HOSTILE if i % 2 else None for i in range(400)]
    run, before = write_shared_run(columns), write_shared_run(columns | scores(seed=1), "before")
    return run_audit(run, before, group_by=["maker"], gates=GATES).record


def test_it_has_the_verdict_the_gates_the_scores_and_the_change(record):
    text = to_summary(record, PAGE)
    headings, (gates, groups), _ = read(text)
    assert headings == [f"Failed: {record.verdict}", "Gates", "spips_score by group",
                        "Change against the baseline"]  # fmt: skip
    assert [row[0] for row in gates] == ["state", "broken", "broken", "kept", "kept"]
    assert gates[1][4] == "0.1"
    assert groups[0] == ["group", "rows", "failed", "mean", "median", "p95", "rose by",
                         "95 % interval"]  # fmt: skip
    assert [row[1] for row in groups[1:]] == ["400", "200", "200"]
    assert groups[1][2] == "0.00 %"
    assert f"Report: {PAGE}" in text
    assert "- " + record.baseline[0].uri in text
    assert "The score: no change seen. Its mean rose by " in text


def test_what_a_manifest_holds_stays_text(record):
    _, (gates, groups), html = read(to_summary(record, PAGE))
    assert html == []
    assert HOSTILE in [row[0] for row in groups]
    assert HOSTILE in [row[2] for row in gates]
    assert {len(row) for row in gates} == {6}
    assert {len(row) for row in groups} == {8}
    assert r"\$x\$" in to_summary(record, PAGE)


def test_an_audit_without_gates_scores_or_baseline_is_short(write_run):
    columns = {"pair_id": ["a"], "status": ["missing"], "spips_score": [None]}
    headings, (groups,), _ = read(to_summary(run_audit(write_run(columns)).record, PAGE))
    assert headings == ["no row has a score: 1 row failed", "spips_score by group"]
    assert groups[1] == ["all rows", "1", "100.00 %", *["\N{EN DASH}"] * 3]


def test_a_long_table_ends_with_the_number_of_rows_that_it_leaves_out(write_run):
    columns = scores(n=4 * MAX_ROWS)
    columns["maker"] = [str(i % (2 * MAX_ROWS)) for i in range(4 * MAX_ROWS)]
    record = run_audit(write_run(columns), group_by=["maker"], gates=GATES[1:2]).record
    text = to_summary(record, PAGE)
    _, tables, _ = read(text)
    assert [len(table) for table in tables] == [MAX_ROWS + 1] * 2
    assert f"And {MAX_ROWS} more in the report." in text
    assert f"And {MAX_ROWS + 1} more in the report." in text


def test_it_is_appended_to_what_other_steps_wrote(record, tmp_path):
    path = tmp_path / "summary"
    path.write_text("before\n")
    assert append_summary(str(path), record, PAGE) == ""
    assert path.read_text() == f"before\n{to_summary(record, PAGE)}\n"
    problem = append_summary(str(tmp_path), record, PAGE)
    assert problem.startswith("GITHUB_STEP_SUMMARY: expected a file to append to, got IsADirectory")


def test_it_counts_the_rows_with_scores_of_earlier_runs(record):
    assert "earlier runs" not in to_summary(record, PAGE)
    run = record.run.model_copy(update={"reused_rows": 7})
    text = to_summary(record.model_copy(update={"run": run}), PAGE)
    assert "400 rows, 0.00 % failed, 7 with scores of earlier runs. Report" in text
