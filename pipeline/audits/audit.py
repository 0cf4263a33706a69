"""Compute a run's figures, compare them with a baseline, and judge the gates."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.audits.baseline import describe_run
from pipeline.audits.config import AuditScoresConfig, ReportConfig
from pipeline.audits.figures.distribution import (
    Distribution,
    Estimate,
    Floats,
    cliffs_delta,
    interval_of,
    share_interval,
)
from pipeline.audits.figures.nights import QUANTILES
from pipeline.audits.figures.spread import Spread, warn_of_few
from pipeline.audits.figures.statuses import count_statuses
from pipeline.audits.figures.tables import Differences, ScoreTables, Values
from pipeline.audits.gates.noise_gates import note_two_states, read_history
from pipeline.audits.gates.verdicts import check_columns, judge, state_verdict, worst_first
from pipeline.audits.leaderboard import make_leaderboard
from pipeline.audits.page.sheets import PickedPair, pick_sheets, read_rows
from pipeline.audits.records import (
    SCORE,
    SIDES,
    AuditRecord,
    Change,
    Failure,
    Figures,
    Key,
    ShareAbove,
    Side,
    StreamContribution,
    TrendPoint,
    label_of,
    show_value,
)
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status

PAIRED_SHARE = 0.5
"""Pairs in both runs are compared one by one if they are at least this share of the run's ok rows.
Otherwise the two means are compared, as those of different samples."""
NUM_FAILURES = 3
"""Examples of each status."""


@dataclass(frozen=True)
class Sample:
    """One column's values in one group of the run or of the baseline."""

    figures: Figures
    distribution: Distribution
    mean_draws: NDArray[np.float64]  # (bootstrap_samples,) means of bootstrap draws


Samples = dict[tuple[Side, Key, str], Sample]
"""Samples by side, group and column."""


@dataclass(frozen=True)
class Audit:
    """What an audit found: the content of audit.json and what the page shows besides."""

    record: AuditRecord
    distributions: dict[tuple[Side, Key], Distribution]  # of the score
    sheets: dict[str, list[PickedPair]]  # the pairs of each contact sheet, by its title


def audit(
    config: AuditScoresConfig, tables: ScoreTables, run: FinishedRun,
    baseline: Sequence[FinishedRun], notes: Sequence[str] = (),
    nights: Sequence[FinishedRun] = (),
) -> Audit:  # fmt: skip
    """Compute every figure, compare with the baseline, and judge the gates. Add to the notes.

    The nights are the good ones before this run, oldest first, from which gates learn the noise.

    Raises:
        ContractError: a gate names a column in which the run has no values, though rows are ok; or
            the models that `compare_by` names cannot be compared.
    """
    leaderboard, more_notes = make_leaderboard(config, tables, run)
    level = config.report.confidence
    statuses = [row for side in SIDES for row in count_statuses(tables, side, level)]
    if statuses[0].counts[Status.OK]:  # Otherwise no column has values, and the report says so.
        check_columns(config.gates, tables.columns, run)
    samples = _measure(config, tables)
    figures = [sample.figures for sample in samples.values()]
    changes = list(_compare(config.report, tables, samples)) if baseline else []
    history, of_nights = read_history(config, tables, nights, statuses[0].rows)
    gates = worst_first(judge(config, figures, changes, statuses, history))
    of_score = samples.get(("run", (), SCORE))
    few = warn_of_few(of_score.figures.references) if of_score else []
    vanished = {row.group for row in statuses if row.of == "baseline"}
    vanished -= {row.group for row in statuses if row.of == "run"}
    record = AuditRecord(
        passed=all(gate.state == "kept" for gate in gates), change=_name_change(changes),
        verdict=state_verdict(gates, statuses[0]),
        notes=[*notes, *more_notes, *few, *of_nights, *note_two_states(gates),
               *(f"group {label_of(group)} is in the baseline but not in this run"
                         for group in tables.groups if group in vanished)],
        run=describe_run(run), baseline=[describe_run(one) for one in baseline],
        group_by=tables.group_by, confidence=level,
        gates=gates, statuses=statuses, failures=list(_pick_failures(tables, run)),
        figures=figures, changes=changes, streams=list(_contributions(run, changes)),
        trend=list(_trend(tables, run, baseline, samples)), leaderboard=leaderboard,
    )  # fmt: skip
    distributions = {
        (side, group): sample.distribution
        for (side, group, column), sample in samples.items()
        if column == SCORE
    }
    return Audit(record, distributions, pick_sheets(config, tables, gates, run, baseline))


def _measure(config: AuditScoresConfig, tables: ScoreTables) -> Samples:
    """Compute the figures of each column and group, for run and baseline."""
    generator = np.random.default_rng(config.report.seed)
    samples = {}
    for side, column in product(SIDES, tables.columns):
        thresholds = config.thresholds_of(column)
        described = tables.describe(side, column, thresholds)
        # Values are float32, so a threshold is, too.
        limits = [float(np.float32(threshold)) for threshold in thresholds]
        spreads = tables.spreads(
            side, column, {group: [*one.quantiles, *limits] for group, one in described.items()}
        )
        distributions = tables.distributions(side, column)
        for group, values in described.items():
            distribution, spread = distributions[group], spreads[group]
            draws = distribution.mean_draws(config.report.bootstrap_samples, generator)
            draws = spread.widen(draws, values.mean, config.report.confidence)
            figures = _estimate(
                values, distribution, spread, draws, thresholds, config.report.confidence
            )
            samples[side, group, column] = Sample(
                Figures(of=side, group=group, column=column, **figures), distribution, draws
            )
    return samples


def _estimate(
    values: Values, distribution: Distribution, spread: Spread, draws: Floats,
    thresholds: Sequence[float], confidence: float,
) -> dict[str, Any]:  # fmt: skip
    """Return a sample's figures with their intervals, as `Figures` names them."""
    rows, num_finite = values.rows, distribution.num_finite
    num_draws = spread.num_draws(rows)
    effective = iter(spread.effective_rows(rows, confidence))
    quantiles = {
        name: Estimate.of(
            value, distribution.quantile_interval(q, confidence, next(effective)), num_draws
        )
        for (name, q), value in zip(QUANTILES.items(), values.quantiles, strict=True)
    }
    shares = [
        ShareAbove.of(
            count / rows, share_interval(count / rows, next(effective), confidence), num_draws,
            threshold=threshold,
        )
        for threshold, count in zip(thresholds, values.above, strict=True)
    ]  # fmt: skip
    mean = Estimate.of(
        values.mean, interval_of(draws, confidence), spread.num_draws(num_finite or rows)
    )
    return quantiles | {
        "rows": rows, "infinite_rows": rows - num_finite, "references": spread.references,
        "mean": mean, "share_above": shares,
    }  # fmt: skip


def _compare(report: ReportConfig, tables: ScoreTables, samples: Samples) -> Iterator[Change]:
    """Yield the change of each column in each group that has values in run and baseline."""
    generator = np.random.default_rng(report.seed)
    for column in tables.columns:
        differences = tables.describe_differences(column)
        distributions = tables.distributions("paired", column)
        spreads = tables.spreads("paired", column, dict.fromkeys(differences, ()))
        for group in tables.groups:
            now, before = (samples.get((side, group, column)) for side in SIDES)
            if now is None or before is None:
                continue
            paired = differences.get(group, Differences())
            is_paired = paired.pairs >= PAIRED_SHARE * now.figures.rows
            if is_paired and math.isnan(paired.mean):  # infinite rises and falls, nothing finite
                continue
            num_finite = distributions[group].num_finite if paired.pairs else 0
            if is_paired:
                rise = paired.mean
                draws = distributions[group].mean_draws(report.bootstrap_samples, generator)
                draws = spreads[group].widen(draws, rise, report.confidence)
                num_rows = spreads[group].num_draws(num_finite or paired.pairs)
            else:
                means = (np.array(one.figures.mean.value) for one in (now, before))
                rise = float(_subtract(*means))
                draws = _subtract(now.mean_draws, before.mean_draws)
                both = (now.figures, before.figures)
                has_draws = min(one.references for one in both) > 1
                num_rows = min(one.rows for one in both) if has_draws else 0
            p_value, effect = _paired_test(paired, num_finite, spreads.get(group))
            yield Change(
                group=group, column=column, is_paired=is_paired, pairs_in_both=paired.pairs,
                rose=paired.rose, fell=paired.fell, equal=paired.equal,
                rise=Estimate.of(rise, interval_of(draws, report.confidence), num_rows),
                paired_p_value=p_value, paired_effect=effect,
                rank_effect=cliffs_delta(now.distribution, before.distribution),
            )  # fmt: skip


def _subtract(now: Floats, before: Floats) -> Floats:
    """Return now - before; two infinite means do not differ."""
    with np.errstate(invalid="ignore"):
        return np.where(now == before, 0.0, now - before)


def _paired_test(
    differences: Differences, num_pairs: int, spread: Spread | None
) -> tuple[float | None, float | None]:
    """Return the p-value of the mean difference, with references as draws, and Cohen's d."""
    deviation = differences.standard_deviation
    if not deviation:
        return None, None
    effect = differences.mean / deviation
    if spread is None or spread.references < 2 or not spread.mean:
        return None, effect
    statistic = abs(effect) * (num_pairs / spread.mean) ** 0.5
    return float(2 * stats.t.sf(statistic, spread.references - 1)), effect


def _name_change(changes: Sequence[Change]) -> str:
    """Return the change of the score over all rows in words."""
    overall = next((row for row in changes if not row.group and row.column == SCORE), None)
    if overall is None:
        return "not compared"
    if overall.rise.low is None or overall.rise.high is None:
        return "too few pairs"
    if overall.rise.low > 0:
        return "worse"
    return "better" if overall.rise.high < 0 else "no change seen"


def _contributions(run: FinishedRun, changes: Sequence[Change]) -> Iterator[StreamContribution]:
    """Yield what each stream adds to the change of the score, in each group.

    By Eq. (12), a stream's weight times its rise is exactly its part of the score's rise. An MLP
    has no such parts, so there the contributions are None.
    """
    model = run.record.model
    weights = model.fusion_weights or {}
    for change in changes:
        stream = change.column.removesuffix("_score")
        if stream in model.config["streams"]:
            rise, weight = change.rise.value, weights.get(stream)
            yield StreamContribution(
                group=change.group, stream=stream, rise=rise, weight=weight,
                contribution=None if weight is None else weight * rise,
            )  # fmt: skip


def _trend(
    tables: ScoreTables, run: FinishedRun, baseline: Sequence[FinishedRun], samples: Samples
) -> Iterator[TrendPoint]:
    """Yield the scores of each run, oldest first."""
    earlier = tables.describe_baseline_runs()
    for number, one in enumerate(baseline):
        yield TrendPoint(**dict(describe_run(one)), **earlier.get(number, {}))
    now = samples.get(("run", (), SCORE))
    figures = {} if now is None else now.figures.by_name
    latest = {name: figures[name].value for name in ("mean", "median", "p95") if figures}
    yield TrendPoint(**dict(describe_run(run)), **latest)


def _pick_failures(tables: ScoreTables, run: FinishedRun) -> Iterator[Failure]:
    """Yield examples of rows without a score, by status."""
    picked = tables.pick_failures(NUM_FAILURES)
    rows = read_rows(run, ["error"], (), [pair_id for _, pair_id in picked])
    for status, pair_id in picked:
        yield Failure(status=status, pair_id=show_value(pair_id), error=rows[pair_id]["error"])
