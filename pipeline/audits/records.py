"""What an audit finds, typed: the content of audit.json and audit.parquet.

The JSON has the same keys and nesting as the classes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa

from pipeline.runs.records import Record
from pipeline.runs.schema import Status
from pipeline.runs.uris import redact

SCORE = "spips_score"

Key = tuple[str | None, ...]
"""What makes a group: the values of the `group_by` columns as text, None for null. The group of all
rows has the key ()."""
Side = Literal["run", "baseline"]
SIDES: tuple[Side, Side] = ("run", "baseline")


class Estimate(Record):
    """A figure and its confidence interval.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


class ShareAbove(Estimate):
    """The share of rows whose value is above a threshold, 0 to 1.

    Attributes:
        threshold: the threshold.
    """

    threshold: float


class Figures(Record):
    """The figures of one column in one group.

    Attributes:
        of: where the rows are from.
        group: the group.
        column: the score column.
        rows: number of rows that are ok and have a finite value; the figures are over these.
        mean: mean of the values.
        p5: 5th percentile.
        median: 50th percentile.
        p95: 95th percentile.
        p99: 99th percentile.
        share_above: one entry for each threshold of the column, ascending.
    """

    of: Side
    group: Key
    column: str
    rows: int
    mean: Estimate
    p5: Estimate
    median: Estimate
    p95: Estimate
    p99: Estimate
    share_above: tuple[ShareAbove, ...]

    @property
    def by_name(self) -> dict[str, Estimate]:
        """The mean and the quantiles."""
        return {
            "mean": self.mean, "p5": self.p5, "median": self.median, "p95": self.p95,
            "p99": self.p99,
        }  # fmt: skip


class StatusCounts(Record):
    """How many rows of one group have each status.

    Attributes:
        of: where the rows are from.
        group: the group.
        rows: number of all rows.
        failed_fraction: share of the rows that are not ok, 0 to 1.
        counts: number of rows by status; every status is there.
    """

    of: Side
    group: Key
    rows: int
    failed_fraction: float
    counts: dict[Status, int]


class Change(Record):
    """How one column of one group changed from the baseline to the run.

    Attributes:
        group: the group.
        column: the score column.
        is_paired: True if `rise` is the mean difference of the pairs in both runs, False if it is
            the difference of the two means.
        pairs_in_both: number of pairs with finite values in both.
        rose: number of these pairs whose value rose.
        fell: number of these pairs whose value fell.
        equal: number of these pairs whose value stayed the same.
        rise: by how much the mean rose; negative if it fell.
        paired_p_value: Student's test of the paired differences; None without any spread.
        paired_effect: mean of the paired differences over their standard deviation (Cohen's d).
        rank_p_value: Mann-Whitney test of all rows; None if all values are equal.
        rank_effect: Cliff's delta of all rows, -1 to 1; above 0, the run's values are larger.
    """

    group: Key
    column: str
    is_paired: bool
    pairs_in_both: int
    rose: int
    fell: int
    equal: int
    rise: Estimate
    paired_p_value: float | None
    paired_effect: float | None
    rank_p_value: float | None
    rank_effect: float


class StreamContribution(Record):
    """What one stream adds to the change of the score in one group.

    Attributes:
        group: the group.
        stream: tradition, percept or semantic.
        rise: by how much the stream's mean rose.
        weight: the stream's fusion weight; None if the model fuses with an MLP.
        contribution: weight times rise; None without a weight.
    """

    group: Key
    stream: str
    rise: float
    weight: float | None
    contribution: float | None


class GateVerdict(Record):
    """Whether one gate holds in one group.

    Attributes:
        rule: the gate in words.
        group: the group.
        state: kept; broken; or not judged, when there is no baseline to compare with.
        reason: why there is no figure, or "".
        figure: what the gate bounds; None if no row has a value.
        low: lower end of the figure's interval.
        high: upper end of the figure's interval.
        bound: the gate's bound.
        margin: distance of the figure to the bound; negative if it is beyond the bound.
    """

    rule: str
    group: Key
    state: Literal["kept", "broken", "not judged"]
    reason: str = ""
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    bound: float
    margin: float | None = None


class RunDescription(Record):
    """One of the runs that an audit reads.

    Attributes:
        uri: its folder, without secrets.
        run_id: its name.
        finished_at: when it was published, UTC, ISO 8601.
        rows: number of all rows.
        failed_fraction: share of the rows that are not ok, 0 to 1.
        model_digest: digest of the model that scored it.
        model: name or path of the model's checkpoint.
        is_trained: whether the model was trained.
    """

    uri: str
    run_id: str
    finished_at: str
    rows: int
    failed_fraction: float
    model_digest: str
    model: str
    is_trained: bool


class TrendPoint(RunDescription):
    """A run with its scores over all rows.

    Attributes:
        mean: mean score; None if no row has one, as all of these.
        median: 50th percentile of the score.
        p95: 95th percentile of the score.
    """

    mean: float | None = None
    median: float | None = None
    p95: float | None = None


class Failure(Record):
    """An example of a row without a score.

    Attributes:
        status: the row's status.
        pair_id: the pair.
        error: the row's error.
    """

    status: str
    pair_id: str
    error: str


class AuditRecord(Record):
    """All that an audit found, as audit.json holds it.

    Attributes:
        version: version of this record.
        passed: whether no gate is broken.
        change: how the mean score of all rows changed; "worse" or "better" when the whole
            confidence interval of the rise is above or below 0.
        notes: lines for people.
        run: the run.
        baseline: the runs it is compared with, oldest first.
        group_by: the columns that make groups.
        confidence: level of all intervals, 0.5 to 1.
        gates: verdict of each gate in each group that it applies to.
        statuses: rows by status, for run and baseline, all rows first, then each group.
        failures: a few examples of each status but ok.
        figures: for run and baseline, by column, all rows first, then each group.
        changes: by column, all rows first, then each group that has values in both.
        streams: contributions to the score's change.
        trend: the runs of the baseline, then the run.
    """

    version: int = 1
    passed: bool
    change: Literal["worse", "better", "no change seen", "not compared"]
    notes: tuple[str, ...]
    run: RunDescription
    baseline: tuple[RunDescription, ...]
    group_by: tuple[str, ...]
    confidence: float
    gates: tuple[GateVerdict, ...]
    statuses: tuple[StatusCounts, ...]
    failures: tuple[Failure, ...]
    figures: tuple[Figures, ...]
    changes: tuple[Change, ...]
    streams: tuple[StreamContribution, ...]
    trend: tuple[TrendPoint, ...]

    @property
    def num_broken(self) -> int:
        """Number of broken gates."""
        return sum(gate.state == "broken" for gate in self.gates)

    def to_json(self) -> bytes:
        """Return the content of audit.json."""
        content = self.model_dump(mode="json")
        return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()

    def to_table(self) -> pa.Table:
        """Return the content of audit.parquet, one row a figure.

        Returns:
            Columns: of (run, baseline or change); group_<name> for each column of `group_by`, null
            for all rows; column, figure, value, low, high.
        """
        sides, groups, columns, names, values = zip(*self._numbers(), strict=True)
        lows = [value.low if isinstance(value, Estimate) else None for value in values]
        highs = [value.high if isinstance(value, Estimate) else None for value in values]
        texts = {"of": sides}
        for i, name in enumerate(self.group_by):
            texts[f"group_{name}"] = tuple(group[i] if group else None for group in groups)
        texts |= {"column": columns, "figure": names}
        figures = [value.value if isinstance(value, Estimate) else value for value in values]
        floats = {"value": figures, "low": lows, "high": highs}
        return pa.table(
            {name: pa.array(content, pa.string()) for name, content in texts.items()}
            | {name: pa.array(content, pa.float64()) for name, content in floats.items()}
        )

    def _numbers(self) -> Iterator[tuple[str, Key, str | None, str, Estimate | float | None]]:
        """Yield every number: where it is from, group, column, name, value."""
        for row in self.figures:
            yield row.of, row.group, row.column, "rows", row.rows
            for name, value in row.by_name.items():
                yield row.of, row.group, row.column, name, value
            for share in row.share_above:
                yield row.of, row.group, row.column, f"share_above_{share.threshold:g}", share
        for counted in self.statuses:
            yield counted.of, counted.group, None, "failed_fraction", counted.failed_fraction
            for status, count in counted.counts.items():
                yield counted.of, counted.group, None, f"rows_{status}", count
        for change in self.changes:
            for name in ("pairs_in_both", "rise", "rank_effect", "rank_p_value", "paired_effect",
                         "paired_p_value"):  # fmt: skip
                yield "change", change.group, change.column, name, getattr(change, name)


def label_of(group: Sequence[str | None]) -> str:
    """Return a group's name for people.

    Args:
        group: the group's key; () is the group of all rows.
    """
    return ", ".join(map(show_value, group)) if group else "all rows"


def show_value(value: str | None) -> str:
    """Return a value of a manifest for people: without secrets, and on one line.

    Args:
        value: the text; None for null.
    """
    if value is None:
        return "(null)"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in redact(value))
    return shown or '""'
