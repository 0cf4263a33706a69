"""Keep the good pairs of a run as a manifest, and the others with the reason why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext, SaveMode

from pipeline.audit_config import BoundConfig, FilterScoresConfig
from pipeline.config import ManifestConfig
from pipeline.errors import ContractError, FaultError
from pipeline.manifest import KeepIds, open_manifest
from pipeline.run import FinishedRun, Json, RunFolder
from pipeline.schema import is_text
from pipeline.score_tables import count_values, key_of, quantiles
from pipeline.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    check_writable,
    describe,
    open_store,
    redact,
)

REASON = "reject_reason"
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
            f"bounds.{number}.within: expected columns among {', '.join(run.own_columns)}, "
            f"got {name!r}"
            for name in bound.within
            if name not in run.own_columns
        ]
        problems += [
            f"bounds.{number}.within: expected texts, numbers, flags or times in column {name!r}, "
            f"got {run.scores.schema.field(name).type}"
            for name in bound.within
            if name in run.own_columns and pa.types.is_nested(run.scores.schema.field(name).type)
        ]
    if problems:
        raise ContractError(problems)
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
        raise ContractError([f"output.uri: {uri} cannot be used: {describe(error)}"]) from error
    if held != _plan(config, run):
        raise ContractError(
            [f"output.uri: expected a free folder or one of the same filtering, got another: {uri}"]
        )
    return folder, "finished" if is_finished else "unfinished"


def _plan(config: FilterScoresConfig, run: FinishedRun) -> Json:
    """Return what makes two filterings the same."""
    settings = config.model_dump(mode="json", include={"statuses", "bounds"})
    which = {"run": run.uri, "attempts": run.num_attempts}
    return {**which, "fingerprints": run.record["fingerprints"], **settings}


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
            [f"bounds: expected rows to keep, got none of {summary.rows}: {_tell_breaks(summary)}"]
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
        "model_digest": run.record["model"]["digest"],
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
        columns = tuple(run.own_columns)
        return results.map_batches(KeepRows(rules, columns), batch_format="pyarrow")
    try:
        manifest = open_manifest(ManifestConfig.model_validate(run.record["config"]["manifest"]))
    except ContractError as error:
        raise ContractError(
            [
                f"the run's manifest, which holds what its results do not: {p}"
                for p in error.problems
            ]
        ) from error
    if manifest.fingerprint != run.record["fingerprints"]["manifest"]:
        raise ContractError(
            [
                "expected the run's manifest, which holds what its results do not, as it was "
                f"scored, got a changed one at {redact(run.record['config']['manifest']['uri'])}"
            ]
        )
    rows = _read(manifest.paths, arrow_filesystem(manifest.fs))
    keep = KeepIds(run.pair_id_column, pa.concat_arrays(summary.kept_ids))
    return rows.map_batches(keep, batch_format="pyarrow")


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
