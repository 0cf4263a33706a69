"""What an audit finds, typed: the content of audit.json and audit.parquet.

The JSON has the same keys and nesting as the classes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa

from pipeline.audits.figures.distribution import Estimate, Real
from pipeline.audits.gates.noise import Noise
from pipeline.runs.records import Record
from pipeline.runs.schema import Status
from pipeline.runs.uris import redact

SCORE = "spips_score"

NOTHING_BEFORE = "nothing to compare with"
"""Why a gate on a change is not judged on the first night, or for a new group."""

Key = tuple[str | None, ...]
"""The key of a group: the values of its columns as text, None for null. The group of all rows has
the key ()."""

Side = Literal["run", "baseline"]
SIDES: tuple[Side, Side] = ("run", "baseline")


class ShareAbove(Estimate):
    """The share of rows whose value is above a threshold, 0 to 1."""

    threshold: float


class Figures(Record):
    """The figures of one column in one group, over the `rows` that are ok and have a value.

    `p5` to `p99` are percentiles. `share_above` has an entry for each threshold, ascending. The
    mean leaves out the infinite values, unless all are infinite.
    """

    of: Side
    group: Key
    column: str
    rows: int
    infinite_rows: int  # psnr_db of identical images is infinite
    references: int  # the draws of the intervals; more than about 4,000 in 4,096 blocks
    mean: Estimate
    p5: Estimate
    median: Estimate
    p95: Estimate
    p99: Estimate
    share_above: tuple[ShareAbove, ...]

    @property
    def by_name(self) -> dict[str, Estimate]:
        """The mean and the quantiles."""
        return {name: getattr(self, name) for name in ("mean", "p5", "median", "p95", "p99")}


class StatusCounts(Record):
    """How many rows of one group have each status; `counts` has every status."""

    of: Side
    group: Key
    rows: int
    failed_fraction: float  # share of the rows that are not ok, 0 to 1
    failed_low: float | None = None  # the ends of its interval; None before version 4
    failed_high: float | None = None
    counts: dict[Status, int]


class Change(Record):
    """How one column of one group changed from the baseline to the run.

    Attributes:
        is_paired: True if `rise` is the mean difference of the pairs in both runs, False if it is
            the difference of the two means.
        pairs_in_both: number of pairs with values in both; `rose`, `fell` and `equal` count those
            whose value rose, fell, or stayed the same.
        rise: by how much the mean rose; negative if it fell. It leaves out the pairs with an
            infinite value in only one run, unless all are such pairs.
        paired_p_value: Student's test of the paired differences, with references as draws; None
            without any spread, or for one reference.
        paired_effect: mean of the paired differences over their standard deviation (Cohen's d).
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
    rank_effect: float


class StreamContribution(Record):
    """What one stream adds to the change of the score in one group: its weight times its rise."""

    group: Key
    stream: str
    rise: float  # of the stream's mean
    weight: float | None  # the stream's fusion weight; None if the model fuses with an MLP
    contribution: float | None


class GateVerdict(Record):
    """Whether one gate holds in one group."""

    rule: str  # the gate in words
    column: str | None  # None for failed_fraction
    figure: str  # its name in the settings, such as p95
    threshold: float | None  # for share_above
    group: Key
    state: Literal["kept", "broken", "not judged"]  # not judged: the reason says what is missing
    reason: str = ""  # for the state, if value and bound alone do not give it
    value: Real | None = None  # what the gate bounds, with its interval; None without values
    low: Real | None = None
    high: Real | None = None
    bound_kind: Literal["at_most", "at_least", "rise_at_most", "fall_at_most"]
    bound: float
    margin: Real | None = None  # from the value to the bound; negative beyond the bound
    noise: Noise | None = None  # what the bound was learned from, for gates of noise


class RunDescription(Record):
    """One of the runs that an audit reads."""

    uri: str  # its folder, without secrets
    run_id: str
    night: str  # its date in the order of runs, YYYY-MM-DD
    started_at: str  # when its first attempt started, UTC, ISO 8601
    finished_at: str  # when its last attempt was published, UTC, ISO 8601
    rows: int
    failed_fraction: float  # share of the rows that are not ok, 0 to 1
    reused_rows: int = 0  # rows with scores of an earlier run
    model_digest: str
    model: str  # name or path of the checkpoint
    is_trained: bool


class TrendPoint(RunDescription):
    """A run with figures of its score over all rows; None if no row has a score."""

    mean: float | None = None
    median: float | None = None
    p95: float | None = None


class Margin(Record):
    """A reference on which a model is better, or worse, than the best of the other models."""

    reference: str  # its URI without secrets, or its value in the reference column
    score: float  # the model's mean spips_score on it
    other: str | None  # the best of the other models
    other_score: float

    @property
    def width(self) -> float:
        """How far apart the two scores are."""
        return abs(self.other_score - self.score)


class Duel(Record):
    """One model against another over the `references` that both have.

    A tie counts as half a win: the win rate is (won + tied / 2) / references, None without any.
    """

    other: str | None
    references: int
    won: int
    tied: int
    lost: int
    win_rate: Estimate | None


class Standing(Record):
    """One model's place on the leaderboard.

    Attributes:
        model: its value in the column `compare_by`; None is null.
        rows: its rows that are ok and have a reference; mean, median and p95 are those of their
            spips_score.
        references: references with such a row.
        strength: by Bradley and Terry, in log odds; None if no chain of shared references connects
            all models. Without an interval, it depends on the prior.
        best_share: share of its references, among those with two models, on which it is the best.
            Models that tie with the best share the reference.
        won_most: where it is ahead of the best other model by most, largest lead first.
        lost_most: where it is behind the best other model by most, largest gap first.
        against: the other models, best first.
    """

    model: str | None
    rows: int
    references: int
    mean: Estimate
    median: float
    p95: float
    strength: Estimate | None
    best_share: Estimate | None
    won_most: tuple[Margin, ...]
    lost_most: tuple[Margin, ...]
    against: tuple[Duel, ...]
    failed_fraction: float | None = None  # of all its rows; None before 0.6.0


class Leaderboard(Record):
    """Several models' pairs of the same references, compared; the best model first.

    Two models tie on a reference if the column `tie_column` of theirs differs by less than
    `smallest_visible_difference`. `references` have at least two models.
    """

    compare_by: str
    reference_column: str
    tie_column: Literal["spips_score", "expected_dmos"]
    smallest_visible_difference: float
    references: int
    standings: tuple[Standing, ...]


class Failure(Record):
    """An example of a row without a score."""

    status: str
    pair_id: str
    error: str


class AuditRecord(Record):
    """All that an audit found, as audit.json holds it.

    In the lists by group, all rows come first.

    Attributes:
        passed: whether every gate is kept; a gate that is not judged is not.
        verdict: one sentence: the worst gate, and how many others are broken or not judged.
        change: how the mean score of all rows changed; "worse" or "better" when the whole
            confidence interval of the rise is above or below 0, "too few pairs" without one.
        notes: lines for people.
        baseline: the runs it is compared with, oldest first.
        group_by: the columns that make groups.
        confidence: level of all intervals, 0.5 to 1.
        gates: worst first, as `pipeline.audits.gates.verdicts.worst_first` orders them.
        statuses: for run and baseline.
        failures: a few examples of each status but ok.
        figures: for run and baseline, by column.
        changes: by column, for groups that have values in both.
        trend: the runs of the baseline, then the run.
        leaderboard: None without `compare_by`, or without scores to compare.
    """

    version: int = 4
    passed: bool
    verdict: str
    change: Literal["worse", "better", "no change seen", "too few pairs", "not compared"]
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
    leaderboard: Leaderboard | None = None

    @property
    def num_broken(self) -> int:
        """Number of broken gates."""
        return sum(gate.state == "broken" for gate in self.gates)

    @property
    def num_without_baseline(self) -> int:
        """Number of gates that are not judged because there is nothing to compare with."""
        return sum(gate.reason == NOTHING_BEFORE for gate in self.gates)

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
        rows = []
        for of, group, column, figure, value in self._numbers():
            keys = group or (None,) * len(self.group_by)
            low = high = None
            if isinstance(value, Estimate):
                low, high, value = value.low, value.high, value.value  # noqa: PLW2901
            rows.append((of, *keys, column, figure, value, low, high))
        texts = ["of", *(f"group_{name}" for name in self.group_by), "column", "figure"]
        types = [(name, pa.string()) for name in texts]
        types += [(name, pa.float64()) for name in ("value", "low", "high")]
        columns = zip(types, zip(*rows, strict=True), strict=True)
        return pa.table({name: pa.array(values, kind) for (name, kind), values in columns})

    def _numbers(self) -> Iterator[tuple[str, Key, str | None, str, Estimate | float | None]]:
        """Yield every number: where it is from, group, column, name, value."""
        for row in self.figures:
            yield row.of, row.group, row.column, "rows", row.rows
            yield row.of, row.group, row.column, "infinite_rows", row.infinite_rows
            for name, value in row.by_name.items():
                yield row.of, row.group, row.column, name, value
            for share in row.share_above:
                yield row.of, row.group, row.column, f"share_above_{share.threshold:g}", share
        for counted in self.statuses:
            yield counted.of, counted.group, None, "failed_fraction", counted.failed_fraction
            for status, count in counted.counts.items():
                yield counted.of, counted.group, None, f"rows_{status}", count
        for change in self.changes:
            for name in (
                "pairs_in_both", "rise", "rank_effect", "paired_effect", "paired_p_value",
            ):  # fmt: skip
                yield "change", change.group, change.column, name, getattr(change, name)


def label_of(group: Sequence[str | None]) -> str:
    """Return a group's name for people; () is the group of all rows."""
    return ", ".join(map(show_value, group)) if group else "all rows"


def show_value(value: str | None) -> str:
    """Return a value of a manifest (None: null) for people: without secrets, and on one line."""
    if value is None:
        return "(null)"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in redact(value))
    return shown or '""'
