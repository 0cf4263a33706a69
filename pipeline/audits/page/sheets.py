"""Which pairs the report shows, and with which other images of the same reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.figures.keys import to_keys
from pipeline.audits.figures.tables import Order, ScoreTables, Sign
from pipeline.audits.numbers import night_name, show_number
from pipeline.audits.records import SCORE, GateVerdict, Key, label_of, show_value
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import Status

MAX_BOUNDS = 3
"""So many different bounds of broken gates get a sheet with the pairs nearest to each."""
NEAREST = 2
"""Pairs on each side of a bound."""
MAX_OTHER_MODELS = 5
"""The best other models of a reference, next to the pair."""

Rises = dict[str, float | None]
"""By how much the scores of pairs rose, by pair_id; None if the baseline does not have the pair."""


@dataclass(frozen=True)
class RelatedImage:
    """Another image of a pair's reference: of an earlier night, or of another model."""

    name: str  # what it is, for people
    is_before: bool  # of the baseline
    uris: tuple[str, str]  # of reference and image
    score: float | None
    run: FinishedRun  # whose settings say what may be fetched


@dataclass(frozen=True)
class PickedPair:
    """A pair that the report shows."""

    pair_id: str
    uris: tuple[str, str] | None  # of the images; None if the manifest holds their bytes
    rise: float | None  # of the score; None if the baseline does not have the pair
    scores: dict[str, float]  # by column; columns without a value are left out
    group: dict[str, str | None]  # values of the `group_by` columns, by column
    name: str = "distorted"  # of its own image: its night, if there is an earlier one, and model
    related: tuple[RelatedImage, ...] = ()
    remark: str = ""  # why it is on its sheet


def pick_sheets(
    config: AuditScoresConfig, tables: ScoreTables, gates: Sequence[GateVerdict],
    run: FinishedRun, baseline: Sequence[FinishedRun],
) -> dict[str, list[PickedPair]]:  # fmt: skip
    """Return the pairs of each contact sheet that has any: by order, or by a bound in words."""
    if not config.report.pairs_per_sheet:
        return {}
    picked, remarks = _pick_ids(config, tables, gates)
    ids = sorted({id_ for pairs in picked.values() for id_ in pairs})
    siblings = tables.pick_siblings(ids, MAX_OTHER_MODELS) if config.compare_by else {}
    others = {id_ for of_pair in siblings.values() for id_ in of_pair}
    keys = [*tables.group_by, *([config.compare_by] if config.compare_by else [])]
    columns = [*run.score_columns, *(run.image_columns or ())]
    rows = read_rows(run, columns, keys, sorted({*ids, *others}))
    earlier = _read_earlier(baseline, ids)

    def make_pair(sheet: str, pair_id: str, rise: float | None) -> PickedPair:
        row = rows[pair_id]
        model = show_value(row[config.compare_by]) if config.compare_by else ""
        name, related = model or "distorted", []
        if pair_id in earlier:
            name, before = _name_of("now", model, run), _name_of("before", model, baseline[-1])
            related.append(_relate(before, earlier[pair_id], baseline[-1], is_before=True))
        for id_ in siblings.get(pair_id, ()) if run.image_columns else ():
            other = show_value(rows[id_][str(config.compare_by)])
            related.append(_relate(other, rows[id_], run))
        return PickedPair(
            pair_id, _uris(row, run), rise,
            {name: row[name] for name in run.score_columns if row[name] is not None},
            {name: row[name] for name in tables.group_by},
            name, tuple(related), remarks.get((sheet, pair_id), ""),
        )  # fmt: skip

    return {
        sheet: [make_pair(sheet, *pair) for pair in pairs.items()]
        for sheet, pairs in picked.items()
        if pairs
    }


def _pick_ids(
    config: AuditScoresConfig, tables: ScoreTables, gates: Sequence[GateVerdict]
) -> tuple[dict[str, Rises], dict[tuple[str, str], str]]:
    """Return the pairs of each sheet, and remarks on some by sheet and pair_id."""
    report = config.report
    nearest: dict[str, Rises] = {}
    remarks: dict[tuple[str, str], str] = {}
    for gate in _bounds_of_scores(gates):
        limit = show_number(_limit_of(gate), 12)
        title = f"Nearest to {gate.column} {limit}: {label_of(gate.group)}"
        within, beyond = _pick_nearest(tables, gate)
        nearest[title] = within | beyond
        remarks |= {(title, id_): "within the bound" for id_ in within}
        remarks |= {(title, id_): "beyond the bound" for id_ in beyond}
    by_order = {
        order: tables.pick_pairs(order, report.pairs_per_sheet, report.seed)
        for order in get_args(Order)
    }
    return {"worst": by_order.pop("worst"), **nearest, **by_order}, remarks


def _bounds_of_scores(gates: Sequence[GateVerdict]) -> list[GateVerdict]:
    """Return the worst broken gates whose bound is one that a pair's own value can have."""
    found: dict[tuple[Key, str | None, float], GateVerdict] = {}
    for gate in gates:
        is_of_pairs = gate.column is not None and gate.bound_kind in ("at_most", "at_least")
        if gate.state == "broken" and gate.value is not None and is_of_pairs:
            found.setdefault((gate.group, gate.column, _limit_of(gate)), gate)
    return list(found.values())[:MAX_BOUNDS]


def _limit_of(gate: GateVerdict) -> float:
    return gate.bound if gate.threshold is None else gate.threshold


def _pick_nearest(tables: ScoreTables, gate: GateVerdict) -> tuple[Rises, Rises]:
    """Return the pairs nearest to a gate's bound, or to its threshold: within it, and beyond it."""
    limit = float(np.float32(_limit_of(gate)))
    is_lower_bound = gate.threshold is None and gate.bound_kind == "at_least"
    signs: tuple[Sign, Sign] = (">=", "<") if is_lower_bound else ("<=", ">")
    within, beyond = (
        tables.pick_nearest(gate.group, str(gate.column), sign, limit, NEAREST) for sign in signs
    )
    return within, beyond


def _uris(row: Mapping[str, Any], run: FinishedRun) -> tuple[str, str] | None:
    if run.image_columns is None:
        return None
    reference, distorted = run.image_columns
    return str(row[reference]), str(row[distorted])


def _relate(
    name: str, row: Mapping[str, Any], run: FinishedRun, *, is_before: bool = False
) -> RelatedImage:
    return RelatedImage(name, is_before, _uris(row, run) or ("", ""), row[SCORE], run)


def _name_of(when: str, model: str, run: FinishedRun) -> str:
    """Return what a pair's image of a night is called, such as "model_b now, 26 Nov"."""
    return f"{model} {when}, {night_name(run.place[0])}".strip()


def _read_earlier(
    baseline: Sequence[FinishedRun], pair_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the URIs and scores of pairs in the newest run of the baseline, by pair_id."""
    if not baseline or baseline[-1].image_columns is None:
        return {}
    columns = [*baseline[-1].image_columns, SCORE, "status"]
    rows = read_rows(baseline[-1], columns, (), pair_ids)
    return {id_: row for id_, row in rows.items() if row["status"] == Status.OK}


def read_rows(
    run: FinishedRun, columns: Sequence[str], keys: Sequence[str], pair_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return some columns of the results of a few pairs, and the keys of others, by pair_id."""
    if not pair_ids:
        return {}
    id_column = run.pair_id_column
    chosen = pc.field(id_column).cast(pa.string()).isin(pair_ids)
    rows = run.scores.scanner(columns=[*{id_column, *columns, *keys}], filter=chosen).to_table()
    for name in keys:
        rows = rows.set_column(rows.schema.get_field_index(name), name, to_keys(rows.column(name)))
    return {str(row[id_column]): row for row in rows.to_pylist()}
