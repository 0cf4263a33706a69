"""The conditions of a filtering, and what they do to a run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audits.figures.keys import problems_of_keys, reference_column_of, stream, to_keys
from pipeline.audits.figures.tables import VALUE_COLUMNS, open_database
from pipeline.audits.records import SCORE, Key
from pipeline.filters.config import BoundConfig, FilterScoresConfig
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.records import Record
from pipeline.runs.schema import is_text

REASON = "reject_reason"
NUM_BARS, BAR_LENGTH = 20, 50
HISTOGRAM_QUANTILE = 0.995
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """One condition on a kept row; its name is also the reason why a row is rejected."""

    name: str
    column: str
    is_upper: bool  # the limit is the largest value kept, not the smallest
    limits: dict[Key, float]  # by the key of the group that `within` makes; others break the rule
    within: tuple[str, ...] = ()

    def holds(self, rows: pa.Table) -> Mask:
        """Return which rows keep the rule; a row without a value breaks it."""
        values = rows.column(self.column).to_numpy(zero_copy_only=False)
        keys: list[Key] = [()] * rows.num_rows
        if self.within:
            columns = [to_keys(rows.column(name)).to_pylist() for name in self.within]
            keys = list(zip(*columns, strict=True))
        limits = np.array([self.limits.get(key, np.nan) for key in keys], np.float32)
        kept = values <= limits if self.is_upper else values >= limits
        return np.asarray(kept, np.bool_)


@dataclass(frozen=True)
class BestRule:
    """A kept row is among the best ones of its reference, of those that keep all other rules."""

    name: str
    pair_id_column: str
    ids: pa.Array  # of the best rows

    def holds(self, rows: pa.Table) -> Mask:
        """Return which rows are among the best ones."""
        ids = rows.column(self.pair_id_column).cast(self.ids.type)
        return np.asarray(pc.is_in(ids, value_set=self.ids), np.bool_)


@dataclass(frozen=True)
class Rules:
    """All conditions on a kept row: on its status, on its values, and on its reference's others."""

    statuses: tuple[str, ...]
    rules: tuple[Rule, ...]
    best: BestRule | None = None

    @property
    def names(self) -> list[str]:
        """The conditions in words, that on the status first."""
        names = [f"status is {' or '.join(self.statuses)}", *(rule.name for rule in self.rules)]
        return names if self.best is None else [*names, self.best.name]

    def broken(self, rows: pa.Table) -> Mask:
        """Return which conditions each row breaks, (conditions, rows)."""
        status = np.isin(rows.column("status").to_numpy(zero_copy_only=False), self.statuses)
        # A row that its status rejects breaks no other condition.
        broken = np.stack([~status, *(status & ~rule.holds(rows) for rule in self.rules)])
        if self.best is None:
            return broken
        # Nor is a row that breaks a condition one of those of which the best are kept.
        return np.vstack([broken, ~broken.any(axis=0) & ~self.best.holds(rows)])


class RuleCount(Record):
    """How many rows one condition removes."""

    rule: str
    removes: int
    removes_alone: int  # rows that break no other condition


@dataclass(frozen=True)
class Summary:
    """What the conditions do to a run. The condition on the status is the first of the rules.

    Attributes:
        edges: (bars + 1,) edges of the score's histogram, ascending.
        histogram: (2, bars) numbers of scored rows, kept and rejected.
        kept_ids: ids of the kept rows if they must be read from the manifest; None if the results
            hold all that scoring them again needs.
    """

    rows: int
    kept: int
    rules: tuple[RuleCount, ...]
    edges: NDArray[np.float64]
    histogram: NDArray[np.int64]
    kept_ids: pa.Array | None


def make_rules(config: FilterScoresConfig, run: FinishedRun) -> Rules:
    """Return the conditions, with quantiles turned into values.

    Raises:
        ContractError: a column is missing, has no values, or has a type that cannot group rows.
    """
    counts = Counter[str]()
    for batch in run.scores.to_batches(columns=run.score_columns):
        for name in run.score_columns:
            counts[name] += len(batch) - batch.column(name).null_count
    filled = ", ".join(name for name in VALUE_COLUMNS if counts[name]) or "none"
    problems = []
    if REASON in run.pass_through_columns:
        problems.append(f"scores.uri: expected results without a column {REASON!r}, which the "
                        f"filter adds to rejected rows, got one in {run.uri}")  # fmt: skip
    for number, bound in enumerate(config.bounds):
        place = f"bounds.{number}"
        if not counts[bound.column]:
            problems.append(f"{place}.column: expected one with values, {filled}, "
                            f"got {bound.column!r}: {run.why_empty(bound.column)}")  # fmt: skip
        problems += problems_of_keys(f"{place}.within", run, bound.within)
    best, reference = config.best_per_reference, ""
    if best is not None:
        place = "best_per_reference.reference_column"
        reference, more = reference_column_of(place, run, best.reference_column)
        problems += more
    if problems:
        raise ContractError(*problems)
    rules = Rules(
        config.statuses, tuple(_make_rule(bound, run) for bound in dict.fromkeys(config.bounds))
    )
    if best is None:
        return rules
    return replace(rules, best=_pick_best(rules, run, best.n, reference))


def _make_rule(bound: BoundConfig, run: FinishedRun) -> Rule:
    is_upper = bound.at_most is not None or bound.at_most_quantile is not None
    words = f"{bound.column} {'at most' if is_upper else 'at least'}"
    given = bound.at_most if is_upper else bound.at_least
    if given is not None:
        name = f"{words} {repr(given).removesuffix('.0')}"  # different numbers look different
        return Rule(name, bound.column, is_upper, {(): given})
    q = bound.at_most_quantile if is_upper else bound.at_least_quantile
    limits = _quantiles(run, bound.column, float(q or 0), bound.within)
    if bound.within:
        name = f"{words} the {q:g} quantile of its {', '.join(bound.within)}"
    else:
        name = f"{words} {limits[()]:.6g} (the {q:g} quantile)"
    return Rule(name, bound.column, is_upper, limits, bound.within)


def _quantiles(run: FinishedRun, column: str, q: float, within: Sequence[str]) -> dict[Key, float]:
    """Return a quantile of a column over the ok rows of each group that has values.

    Without columns to group by there is one quantile of all rows, with key ().
    """
    keys = "".join(f", key{i}" for i in range(len(within)))
    with open_database() as connection:
        connection.register("source", stream(run, [column, "status"], within))
        rows = connection.execute(
            f"SELECT quantile_cont(c0::DOUBLE, {float(q)}){keys} FROM source "  # noqa: S608 - ours
            f"WHERE c1 = 'ok' AND c0 IS NOT NULL GROUP BY ALL HAVING count(*) > 0"
        ).fetchall()
    return {tuple(key): float(value) for value, *key in rows}


def _pick_best(rules: Rules, run: FinishedRun, n: int, reference: str) -> BestRule:
    """Return the rule that keeps the best rows of each reference, of those that keep the others.

    Rows without a score or without a reference are not among the best.
    """
    schema = pa.schema([("id", pa.string()), ("score", pa.float32()), ("reference", pa.string())])

    def candidates() -> Iterator[pa.RecordBatch]:
        columns = {"status", SCORE, run.pair_id_column, reference}
        columns |= {name for rule in rules.rules for name in (rule.column, *rule.within)}
        for batch in run.scores.to_batches(columns=sorted(columns)):
            rows = pa.Table.from_batches([batch])
            kept = rows.filter(pa.array(~rules.broken(rows).any(axis=0)))
            values = [kept.column(run.pair_id_column).cast(pa.string()), kept.column(SCORE),
                      to_keys(kept.column(reference))]  # fmt: skip
            yield from pa.table(values, schema=schema).to_batches()

    with open_database() as connection:
        reader = pa.RecordBatchReader.from_batches(schema, candidates())
        connection.register("source", reader)
        ids = connection.execute(
            "SELECT id FROM source WHERE score IS NOT NULL AND reference IS NOT NULL "
            "QUALIFY row_number() OVER (PARTITION BY reference ORDER BY score, id) <= ?",
            [n],
        ).fetchnumpy()["id"]
    which = "the lowest" if n == 1 else f"one of the {n} lowest"
    name = f"{SCORE} is {which} of its {reference}"
    return BestRule(name, run.pair_id_column, pa.array(ids.tolist(), pa.string()))


def summarise(rules: Rules, run: FinishedRun) -> Summary:
    """Return what the rules do to a run. This reads the results once."""
    top = _quantiles(run, SCORE, HISTOGRAM_QUANTILE, ()).get((), 0.0) or 1.0
    edges = np.linspace(0, top, NUM_BARS + 1)
    histogram = np.zeros((2, NUM_BARS), np.int64)
    num_rows = num_kept = 0
    removes, removes_alone = np.zeros((2, len(rules.names)), np.int64)
    kept_ids: list[pa.Array] = []
    schema = run.scores.schema
    uri_columns = [name for name in run.image_columns or () if is_text(schema.field(name).type)]
    must_read_manifest = run.image_columns is None
    columns = {"status", SCORE, run.pair_id_column, *uri_columns}
    columns |= {name for rule in rules.rules for name in (rule.column, *rule.within)}
    for batch in run.scores.to_batches(columns=sorted(columns)):
        rows = pa.Table.from_batches([batch])
        broken = rules.broken(rows)
        kept = ~broken.any(axis=0)
        num_rows += rows.num_rows
        num_kept += int(kept.sum())
        removes += broken.sum(axis=1)
        removes_alone += (broken & (broken.sum(axis=0) == 1)).sum(axis=1)
        scores = rows.column(SCORE).to_numpy(zero_copy_only=False)
        for row, chosen in enumerate((kept, ~kept)):
            values = np.clip(scores[chosen & np.isfinite(scores)], 0, top)
            histogram[row] += np.histogram(values, edges)[0]
        kept_rows = rows.filter(pa.array(kept))
        kept_ids.append(kept_rows.column(run.pair_id_column).combine_chunks())
        # The results hold a signed URI without its signature, which fetching needs.
        for name in uri_columns:
            signed = pc.match_substring(kept_rows.column(name), "***")
            must_read_manifest |= bool(pc.any(signed).as_py())
    counts = tuple(
        RuleCount(rule=name, removes=int(all_), removes_alone=int(alone))
        for name, all_, alone in zip(rules.names, removes, removes_alone, strict=True)
    )
    ids = pa.concat_arrays(kept_ids) if must_read_manifest and kept_ids else None
    return Summary(num_rows, num_kept, counts, edges, histogram, ids)


def describe_summary(summary: Summary) -> str:
    """Return what the rules do and a histogram of the scores, as lines for people."""
    lines = [f"{'rows':<50} {summary.rows:>12}"]
    lines += [
        f"{'not: ' + rule.rule:<50} {rule.removes:>12}  {rule.removes_alone} for this reason alone"
        for rule in summary.rules
    ]
    share = summary.kept / max(summary.rows, 1)
    lines += [
        f"{'kept':<50} {summary.kept:>12}  {share:.2%}",
        f"{'rejected':<50} {summary.rows - summary.kept:>12}",
    ]
    most = summary.histogram.sum(axis=0).max()
    if most:
        lines.append(
            "\nspips_score of scored rows: # kept, . rejected (the last bar has all higher scores)"
        )
        for start, (kept, rejected) in zip(summary.edges, summary.histogram.T, strict=False):
            bars = [int(np.ceil(BAR_LENGTH * count / most)) for count in (kept, rejected)]
            lines.append(f"{start:>9.4f} {'#' * bars[0]}{'.' * bars[1]} {kept + rejected}")
    return "\n".join(lines)
