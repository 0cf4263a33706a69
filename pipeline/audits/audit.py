"""Figures of a run, compared with a baseline and held against gates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from pipeline.audits.config import AuditScoresConfig, ReportConfig
from pipeline.audits.distribution import (
    Distribution,
    Floats,
    Interval,
    interval_of,
    rank_test,
    share_interval,
)
from pipeline.audits.gates import judge
from pipeline.audits.tables import ALL_ROWS, QUANTILES, Key, Row, ScoreTables
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.records import Json
from pipeline.runs.schema import Status
from pipeline.runs.uris import redact

SCORE = "spips_score"
PAIRED_SHARE = 0.5
"""Changes are those of the pairs that are in both runs if these are at least this share of the
run's ok rows; else the two runs' means are compared as different samples."""
NUM_FAILURES = 3
"""Examples told of each status."""

Change = Literal["worse", "better", "no change seen", "not compared"]


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        content: all of it, as audit.json holds it.
        group_numbers: of the groups, by their values.
        distributions: of the score, by group's number, for the run and for the baseline.
        sheets: by contact sheet's name, result rows of its pairs with rise, their score's change.
    """

    content: Json
    group_numbers: dict[Key, int]
    distributions: dict[str, dict[int, Distribution]]
    sheets: dict[str, list[Row]]

    @property
    def broken(self) -> list[Json]:
        """Gates that are broken."""
        return [gate for gate in self.content["gates"] if gate["state"] == "broken"]


def audit(
    config: AuditScoresConfig,
    tables: ScoreTables,
    run: FinishedRun,
    baseline: Sequence[FinishedRun],
    notes: Sequence[str] = (),
) -> Audit:
    """Compute every figure, compare, and judge the gates.

    Args:
        config: the job's.
        tables: the rows of run and baseline.
        run: the run.
        baseline: what it is compared with, maybe nothing.
        notes: for people.

    Raises:
        ContractError: a gate asks for a column in which the run has no values although rows are ok.
    """
    statuses = {name: tables.count_statuses(name) for name in ("run", "baseline")}
    _check_columns(config, tables, statuses["run"])
    figures, distributions = _Figures(config, tables), {}
    for name in ("run", "baseline"):
        distributions[name] = figures.add(name)
    changes = list(_compare(config.report, tables, figures)) if baseline else []
    status_rows = [
        {"of": name, "group": list(tables.groups[group]), "rows": sum(counts.values()),
         "failed_fraction": 1 - counts[Status.OK] / sum(counts.values()), "counts": counts}
        for name in ("run", "baseline")
        for group, counts in sorted(statuses[name].items())
    ]  # fmt: skip
    gates = list(judge(config, figures.rows, changes, status_rows))
    sheets = _pick_sheets(config.report, tables, run)
    gone = [
        label_of(tables.groups[group])
        for group in tables.groups
        if group in statuses["baseline"] and group not in statuses["run"]
    ]
    told = [*notes, *(f"group {label} is in the baseline but not in this run" for label in gone)]
    overall = next((c for c in changes if not c["group"] and c["column"] == SCORE), None)
    content = {
        "passed": not any(gate["state"] == "broken" for gate in gates),
        "change": _name_change(overall),
        "notes": told,
        "run": _describe_run(run),
        "baseline": [_describe_run(one) for one in baseline],
        "group_by": list(tables.group_by),
        "confidence": config.report.confidence,
        "gates": gates,
        "statuses": status_rows,
        "failures": _failures(tables, run),
        "figures": figures.rows,
        "changes": changes,
        "streams": list(_contributions(run, changes)),
        "trend": list(_trend(tables, run, baseline, figures)),
    }  # fmt: skip
    return Audit(content, {key: g for g, key in tables.groups.items()}, distributions, sheets)


def _check_columns(
    config: AuditScoresConfig, tables: ScoreTables, statuses: dict[int, dict[str, int]]
) -> None:
    """Refuse gates on columns that the model does not fill."""
    if not statuses[ALL_ROWS][Status.OK]:
        return  # no column has values; the report says so
    problems = [
        f"gates.{number}.column: expected one with values, {', '.join(tables.columns)}, "
        f"got {gate.column!r}, which the run's model leaves out"
        for number, gate in enumerate(config.gates)
        if gate.column is not None and gate.column not in tables.columns
    ]
    if problems:
        raise ContractError(*problems)


class _Figures:
    """Figures of the values, by table, group and column."""

    def __init__(self, config: AuditScoresConfig, tables: ScoreTables) -> None:
        self.config = config
        self.tables = tables
        self.rows: list[Json] = []
        self.by_place: dict[tuple[str, int, str], Json] = {}
        self.draws: dict[tuple[str, int, str], Floats] = {}
        self.distributions: dict[tuple[str, int, str], Distribution] = {}
        self._generator = np.random.default_rng(config.report.seed)

    def thresholds(self, column: str) -> list[float]:
        asked = [gate.threshold for gate in self.config.gates if gate.column == column]
        given = self.config.thresholds.get(column, ())  # type: ignore[call-overload]
        return sorted({*given, *(value for value in asked if value is not None)})

    def add(self, table: Literal["run", "baseline"]) -> dict[int, Distribution]:
        """Compute the figures of a table's columns; return the score's distributions."""
        scores: dict[int, Distribution] = {}
        for column in self.tables.columns:
            thresholds = self.thresholds(column)
            found = self.tables.describe(table, column, thresholds)
            spread = self.tables.distributions(table, column)
            for group, values in sorted(found.items()):
                self._add_one((table, group, column), values, spread[group], thresholds)
            if column == SCORE:
                scores = spread
        return scores

    def _add_one(
        self,
        place: tuple[str, int, str],
        values: Row,
        spread: Distribution,
        thresholds: Sequence[float],
    ) -> None:
        report = self.config.report
        draws = spread.mean_draws(report.bootstrap_samples, self._generator)
        figures = {"mean": _with_interval(values["mean"], interval_of(draws, report.confidence))}
        for name, q in QUANTILES.items():
            interval = spread.quantile_interval(q, report.confidence)
            figures[name] = _with_interval(values[name], interval)
        num_rows = values["rows"]
        shares = [
            {"threshold": threshold}
            | _with_interval(count / num_rows, share_interval(count, num_rows, report.confidence))
            for threshold, count in zip(thresholds, values["above"], strict=True)
        ]
        table, group, column = place
        row = {
            "of": table, "group": list(self.tables.groups[group]), "column": column,
            "rows": num_rows, **figures, "share_above": shares,
        }  # fmt: skip
        self.rows.append(row)
        self.by_place[place] = row
        self.draws[place] = draws
        self.distributions[place] = spread


def _with_interval(value: float, interval: Interval) -> Json:
    """Return a figure with its interval; interpolation may lie a bin beside what was counted."""
    return {"value": value, "low": min(interval[0], value), "high": max(interval[1], value)}


def _compare(report: ReportConfig, tables: ScoreTables, figures: _Figures) -> Iterator[Json]:
    """Yield how each column changed in each group that has values in run and baseline."""
    generator = np.random.default_rng(report.seed)
    for column in tables.columns:
        paired = tables.describe("paired", column, ())
        spread = tables.distributions("paired", column)
        counts = tables.count_changes(column)
        for group in tables.groups:
            now, before = (
                figures.by_place.get((table, group, column)) for table in ("run", "baseline")
            )
            if now is None or before is None:
                continue
            places = [("run", group, column), ("baseline", group, column)]
            difference = now["mean"]["value"] - before["mean"]["value"]
            draws = figures.draws[places[0]] - figures.draws[places[1]]
            in_both = paired.get(group)
            is_paired = in_both is not None and in_both["rows"] >= PAIRED_SHARE * now["rows"]
            row: Json = {
                "group": now["group"], "column": column, "is_paired": is_paired,
                "pairs_in_both": in_both["rows"] if in_both else 0,
                "rose": 0, "fell": 0, "equal": 0, "paired_p_value": None, "paired_effect": None,
            }  # fmt: skip
            if in_both is not None:
                row |= counts[group] | _paired_test(in_both)
                if is_paired:
                    difference = in_both["mean"]
                    draws = spread[group].mean_draws(report.bootstrap_samples, generator)
            ranks = rank_test(*(figures.distributions[place] for place in places))
            yield row | {
                "rise": _with_interval(difference, interval_of(draws, report.confidence)),
                "rank_p_value": ranks.p_value,
                "rank_effect": ranks.effect,
            }


def _paired_test(in_both: Row) -> Json:
    """Return Student's test of the mean difference, and Cohen's d of the differences."""
    deviation, num_pairs = in_both["standard_deviation"], in_both["rows"]
    if not deviation:
        return {"paired_p_value": None, "paired_effect": None}
    effect = in_both["mean"] / deviation
    p_value = 2 * stats.t.sf(abs(effect) * num_pairs**0.5, num_pairs - 1)
    return {"paired_p_value": float(p_value), "paired_effect": effect}


def _name_change(overall: Json | None) -> Change:
    if overall is None:
        return "not compared"
    if overall["rise"]["low"] > 0:
        return "worse"
    return "better" if overall["rise"]["high"] < 0 else "no change seen"


def _contributions(run: FinishedRun, changes: Sequence[Json]) -> Iterator[Json]:
    """Yield what each stream adds to the change of the score, in each group.

    With Eq. (12) a stream's weight times its rise is exactly its part of the score's rise. A
    perceptron has no such parts; then only the streams' own rises are told.
    """
    weights = run.record.model.fusion_weights or {}
    rises = {(tuple(c["group"]), c["column"]): c["rise"]["value"] for c in changes}
    for (group, column), rise in rises.items():
        stream = column.removesuffix("_score")
        if stream not in run.record.model.config["streams"]:
            continue
        weight = weights.get(stream)
        yield {
            "group": list(group),
            "stream": stream,
            "rise": rise,
            "weight": weight,
            "contribution": None if weight is None else weight * rise,
        }


def label_of(values: Sequence[str | None]) -> str:
    """Return a group's name for people.

    Args:
        values: of the columns that make it; none for all rows.
    """
    return ", ".join(map(_text, values)) if values else "all rows"


def _text(value: str | None) -> str:
    """Return a value for people: it may hold secrets, and must not look like lines of our own."""
    if value is None:
        return "(null)"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in redact(value))
    return shown or '""'


def _describe_run(run: FinishedRun) -> Json:
    return {
        "uri": run.uri,
        "run_id": run.run_id,
        "finished_at": run.finished_at,
        "rows": run.record.num_rows,
        "failed_fraction": run.record.failed_fraction,
        "model_digest": run.model_digest,
        "model": f"{run.record.config['model']['checkpoint']}",
        "is_trained": run.record.model.trained,
    }


def _trend(
    tables: ScoreTables, run: FinishedRun, baseline: Sequence[FinishedRun], figures: _Figures
) -> Iterator[Json]:
    """Yield each run's score and failures, oldest first."""
    earlier = tables.baseline_runs(SCORE) if baseline else {}
    for number, one in enumerate(baseline):
        scores = earlier.get(number, {"mean": None, "median": None, "p95": None})
        yield _describe_run(one) | scores
    now = figures.by_place.get(("run", ALL_ROWS, SCORE), {})
    yield _describe_run(run) | {
        name: now[name]["value"] if now else None for name in ("mean", "median", "p95")
    }


def _rows_of(run: FinishedRun, pair_ids: Sequence[str]) -> dict[str, Row]:
    """Return the result rows of a few pairs, by id."""
    if not pair_ids:
        return {}
    chosen = pc.field(run.pair_id_column).cast(pa.string()).isin(list(pair_ids))
    rows = run.scores.scanner(filter=chosen).to_table().to_pylist()
    return {str(row[run.pair_id_column]): row for row in rows}


def _failures(tables: ScoreTables, run: FinishedRun) -> list[Json]:
    """Return examples of rows that were not scored, by status."""
    picked = tables.pick_failures(NUM_FAILURES)
    rows = _rows_of(run, [id_ for ids in picked.values() for id_ in ids])
    return [
        {"status": status, "pair_id": _text(id_), "error": rows[id_]["error"]}
        for status, ids in picked.items()
        for id_ in ids
    ]


def _pick_sheets(
    report: ReportConfig, tables: ScoreTables, run: FinishedRun
) -> dict[str, list[Row]]:
    """Return the rows of the pairs to show."""
    if not report.pairs_per_sheet:
        return {}
    picked = {
        order: tables.pick(order, report.pairs_per_sheet, report.seed)
        for order in ("worst", "most changed", "random")
    }
    rows = _rows_of(run, sorted({id_ for ids in picked.values() for id_ in ids}))
    return {
        order: [rows[id_] | {"rise": rise} for id_, rise in ids.items()]
        for order, ids in picked.items()
        if ids
    }


def to_table(content: Json) -> pa.Table:
    """Return an audit's figures as a table, one row a figure.

    Args:
        content: of audit.json.

    Returns:
        Columns of (run, baseline, or change), the columns that groups are made by (null: all
        rows), column, figure, value, low, high.
    """
    rows: list[Json] = []

    def add(of: str, group: Sequence[Any], column: str | None, figure: str, value: Any) -> None:
        interval = value if isinstance(value, dict) else {"value": value, "low": None, "high": None}
        keys = {f"group_{name}": key for name, key in zip(content["group_by"], group, strict=False)}
        rows.append({"of": of, **keys, "column": column, "figure": figure} | {
            name: interval[name] for name in ("value", "low", "high")
        })  # fmt: skip

    for row in content["figures"]:
        for figure in ("rows", "mean", *QUANTILES):
            add(row["of"], row["group"], row["column"], figure, row[figure])
        for share in row["share_above"]:
            name = f"share_above_{share['threshold']:g}"
            add(row["of"], row["group"], row["column"], name, share)
    for row in content["statuses"]:
        add(row["of"], row["group"], None, "failed_fraction", row["failed_fraction"])
        for status, count in row["counts"].items():
            add(row["of"], row["group"], None, f"rows_{status}", count)
    for row in content["changes"]:
        for figure in ("pairs_in_both", "rise", "rank_effect", "rank_p_value", "paired_effect",
                       "paired_p_value"):  # fmt: skip
            add("change", row["group"], row["column"], figure, row[figure])
    texts = ["of", *(f"group_{name}" for name in content["group_by"]), "column", "figure"]
    schema = pa.schema(
        [(name, pa.string()) for name in texts]
        + [(name, pa.float64()) for name in ("value", "low", "high")]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def describe_audit(content: Json) -> str:
    """Return an audit as a few lines for people: verdict, broken gates, notes.

    Args:
        content: of audit.json.
    """
    run = content["run"]
    lines = [f"run        {run['uri']}, {run['rows']} rows, {run['failed_fraction']:.4%} failed"]
    lines += [f"baseline   {one['uri']}" for one in content["baseline"]]
    figures = [row for row in content["figures"] if row["of"] == "run" and row["column"] == SCORE]
    for row in figures[:1]:
        told = ", ".join(f"{name} {row[name]['value']:.4f}" for name in ("mean", *QUANTILES))
        lines.append(f"score      {told}")
    for change in content["changes"]:
        if not change["group"] and change["column"] == SCORE:
            rise = change["rise"]
            lines.append(
                f"change     {content['change']}: mean {rise['value']:+.5f} "
                f"({content['confidence']:.0%} interval {rise['low']:+.5f} to {rise['high']:+.5f})"
            )
    for gate in content["gates"]:
        where = f"{gate['rule']} ({label_of(gate['group'])})"
        got = gate["reason"] or f"{gate['figure']:.5g}, margin {gate['margin']:.3g}"
        lines.append(f"{gate['state']:<10} {where}: {got}")
    lines += [f"note       {note}" for note in content["notes"]]
    broken = sum(gate["state"] == "broken" for gate in content["gates"])
    if content["gates"]:
        lines.append(f"verdict    {f'{broken} gates BROKEN' if broken else 'passed'}")
    return "\n".join(lines)
