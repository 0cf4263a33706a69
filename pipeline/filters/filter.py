"""Keep the good pairs of a run as a manifest, and list the other rows with the reasons."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from pydantic import ValidationError

from pipeline.filters.config import BestConfig, BoundConfig, FilterScoresConfig
from pipeline.filters.rules import REASON, RuleCount, Rules, Summary
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun, check_outside_runs
from pipeline.runs.records import Record
from pipeline.runs.run import RunFolder
from pipeline.runs.schema import Status
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    check_writable,
    open_store,
    store_error,
)
from pipeline.runs.uris import redact
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import KeepIds, Manifest, open_manifest
from pipeline.scoring.resources import ID_ROWS_PER_READ

MAX_ROWS_PER_GROUP = 1 << 20
"""Arrow's own."""


class FilterPlan(Record):
    """What a filtering does: the content of plan.json. Equal plans make the same filtering."""

    version: int = 1
    run: str  # the run's folder, without secrets
    attempts: int  # of the run; a retry of failed rows adds one
    fingerprints: dict[str, str]  # of the run
    statuses: tuple[Status, ...]
    bounds: tuple[BoundConfig, ...]
    best_per_reference: BestConfig | None = None


class FilterSummary(Record):
    """What a filtering did: the content of summary.json."""

    version: int = 1
    run: str  # the run's folder, without secrets
    run_id: str
    model_digest: str
    rows: int
    kept: int
    rejected: int
    rules: tuple[RuleCount, ...]  # the rule on the status is first


def keep_rows(rows: pa.Table, rules: Rules, columns: Sequence[str]) -> pa.Table:
    """Return the rows that keep all rules, with the manifest's columns only."""
    return rows.filter(pa.array(~rules.broken(rows).any(axis=0))).select(columns)


def reject_rows(rows: pa.Table, rules: Rules) -> pa.Table:
    """Return the rows that break a rule. Adds the column reject_reason."""
    broken = rules.broken(rows)
    is_out = broken.any(axis=0)
    names = np.array(rules.names, object)
    reasons = ["; ".join(f"not: {n}" for n in names[column]) for column in broken[:, is_out].T]
    rejected = rows.filter(pa.array(is_out))
    return rejected.append_column(REASON, pa.array(reasons, pa.string()))


def open_output(
    config: FilterScoresConfig, run: FinishedRun
) -> tuple[RunFolder, Literal["new", "unfinished", "finished"]]:
    """Return the output folder, after checking that it is free or holds the same filtering.

    Raises:
        ContractError: the folder cannot be used, or something else is in it.
    """
    uri = redact(config.output.uri.rstrip("/"))
    plan = None
    try:
        check_writable(config.output.uri)
        check_outside_runs(config.output.uri, or_it=False)
        fs, path = open_store(config.output.uri)
        folder = RunFolder(fs, path, uri)
        names = fs.ls(path, detail=False) if fs.exists(path) else []
        if all("/lock.json" in name for name in names):  # of a process that was just started
            return folder, "new"
        if fs.exists(f"{path}/plan.json"):
            plan = FilterPlan.model_validate(folder.read("plan.json"))
        is_finished = fs.exists(f"{path}/summary.json")
    except ValidationError:
        pass  # A plan of something else, such as a scoring run's.
    except STORE_ERRORS as error:
        raise store_error(f"output.uri: {uri} cannot be used", error) from error
    if plan != _plan(config, run):
        raise ContractError(
            f"output.uri: expected an empty folder or the same filtering, got another one: {uri}"
        )
    return folder, "finished" if is_finished else "unfinished"


def _plan(config: FilterScoresConfig, run: FinishedRun) -> FilterPlan:
    return FilterPlan(
        run=run.uri, attempts=run.num_attempts, fingerprints=run.record.fingerprints,
        statuses=config.statuses, bounds=config.bounds,
        best_per_reference=config.best_per_reference,
    )  # fmt: skip


def open_source(run: FinishedRun, summary: Summary) -> Manifest | None:
    """Return the run's manifest if scoring the kept rows again needs what only it holds.

    Raises:
        ContractError: no row is kept; or the manifest is needed and is missing or changed.
    """
    if not summary.kept:
        breaks = "; ".join(f"{rule.removes} are not: {rule.rule}" for rule in summary.rules
                           if rule.removes)  # fmt: skip
        setting = "bounds" if len(summary.rules) > 1 else "statuses"  # the first rule
        raise ContractError(
            f"{setting}: expected rows to keep, got none of {summary.rows}: {breaks}"
        )
    if summary.kept_ids is None:
        return None
    source = ManifestConfig.model_validate(run.record.config["manifest"])
    try:
        manifest = open_manifest(source)
    except ContractError as error:
        need = "the run's manifest, which holds what its results do not"
        raise ContractError(*(f"{need}: {problem}" for problem in error.problems)) from error
    if manifest.fingerprint != run.record.fingerprints["manifest"]:
        raise ContractError(
            "expected the manifest that the run scored, since it holds what the results do not, "
            f"got a changed one at {redact(source.uri)}"
        )
    return manifest


def write_filtered(
    config: FilterScoresConfig, folder: RunFolder, run: FinishedRun, rules: Rules,
    summary: Summary, source: Manifest | None,
) -> FilterSummary:  # fmt: skip
    """Write the kept rows as a manifest, the other rows with their reasons, and summary.json.

    This replaces what an interrupted filtering with the same plan left. The source is what
    `open_source` returns.

    Raises:
        FaultError: the number of rows written is not the number expected.
    """
    kept: Iterator[pa.Table]
    if source is None:
        columns = run.pass_through_columns
        kept = (keep_rows(rows, rules, columns) for rows in _read(run))
    else:
        keep = KeepIds(run.pair_id_column, summary.kept_ids)
        kept = map(keep, source.read(ID_ROWS_PER_READ))
    rejected = (reject_rows(rows, rules) for rows in _read(run))
    folder.write("plan.json", _plan(config, run).model_dump(mode="json"))
    num_rejected = summary.rows - summary.kept
    _write_rows(kept, folder, "manifest", summary.kept, config.output.rows_per_file)
    _write_rows(rejected, folder, "rejects", num_rejected, config.output.rows_per_file)
    content = FilterSummary(
        run=run.uri, run_id=run.run_id, model_digest=run.model_digest, rows=summary.rows,
        kept=summary.kept, rejected=num_rejected, rules=summary.rules,
    )  # fmt: skip
    folder.write("summary.json", content.model_dump(mode="json"))
    return content


def _read(run: FinishedRun) -> Iterator[pa.Table]:
    for batch in run.scores.to_batches(batch_size=ID_ROWS_PER_READ):
        yield pa.Table.from_batches([batch])


def _write_rows(
    tables: Iterator[pa.Table], folder: RunFolder, name: str, expected: int, rows_per_file: int
) -> None:
    """Write rows as Parquet files, in their order, and check their number; without any, nothing."""
    path, arrow = f"{folder.path}/{name}", arrow_filesystem(folder.fs)
    if folder.fs.exists(path):
        folder.fs.rm(path, recursive=True)
    if not expected:
        return
    first = next(tables)  # it can be empty, and has the schema
    batches = (batch for table in chain([first], tables) for batch in table.to_batches())
    pyarrow.dataset.write_dataset(
        pa.RecordBatchReader.from_batches(first.schema, batches), path, format="parquet",
        filesystem=arrow, basename_template="part-{i}.parquet", use_threads=False,
        max_rows_per_file=rows_per_file, max_rows_per_group=min(rows_per_file, MAX_ROWS_PER_GROUP),
    )  # fmt: skip
    got = pyarrow.dataset.dataset(path, filesystem=arrow, format="parquet").count_rows()
    if got != expected:
        raise FaultError(f"{folder.uri}/{name}: expected {expected} rows, got {got}")
