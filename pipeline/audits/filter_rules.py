"""What a filtering keeps: its conditions, and what they do to a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audits.config import BoundConfig, FilterScoresConfig
from pipeline.audits.tables import count_values, key_of, quantiles
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import is_text

NUM_BARS, BAR_LENGTH = 20, 50
HISTOGRAM_QUANTILE = 0.995
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """One condition that a kept row fulfils.

    Attributes:
        name: for people, and the reason of rows that break it.
        column: of the value.
        is_upper: the limit is the largest value kept, else the smallest.
        limits: by the values of `within`, the limit; a row with others breaks the rule.
        within: the columns that choose the limit.
    """

    name: str
    column: str
    is_upper: bool
    limits: dict[tuple[Any, ...], float]
    within: tuple[str, ...]

    def holds(self, rows: pa.Table) -> Mask:
        """Return which rows keep it; a row without a value does not."""
        values = rows.column(self.column).to_numpy(zero_copy_only=False)
        keys = _keys(rows, self.within) if self.within else [()] * rows.num_rows
        limits = np.array([self.limits.get(key, np.nan) for key in keys], np.float32)
        kept = values <= limits if self.is_upper else values >= limits
        return np.asarray(kept, np.bool_)


def _keys(rows: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    values = [rows.column(name).to_pylist() for name in columns]
    return [key_of(row) for row in zip(*values, strict=True)]


@dataclass(frozen=True)
class Rules:
    """All conditions that a kept row fulfils.

    Attributes:
        statuses: that are kept.
        rules: conditions on values.
    """

    statuses: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def names(self) -> list[str]:
        """Names of the conditions, the status first."""
        return [f"status is {' or '.join(self.statuses)}", *(rule.name for rule in self.rules)]

    def broken(self, rows: pa.Table) -> Mask:
        """Return which conditions each row breaks, (conditions, rows)."""
        status = np.isin(rows.column("status").to_numpy(zero_copy_only=False), self.statuses)
        # Where the status is enough to reject a row, its values, if any, are not judged.
        return np.stack([~status, *(status & ~rule.holds(rows) for rule in self.rules)])


@dataclass
class Summary:
    """How many rows each condition removes.

    Attributes:
        rows: number of all rows.
        kept: number of rows that keep every condition.
        breaks: by condition, number of rows that break it.
        breaks_only: by condition, number of rows that break it and no other.
        edges: of the histogram of the score, ascending.
        histogram: (2, bars), scored rows kept and rejected.
        kept_ids: of kept rows, when the manifest has to be read again for them.
    """

    rows: int
    kept: int
    breaks: dict[str, int]
    breaks_only: dict[str, int]
    edges: NDArray[np.float64]
    histogram: NDArray[np.int64]
    kept_ids: list[pa.Array] = field(default_factory=list)
    must_read_manifest: bool = False


def make_rules(config: FilterScoresConfig, run: FinishedRun) -> Rules:
    """Return the conditions, quantiles turned into values.

    Args:
        config: the job's.
        run: the run.

    Raises:
        ContractError: a column is missing or has no values.
    """
    counts = count_values(run)
    problems = []
    for number, bound in enumerate(config.bounds):
        if not counts[bound.column]:
            filled = ", ".join(name for name, count in counts.items() if count) or "none"
            problems.append(
                f"bounds.{number}.column: expected one with values, {filled}, got {bound.column!r}"
            )
        problems += [
            f"bounds.{number}.within: expected columns among "
            f"{', '.join(run.pass_through_columns)}, got {name!r}"
            for name in bound.within
            if name not in run.pass_through_columns
        ]
        problems += [
            f"bounds.{number}.within: expected texts, numbers, flags or times in column {name!r}, "
            f"got {run.scores.schema.field(name).type}"
            for name in bound.within
            if name in run.pass_through_columns
            and pa.types.is_nested(run.scores.schema.field(name).type)
        ]
    if problems:
        raise ContractError(*problems)
    rules = tuple(_make_rule(bound, run) for bound in dict.fromkeys(config.bounds))
    return Rules(tuple(status.value for status in config.statuses), rules)


def _make_rule(bound: BoundConfig, run: FinishedRun) -> Rule:
    is_upper = bound.at_most is not None or bound.at_most_quantile is not None
    words = f"{bound.column} {'at most' if is_upper else 'at least'}"
    given = bound.at_most if is_upper else bound.at_least
    if given is not None:
        return Rule(f"{words} {_told(given)}", bound.column, is_upper, {(): given}, ())
    q = bound.at_most_quantile if is_upper else bound.at_least_quantile
    limits = quantiles(run, bound.column, float(q or 0), bound.within)
    if bound.within:
        name = f"{words} the {q:g} quantile of its {', '.join(bound.within)}"
    else:
        name = f"{words} {limits[()]:.6g} (the {q:g} quantile)"
    return Rule(name, bound.column, is_upper, limits, bound.within)


def _told(value: float) -> str:
    """Return a number so that different ones look different."""
    return repr(value).removesuffix(".0")


def summarise(rules: Rules, run: FinishedRun) -> Summary:
    """Return what the rules would do, reading the results once.

    Args:
        rules: the conditions.
        run: the run.
    """
    scored = quantiles(run, "spips_score", HISTOGRAM_QUANTILE, ())
    top = scored.get((), 0.0) or 1.0
    names = rules.names
    zeros = dict.fromkeys(names, 0)
    edges = np.linspace(0, top, NUM_BARS + 1)
    summary = Summary(0, 0, {**zeros}, {**zeros}, edges, np.zeros((2, NUM_BARS), np.int64))
    text_uris = [
        name for name in run.image_columns or () if is_text(run.scores.schema.field(name).type)
    ]
    summary.must_read_manifest = run.image_columns is None
    columns = {"status", "spips_score", run.pair_id_column, *text_uris}
    columns |= {name for rule in rules.rules for name in (rule.column, *rule.within)}
    for batch in run.scores.to_batches(columns=sorted(columns)):
        rows = pa.Table.from_batches([batch])
        broken = rules.broken(rows)
        kept = ~broken.any(axis=0)
        only = broken & (broken.sum(axis=0) == 1)
        summary.rows += rows.num_rows
        summary.kept += int(kept.sum())
        for name, all_, alone in zip(names, broken.sum(axis=1), only.sum(axis=1), strict=True):
            summary.breaks[name] += int(all_)
            summary.breaks_only[name] += int(alone)
        scores = rows.column("spips_score").to_numpy(zero_copy_only=False)
        for row, chosen in enumerate((kept, ~kept)):
            values = np.clip(scores[chosen & np.isfinite(scores)], 0, top)
            summary.histogram[row] += np.histogram(values, edges)[0]
        kept_rows = rows.filter(pa.array(kept))
        summary.kept_ids.append(kept_rows.column(run.pair_id_column).combine_chunks())
        # A signed URI is shown without its signature, with which alone it can be fetched.
        summary.must_read_manifest |= any(
            pc.any(pc.match_substring(kept_rows.column(name), "***")).as_py() for name in text_uris
        )
    if not summary.must_read_manifest:
        summary.kept_ids.clear()
    return summary


def describe_summary(summary: Summary) -> str:
    """Return what the rules do, with a histogram of the scores, as lines for people.

    Args:
        summary: as `summarise` tells.
    """
    lines = [f"{'rows':<50} {summary.rows:>12}"]
    for name, count in summary.breaks.items():
        alone = summary.breaks_only[name]
        lines.append(f"{'not: ' + name:<50} {count:>12}  {alone} of them for this alone")
    share = summary.kept / max(summary.rows, 1)
    lines += [
        f"{'kept':<50} {summary.kept:>12}  {share:.2%}",
        f"{'rejected':<50} {summary.rows - summary.kept:>12}",
    ]
    most = summary.histogram.sum(axis=0).max()
    if most:
        lines.append(
            "\nspips_score of scored rows: # kept, . rejected (the longest tail in the last)"
        )
        for start, (kept, rejected) in zip(summary.edges, summary.histogram.T, strict=False):
            bars = [int(np.ceil(BAR_LENGTH * count / most)) for count in (kept, rejected)]
            lines.append(f"{start:>9.4f} {'#' * bars[0]}{'.' * bars[1]} {kept + rejected}")
    return "\n".join(lines)
