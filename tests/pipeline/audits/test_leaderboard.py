import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.audits.config import ReportConfig
from pipeline.audits.figures.candidates import ModelRows
from pipeline.audits.leaderboard import (
    NUM_BLOCKS,
    PRIOR_TIES,
    VISIBLE_DMOS,
    TieRule,
    add_up,
    compare,
    compare_models,
    strengths,
)
from pipeline.audits.records import AuditRecord
from pipeline.audits.report import describe_audit, render
from tests.pipeline.audits.conftest import problems_of, run_audit

EQUAL = TieRule(0.0)  # only equal scores tie
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


def generated(num_references=60, shifts=(0.0, 0.01, 0.03), seed=0):
    generator = np.random.default_rng(seed)
    content = generator.lognormal(-2, 0.5, (num_references, 1))
    return content + shifts + generator.normal(0, 0.02, (num_references, len(shifts)))


def board_of(run, **settings):
    return run_audit(run, compare_by="maker", **settings).record.leaderboard


def compared(scores, *, rule=EQUAL, draws=200, seed=0, missing=None):
    """A comparison of models "0", "1" ... by (R, M) scores, some of them missing."""
    counts = np.ones_like(scores) if missing is None else 1.0 - missing
    names = [str(r) for r in range(len(scores))]
    sums = np.where(counts > 0, scores, np.nan)
    rows = [ModelRows(str(m), int(counts[:, m].sum()), float(np.nanmean(sums[:, m])), [0.0, 0.0])
            for m in range(scores.shape[1])]  # fmt: skip
    report = ReportConfig(bootstrap_samples=draws, seed=seed)
    return compare_models(rows, [(names, counts, sums)], rule, report)


def by_model(standings):
    return {row.model: row for row in standings}


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


def test_the_largest_margins_of_all_chunks_are_kept():
    scores = generated(500)
    names = [str(r) for r in range(500)]
    chunks = [(names[i : i + 100], np.ones((100, 3)), scores[i : i + 100])
              for i in range(0, 500, 100)]  # fmt: skip
    _, extremes = add_up(chunks, ["0", "1", "2"], EQUAL)
    leads = np.delete(scores, 1, axis=1).min(axis=1) - scores[:, 1]
    order = np.argsort(-leads)
    assert [row.reference for row in extremes.won_most[1]] == [names[r] for r in order[:3]]
    assert [row.reference for row in extremes.lost_most[1]] == [names[r] for r in order[:-4:-1]]


def test_models_that_tie_as_the_best_share_the_reference():
    _, found = compare(np.ones((2, 3)), np.array([[0.10, 0.11, 0.2], [0.3, 0.1, 0.3]]),
                       TieRule(0.02))  # fmt: skip
    assert found.best.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    assert found.tied[0, 0].tolist() == [0, 1, 0]
    assert found.won[1, 1].tolist() == [1, 0, 1]
    assert found.wins[0, 0].tolist() == [0, 0.5, 1]


def test_two_strengths_are_the_log_odds_of_the_wins():
    wins = np.array([[[0, 30.0], [10, 0]], [[0, 5.0], [0, 0]]])
    half = PRIOR_TIES / 2
    first, second = strengths(wins)
    assert first[0] - first[1] == pytest.approx(np.log((30 + half) / (10 + half)), abs=1e-4)
    assert second[0] - second[1] == pytest.approx(np.log((5 + half) / half), abs=1e-4)
    assert first.sum() == pytest.approx(0)


def test_strengths_give_each_model_the_wins_that_it_has():
    wins = np.random.default_rng(0).integers(0, 100, (1, 6, 6)).astype(float)
    wins[0, range(6), range(6)] = 0
    (found,) = strengths(wins)
    with_prior = wins[0] + PRIOR_TIES / 2 * (1 - np.eye(6))
    odds = found[:, None] - found[None, :]
    expected = (with_prior + with_prior.T) / (1 + np.exp(-odds))
    assert expected.sum(axis=1) == pytest.approx(with_prior.sum(axis=1), rel=1e-4)


def simulated_night(seed, num_references=300, draws=500):
    """One night of three models, "0" the best, with the truth of each figure, by name.

    Scores are content, the same for all models, plus a model's own shift, plus noise.
    """
    shifts, noise, visible = np.array([0.0, 0.01, 0.025]), 0.03, 0.01
    generator = np.random.default_rng(seed)
    content = generator.lognormal(-2, 0.5, (num_references, 1))
    scores = content + shifts + generator.normal(0, noise, (num_references, 3))
    spread = stats.norm(0, noise * 2**0.5)
    gaps = shifts[None, :] - shifts[:, None]
    won = (spread.cdf(gaps - visible) + spread.cdf(gaps + visible)) / 2
    strong = strengths(1e9 * won[None] * (1 - np.eye(3)))[0]
    rows = by_model(
        compared(scores, rule=TieRule(visible), draws=draws, seed=10_000 + seed).standings()
    )
    pairs = []
    for m, shift in enumerate(shifts):
        row = rows[str(m)]
        pairs.append((f"mean {m}", row.mean, np.exp(-2 + 0.5**2 / 2) + shift))
        pairs.append((f"strength {m}", row.strength, strong[m]))
        pairs += [(f"win rate {m} {duel.other}", duel.win_rate, won[m, int(duel.other)])
                  for duel in row.against]  # fmt: skip
    held = {name: found.low <= truth <= found.high for name, found, truth in pairs}
    return list(rows) == ["0", "1", "2"], held


def test_of_a_hundred_nights_the_order_is_right_and_intervals_hold_the_truth():
    nights = [simulated_night(seed) for seed in range(1001, 1101)]
    assert sum(is_right for is_right, _ in nights) >= 95
    held = pd.DataFrame([names for _, names in nights]).sum()
    assert len(held) == 3 + 3 + 6
    assert held.min() >= 90
    assert held.mean() < 99  # intervals that hold everything say nothing


def test_blocks_of_many_references_give_the_intervals_of_the_references_themselves():
    scores = generated(4 * NUM_BLOCKS)
    row = by_model(compared(scores, draws=2000).standings())["1"]
    z = stats.norm.ppf(0.975)
    width = 2 * z * scores[:, 1].std() / len(scores) ** 0.5
    assert row.mean.high - row.mean.low == pytest.approx(width, rel=0.1)
    rate = next(duel for duel in row.against if duel.other == "0").win_rate
    width = 2 * z * (rate.value * (1 - rate.value) / len(scores)) ** 0.5
    assert rate.high - rate.low == pytest.approx(width, rel=0.1)


def test_a_model_that_always_wins_has_a_strength_without_an_interval_and_an_exact_win_rate():
    first, second = compared(np.array([[0.1, 0.2]] * 20)).standings()
    assert (first.model, second.model) == ("0", "1")
    assert first.strength.value == pytest.approx(np.log(20.5 / 0.5) / 2, abs=1e-3)
    assert first.strength.low is None
    rate = first.against[0].win_rate
    exact = stats.binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert (rate.value, rate.high) == (1, 1)
    assert rate.low == pytest.approx(exact.low)
    assert second.against[0].win_rate.high == pytest.approx(1 - exact.low)


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


def test_references_that_a_model_has_alone_count_for_its_mean_only():
    missing = np.zeros((40, 3))
    missing[:20, 1:] = 1  # the first 20 references are model 0's alone
    missing[20:25, 2] = 1
    found = compared(generated(40), missing=missing)
    rows = by_model(found.standings())
    assert (rows["0"].references, rows["1"].references, rows["2"].references) == (40, 20, 15)
    assert {duel.other: duel.references for duel in rows["0"].against} == {"1": 20, "2": 15}
    assert found.total.best.sum() == 20
    assert found.total.met.sum(axis=0).tolist() == [20, 20, 15]
    assert all(int(margin.reference) >= 20 for margin in rows["0"].won_most)


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
