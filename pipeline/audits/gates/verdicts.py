"""Gates: bounds that a run's figures must keep."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from pipeline.audits.config import MIN_NIGHTS, AuditScoresConfig, GateConfig
from pipeline.audits.figures.distribution import MIN_ROWS, Estimate
from pipeline.audits.gates.noise_gates import NO_HISTORY, History, hold_against_nights
from pipeline.audits.numbers import show_estimate, show_number
from pipeline.audits.records import (
    NOTHING_BEFORE,
    AuditRecord,
    Change,
    Figures,
    GateVerdict,
    Key,
    StatusCounts,
    label_of,
)
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status
from pipeline.runs.summary import counted

NO_VALUE_AT_ALL = "no row has a value"
NO_VALUE = "no row of the group has a value"
TOO_FEW = f"too few to say: expected at least {MIN_ROWS} rows or pairs for an interval"
WORDS = {
    "at_most": "at most", "at_least": "at least",
    "rise_at_most": "rises by at most", "fall_at_most": "falls by at most",
}  # fmt: skip
GROUPS_NAMED = 2
"""Groups that a verdict names beside the worst gate's."""
SHARES = ("share_above", "failed_fraction")
"""Figures that change by a row at least."""
OUTCOMES = {"broken": "failed", "not judged": "not judged", "kept": "passed"}
"""What an audit's worst gate makes of the audit."""
STATES = tuple(OUTCOMES)
"""The states of gates, worst first."""


def check_columns(gates: Sequence[GateConfig], columns: Sequence[str], run: FinishedRun) -> None:
    """Raise a ContractError if a gate names none of the columns in which the run has values."""
    problems = [
        f"gates.{number}.column: expected a column with values, one of {', '.join(columns)}, "
        f"got {gate.column!r}: {run.why_empty(gate.column)}"
        for number, gate in enumerate(gates)
        if gate.column is not None and gate.column not in columns
    ]
    if problems:
        raise ContractError(*problems)


def judge(
    config: AuditScoresConfig, figures: Sequence[Figures], changes: Sequence[Change],
    statuses: Sequence[StatusCounts], history: History = NO_HISTORY,
) -> Iterator[GateVerdict]:  # fmt: skip
    """Yield the verdict of each gate, for all rows or for each group of the run.

    If no row of the run has a value, the gate is broken. It is not judged if only its group has
    none, if there is nothing to compare with, or if it is beyond its bound and needs an interval,
    which too few rows do not make.
    Figures and status counts of the baseline are ignored. A gate of noise breaks in the history's
    share of nights, all its groups together.
    """
    of_run = {(row.group, row.column): row for row in figures if row.of == "run"}
    rises = {(change.group, change.column): change.rise for change in changes}
    of_groups = [row for row in statuses if row.of == "run"]
    has_groups = any(row.group for row in of_groups)
    confidence = config.report.confidence
    for gate in config.gates:
        judged = [row for row in of_groups if bool(row.group) == (gate.each_group and has_groups)]
        of_group = history._replace(rate=history.rate / max(len(judged), 1))
        for row in judged:
            figure = _figure_of(gate, row, of_run, rises)
            if gate.is_noise and isinstance(figure, Estimate):
                place = row.group, str(gate.column)
                num_rows = of_run[place].rows if place in of_run else row.rows
                step = 1 / num_rows if gate.figure in SHARES else 0.0
                yield hold_against_nights(
                    _blank(gate, row.group), gate, row.group, (figure.value, step), of_group
                )
            else:
                yield _hold(gate, row.group, figure, confidence)


def _figure_of(
    gate: GateConfig, row: StatusCounts, of_run: Mapping[tuple[Key, str], Figures],
    rises: Mapping[tuple[Key, str], Estimate],
) -> Estimate | str:  # fmt: skip
    """Return what a gate bounds in a group, or why there is none; for noise, tonight's figure."""
    place = row.group, str(gate.column)
    if gate.column is None:
        return Estimate(value=row.failed_fraction, low=row.failed_low, high=row.failed_high)
    if place not in of_run:
        return NO_VALUE if ((), gate.column) in of_run else NO_VALUE_AT_ALL
    if gate.compares and not gate.is_noise:
        return rises.get(place, NOTHING_BEFORE)
    if gate.figure == "share_above":
        shares = of_run[place].share_above
        return next(share for share in shares if share.threshold == gate.threshold)
    return of_run[place].by_name[gate.figure]


def _blank(gate: GateConfig, group: Key) -> partial[GateVerdict]:
    """Return what makes a gate's verdict of what is not known before it is judged."""
    return partial(
        GateVerdict, rule=_rule(gate), column=gate.column, figure=gate.figure,
        threshold=gate.threshold, group=group, bound_kind=gate.bound[0],
    )  # fmt: skip


def _hold(gate: GateConfig, group: Key, figure: Estimate | str, confidence: float) -> GateVerdict:
    """Compare a figure with the gate's bound; a text says why there is no figure."""
    name, bound = gate.bound
    verdict = partial(_blank(gate, group), bound=bound)
    if isinstance(figure, str):
        state = "broken" if figure == NO_VALUE_AT_ALL else "not judged"
        return verdict(state=state, reason=figure)
    value, low, high = figure.value, figure.low, figure.high
    if name == "fall_at_most":
        value = -value
        low, high = (None if end is None else -end for end in (figure.high, figure.low))
    is_lower_bound = name == "at_least"
    margin = _margin(gate, value)
    # The interval's best end decides with confidence: then the whole interval is beyond the bound.
    best = high if is_lower_bound else low
    state, reason = "kept" if margin >= 0 else "broken", ""
    if state == "broken" and gate.with_confidence:
        if best is None:
            state, reason = "not judged", TOO_FEW
        elif _margin(gate, best) >= 0:
            state, beyond = "kept", "below" if is_lower_bound else "above"
            noun = {"rise_at_most": "rise", "fall_at_most": "fall"}.get(name, gate.figure)
            reason = (f"the {noun} {value:.5g} is {beyond} the bound {bound:g}, but its "
                      f"{confidence:.0%} interval {low:.5g} to {high:.5g} includes values that "
                      "are not")  # fmt: skip
    return verdict(state=state, reason=reason, value=value, low=low, high=high, margin=margin)


def _margin(gate: GateConfig, value: float) -> float:
    """Return how far a value is from the gate's bound; negative beyond it."""
    name, bound = gate.bound
    if gate.figure not in SHARES:
        # The figures are of float32 values. As float32, the score 0.3 keeps the bound 0.3.
        value, bound = float(np.float32(value)), float(np.float32(bound))
    return value - bound if name == "at_least" else bound - value


def _rule(gate: GateConfig) -> str:
    """Return a gate in words."""
    name, bound = gate.bound
    rule = f"{_subject(gate)} {WORDS[name]} {show_number(bound, 12)}"
    if gate.is_noise:
        least = f"{show_number(bound, 12)} before there are {MIN_NIGHTS} nights"
        return f"{_subject(gate)} {WORDS[name]} the noise of earlier nights, {least}"
    return f"{rule}, with confidence" if gate.with_confidence else rule


def _subject(gate: GateConfig | GateVerdict) -> str:
    """Return the name of the figure that a gate bounds."""
    if gate.threshold is not None:
        return f"share of {gate.column} above {show_number(gate.threshold, 12)}"
    return gate.figure if gate.column is None else f"{gate.figure} of {gate.column}"


def worst_first(gates: Iterable[GateVerdict]) -> tuple[GateVerdict, ...]:
    """Return broken gates first, then those that are not judged, then those that are kept.

    Broken gates are ordered by how far the value is beyond the bound, as a share of the bound:
    largest first. Without a value, or with a bound of 0, that share is infinite; then the larger
    distance comes first. All others stay in the order of the settings.
    """

    def rank(gate: GateVerdict) -> tuple[float, ...]:
        if gate.state != "broken":
            return (STATES.index(gate.state),)
        beyond = math.inf if gate.margin is None else -gate.margin
        return 0, -beyond / abs(gate.bound) if gate.bound else -math.inf, -beyond

    return tuple(sorted(gates, key=rank))


def outcome_of(gates: Sequence[GateVerdict]) -> str:
    """Return what gates, worst first, make of an audit in a word; "" if there are none."""
    return OUTCOMES[gates[0].state] if gates else ""


def headline_of(record: AuditRecord) -> str:
    """Return the outcome and the verdict, such as "Failed: all rows: mean of ssim 0.8, ..."."""
    outcome = outcome_of(record.gates).capitalize()
    return f"{outcome}: {record.verdict}" if outcome else record.verdict


def state_verdict(gates: Sequence[GateVerdict], rows: StatusCounts) -> str:
    """Return the verdict of gates, worst first: the worst one, and how many others are bad.

    Without gates it says so; without any score, how many rows failed.
    """
    if not rows.counts[Status.OK] and outcome_of(gates) != OUTCOMES["kept"]:
        all_rows = f"{'all ' if rows.rows > 1 else ''}{counted(rows.rows, 'row')}"
        num_broken = sum(gate.state == "broken" for gate in gates)
        broken = f"; {counted(num_broken, 'gate')} {'is' if num_broken == 1 else 'are'} broken"
        return f"no row has a score: {all_rows} failed{broken if num_broken else ''}"
    if not gates:
        return "no gate is set"
    worst, *others = gates
    if worst.state == "kept":
        return f"all {len(gates)} gates are kept" if others else "the gate is kept"
    counts = []
    for state in ("broken", "not judged"):
        bad = [gate for gate in others if gate.state == state]
        if bad:
            gate = counted(len(bad), "more gate" if state == worst.state else "gate")
            counts.append(
                f"{gate} {'is' if len(bad) == 1 else 'are'} {state}{_groups_of(bad, worst)}"
            )
    return describe_gate(worst) + ("; and " + " and ".join(counts) if counts else "")


def _groups_of(gates: Sequence[GateVerdict], worst: GateVerdict) -> str:
    """Return the first groups of gates, such as " (model_b, model_c, ...)"; "" for the worst's."""
    labels = list(dict.fromkeys(label_of(gate.group) for gate in gates))
    if labels == [label_of(worst.group)]:
        return ""
    return f" ({', '.join(labels[:GROUPS_NAMED])}{', ...' if len(labels) > GROUPS_NAMED else ''})"


def describe_gate(gate: GateVerdict) -> str:
    """Return what a gate found, such as "model_b: p95 of spips_score 0.4, allowed 0.35"."""
    subject = f"{label_of(gate.group)}: {_subject(gate)}"
    if gate.value is None:
        return f"{subject}: {gate.reason}"
    verb = {"rise_at_most": " rose by", "fall_at_most": " fell by"}.get(gate.bound_kind, "")
    if gate.threshold is not None and not verb:
        verb = " is"  # otherwise the value would follow the threshold
    limit = "required" if gate.bound_kind == "at_least" else "allowed"
    unjudged = f", not judged: {gate.reason}" if gate.state == "not judged" else ""
    bound = show_number(gate.bound, 12)
    learned = f" by the noise of {counted(len(gate.noise.nights), 'night')}" if gate.noise else ""
    return f"{subject}{verb} {show_gate_value(gate)}, {limit} {bound}{learned}{unjudged}"


def show_gate_value(gate: GateVerdict) -> str:
    """Return a gate's value with so many digits that they show on which side of the bound it is."""
    if gate.value is None:
        return show_number(None)
    if gate.margin == 0:
        return show_number(gate.bound, 12)
    text = show_estimate(Estimate(value=gate.value, low=gate.low, high=gate.high))
    for digits in range(4, 18):  # 17 digits tell any two numbers apart
        if np.sign(float(text) - gate.bound) == np.sign(gate.value - gate.bound):
            break
        text = show_number(gate.value, digits)
    return text
