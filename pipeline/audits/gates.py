"""Gates: bounds that a run's figures must keep."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.audits.config import AuditScoresConfig, GateConfig
from pipeline.audits.distribution import MIN_ROWS, Estimate, share_interval
from pipeline.audits.records import (
    NOTHING_BEFORE,
    Change,
    Figures,
    GateVerdict,
    Key,
    StatusCounts,
)
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status

NO_VALUE_AT_ALL = "no row has a value"
NO_VALUE = "no row of the group has a value"
TOO_FEW = f"too few to say: expected at least {MIN_ROWS} rows or pairs for an interval"
WORDS = {
    "at_most": "at most", "at_least": "at least",
    "rise_at_most": "rises by at most", "fall_at_most": "falls by at most",
}  # fmt: skip


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
    statuses: Sequence[StatusCounts],
) -> Iterator[GateVerdict]:  # fmt: skip
    """Yield the verdict of each gate, for all rows or for each group of the run.

    If no row of the run has a value, the gate is broken. It is not judged if only its group has
    none, if there is nothing to compare with, or if it is beyond its bound and needs an interval,
    which too few rows do not make.
    Figures and status counts of the baseline are ignored.
    """
    of_run = {(row.group, row.column): row for row in figures if row.of == "run"}
    rises = {(change.group, change.column): change.rise for change in changes}
    counted = [row for row in statuses if row.of == "run"]
    has_groups = any(row.group for row in counted)
    confidence = config.report.confidence
    for gate in config.gates:
        for row in counted:
            if bool(row.group) != (gate.each_group and has_groups):
                continue
            place = row.group, str(gate.column)
            figure: Estimate | str
            if gate.column is None:
                num_failed = row.rows - row.counts[Status.OK]
                interval = share_interval(num_failed, row.rows, confidence)
                figure = Estimate.of(row.failed_fraction, interval, row.rows)
            elif place not in of_run:
                figure = NO_VALUE if ((), gate.column) in of_run else NO_VALUE_AT_ALL
            elif gate.compares:
                figure = rises.get(place, NOTHING_BEFORE)
            elif gate.figure == "share_above":
                shares = of_run[place].share_above
                figure = next(share for share in shares if share.threshold == gate.threshold)
            else:
                figure = of_run[place].by_name[gate.figure]
            yield _hold(gate, row.group, figure, confidence)


def _hold(gate: GateConfig, group: Key, figure: Estimate | str, confidence: float) -> GateVerdict:
    """Compare a figure with the gate's bound; a text says why there is no figure."""
    name, bound = gate.bound
    rule = _rule(gate)
    if isinstance(figure, str):
        state = "broken" if figure == NO_VALUE_AT_ALL else "not judged"
        return GateVerdict(rule=rule, group=group, state=state, reason=figure, bound=bound)
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
    return GateVerdict(
        rule=rule, group=group, state=state, reason=reason, figure=value, low=low, high=high,
        bound=bound, margin=margin,
    )  # fmt: skip


def _margin(gate: GateConfig, value: float) -> float:
    """Return how far a value is from the gate's bound; negative beyond it."""
    name, bound = gate.bound
    if gate.figure not in ("failed_fraction", "share_above"):
        # The figures are of float32 values. As float32, the score 0.3 keeps the bound 0.3.
        value, bound = float(np.float32(value)), float(np.float32(bound))
    return value - bound if name == "at_least" else bound - value


def _rule(gate: GateConfig) -> str:
    """Return a gate in words."""
    figure = gate.figure if gate.column is None else f"{gate.figure} of {gate.column}"
    if gate.threshold is not None:
        figure = f"share of {gate.column} above {gate.threshold:g}"
    name, bound = gate.bound
    return f"{figure} {WORDS[name]} {bound:g}{', with confidence' if gate.with_confidence else ''}"
