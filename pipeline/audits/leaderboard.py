"""A leaderboard: several models' pairs of the same references, compared reference by reference.

Pairs of one reference depend on each other, so references are the draws of the bootstrap. Memory
does not grow with their number: what happened on them is added up in blocks.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.sparse.csgraph import connected_components

from pipeline.audits.config import AuditScoresConfig, ReportConfig
from pipeline.audits.figures.candidates import Candidates, ModelRows
from pipeline.audits.figures.distribution import Estimate, Floats, estimate, estimate_share
from pipeline.audits.figures.keys import problems_of_keys, reference_column_of
from pipeline.audits.figures.tables import ScoreTables
from pipeline.audits.records import Duel, Leaderboard, Margin, Standing, show_value
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status
from pipeline.runs.summary import counted
from spips_core import DmosScale

NUM_BLOCKS = 1000
"""Up to this many references, each is a block of its own and the bootstrap is the ordinary one. The
spread of a thousand random blocks is that of the references to within 2 %."""
VISIBLE_DMOS = 5.0
"""The smallest visible difference of expected_dmos; docs/audit.md says where it comes from."""
PRIOR_TIES = 1.0
"""Ties added between two models that meet, so that one that always wins has a strength."""
NUM_MARGINS = 3

References = tuple[Sequence[str], Floats, Floats]
"""What `Candidates.stream_references` yields: names, and (references, models) counts and sums."""


@dataclass(frozen=True)
class TieRule:
    """Two models tie on a reference if their ratings differ by less than `difference`."""

    difference: float
    scale: DmosScale | None = None  # makes ratings of scores; None: the scores are the ratings

    @classmethod
    def of(cls, smallest_visible_difference: float | None, run: FinishedRun) -> Self:
        """Return the rule of the setting; for None, that of the run's scale of expected_dmos."""
        scale = run.record.model.dmos_scale
        if smallest_visible_difference is not None or scale is None:
            return cls(smallest_visible_difference or 0.0)
        return cls(VISIBLE_DMOS, DmosScale(**scale))  # type: ignore[arg-type]  # JSON's numbers

    def rate(self, scores: Floats) -> Floats:
        """Return the ratings of scores; lower is better."""
        if self.scale is None:
            return scores
        return np.asarray(self.scale.expected_dmos(torch.from_numpy(scores)).numpy(), np.float64)

    def ties(self, gaps: Floats) -> NDArray[np.bool_]:
        """Return which differences between ratings are ties."""
        return np.asarray((np.abs(gaps) < self.difference) | (gaps == 0), np.bool_)


class Outcomes(NamedTuple):
    """What happened on N references, in N blocks of references, or in N draws of blocks.

    Attributes:
        rows: (N, M) number of scores of each model.
        totals: (N, M) their sum.
        references: (N, M) number of references with such a score.
        met: (N, M) number of these that another model has, too.
        best: (N, M) of these, the model's share in being the best: models that tie share equally.
        won: (N, M, M) references on which the first model is better than the second.
        tied: (N, M, M) references on which the two tie; 0 for a model and itself.
    """

    rows: Floats
    totals: Floats
    references: Floats
    met: Floats
    best: Floats
    won: Floats
    tied: Floats

    def weighted(self, weights: Floats) -> "Outcomes":
        """Return the sums of the entries with weights, (draws, N)."""
        return Outcomes(*(np.tensordot(weights, values, 1) for values in self))

    @property
    def wins(self) -> Floats:
        """(N, M, M) wins of the first model over the second; a tie is half a win for both."""
        return self.won + self.tied / 2

    def between(self, m: int, n: int) -> tuple[Floats, Floats]:
        """Return (N,) wins of model m over n, and the number of references that both have."""
        won, lost, tied = self.won[:, m, n], self.won[:, n, m], self.tied[:, m, n]
        return won + tied / 2, won + lost + tied


def compare(counts: Floats, sums: Floats, rule: TieRule) -> tuple[Floats, Outcomes]:
    """Return the models' mean scores on each reference, NaN without any, and what happened there.

    Args:
        counts: (references, models) number of scores.
        sums: (references, models) sum of these scores.
        rule: decides ties.
    """
    has = counts > 0
    scores = np.where(has, sums, np.nan) / np.maximum(counts, 1)
    ratings = rule.rate(scores)
    gaps = ratings[:, None, :] - ratings[:, :, None]  # above 0 where the first model is better
    tied = rule.ties(gaps) & ~np.eye(counts.shape[1], dtype=np.bool_)
    met = has & (has.sum(axis=1, keepdims=True) > 1)
    lowest = np.where(has, ratings, np.inf).min(axis=1, keepdims=True)
    best = met & rule.ties(ratings - lowest)
    shares = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    found = (counts, np.where(has, sums, 0), has, met, shares, (gaps > 0) & ~tied, tied)
    return scores, Outcomes(*(np.asarray(values, np.float64) for values in found))


class Extremes:
    """The references on which each model is ahead of, or behind, the best other one by most."""

    def __init__(self, models: Sequence[str | None]) -> None:
        """Begin without references."""
        self._models = models
        self.won_most: list[list[Margin]] = [[] for _ in models]
        self.lost_most: list[list[Margin]] = [[] for _ in models]

    def add(self, names: Sequence[str], scores: Floats) -> None:
        """Look at the models' mean scores on some references, (references, models)."""
        filled = np.where(np.isnan(scores), np.inf, scores)
        first, second = np.argsort(filled, axis=1, kind="stable")[:, :2].T
        row = np.arange(len(names))
        for m in range(len(self._models)):
            others = np.where(first == m, second, first)
            leads = np.nan_to_num(scores[row, others] - scores[:, m])  # 0 where one is missing
            for kept, margins in ((self.won_most, leads), (self.lost_most, -leads)):
                order = np.argsort(-margins, kind="stable")[:NUM_MARGINS]
                found = [
                    Margin(reference=show_value(names[r]), score=scores[r, m],
                           other=self._models[others[r]], other_score=scores[r, others[r]])
                    for r in order if margins[r] > 0
                ]  # fmt: skip
                kept[m] = nlargest(NUM_MARGINS, [*kept[m], *found], key=lambda one: one.width)


def add_up(
    chunks: Iterable[References], models: Sequence[str | None], rule: TieRule
) -> tuple[Outcomes, Extremes]:
    """Return what happened in each block of the references, and the largest margins."""
    m, num_seen, extremes = len(models), 0, Extremes(models)
    shapes = [(NUM_BLOCKS, m)] * 5 + [(NUM_BLOCKS, m, m)] * 2
    blocks = Outcomes(*map(np.zeros, shapes))
    for names, counts, sums in chunks:
        scores, outcomes = compare(counts, sums, rule)
        extremes.add(names, scores)
        numbers = np.arange(num_seen, num_seen + len(names)) % NUM_BLOCKS
        for total, values in zip(blocks, outcomes, strict=True):
            np.add.at(total, numbers, values)
        num_seen += len(names)
    return Outcomes(*(total[:num_seen] for total in blocks)), extremes


def strengths(wins: Floats) -> Floats:
    """Return the strengths of models by Bradley and Terry 1952, the most likely ones.

        P(i beats j) = 1 / (1 + exp(s_j - s_i))

    Differs from the paper: PRIOR_TIES ties are added between any two models that meet.

    Args:
        wins: (N, M, M) wins of the first model over the second; a tie is half a win for both.

    Returns:
        (N, M) in log odds, with mean 0; higher is better.
    """
    wins = wins + PRIOR_TIES / 2 * (wins + wins.swapaxes(-1, -2) > 0)
    wins = wins / np.maximum(wins.sum(axis=(1, 2), keepdims=True), 1)

    def loss(flat: Floats) -> tuple[float, Floats]:
        guess = flat.reshape(wins.shape[:2])
        odds = guess[:, :, None] - guess[:, None, :]
        upsets = wins * special.expit(-odds)
        slope = upsets.sum(axis=1) - upsets.sum(axis=2)
        return float(-(wins * special.log_expit(odds)).sum()), slope.ravel()

    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-15, "gtol": 1e-8}
    start = np.zeros(wins.shape[0] * wins.shape[1])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    values = found.x.reshape(wins.shape[:2])
    return np.asarray(values - values.mean(axis=1, keepdims=True), np.float64)


def estimate_strengths(
    total: Outcomes, drawn: Outcomes, confidence: float
) -> list[Estimate] | None:
    """Return each model's strength, or None if shared references do not connect all models.

    There are no intervals if some models lose to others every time. Then the prior alone decides
    how far they are apart (Ford 1957).
    """
    wins = total.wins[0]
    if connected_components(wins, directed=False, return_labels=False) > 1:
        return None
    values = strengths(total.wins)[0]
    draws = strengths(drawn.wins)
    is_free = connected_components(wins, connection="strong", return_labels=False) == 1
    num_references = round(total.best.sum()) if is_free else 0
    return [
        estimate(float(value), draws[:, m], num_references, confidence)
        for m, value in enumerate(values)
    ]


@dataclass(frozen=True)
class Comparison:
    """All that the places on a leaderboard are made of."""

    rows: Sequence[ModelRows]
    total: Outcomes  # on all references, N = 1
    drawn: Outcomes  # in each draw of the bootstrap
    strengths: list[Estimate] | None  # None if shared references do not connect all models
    extremes: Extremes
    confidence: float

    def standings(self) -> list[Standing]:
        """Return the models, strongest first, or without strengths, lowest mean first."""
        if self.strengths is None:
            keys = [row.mean or 0.0 for row in self.rows]
        else:
            keys = [-strength.value for strength in self.strengths]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return [self._stand(m, [n for n in order if n != m]) for m in order]

    def _stand(self, m: int, others: Sequence[int]) -> Standing:
        row, total, drawn = self.rows[m], self.total, self.drawn
        references, met = int(total.references[0, m]), int(total.met[0, m])
        median, p95 = row.quantiles or (0.0, 0.0)
        means = _divide(drawn.totals[:, m], drawn.rows[:, m])
        bests = _divide(drawn.best[:, m], drawn.met[:, m])
        share = total.best[0, m] / max(met, 1)
        return Standing(
            model=row.model, rows=row.rows, references=references, median=median, p95=p95,
            failed_fraction=row.failed_fraction,
            mean=estimate(row.mean or 0.0, means, references, self.confidence),
            strength=self.strengths[m] if self.strengths else None,
            best_share=estimate_share(share, bests, met, self.confidence) if met else None,
            won_most=self.extremes.won_most[m], lost_most=self.extremes.lost_most[m],
            against=[self._duel(m, n) for n in others],
        )  # fmt: skip

    def _duel(self, m: int, n: int) -> Duel:
        total = self.total
        wins, shared = (float(numbers[0]) for numbers in total.between(m, n))
        rates = _divide(*self.drawn.between(m, n))
        return Duel(
            other=self.rows[n].model, references=int(shared), won=int(total.won[0, m, n]),
            tied=int(total.tied[0, m, n]), lost=int(total.won[0, n, m]),
            win_rate=estimate_share(wins / shared, rates, int(shared), self.confidence)
            if shared else None,
        )  # fmt: skip


def _divide(numbers: Floats, counts: Floats) -> Floats:
    """Return numbers / counts; a draw that misses all references of a model has no value."""
    return np.divide(numbers, counts, out=np.full_like(numbers, np.nan), where=counts > 0)


def compare_models(
    rows: Sequence[ModelRows], chunks: Iterable[References], rule: TieRule, report: ReportConfig
) -> Comparison:
    """Compare models by their scores on references, given in random order, and draw these."""
    blocks, extremes = add_up(chunks, [row.model for row in rows], rule)
    k = len(blocks.rows)
    generator = np.random.default_rng(report.seed)
    weights = generator.multinomial(k, np.full(k, 1 / k), size=report.bootstrap_samples)
    total = blocks.weighted(np.ones((1, k)))
    drawn = blocks.weighted(weights.astype(np.float64))
    strong = estimate_strengths(total, drawn, report.confidence)
    return Comparison(rows, total, drawn, strong, extremes, report.confidence)


def make_leaderboard(
    config: AuditScoresConfig, tables: ScoreTables, run: FinishedRun
) -> tuple[Leaderboard | None, list[str]]:
    """Compare the models that `compare_by` names.

    Returns:
        The leaderboard, None without `compare_by` or if not even two models have a score; and notes
        for people.

    Raises:
        ContractError: a column cannot be used, or its models cannot be compared.
    """
    column, given = config.compare_by, config.compare.reference_column
    if column is None:
        return None, []
    reference, problems = reference_column_of("compare.reference_column", run, given)
    problems = problems_of_keys("compare_by", run, [column]) + problems
    if problems:
        raise ContractError(*problems)
    candidates = tables.candidates(run, column, reference)
    rule = TieRule.of(config.compare.smallest_visible_difference, run)
    scored = [row for row in candidates.models if row.rows]
    notes = list(_notes(candidates, run, reference))
    if len(scored) < 2:
        return None, notes
    chunks = candidates.stream_references([row.model for row in scored])
    found = compare_models(scored, chunks, rule, config.report)
    if found.strengths is None:
        notes.append("not all models are connected by shared references, so they have no strengths")
    board = Leaderboard(
        compare_by=column, reference_column=reference,
        tie_column="expected_dmos" if rule.scale else "spips_score",
        smallest_visible_difference=rule.difference,
        references=round(found.total.best.sum()), standings=found.standings(),
    )  # fmt: skip
    return board, notes


def _notes(candidates: Candidates, run: FinishedRun, reference: str) -> Iterator[str]:
    """Yield what the leaderboard leaves out or cannot tell apart."""
    for row in candidates.models:
        if not row.rows:
            yield f"model {show_value(row.model)} has no score, so it is not on the leaderboard"
    lost = run.record.counts_by_status.get(Status.OK, 0) - sum(
        row.rows for row in candidates.models
    )
    if lost:
        yield f"the leaderboard leaves out {counted(lost, 'scored row')} with null in {reference}"
    if candidates.hide_references():
        yield (
            "the leaderboard takes references whose URIs differ only in hidden values (***) for "
            "one; if they are several, set compare.reference_column"
        )
