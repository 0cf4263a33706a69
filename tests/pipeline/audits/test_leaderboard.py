import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.audits.leaderboard import (
    NUM_BLOCKS,
    VISIBLE_DMOS,
)
from pipeline.audits.records import AuditRecord
from pipeline.audits.report import describe_audit, render
from tests.pipeline.audits.conftest import problems_of, run_audit
from tests.pipeline.audits.leaderboards import by_model, generated

SCALE = {"exponent": 0.728, "midpoint": 0.221, "half_width": 12.8, "num_ratings": 436}


def notes_of(record):
    """The notes without the one that says how few references these tests have."""
    return tuple(note for note in record.notes if "intervals are rough" not in note)


def candidates(scores, *, models=("a", "b", "c"), seeds=1):
    """Columns of a run of every model's pairs, `seeds` of each reference, from (R, M) scores."""
    rows = [
        (f"r{r}-{model}-{seed}", model, f"/references/{r}.png", scores[r][m] + 0.001 * seed)
        for r in range(len(scores)) for m, model in enumerate(models) for seed in range(seeds)
    ]  # fmt: skip
    ids, names, references, values = zip(*rows, strict=True)
    return {"pair_id": list(ids), "maker": list(names), "reference_uri": list(references),
            "spips_score": list(values)}  # fmt: skip


def board_of(run, **settings):
    return run_audit(run, compare_by="maker", **settings).record.leaderboard


def test_figures_are_those_that_pandas_gives(write_run):
    columns = candidates(generated(), seeds=2)
    columns["status"] = ["missing"] * 7 + ["ok"] * (len(columns["pair_id"]) - 7)
    columns["spips_score"][:7] = [None] * 7
    board = board_of(write_run(columns), compare={"smallest_visible_difference": 0.01})
    frame = pd.DataFrame(columns).dropna(subset="spips_score").astype({"spips_score": "float32"})
    frame["spips_score"] = frame.spips_score.astype(float)
    table = frame.pivot_table("spips_score", "reference_uri", "maker", aggfunc="mean")
    assert board.references == (table.notna().sum(axis=1) > 1).sum()
    lowest = table.min(axis=1)
    ties_with_best = table.sub(lowest, axis=0) < 0.01
    shares = ties_with_best.div(ties_with_best.sum(axis=1), axis=0)[table.notna().sum(axis=1) > 1]
    for row in board.standings:
        values = frame[frame.maker == row.model].spips_score
        assert (row.rows, row.references) == (len(values), table[row.model].notna().sum())
        assert row.mean.value == pytest.approx(values.mean())
        assert (row.median, row.p95) == pytest.approx((values.median(), values.quantile(0.95)))
        met = shares[table[row.model].notna()]
        assert row.best_share.value == pytest.approx(met[row.model].mean())
        for duel in row.against:
            gaps = (table[duel.other] - table[row.model]).dropna()
            tied, won = (gaps.abs() < 0.01).sum(), (gaps >= 0.01).sum()
            assert (duel.references, duel.won, duel.tied) == (len(gaps), won, tied)
            assert duel.lost == len(gaps) - won - tied
            assert duel.win_rate.value == pytest.approx((won + tied / 2) / len(gaps))
            assert duel.win_rate.low < duel.win_rate.value < duel.win_rate.high


def test_the_largest_margins_are_against_the_best_other_model(write_run):
    board = board_of(write_run(candidates([
        [0.10, 0.20, 0.30], [0.50, 0.10, 0.40], [0.30, 0.31, 0.32], [0.20, 0.90, 0.50],
        [0.70, 0.60, 0.10], [0.40, 0.42, 0.44],
    ])))  # fmt: skip
    a = by_model(board.standings)["a"]
    assert [row.reference for row in a.won_most] == [
        f"/references/{r}.png" for r in (3, 0, 5)
    ]  # fmt: skip
    first, second = a.won_most[:2]
    assert (first.other, second.other) == ("c", "b")
    assert (first.score, first.other_score) == pytest.approx((0.2, 0.5))
    assert [(row.reference, row.other) for row in a.lost_most] == [
        ("/references/4.png", "c"), ("/references/1.png", "b"),
    ]  # fmt: skip
    assert sum(row.best_share.value for row in board.standings) == pytest.approx(1)


def test_models_that_no_chain_of_references_connects_have_no_strengths(write_run):
    scores = [[0.1, 0.2, 0, 0]] * 12 + [[0, 0, 0.3, 0.4]] * 12
    columns = candidates(scores, models=tuple("abcd"))
    chosen = [i for i, score in enumerate(columns["spips_score"]) if score]
    columns = {name: [values[i] for i in chosen] for name, values in columns.items()}
    record = run_audit(write_run(columns), compare_by="maker").record
    rows = record.leaderboard.standings
    assert [row.model for row in rows] == ["a", "b", "c", "d"]  # by their means
    assert {row.strength for row in rows} == {None}
    assert {(duel.other, duel.references) for duel in rows[0].against} == {
        ("b", 12), ("c", 0), ("d", 0),
    }  # fmt: skip
    (note,) = notes_of(record)
    assert note == "not all models are connected by shared references, so they have no strengths"
    assert "d -" in describe_audit(record)


def test_fewer_than_ten_references_make_no_interval(write_run):
    nine, ten = (board_of(write_run(candidates(generated(n)), str(n))) for n in (9, 10))
    for board, is_enough in ((nine, False), (ten, True)):
        row = board.standings[0]
        found = (row.mean, row.best_share, row.against[0].win_rate)
        assert {figure.low is not None for figure in found} == {is_enough}


def with_scale(run):
    """Give a run's model a scale of expected_dmos."""
    for name in ("plan.json", "run.json"):
        path = Path(run, name)
        record = json.loads(path.read_text())
        record["model"]["dmos_scale"] = SCALE
        path.write_text(json.dumps(record))
    return run


def test_a_tie_is_by_default_less_than_five_points_of_expected_dmos(write_run):
    # By the scale, 0.0100 and 0.0160 are 6.8 and 9.5; 0.0100 and 0.0230 are 6.8 and 12.3.
    scores = [[0.0100, 0.0160]] * 12 + [[0.0100, 0.0230]] * 12 + [[0.5, 0.53]] * 12
    run = with_scale(write_run(candidates(scores, models=("a", "b"))))
    board = board_of(run)
    assert (board.tie_column, board.smallest_visible_difference) == ("expected_dmos", VISIBLE_DMOS)
    (duel,) = by_model(board.standings)["a"].against
    assert (duel.won, duel.tied, duel.lost) == (12, 24, 0)
    board = board_of(run, compare={"smallest_visible_difference": 0.007})
    assert (board.tie_column, board.smallest_visible_difference) == ("spips_score", 0.007)
    (duel,) = by_model(board.standings)["a"].against
    assert (duel.won, duel.tied) == (24, 12)
    without = board_of(write_run(candidates(scores, models=("a", "b")), "without"))
    assert (without.tie_column, without.smallest_visible_difference) == ("spips_score", 0)
    assert without.standings[0].against[0].won == 36


def test_the_leaderboard_is_in_audit_json_in_the_lines_and_on_the_page(write_run):
    run = write_run(candidates(generated(), models=("a", None, "<b>x")))
    found = run_audit(run, compare_by="maker", group_by=["maker"])
    assert AuditRecord.model_validate_json(found.record.to_json()) == found.record
    content = json.loads(found.record.to_json())["leaderboard"]
    assert [row["model"] for row in content["standings"]] == ["a", None, "<b>x"]
    lines = describe_audit(found.record).splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("models     by maker"))
    assert lines[start + 1].startswith("1          a: 60 rows, mean 0.1")
    assert lines[start + 2].startswith("           win rate against (null) ")
    assert lines[start + 3].startswith("2          (null): ")
    page = render(found, {}, ())
    assert page.count('<table id="models"') == page.count('<table id="duels"') == 1
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert 'href="file:///references/' in page
    assert "Models</h2>" not in render(run_audit(run), {}, ())


def test_an_audit_gives_the_same_leaderboard_again(write_run):
    run = write_run(candidates(generated(NUM_BLOCKS + 300), seeds=2))
    assert board_of(run) == board_of(run)


def test_a_model_without_a_score_is_named_and_left_out(write_run):
    columns = candidates(generated(12))
    failed = [name == "c" for name in columns["maker"]]
    columns["status"] = ["crashed" if fail else "ok" for fail in failed]
    columns["spips_score"] = [None if fail else score for fail, score in
                              zip(failed, columns["spips_score"], strict=True)]  # fmt: skip
    record = run_audit(write_run(columns), compare_by="maker").record
    assert len(record.leaderboard.standings) == 2
    assert notes_of(record) == ("model c has no score, so it is not on the leaderboard",)
    columns["status"] = ["crashed"] * 36
    columns["spips_score"] = [None] * 36
    record = run_audit(write_run(columns, "none"), compare_by="maker").record
    assert record.leaderboard is None
    assert len(record.notes) == 3


def test_the_share_of_a_models_rows_that_failed_is_beside_its_figures(write_run):
    columns = candidates(generated(20)) | {"status": ["ok"] * 60}
    for i in range(0, 30, 3):  # model a's
        columns["status"][i], columns["spips_score"][i] = "missing", None
    columns["reference_uri"][0] = None
    found = run_audit(write_run(columns), compare_by="maker")
    standings = found.record.leaderboard.standings
    assert {row.model: row.failed_fraction for row in standings} == {"a": 0.5, "b": 0, "c": 0}
    lines = describe_audit(found.record)
    assert " a: 10 rows (50.00% failed), mean " in lines
    assert " b: 20 rows, mean " in lines
    page = render(found, {}, ())
    assert page.count('<td data-value="0.5" class="bad">✕ 50 %</td>') == 1
    content = json.loads(found.record.to_json())
    for row in content["leaderboard"]["standings"]:
        del row["failed_fraction"]  # as earlier versions wrote it
    old = AuditRecord.model_validate(content)
    assert old.leaderboard.standings[0].failed_fraction is None


def test_a_column_names_the_references_and_rows_where_it_is_null_are_left_out(write_run):
    columns = candidates(generated(20)) | {"reference_uri": ["/r.png"] * 60}
    columns["prompt"] = [None] * 3 + [f"prompt {i // 3}" for i in range(3, 60)]
    record = run_audit(
        write_run(columns), compare_by="maker", compare={"reference_column": "prompt"}
    ).record
    assert record.leaderboard.references == 19
    assert record.leaderboard.standings[0].rows == 19
    assert notes_of(record) == ("the leaderboard leaves out 3 scored rows with null in prompt",)


def test_references_that_differ_only_behind_a_hidden_signature_are_noted(write_run):
    columns = candidates(generated(20))
    columns["reference_uri"] = [f"{uri}?sig=***" for uri in columns["reference_uri"]]
    record = run_audit(write_run(columns), compare_by="maker").record
    (note,) = notes_of(record)
    assert note.startswith("the leaderboard takes references whose URIs differ only in hidden")


def test_a_manifest_with_image_bytes_needs_a_column_that_names_the_references(write_run):
    run = write_run(candidates(generated(20)) | {"prompt": [f"p{i // 3}" for i in range(60)]})
    for name in ("plan.json", "run.json"):
        path = Path(run, name)
        record = json.loads(path.read_text())
        record["columns"] |= {"reference": "reference_bytes", "distorted": "distorted_bytes"}
        path.write_text(json.dumps(record))
    (problem,) = problems_of(run, compare_by="maker")
    assert problem.startswith("compare.reference_column: expected a pass-through column that names "
                              "each pair's reference, because")  # fmt: skip
    assert problem.endswith("got none")
    assert board_of(run, compare={"reference_column": "prompt"}).references == 20


@pytest.mark.parametrize(
    ("columns", "settings", "expected"),
    [
        ({}, {"compare_by": "model"}, "compare_by: expected a pass-through column of "),
        ({}, {"compare_by": "spips_score"}, "compare_by: expected a pass-through column of "),
        ({"tags": [["x"]] * 60}, {"compare_by": "tags"}, "compare_by: expected texts, numbers"),
        ({"maker": ["a"] * 60}, {}, "compare_by: expected a column with 2 to 50 models, got 1 in"),
        ({"maker": [str(i) for i in range(60)]}, {},
         "compare_by: expected a column with 2 to 50 models, got more than 50 in column 'maker'"),
        ({"reference_uri": [f"/{i}.png" for i in range(60)]}, {},
         "compare_by: expected references that two models share, got none in column "
         "'reference_uri' of "),
        ({}, {"compare": {"reference_column": "maker"}},
         "compare_by: expected references that two models share, got none in column 'maker' of "),
        ({}, {"compare": {"reference_column": "prompt"}},
         "compare.reference_column: expected a pass-through column of "),
    ],
    ids=str,
)  # fmt: skip
def test_models_that_cannot_be_compared_are_one_line(columns, settings, expected, write_run):
    run = write_run(candidates(generated(20)) | columns)
    (problem,) = problems_of(run, **{"compare_by": "maker"} | settings)
    assert problem.startswith(expected)
    assert "\n" not in problem


def test_fifty_models_are_compared(write_run):
    models = tuple(f"m{m:02}" for m in range(50))
    scores = generated(30, shifts=tuple(0.002 * m for m in range(50)))
    board = board_of(write_run(candidates(scores, models=models)))
    assert len(board.standings) == 50
    assert {len(row.against) for row in board.standings} == {49}
    assert board.standings[0].model < "m10" < "m40" < board.standings[-1].model
