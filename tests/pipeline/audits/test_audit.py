from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.audits.audit import audit, describe_audit, label_of, to_table
from pipeline.audits.baseline import open_runs
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.tables import open_tables
from pipeline.runs.errors import ContractError

STREAMS = {"tradition_score": 0.2, "percept_score": 0.3, "semantic_score": 0.5}


def scores(n=400, seed=0, worse=None, num_failed=0):
    """Columns of a run: the same pairs for every seed, scored with a little noise."""
    content = np.random.default_rng(7).lognormal(-2.5, 0.8, n)
    noise = np.random.default_rng(seed)
    columns = {
        "pair_id": [f"p{i}" for i in range(n)],
        "maker": ["a" if i % 4 else "b" for i in range(n)],
        "status": ["missing"] * num_failed + ["ok"] * (n - num_failed),
    }
    for name in STREAMS:
        values = content * noise.lognormal(0, 0.1, n) * (1 + (worse or {}).get(name, 0))
        columns[name] = [None] * num_failed + values[num_failed:].tolist()
    total = sum(weight * np.array(columns[name], float) for name, weight in STREAMS.items())
    columns["spips_score"] = [None] * num_failed + total[num_failed:].tolist()
    columns["psnr_db"] = (
        [None] * num_failed + [np.inf] + (40 - 50 * content)[num_failed + 1 :].tolist()
    )
    return columns


def run_audit(run, earlier=None, *, allow_different_models=False, **settings):
    config = AuditScoresConfig.model_validate(
        {"scores": {"uri": run}, "baseline": {"uri": earlier}, "output": {"uri": "unused"},
         "report": {"bootstrap_samples": 200}} | settings
    )  # fmt: skip
    opened, others, notes = open_runs(config, allow_different_models=allow_different_models)
    with open_tables(opened, others, config.group_by) as tables:
        return audit(config, tables, opened, others, notes)


def problems_of(run, baseline=None, **settings):
    with pytest.raises(ContractError) as caught:
        run_audit(run, baseline, **settings)
    return caught.value.problems


def find(rows, **wanted):
    (row,) = (r for r in rows if all(r[name] == value for name, value in wanted.items()))
    return row


def test_figures_are_those_that_pandas_gives(write_run):
    columns = scores(num_failed=5)
    content = run_audit(
        write_run(columns), group_by=["maker"], thresholds={"psnr_db": [30.0]}
    ).content
    frame = pd.DataFrame(columns)
    for group, rows in (
        ([], frame),
        (["a"], frame[frame.maker == "a"]),
        (["b"], frame[frame.maker == "b"]),
    ):
        for column in ("spips_score", "percept_score", "psnr_db"):
            values = rows[column].astype("float32").astype(float)
            values = values[np.isfinite(values)]
            row = find(content["figures"], group=group, column=column)
            assert row["rows"] == len(values)
            assert row["mean"]["value"] == pytest.approx(values.mean())
            for name, q in (("p5", 0.05), ("median", 0.5), ("p95", 0.95), ("p99", 0.99)):
                assert row[name]["value"] == pytest.approx(values.quantile(q))
                assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        assert row["share_above"][0]["value"] == pytest.approx((values > 30).mean())
        counts = find(content["statuses"], group=group)["counts"]
        assert counts["missing"] == (rows.status == "missing").sum()
    assert [f["pair_id"] for f in content["failures"]] == ["p0", "p1", "p2"]
    assert "ssim" not in {row["column"] for row in content["figures"]}


def test_changes_are_those_of_the_pairs_in_both_runs(write_run):
    now, before = scores(seed=1, worse={"percept_score": 0.2}, num_failed=3), scores(seed=2)
    del now["maker"]
    before = {name: values[:390] for name, values in before.items()}
    found = run_audit(write_run(now), write_run(before, "before"))
    change = find(found.content["changes"], column="spips_score")
    both = pd.DataFrame(now).merge(pd.DataFrame(before), on="pair_id")
    rises = (both.spips_score_x.astype("float32") - both.spips_score_y.astype("float32")).dropna()
    assert change["is_paired"]
    assert change["pairs_in_both"] == len(rises) == 387
    assert change["rise"]["value"] == pytest.approx(rises.mean(), rel=1e-4)
    assert change["rose"] == (rises > 0).sum()
    assert change["paired_effect"] == pytest.approx(rises.mean() / rises.std(), rel=1e-4)
    assert found.content["change"] == "worse"
    parts = {row["stream"]: row["contribution"] for row in found.content["streams"]}
    assert max(parts, key=parts.get) == "percept"
    assert sum(parts.values()) == pytest.approx(change["rise"]["value"], rel=1e-4)
    assert found.sheets["most changed"][0]["rise"] == pytest.approx(
        rises[rises.abs().idxmax()], rel=1e-4
    )


def test_runs_without_common_pairs_are_compared_by_their_means(write_run):
    other = scores(seed=3)
    other["pair_id"] = [f"other {i}" for i in range(400)]
    found = run_audit(write_run(scores(worse={"semantic_score": 1.0})), write_run(other, "before"))
    change = find(found.content["changes"], column="spips_score")
    assert not change["is_paired"]
    assert change["pairs_in_both"] == 0
    assert change["rise"]["low"] > 0
    assert change["rank_effect"] > 0.1
    assert "most changed" not in found.sheets


def test_a_planted_regression_is_found_and_noise_is_not(write_run):
    gate = {
        "column": "spips_score",
        "figure": "mean",
        "rise_at_most": 0.001,
        "with_confidence": True,
    }
    states = {}
    for worse in (0.0, 0.05):
        for seed in range(4):
            before = write_run(scores(seed=100 + seed), f"before-{worse}-{seed}")
            run = write_run(
                scores(seed=seed, worse=dict.fromkeys(STREAMS, worse)), f"{worse}-{seed}"
            )
            content = run_audit(run, before, gates=[gate]).content
            states.setdefault(worse, []).append((content["gates"][0]["state"], content["change"]))
    assert states[0.05] == [("broken", "worse")] * 4
    assert [state for state, _ in states[0.0]] == ["kept"] * 4


SURE = {"column": "spips_score", "with_confidence": True}
SHARE = {"column": "spips_score", "figure": "share_above"}


@pytest.mark.parametrize(
    ("gate", "state", "margin"),
    [
        ({"column": "spips_score", "figure": "median", "at_most": 0.2}, "kept", 0.05),
        ({"column": "spips_score", "figure": "p95", "at_most": 0.2}, "broken", -0.05),
        (SURE | {"figure": "mean", "at_most": 0.174}, "kept", -0.000875),
        (SURE | {"figure": "p95", "at_most": 0.2}, "broken", -0.05),
        ({"column": "ssim", "figure": "mean", "at_least": 0.6}, "broken", -0.1),
        ({"column": "ssim", "figure": "mean", "at_least": 0.5}, "kept", 0.0),
        (SHARE | {"threshold": 0.2, "at_most": 0.5}, "kept", 0.25),
        ({"figure": "failed_fraction", "at_most": 0.1}, "broken", -0.1),
        ({"figure": "failed_fraction", "at_most": 0.2}, "kept", 0.0),
    ],
)  # fmt: skip
def test_a_gate_tells_figure_bound_and_margin(gate, state, margin, write_run):
    half = [0.15] * 300 + [0.25] * 100
    columns = {"spips_score": [*half, *([None] * 100)], "ssim": [0.5] * 400 + [None] * 100,
               "pair_id": [f"{i}" for i in range(500)],
               "status": ["ok"] * 400 + ["missing"] * 100}  # fmt: skip
    columns["spips_score"][0] = 0.1
    (judged,) = run_audit(write_run(columns), gates=[gate]).content["gates"]
    assert judged["state"] == state
    assert judged["margin"] == pytest.approx(margin, abs=1e-6)
    assert judged["bound"] == next(gate[n] for n in ("at_most", "at_least") if n in gate)


def test_every_group_must_keep_a_gate_of_groups(write_run):
    columns = scores()
    columns["maker"] = ["good"] * 200 + ["bad"] * 100 + ["failed"] * 50 + [None] * 50
    columns["status"] = ["ok"] * 300 + ["missing"] * 50 + ["ok"] * 50
    columns["spips_score"] = [0.1] * 200 + [0.5] * 100 + [None] * 50 + [0.1] * 50
    gate = {"column": "spips_score", "figure": "mean", "at_most": 0.3, "each_group": True}
    found = run_audit(write_run(columns), group_by=["maker"], gates=[gate])
    states = {tuple(gate["group"]): gate["state"] for gate in found.content["gates"]}
    assert states == {("good",): "kept", ("bad",): "broken", ("failed",): "broken", (None,): "kept"}
    text = describe_audit(found.content)
    assert "mean of spips_score at most 0.3 (failed): no row has a value" in text
    assert "2 gates BROKEN" in text


def test_a_run_of_which_every_row_failed_says_so(write_run):
    columns = scores(n=20, num_failed=20)
    columns["psnr_db"] = [None] * 20
    gate = {"column": "spips_score", "figure": "p95", "at_most": 1}
    found = run_audit(write_run(columns), write_run(scores(n=20), "before"), gates=[gate])
    assert found.content["change"] == "not compared"
    assert found.content["gates"][0]["reason"] == "no row has a value"
    assert found.broken
    assert found.content["trend"][-1]["mean"] is None
    assert not found.sheets


def test_the_newest_earlier_runs_of_a_folder_are_the_baseline(write_run, tmp_path):
    for day in range(1, 6):
        digest = ("b" if day == 3 else "a") * 64
        run = write_run(scores(seed=day), f"day{day}", finished_at=f"2026-01-0{day}T02:00:00+00:00",
                        digest=digest)  # fmt: skip
    write_run(scores(seed=9), "later", finished_at="2026-01-09T02:00:00+00:00")
    write_run(scores(seed=9), "unfinished", is_finished=False)
    folder = str(tmp_path / "scores")
    content = run_audit(run, folder).content
    assert [one["run_id"] for one in content["trend"]] == ["day1", "day2", "day4", "day5"]
    assert content["notes"] == ["run day3 was passed over: another model scored it"]
    few = run_audit(run, baseline={"uri": folder, "last_runs": 2}).content
    assert [one["run_id"] for one in few["baseline"]] == ["day2", "day4"]
    assert run_audit(folder).content["run"]["run_id"] == "later"
    every = run_audit(run, folder, allow_different_models=True).content
    assert len(every["baseline"]) == 4
    # Together they are the baseline: each pair with its mean.
    frames = [pd.DataFrame(scores(seed=day)) for day in (1, 2, 4)]
    means = pd.concat(frames).groupby("pair_id").spips_score.mean()
    rise = (pd.DataFrame(scores(seed=5)).set_index("pair_id").spips_score - means).mean()
    assert find(content["changes"], column="spips_score")["rise"]["value"] == pytest.approx(
        rise, abs=1e-6
    )


def test_an_earlier_run_that_cannot_be_compared_with_is_passed_over_with_a_note(
    write_run, tmp_path
):
    old = scores(seed=1)
    del old["maker"]
    write_run(old, "before-makers", finished_at="2026-01-01T02:00:00+00:00")
    lost = write_run(scores(seed=2), "lost", finished_at="2026-01-01T03:00:00+00:00")
    (Path(lost) / "scores/0.parquet").unlink()
    content = run_audit(write_run(scores()), str(tmp_path / "scores"), group_by=["maker"]).content
    notes = content["notes"]
    assert notes[0].startswith("run lost was passed over: its results cannot be read")
    assert notes[1] == "run before-makers was passed over: it has no column 'maker'"
    assert content["change"] == "not compared"


def test_names_that_differ_in_case_and_values_that_look_like_others_stay_apart(write_run):
    columns = scores(n=40) | {
        "Maker": ["all rows", "", None, "a\nverdict    passed"] * 10,
        "SSIM": ["text"] * 40,
    }
    found = run_audit(write_run(columns), group_by=["maker", "Maker", "SSIM"])
    groups = {tuple(row["group"]) for row in found.content["statuses"]}
    assert groups == {(), *zip(columns["maker"], columns["Maker"], columns["SSIM"], strict=True)}
    labels = [label_of(group) for group in groups]
    assert len(set(labels)) == len(groups)
    assert not any("\n" in label for label in labels)


def test_the_first_night_has_nothing_to_compare_with_and_says_so(write_run, tmp_path):
    gate = {"column": "spips_score", "figure": "mean", "rise_at_most": 0}
    content = run_audit(write_run(scores()), str(tmp_path / "scores"), gates=[gate]).content
    assert content["passed"]
    assert content["gates"][0]["state"] == "not judged"
    assert "no earlier run to compare with" in content["notes"][0]


def test_a_group_that_vanished_is_told(write_run):
    now = {name: values[1::4] for name, values in scores().items()}
    content = run_audit(write_run(now), write_run(scores(), "before"), group_by=["maker"]).content
    assert content["notes"] == ["group b is in the baseline but not in this run"]


def test_another_model_s_run_is_refused_unless_allowed(write_run):
    run, other = write_run(scores()), write_run(scores(), "other", digest="b" * 64)
    (problem,) = problems_of(run, other)
    assert "expected a run of the same model (digest aaaa" in problem
    assert run_audit(run, other, allow_different_models=True).content["change"] == "no change seen"


def test_what_cannot_be_audited_is_one_line_each(write_run, tmp_path):
    run = write_run(scores())
    unfinished = write_run(scores(), "unfinished", is_finished=False)
    assert "got neither" in problems_of(str(tmp_path))[0]
    assert "output.uri" in problems_of(run, output={"uri": f"{run}/run.json"})[0]
    assert problems_of(unfinished)[0].startswith("scores.uri: expected a finished run")
    assert problems_of(run, unfinished)[0].startswith("baseline.uri: expected a finished run")
    assert "baseline.uri" in problems_of(run, str(tmp_path / "nowhere"))[0]
    assert "got 'prompt'" in problems_of(run, group_by=["prompt"])[0]
    assert "got 'spips_score'" in problems_of(run, group_by=["spips_score"])[0]
    gate = {"column": "ssim", "figure": "mean", "at_most": 1}
    assert "gates.0.column" in problems_of(run, gates=[gate])[0]
    many = scores(n=1200)
    many["maker"] = many["pair_id"]
    assert "at most 1000 groups" in problems_of(write_run(many, "many"), group_by=["maker"])[0]


def test_the_table_holds_every_figure_by_group(write_run):
    found = run_audit(write_run(scores()), write_run(scores(seed=1), "b"), group_by=["maker"])
    table = to_table(found.content).to_pandas()
    row = table[(table.of == "run") & (table.group_maker == "b") & (table.column == "spips_score")
                & (table.figure == "share_above_0.1")]  # fmt: skip
    expected = find(found.content["figures"], of="run", group=["b"], column="spips_score")
    assert row.value.item() == expected["share_above"][0]["value"]
    assert set(table.of) == {"run", "baseline", "change"}
    assert len(table[(table.figure == "rows_missing") & table.group_maker.isna()]) == 2
