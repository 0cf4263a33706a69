"""Gates: bounds that a run's figures must keep."""

from collections.abc import Iterator, Sequence

from pipeline.audits.config import AuditScoresConfig, GateConfig
from pipeline.audits.distribution import share_interval
from pipeline.audits.records import Change, Estimate, Figures, GateVerdict, Key, StatusCounts
from pipeline.runs.errors import ContractError
from pipeline.runs.schema import Status

NO_VALUE = "no row has a value"
NOTHING_BEFORE = "nothing to compare with"
WORDS = {
    "at_most": "at most", "at_least": "at least",
    "rise_at_most": "rises by at most", "fall_at_most": "falls by at most",
}  # fmt: skip


def check_columns(gates: Sequence[GateConfig], columns: Sequence[str]) -> None:
    """Raise a ContractError if a gate names none of the columns in which the run has values."""
    problems = [
        f"gates.{number}.column: expected a column with values, one of {', '.join(columns)}, "
        f"got {gate.column!r}, which the run's model does not fill"
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

    If no row has a value, there is no figure and the gate is broken. A gate on a change is not
    judged if there is nothing to compare with. Figures and status counts of the baseline are
    ignored.
    """
    of_run = {(row.group, row.column): row for row in figures if row.of == "run"}
    rises = {(change.group, change.column): change.rise for change in changes}
    counted = [row for row in statuses if row.of == "run"]
    has_groups = any(row.group for row in counted)
    for gate in config.gates:
        for row in counted:
            if bool(row.group) != (gate.each_group and has_groups):
                continue
            place = row.group, str(gate.column)
            figure: Estimate | str
            if gate.column is None:
                num_failed = row.rows - row.counts[Status.OK]
                low, high = share_interval(num_failed, row.rows, config.report.confidence)
                figure = Estimate(value=row.failed_fraction, low=low, high=high)
            elif place not in of_run:
                figure = NO_VALUE
            elif gate.compares:
                figure = rises.get(place, NOTHING_BEFORE)
            elif gate.figure == "share_above":
                shares = of_run[place].share_above
                figure = next(share for share in shares if share.threshold == gate.threshold)
            else:
                figure = of_run[place].by_name[gate.figure]
            yield _hold(gate, row.group, figure)


def _hold(gate: GateConfig, group: Key, figure: Estimate | str) -> GateVerdict:
    """Compare a figure with the gate's bound; a text says why there is no figure."""
    name, bound = gate.bound
    rule = _rule(gate)
    if isinstance(figure, str):
        state = "not judged" if figure == NOTHING_BEFORE else "broken"
        return GateVerdict(rule=rule, group=group, state=state, reason=figure, bound=bound)
    value, low, high = figure.value, figure.low, figure.high
    if name == "fall_at_most":
        value, low, high = -value, -high, -low
    # The interval's best end decides with confidence: then the whole interval is beyond the bound.
    if name == "at_least":
        margin, best_margin = value - bound, high - bound
    else:
        margin, best_margin = bound - value, bound - low
    is_broken = (best_margin if gate.with_confidence else margin) < 0
    return GateVerdict(
        rule=rule, group=group, state="broken" if is_broken else "kept", figure=value, low=low,
        high=high, bound=bound, margin=margin,
    )  # fmt: skip


def _rule(gate: GateConfig) -> str:
    """Return a gate in words."""
    figure = gate.figure if gate.column is None else f"{gate.figure} of {gate.column}"
    if gate.threshold is not None:
        figure = f"share of {gate.column} above {gate.threshold:g}"
    name, bound = gate.bound
    return f"{figure} {WORDS[name]} {bound:g}{', with confidence' if gate.with_confidence else ''}"
