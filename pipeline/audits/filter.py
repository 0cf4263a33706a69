"""Keep the good pairs of a run as a manifest, and the others with the reason why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray.data
from ray.data import DataContext, SaveMode

from pipeline.audits.config import FilterScoresConfig
from pipeline.audits.filter_rules import Rules, Summary
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.records import Json
from pipeline.runs.run import RunFolder
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    check_writable,
    describe,
    open_store,
)
from pipeline.runs.uris import redact
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest import KeepIds, open_manifest

REASON = "reject_reason"


@dataclass(frozen=True)
class KeepRows:
    """A stage: result rows in, those that keep all rules out, with the manifest's columns only.

    Attributes:
        rules: what a kept row fulfils.
        columns: the manifest's.
    """

    rules: Rules
    columns: tuple[str, ...]

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the kept rows."""
        kept = ~self.rules.broken(rows).any(axis=0)
        return rows.filter(pa.array(kept)).select(list(self.columns))


@dataclass(frozen=True)
class RejectRows:
    """A stage: result rows in, those that break a rule out, with a column that names the rules.

    Attributes:
        rules: what a kept row fulfils.
    """

    rules: Rules

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rejected rows."""
        broken = self.rules.broken(rows)
        is_out = broken.any(axis=0)
        names = np.array(self.rules.names, object)
        reasons = ["; ".join(f"not: {n}" for n in names[column]) for column in broken[:, is_out].T]
        rejected = rows.filter(pa.array(is_out))
        return rejected.append_column(REASON, pa.array(reasons, pa.string()))


@dataclass(frozen=True)
class KeepWhere:
    """A stage: results in, those for which a condition holds out.

    Attributes:
        condition: on the results' columns.
    """

    condition: pc.Expression

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the chosen rows."""
        return rows.filter(self.condition)


def open_output(
    config: FilterScoresConfig, run: FinishedRun
) -> tuple[RunFolder, Literal["new", "unfinished", "finished"]]:
    """Return the output folder after checking that it is free or holds the same filtering.

    Args:
        config: the job's.
        run: the run.

    Raises:
        ContractError: something else lies in it, or it cannot be used.
    """
    uri = redact(config.output.uri.rstrip("/"))
    try:
        check_writable(config.output.uri)
        fs, path = open_store(config.output.uri)
        folder = RunFolder(fs, path, uri)
        if not fs.exists(path) or not fs.ls(path):
            return folder, "new"
        held = folder.read("plan.json") if fs.exists(f"{path}/plan.json") else None
        is_finished = fs.exists(f"{path}/summary.json")
    except STORE_ERRORS as error:
        raise ContractError(f"output.uri: {uri} cannot be used: {describe(error)}") from error
    if held != _plan(config, run):
        raise ContractError(
            f"output.uri: expected a free folder or one of the same filtering, got another: {uri}"
        )
    return folder, "finished" if is_finished else "unfinished"


def _plan(config: FilterScoresConfig, run: FinishedRun) -> Json:
    """Return what makes two filterings the same."""
    settings = config.model_dump(mode="json", include={"statuses", "bounds"})
    which = {"run": run.uri, "attempts": run.num_attempts}
    return {**which, "fingerprints": run.record.fingerprints, **settings}


def write_filtered(
    config: FilterScoresConfig, folder: RunFolder, run: FinishedRun, rules: Rules, summary: Summary
) -> Json:
    """Write the kept rows as a manifest, the others with their reasons, and summary.json.

    What an interrupted try of the same filtering left is replaced.

    Args:
        config: the job's.
        folder: for the output, as `open_output` returns it.
        run: the run.
        rules: the conditions.
        summary: what they do, as `summarise` tells.

    Returns:
        The content of summary.json.

    Raises:
        ContractError: no row is kept; or the manifest is needed and not to be had.
        FaultError: fewer or more rows were written than expected.
    """
    if not summary.kept:
        raise ContractError(
            f"bounds: expected rows to keep, got none of {summary.rows}: {_tell_breaks(summary)}"
        )
    fs, path = folder.fs, folder.path
    results = _read(run.files, arrow_filesystem(run.folder.fs))
    if run.is_newest is not None:
        newest = KeepWhere(run.is_newest)
        results = results.map_batches(newest, batch_size=None, batch_format="pyarrow")
    kept = _kept(run, rules, summary, results)
    rejected = results.map_batches(RejectRows(rules), batch_format="pyarrow")
    num_rejected = summary.rows - summary.kept
    folder.write("plan.json", _plan(config, run))
    for name, rows, expected in (
        ("manifest", kept, summary.kept),
        ("rejects", rejected, num_rejected),
    ):
        if not expected:
            continue
        rows.write_parquet(
            f"{path}/{name}",
            filesystem=arrow_filesystem(fs),
            min_rows_per_file=min(config.output.rows_per_file, expected),
            max_rows_per_file=config.output.rows_per_file,
            mode=SaveMode.OVERWRITE,
        )
        files = pa.dataset.dataset(
            f"{path}/{name}", filesystem=arrow_filesystem(fs), format="parquet"
        )
        if files.count_rows() != expected:
            raise FaultError(
                f"{folder.uri}/{name}: expected {expected} rows, got {files.count_rows()}"
            )
    content = {
        "run": run.uri,
        "run_id": run.run_id,
        "model_digest": run.model_digest,
        "rows": summary.rows,
        "kept": summary.kept,
        "rejected": num_rejected,
        "rules": [
            {"rule": name, "removes": count, "removes_alone": summary.breaks_only[name]}
            for name, count in summary.breaks.items()
        ],
    }
    folder.write("summary.json", content)
    return content


def _tell_breaks(summary: Summary) -> str:
    return "; ".join(f"{count} are not: {name}" for name, count in summary.breaks.items() if count)


def _read(files: Sequence[str], filesystem: pa.fs.FileSystem) -> ray.data.Dataset:
    DataContext.get_current().use_datasource_v2 = False  # V2 starts processes to read footers
    return ray.data.read_parquet(
        list(files), filesystem=filesystem, partitioning=None, file_extensions=None
    )


def _kept(
    run: FinishedRun, rules: Rules, summary: Summary, results: ray.data.Dataset
) -> ray.data.Dataset:
    """Return the kept rows with all that scoring them again needs."""
    if not summary.must_read_manifest:
        columns = tuple(run.pass_through_columns)
        return results.map_batches(KeepRows(rules, columns), batch_format="pyarrow")
    try:
        manifest = open_manifest(ManifestConfig.model_validate(run.record.config["manifest"]))
    except ContractError as error:
        raise ContractError(
            *(
                [
                    f"the run's manifest, which holds what its results do not: {p}"
                    for p in error.problems
                ]
            )
        ) from error
    if manifest.fingerprint != run.record.fingerprints["manifest"]:
        raise ContractError(
            "expected the run's manifest, which holds what its results do not, as it was "
            f"scored, got a changed one at {redact(run.record.config['manifest']['uri'])}"
        )
    rows = _read(manifest.paths, arrow_filesystem(manifest.fs))
    keep = KeepIds(run.pair_id_column, pa.concat_arrays(summary.kept_ids))
    return rows.map_batches(keep, batch_format="pyarrow")
