"""Which rows an attempt scores: all of them, or in a finished run those that failed or changed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import RETRIED_STATUSES
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.manifest.opening import hash_array
from pipeline.scoring.reuse.known_scores import TAGS
from pipeline.scoring.reuse.recall import take_tags

ROWS_PER_RESCAN = 16_384
"""Rows whose images are looked at together."""


@dataclass(frozen=True)
class Attempt:
    """One scoring of a run's rows: attempt 1 scores all rows, later attempts some of them again.

    Attributes:
        number: counted from 1.
        id_hashes: (rows,) uint64, sorted: a hash of each row's pair_id.
        ids: each row's pair_id; None for all rows of the manifest.
        of: which rows these are, in words.
    """

    number: int
    id_hashes: npt.NDArray[np.uint64]
    ids: pa.Array | None
    of: str = "rows"

    @property
    def num_rows(self) -> int:
        """Number of rows to score."""
        return len(self.id_hashes)


def plan_again(
    run: FinishedRun, rules: ImagesConfig, *, retry_failed: bool, rescan: bool
) -> Attempt:
    """Return the attempt that scores rows of a finished run again.

    Args:
        run: the run.
        rules: which images are accepted.
        retry_failed: take the rows whose status is one of RETRIED_STATUSES.
        rescan: take the rows of whose images the store does not say what it said before.

    Raises:
        ContractError: rows cannot be rescanned, because the run has no tags.
    """
    number = run.num_attempts + 1
    ids = _begun(run, number)
    if retry_failed:
        failed = pc.field("status").isin([status.value for status in RETRIED_STATUSES])
        ids += run.scores.to_table(columns=[run.pair_id_column], filter=failed).column(0).chunks
    if rescan:
        if reason := why_no_rescan(run):
            raise ContractError(f"--rescan: {reason}")
        ids += [rows[run.pair_id_column] for _, rows in find_changed(run, rules)]
    type_ = run.scores.schema.field(run.pair_id_column).type
    unique = pa.chunked_array(ids, type_).unique()
    of = " and ".join(["failed"] * retry_failed + ["changed"] * rescan) + " rows"
    return Attempt(number, np.sort(hash_array(unique)), unique, of)


def _begun(run: FinishedRun, number: int) -> list[pa.Array]:
    """Return the ids that a process that was killed has scored or published in an attempt."""
    files = run.folder.score_files(number)
    parts = run.scores.to_table(
        columns=[run.pair_id_column], filter=pc.field("run_attempt") == number
    ).column(0).chunks  # fmt: skip
    if files:
        parts += run.read_files(files, [run.pair_id_column]).column(0).chunks
    return list(parts)


def why_no_rescan(run: FinishedRun) -> str:
    """Return why a run's results do not tell whether its images have changed, or ""."""
    if run.image_columns is None:
        return f"expected a manifest of URIs, got one that holds its images: {run.uri}"
    if not set(TAGS) <= set(run.scores.schema.names):
        return (
            f"expected a run whose results have the column {TAGS[0]}, got {run.uri} of an earlier "
            "version of this project; score the manifest again with another output.run_id"
        )
    return ""


def find_changed(
    run: FinishedRun, rules: ImagesConfig, *, is_quick: bool = False
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield how many rows were looked at, and those of them whose images have other tags now.

    Args:
        run: a run whose results have tags.
        rules: which images are accepted.
        is_quick: look only at local images that had a tag, in rows that --retry-failed leaves out.
            Otherwise an image that had no tag and has one now counts as changed, too.
    """
    uri_columns = run.image_columns or ()
    columns = [run.pair_id_column, *uri_columns, *TAGS]
    is_failed = pc.field("status").isin([status.value for status in RETRIED_STATUSES])
    for rows in run.scan(columns, ~is_failed if is_quick else None, ROWS_PER_RESCAN):
        tags = take_tags([rows[name] for name in uri_columns], rules, only_local=is_quick)
        is_changed = np.zeros(len(rows), bool)
        for uri_column, tag_column in zip(uri_columns, TAGS, strict=True):
            uris, before = rows[uri_column].to_pylist(), rows[tag_column].to_pylist()
            is_changed |= np.fromiter(
                (
                    uri in tags and tags[uri] != tag and not (is_quick and tag is None)
                    for uri, tag in zip(uris, before, strict=True)
                ),
                bool,
            )
        yield len(rows), rows.filter(pa.array(is_changed))
