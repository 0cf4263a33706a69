from pipeline.audits.page.heat_table import make_heat_table
from tests.pipeline.audits.conftest import run_audit


def makers(**score):
    """Twenty rows of each maker."""
    ids = [f"{maker}{i}" for maker in score for i in range(20)]
    return {
        "pair_id": ids,
        "maker": [id_[0] for id_ in ids],
        "spips_score": [score[id_[0]] + i % 20 / 1000 for i, id_ in enumerate(ids)],
    }


def table_of(run, baseline=None, **settings):
    settings = {"group_by": ["maker"]} | settings
    table = make_heat_table(run_audit(run, baseline, **settings).record)
    return table, {row.group: dict(zip(table.heads, row.cells, strict=True)) for row in table.rows}


def test_a_colour_is_as_deep_as_a_value_is_large_among_the_groups(write_run):
    table, cells = table_of(write_run(makers(a=0.1, b=0.4)))
    assert table.is_coloured
    assert table.rows[0].is_all
    assert not any(cell.is_heat for cell in table.rows[0].cells)
    assert cells["b",]["mean"].level == 1
    assert 0.25 < cells["a",]["mean"].level < 0.3
    assert cells["a",]["failed"].level == 0
    assert not cells["a",]["median"].is_heat
    assert cells["a",]["mean"].interval
    assert "change" not in table.heads


def test_a_few_failed_rows_do_not_have_the_deepest_colour(write_run):
    run = makers(a=0.1, b=0.4)
    run["status"] = ["missing"] + ["ok"] * 39
    run["spips_score"][0] = None
    _, cells = table_of(write_run(run))
    assert cells["a",]["failed"].level == 0.5  # 1 of 20, where 1 of 10 is the deepest
    assert cells["a",]["failed"].text == "5 %"


def test_a_change_is_marked_and_coloured_only_if_its_interval_leaves_out_0(write_run):
    before = makers(a=0.1, b=0.4, c=0.3)
    now = makers(a=0.2, b=0.3, c=0.3)
    # each pair is its own reference; those of c rise and fall
    now["spips_score"] = [
        score + (0.01 if i % 2 else -0.01) if id_[0] == "c" else score
        for i, (id_, score) in enumerate(zip(now["pair_id"], now["spips_score"], strict=True))
    ]
    gate = {"column": "spips_score", "figure": "mean", "rise_at_most": 0.05, "each_group": True}
    _, cells = table_of(write_run(now), write_run(before, "before"), gates=[gate])
    marks = {group[0]: cell["change"].mark for group, cell in cells.items() if group}
    assert marks == {"a": "▲", "b": "▼", "c": ""}
    assert cells["c",]["change"].level == 0 < cells["a",]["change"].level
    assert cells["a",]["change"].text.startswith("+0.1")
    assert cells["b",]["change"].text.startswith("-0.1")
    assert [group for group, cell in cells.items() if cell["change"].is_broken] == [("a",)]


def test_a_cell_is_marked_if_a_gate_on_it_is_broken(write_run):
    gates = [
        {"column": "spips_score", "figure": "p95", "at_most": 0.2, "each_group": True},
        {"column": "spips_score", "figure": "share_above", "threshold": 0.3, "at_most": 0.1},
    ]
    _, cells = table_of(write_run(makers(a=0.1, b=0.4)), gates=gates)
    broken = {(group, head) for group, row in cells.items() for head, cell in row.items()
              if cell.is_broken}  # fmt: skip
    assert broken == {(("b",), "p95"), ((), "above 0.3")}


def test_one_group_has_no_colours(write_run):
    table, _ = table_of(write_run(makers(a=0.1)))
    assert not table.is_coloured
