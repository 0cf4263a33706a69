"""Gates of noise, from runs to verdicts."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.audits.config import AuditScoresConfig, GateConfig
from pipeline.audits.exports.junit import to_junit
from pipeline.audits.exports.metrics import to_metrics
from pipeline.audits.exports.summary import to_summary
from pipeline.audits.records import AuditRecord
from pipeline.audits.report import describe_audit, render, write_report
from pipeline.runs.finished import open_run
from tests.pipeline.audits.conftest import find, problems_of, run_audit

GATE = {"column": "spips_score", "figure": "mean", "rise_at_most": "noise", "otherwise": 0.02}
PAIRS = 40


def columns(level, pairs=PAIRS, prefix="p"):
    """A night on which half of the pairs, of maker a, have the level; the others twice of it."""
    return {"pair_id": [f"{prefix}{i}" for i in range(pairs)],
            "maker": ["a", "b"] * (pairs // 2),
            "spips_score": [level * (1 + i % 2) for i in range(pairs)]}  # fmt: skip


@pytest.fixture
def write_nights(write_run):
    """A function that writes a night for each level, the last one tonight; returns their URIs."""

    def write(levels, **options):
        return [
            write_run(columns(level, **options), f"night{day:02}", night=f"2026-01-{day:02}",
                      finished_at=f"2026-01-{day:02}T02:00:00+00:00")
            for day, level in enumerate(levels, start=1)
        ]  # fmt: skip

    return write


LEVELS = [0.1, 0.1004, 0.0997, 0.1001, 0.0998, 0.1002, 0.1003]


def folder_of(runs):
    return str(Path(runs[0]).parent)


def audit_last(runs, gates=(GATE,), **settings):
    return run_audit(runs[-1], gates=list(gates),
                     **({"baseline": {"uri": folder_of(runs)}} | settings))  # fmt: skip


def test_a_rise_beyond_the_noise_breaks_the_gate_and_every_export_says_how_it_was_learned(
    write_nights,
):
    runs = write_nights([*LEVELS, 0.102])
    found = audit_last(runs, baseline={"uri": folder_of(runs), "last_runs": 2})
    record = found.record
    (gate,) = record.gates
    assert gate.state == "broken"
    assert gate.noise.nights == tuple(f"night{day:02}" for day in range(1, 8))
    figures = 1.5 * np.float32(LEVELS).astype(float)
    assert gate.noise.values == pytest.approx(figures)
    bound = 1.943180 * figures.std(ddof=1) * (1 + 1 / 7) ** 0.5
    assert gate.bound == pytest.approx(bound, rel=1e-3)
    assert gate.value == pytest.approx(0.153 - figures.mean(), abs=1e-7)
    assert gate.margin == pytest.approx(gate.bound - gate.value)
    assert record.verdict == (
        "all rows: mean of spips_score rose by 0.00289, allowed 0.0007988 by the noise of 7 nights"
    )
    how = "learned from 7 nights, night01 to night07, for 5 % false alarms: mean 0.1501, "
    assert gate.reason.startswith(how)
    for text in (describe_audit(record), render(found, {}, ()), to_junit(record).decode(),
                 to_summary(record, "page")):  # fmt: skip
        assert how in text
    rule = (
        'gate="mean of spips_score rises by at most the noise of earlier nights, 0.02 before there'
    )
    metrics = to_metrics(record).decode().splitlines()
    for line in (f"spips_gate_bound{{{rule}", f"spips_gate_noise_nights{{{rule}"):
        (value,) = (row.split()[-1] for row in metrics if row.startswith(line))
        assert float(value) in (gate.bound, 7)
    content = json.loads(record.to_json())
    assert content["gates"][0]["noise"]["nights"][0] == "night01"
    assert AuditRecord.model_validate(content) == record


def test_an_audit_of_version_3_is_read(write_nights):
    record = audit_last(write_nights([*LEVELS, 0.102])).record
    content = json.loads(record.to_json()) | {"version": 3}
    for gate in content["gates"]:
        del gate["noise"]
    for row in content["statuses"]:
        del row["failed_low"], row["failed_high"]
    read = AuditRecord.model_validate(content)
    assert (read.version, read.gates[0].noise, read.verdict) == (3, None, record.verdict)


def test_a_night_like_the_others_keeps_the_gate(write_nights):
    (gate,) = audit_last(write_nights([*LEVELS, 0.1005])).record.gates
    assert (gate.state, gate.bound_kind) == ("kept", "rise_at_most")


def test_a_fall_of_any_figure_is_judged_by_the_noise_too(write_nights):
    gates = [GATE | {"figure": "p95"}, GATE | {"figure": "median", "rise_at_most": None,
                                               "fall_at_most": "noise"}]  # fmt: skip
    rises, falls = sorted(audit_last(write_nights([*LEVELS, 0.08]), gates).record.gates,
                          key=lambda gate: gate.figure, reverse=True)  # fmt: skip
    assert (rises.state, falls.state) == ("kept", "broken")
    assert rises.value == pytest.approx(2 * (0.08 - np.mean(LEVELS)), abs=1e-6)
    assert falls.value == pytest.approx(1.5 * (np.mean(LEVELS) - 0.08), abs=1e-6)


def test_each_group_has_its_own_noise_and_a_part_of_the_false_alarms(write_nights):
    gate = GATE | {"each_group": True}
    record = audit_last(write_nights([*LEVELS, 0.102]), [gate], group_by=["maker"]).record
    assert {gate.group for gate in record.gates} == {("a",), ("b",)}
    for one in record.gates:
        assert one.noise.rate == 0.025
        assert np.mean(one.noise.values) == pytest.approx(
            np.mean(LEVELS) * (1 if one.group == ("a",) else 2), abs=1e-6
        )


def test_fewer_than_five_nights_hold_the_fixed_bound_and_say_so_in_one_note(write_nights):
    runs = write_nights([*LEVELS[:4], 0.112])
    gates = [GATE, GATE | {"otherwise": 0.01}]
    record = audit_last(runs, gates).record
    assert [(gate.state, gate.bound) for gate in record.gates] == [("broken", 0.01),
                                                                  ("kept", 0.02)]  # fmt: skip
    assert record.gates[0].reason == (
        "the fixed bound holds, against the mean of 4 nights: the noise needs 5"
    )
    assert [note for note in record.notes if "fixed bounds" in note] == [
        "gates of noise hold their fixed bounds: expected at least 5 good nights of the same "
        "pairs, got 4"
    ]


def test_a_gate_of_noise_without_any_night_has_nothing_to_compare_with(write_nights):
    record = audit_last(write_nights([0.1])).record
    assert (record.gates[0].state, record.num_without_baseline) == ("not judged", 1)
    assert record.verdict == "all rows: mean of spips_score: nothing to compare with"


def test_either_of_two_states_is_accepted_with_a_note_that_names_them(write_nights):
    earlier = [0.1, 0.12, 0.1001, 0.1201, 0.12, 0.0999, 0.1]
    runs = write_nights([*earlier, 0.1199])
    record = audit_last(runs).record
    assert record.passed
    (note,) = (note for note in record.notes if "two states" in note)
    assert note == (
        "all rows: mean of spips_score has two states, 0.15 (4 nights) and 0.18 (3 nights); either "
        "is accepted"
    )
    assert record.gates[0].reason.endswith("; compared with 0.18")


def test_nights_with_other_pairs_are_left_out_or_all_differ(write_run, write_nights):
    runs = write_nights([*LEVELS, 0.1])
    other = columns(0.3, prefix="q")
    write_run(other, "other", finished_at="2026-01-06T09:00:00+00:00")
    record = audit_last(runs).record
    assert "other" not in record.gates[0].noise.nights
    assert "gates of noise leave out 1 night with other pairs" in record.notes


def test_nights_of_different_manifests_tell_the_noise_of_the_choice_of_pairs(write_run):
    runs = [write_run(columns(level, prefix=f"{day}-"), f"night{day}", night=f"2026-01-{day:02}")
            for day, level in enumerate([*LEVELS, 0.12], start=1)]  # fmt: skip
    record = audit_last(runs).record
    assert (record.gates[0].state, len(record.gates[0].noise.nights)) == ("broken", 7)
    assert (
        "gates of noise learn from 7 nights of different manifests, so their noise includes that "
        "of the choice of pairs"
    ) in record.notes


def test_too_few_nights_of_the_same_pairs_name_the_others(write_run, write_nights):
    runs = write_nights([*LEVELS, 0.1])
    for day in range(1, 8):
        write_run(
            columns(0.1, prefix="q"), f"q{day}", finished_at=f"2026-02-{day:02}T02:00:00+00:00"
        )
    last = write_run(columns(0.1), "last", finished_at="2026-03-01T02:00:00+00:00")
    record = audit_last([*runs, last], noise={"nights": 9}).record
    assert (
        "gates of noise hold their fixed bounds: expected at least 5 good nights of the same "
        "pairs, got 2 and 7 nights with other pairs"
    ) in record.notes


def test_a_night_whose_audit_broke_a_gate_is_left_out_unless_it_is_accepted(write_nights, tmp_path):
    runs = write_nights([*LEVELS[:6], 0.15, 0.15])
    audits = tmp_path / "audits"
    config = AuditScoresConfig.model_validate(
        {"scores": {"uri": runs[6]}, "output": {"uri": str(audits / "night07")},
         "report": {"pairs_per_sheet": 0}}
    )  # fmt: skip
    bad = run_audit(runs[6], gates=[GATE | {"rise_at_most": None, "otherwise": None,
                                            "at_most": 0.2}])  # fmt: skip
    write_report(bad, open_run(runs[6]), config)
    baseline = {"uri": folder_of(runs), "audits_uri": str(audits)}
    record = audit_last(runs, baseline=baseline).record
    assert record.gates[0].state == "broken"
    assert "night07" not in [one.run_id for one in record.baseline]
    assert record.notes[0] == (
        "run night07 was skipped: its audit broke 1 gate; if the run is good, name it in "
        "baseline.accept"
    )
    again = audit_last(runs, baseline=baseline | {"accept": ["night07"]}).record
    assert again.passed
    assert [len(state.nights) for state in again.gates[0].noise.states] == [6, 1]
    (audits / "night07/audit.json").write_text("{}")
    (problem,) = problems_of(runs[-1], gates=[GATE], baseline=baseline)
    assert problem.startswith("baseline.uri: expected what an audit writes in baseline.audits_uri")


def test_without_a_folder_of_audits_a_note_says_that_broken_nights_count(write_nights):
    record = audit_last(write_nights([*LEVELS, 0.1])).record
    assert record.notes == (
        "gates of noise learn from nights that broke a gate, too, unless baseline.audits_uri says "
        "where the audits are",
        "the intervals are rough: 40 references instead of 60 or more",
    )


def test_nights_of_other_image_settings_are_left_out(write_nights):
    runs = write_nights([*LEVELS, 0.1])
    record = Path(runs[0]) / "run.json"
    content = json.loads(record.read_text())
    content["fingerprints"]["scoring"] = "other"
    record.write_text(json.dumps(content))
    found = audit_last(runs).record
    assert len(found.gates[0].noise.nights) == 6
    assert (
        "gates of noise leave out 1 night of other image settings, precision or version"
    ) in found.notes


def test_one_row_more_never_breaks_a_gate_of_noise_on_a_share(write_nights, write_run):
    gates = [{"figure": "failed_fraction", "rise_at_most": "noise", "otherwise": 0.1},
             GATE | {"figure": "share_above", "threshold": 0.5}]  # fmt: skip
    runs = write_nights([0.1] * 7)
    for num_rows, state in ((1, "kept"), (2, "broken")):
        worse = columns(0.1)
        for i in range(num_rows):
            worse["spips_score"][i] = 0.9
        worse["status"] = ["missing" if i >= PAIRS - num_rows else "ok" for i in range(PAIRS)]
        worse["spips_score"][PAIRS - num_rows :] = [None] * num_rows
        run = write_run(worse, f"t{num_rows}", finished_at=f"2026-02-0{num_rows}T02:00:00+00:00")
        record = audit_last([*runs, run], gates, noise={"nights": 7}).record
        failed = find(record.gates, figure="failed_fraction")
        assert (failed.state, failed.bound) == (state, 1 / PAIRS)
        assert find(record.gates, figure="share_above").state == state


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"otherwise": None}, "otherwise, a fixed bound for fewer than 5 nights, for noise and for "
                              "nothing else, got none"),
        ({"rise_at_most": 0.01}, "for nothing else, got one with rise_at_most: 0.01"),
        ({"rise_at_most": "noize"}, "expected a number of at least 0, or noise"),
        ({"rise_at_most": -1}, "expected a number of at least 0, or noise"),
        ({"with_confidence": True}, "expected with_confidence for a fixed bound, got it for noise"),
        ({"fall_at_most": 0.1}, "expected exactly one of at_most"),
    ],
)  # fmt: skip
def test_a_wrong_gate_of_noise_is_one_problem(changed, problem):
    with pytest.raises(ValidationError) as caught:
        GateConfig.model_validate(GATE | changed)
    (entry,) = caught.value.errors()
    assert problem in entry["msg"]
