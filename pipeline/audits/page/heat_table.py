"""The report's table of groups by figures, whose cells are coloured by their values."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.audits.numbers import NOTHING, show_estimate, show_interval, show_share
from pipeline.audits.records import (
    SCORE,
    AuditRecord,
    Change,
    Figures,
    GateVerdict,
    Key,
    StatusCounts,
)

HEAT = ("failed", "mean", "p95", "change")
"""Coloured columns."""
MANY_FAILED = 0.1
"""A group with this failed share has the deepest colour, even if others have more."""


@dataclass(frozen=True)
class Cell:
    """A figure of a group."""

    text: str = NOTHING
    value: float | None = None  # to sort by
    interval: str = ""
    mark: str = ""  # of a change whose interval is on one side of 0: ▲ worse, ▼ better
    is_broken: bool = False  # whether a gate on it is
    is_heat: bool = False  # whether it is coloured
    level: float = 0.0  # of the colour, 0 to 1


@dataclass(frozen=True)
class Row:
    """A group."""

    group: Key
    rows: int
    cells: tuple[Cell, ...]  # in the order of `HeatTable.heads`

    @property
    def is_all(self) -> bool:
        """Whether it is the group of all rows."""
        return not self.group


@dataclass(frozen=True)
class HeatTable:
    """All groups: that of all rows, those with broken gates, then others; highest mean first."""

    heads: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def is_coloured(self) -> bool:
        """Whether there are groups to tell apart by colours."""
        return any(cell.is_heat for row in self.rows for cell in row.cells)


def make_heat_table(record: AuditRecord) -> HeatTable:
    """Return the groups of the run with the figures of their scores and the changes of these.

    A colour's level is a cell's value by the largest one of any group in its column, so that small
    differences do not look large.
    """
    of_run = [row for row in record.figures if row.of == "run" and row.column == SCORE]
    scores = {row.group: row for row in of_run}
    changes = {row.group: row for row in record.changes if row.column == SCORE}
    broken = {(gate.group, _column_of(gate)) for gate in record.gates if gate.state == "broken"}
    thresholds = [share.threshold for share in of_run[0].share_above] if of_run else []
    heads = ["failed", "mean", "p95", *(["change"] if record.changes else []), "median", "p99"]
    heads += [f"above {threshold:g}" for threshold in thresholds]
    rows = []
    for counted in record.statuses:
        if counted.of == "run":
            group = counted.group
            found = dict(_cells(counted, scores.get(group), changes.get(group)))
            cells = [
                replace(found.get(head, Cell()), is_broken=(group, head) in broken)
                for head in heads
            ]
            rows.append(Row(group, counted.rows, tuple(cells)))
    mean = heads.index("mean")
    rows.sort(key=lambda row: (
        not row.is_all, -sum(cell.is_broken for cell in row.cells), -(row.cells[mean].value or 0.0)
    ))  # fmt: skip
    return HeatTable(tuple(heads), tuple(_colour(heads, rows)))


def _column_of(gate: GateVerdict) -> str:
    """Return the head of the column that shows what a gate bounds, or ""."""
    if gate.column is None:
        return "failed"
    if gate.column != SCORE:
        return ""
    if gate.bound_kind in ("rise_at_most", "fall_at_most"):
        return "change"
    return gate.figure if gate.threshold is None else f"above {gate.threshold:g}"


def _cells(
    counted: StatusCounts, score: Figures | None, change: Change | None
) -> Iterator[tuple[str, Cell]]:
    failed = counted.failed_fraction
    yield "failed", Cell(show_share(failed, counted.rows), failed)
    if score is not None:
        for name in ("mean", "p95", "median", "p99"):
            figure = score.by_name[name]
            interval = show_interval(figure) if figure.low is not None and name in HEAT else ""
            yield name, Cell(show_estimate(figure, score.rows), figure.value, interval)
        for share in score.share_above:
            text = show_share(share.value, score.rows)
            yield f"above {share.threshold:g}", Cell(text, share.value)
    if change is not None:
        rise = change.rise
        text = ("+" if rise.value > 0 else "") + show_estimate(rise, change.pairs_in_both)
        is_clear = rise.low is not None and rise.high is not None and rise.low * rise.high > 0
        mark = ("▲" if rise.value > 0 else "▼") if is_clear else ""
        interval = show_interval(rise) if rise.low is not None else ""
        yield "change", Cell(text, rise.value, interval, mark)


def _colour(heads: list[str], rows: list[Row]) -> Iterator[Row]:
    """Yield the rows with the levels of their colours, if there are groups to tell apart."""
    groups = [row for row in rows if not row.is_all]
    largest = {
        head: max((abs(row.cells[place].value or 0.0) for row in groups), default=0.0)
        for place, head in enumerate(heads)
    }
    largest["failed"] = max(largest["failed"], MANY_FAILED)
    for row in rows:
        cells = []
        for head, cell in zip(heads, row.cells, strict=True):
            is_told = head != "change" or bool(cell.mark)
            if row.is_all or len(groups) < 2 or head not in HEAT or cell.value is None:
                cells.append(cell)
            else:
                level = abs(cell.value) / largest[head] if largest[head] and is_told else 0.0
                cells.append(replace(cell, is_heat=True, level=level))
        yield replace(row, cells=tuple(cells))
