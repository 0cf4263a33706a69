"""Gates: bounds that a run's figures must keep."""

from collections.abc import Iterator, Sequence

from pipeline.audits.config import AuditScoresConfig, GateConfig
from pipeline.audits.distribution import share_interval
from pipeline.runs.records import Json
from pipeline.runs.schema import Status

NOTHING_BEFORE = "nothing to compare with"


def judge(
    config: AuditScoresConfig,
    figures: Sequence[Json],
    changes: Sequence[Json],
    statuses: Sequence[Json],
) -> Iterator[Json]:
    """Yield what becomes of each gate, for all rows or for each group that the run has.

    A figure that cannot be told because no row has a value breaks its gate; a change without
    anything to compare with is not judged.

    Args:
        config: the job's.
        figures: of audit.json.
        changes: of audit.json.
        statuses: of audit.json.
    """
    of_run = [row for row in statuses if row["of"] == "run"]
    has_groups = any(row["group"] for row in of_run)
    for gate in config.gates:
        for row in of_run:
            if bool(row["group"]) != (gate.each_group and has_groups):
                continue
            figure = (
                _failed_fraction(row, config.report.confidence)
                if gate.column is None
                else _find(gate, row["group"], figures, changes)
            )
            yield _hold(gate, figure) | {
                "group": row["group"],
                "rule": _rule(gate),
            }


def _failed_fraction(row: Json, confidence: float) -> Json:
    num_failed = row["rows"] - row["counts"][Status.OK]
    low, high = share_interval(num_failed, row["rows"], confidence)
    return {"value": row["failed_fraction"], "low": low, "high": high}


def _find(
    gate: GateConfig, group: list[str | None], figures: Sequence[Json], changes: Sequence[Json]
) -> Json | str:
    """Return the figure with its interval, or why there is none."""

    def of_column(rows: Sequence[Json]) -> Json | None:
        found = (row for row in rows if row["group"] == group and row["column"] == gate.column)
        return next(found, None)

    row = of_column([row for row in figures if row["of"] == "run"])
    if row is None:
        return "no row has a value"
    if gate.compares:
        change = of_column(changes)
        return NOTHING_BEFORE if change is None else dict(change["rise"])
    if gate.figure == "share_above":
        return next(dict(s) for s in row["share_above"] if s["threshold"] == gate.threshold)
    return dict(row[gate.figure])


def _rule(gate: GateConfig) -> str:
    name = gate.figure if gate.column is None else f"{gate.figure} of {gate.column}"
    if gate.threshold is not None:
        name = f"share of {gate.column} above {gate.threshold:g}"
    words, bound = {
        "at_most": ("at most", gate.at_most),
        "at_least": ("at least", gate.at_least),
        "rise_at_most": ("rises by at most", gate.rise_at_most),
        "fall_at_most": ("falls by at most", gate.fall_at_most),
    }[gate.bound_name]
    return f"{name} {words} {bound:g}{', with confidence' if gate.with_confidence else ''}"


def _hold(gate: GateConfig, figure: Json | str) -> Json:
    """Return how far the figure is from the bound; a margin below 0 is beyond it."""
    bound = getattr(gate, gate.bound_name)
    if isinstance(figure, str):
        state = "not judged" if figure == NOTHING_BEFORE else "broken"
        empty = dict.fromkeys(("figure", "low", "high", "margin"))
        return {**empty, "bound": bound, "state": state, "reason": figure}
    value, low, high = figure["value"], figure["low"], figure["high"]
    if gate.bound_name == "fall_at_most":
        value, low, high = -value, -high, -low
    # Beyond the bound with confidence is the whole interval: its nearer end.
    if gate.bound_name == "at_least":
        margin, nearest = value - bound, high - bound
    else:
        margin, nearest = bound - value, bound - low
    is_broken = (nearest if gate.with_confidence else margin) < 0
    return {
        "figure": value, "low": low, "high": high, "margin": margin, "bound": bound,
        "state": "broken" if is_broken else "kept", "reason": "",
    }  # fmt: skip
