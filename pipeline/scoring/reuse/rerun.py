"""What to tell a user who gives the command of a finished run again."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from pipeline.runs.finished import FinishedRun
from pipeline.runs.schema import RETRIED_STATUSES
from pipeline.runs.storage import STORE_ERRORS, open_fs
from pipeline.runs.uris import is_local
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.reuse.attempts import find_changed, why_no_rescan

MAX_ROWS = 100_000
"""Rows whose images are looked at."""
NUM_SAMPLED = 100
"""Images looked at that are not on a local path; each one costs a request."""
THREADS = 32


def advise(run: FinishedRun, rules: ImagesConfig) -> Iterator[str]:
    """Yield a line if images changed since the run.

    Where results have tags, local images are compared with them. Others are looked at for the time
    of their last change.

    Args:
        run: the run.
        rules: which images are accepted.

    Raises:
        OSError, or another of STORE_ERRORS: a result file is lost, or the store fails.
    """
    has_tags = not why_no_rescan(run)
    if has_tags:
        yield from _compare_tags(run, rules)
    scored_s = _when_scored(run)
    local = [uri for uri in scored_s if is_local(uri)]
    others = sorted(scored_s.keys() - {*local})
    chosen = [*([] if has_tags else local), *others[:: len(others) // NUM_SAMPLED + 1]]

    def find_modified(uris: Sequence[str]) -> list[str]:
        return [uri for uri in uris if _modified_s(uri) > scored_s[uri]]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(find_modified, [chosen[i::THREADS] for i in range(THREADS)])
        changed = [uri for part in parts for uri in part]
    if changed:
        yield (
            f"warning: {len(changed)} of {len(chosen)} images that were looked at have changed "
            f"since this run started, for example {min(changed)}; its results are of the images "
            "before; to score the new ones, "
            + ("add --rescan" if has_tags else "give another output.run_id")
        )


def _compare_tags(run: FinishedRun, rules: ImagesConfig) -> Iterator[str]:
    """Yield a line if local images of the first MAX_ROWS rows have other tags now."""
    num_changed = num_rows = 0
    for num_looked, changed in find_changed(run, rules, is_quick=True):
        num_rows, num_changed = num_rows + num_looked, num_changed + len(changed)
        if num_rows >= MAX_ROWS:
            break
    if num_changed:
        yield (
            f"warning: the images of {num_changed} of {num_rows} rows that were looked at have "
            "changed since they were scored; --rescan scores these rows again"
        )


def _when_scored(run: FinishedRun) -> dict[str, float]:
    """Return the start (Unix time) of the attempt that fetched each image, by its URI.

    The images of rows that can be retried are left out, and URIs whose secrets are hidden.
    """
    if run.image_columns is None:
        return {}
    # Records have whole seconds, rounded down.
    starts_s = [
        datetime.fromisoformat(one.started_at).timestamp() + 1 for one in run.record.attempts
    ]
    columns = [*run.image_columns, "run_attempt"]
    failed = pc.field("status").isin([status.value for status in RETRIED_STATUSES])
    rows = run.scores.head(MAX_ROWS, columns=columns, filter=~failed)
    scored_s: dict[str, float] = {}
    for name in run.image_columns:
        for uri, number in zip(
            rows[name].to_pylist(), rows["run_attempt"].to_pylist(), strict=True
        ):
            # A retry that is not published yet has no start.
            start_s = starts_s[min(number, len(starts_s)) - 1]
            scored_s[uri] = min(start_s, scored_s.get(uri, start_s))
    return {uri: start_s for uri, start_s in scored_s.items() if "***" not in uri}


def _modified_s(uri: str) -> float:
    """Return when an image was last changed (Unix time); 0 if its store does not say."""
    try:
        if uri.startswith("/"):
            return Path(uri).stat().st_mtime
        fs, path = open_fs(uri)
        return float(fs.modified(path).timestamp())
    except (*STORE_ERRORS, NotImplementedError):
        return 0.0
