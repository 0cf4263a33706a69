"""Read finished runs: open one, find the newest, and read its results."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import pyarrow.compute as pc
import pyarrow.dataset

from pipeline.runs.errors import ContractError
from pipeline.runs.records import RunRecord
from pipeline.runs.run import RunFolder
from pipeline.runs.schema import RESERVED_COLUMNS, Status
from pipeline.runs.storage import STORE_ERRORS, arrow_filesystem, describe, open_store
from pipeline.runs.uris import redact


@dataclass(frozen=True)
class FinishedRun:
    """A run with _SUCCESS.

    Attributes:
        folder: its folder.
        record: the content of run.json.
    """

    folder: RunFolder
    record: RunRecord

    @property
    def uri(self) -> str:
        """Its folder's URI without secrets, for messages."""
        return self.folder.uri

    @property
    def run_id(self) -> str:
        """Its name."""
        return self.record.run_id

    @property
    def model_digest(self) -> str:
        """Digest of the model that scored it."""
        return self.record.model.digest

    @property
    def finished_at(self) -> str:
        """When it was published, UTC, ISO 8601."""
        return self.record.finished_at

    @property
    def num_attempts(self) -> int:
        """Number of published attempts: 1, plus 1 for each retry of its failed rows."""
        return len(self.record.attempts)

    @property
    def files(self) -> list[str]:
        """Paths of the result files of all attempts."""
        return [f"{self.folder.path}/{name}" for one in self.record.attempts for name in one.files]

    @cached_property
    def is_newest(self) -> pc.Expression | None:
        """Condition that selects each pair's newest result from `files`; None selects all rows."""
        return choose_newest(self.folder, self._files_by_attempt, self.pair_id_column)

    @cached_property
    def scores(self) -> pyarrow.dataset.Dataset:
        """The newest result of each pair.

        Raises:
            OSError, or another of STORE_ERRORS: a file is lost, or the store fails.
            pyarrow.ArrowException: a file is damaged.
        """
        return open_newest(self.folder, self._files_by_attempt, self.pair_id_column)

    @property
    def pair_id_column(self) -> str:
        """Name of the column with each pair's id."""
        return self.record.columns.pair_id

    @property
    def pass_through_columns(self) -> list[str]:
        """Names of the manifest's columns in the results."""
        return [name for name in self.scores.schema.names if name not in RESERVED_COLUMNS]

    @property
    def image_columns(self) -> tuple[str, str] | None:
        """Names of the columns with the images' URIs; None if the manifest held encoded images."""
        names = self.record.columns.reference, self.record.columns.distorted
        return names if set(names) <= set(self.pass_through_columns) else None

    @property
    def _files_by_attempt(self) -> list[tuple[str, ...]]:
        return [attempt.files for attempt in self.record.attempts]


def open_run(run_uri: str) -> FinishedRun:
    """Open a finished run's record and results.

    Args:
        run_uri: the run's folder, <output.uri>/run_id=<id>.

    Raises:
        ContractError: there is no such run, it is unfinished or has no rows, or its record has an
            unknown format.
    """
    try:
        folder = _open_folder(run_uri)
        state = folder.state()
        if state != "finished":
            got = "no run" if state == "new" else "an unfinished one (no _SUCCESS)"
            raise ContractError(f"expected a finished run at {folder.uri}, got {got}")
        record = folder.read_run()
    except STORE_ERRORS as error:
        raise _unreadable(run_uri, error) from error
    if not record.num_rows:
        raise ContractError(f"expected a run with rows at {folder.uri}, got one without rows")
    return FinishedRun(folder, record)


def open_newest_run(uri: str) -> FinishedRun:
    """Open a finished run, or the newest finished run in a folder of runs.

    Args:
        uri: a run's folder, or the folder that holds run_id=<id> folders.

    Raises:
        ContractError: there is no finished run.
    """
    if is_run(uri):
        return open_run(uri)
    runs = find_runs(uri)
    if not runs:
        got = f"neither at {redact(uri)}"
        raise ContractError(f"expected a finished run or a folder of runs, got {got}")
    return runs[-1]


def is_run(uri: str) -> bool:
    """Return whether a folder is that of one run, finished or not.

    Raises:
        ContractError: the folder cannot be read.
    """
    try:
        fs, path = open_store(uri)
        return bool(fs.exists(f"{path}/plan.json") or fs.exists(f"{path}/_SUCCESS"))
    except STORE_ERRORS as error:
        raise _unreadable(uri, error) from error


def find_runs(output_uri: str) -> list[FinishedRun]:
    """Open the finished runs in a folder of runs, the newest last.

    Runs whose records have an unknown format are left out.

    Args:
        output_uri: the folder that holds run_id=<id> folders.

    Raises:
        ContractError: the folder cannot be read.
    """
    try:
        fs, root = open_store(output_uri)
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)]
        uris = [f"{output_uri.rstrip('/')}/{name}" for name in names if name.startswith("run_id=")]
        finished = [uri for uri in uris if fs.exists(f"{open_store(uri)[1]}/_SUCCESS")]
    except STORE_ERRORS as error:
        raise _unreadable(output_uri, error) from error
    runs = []
    for uri in finished:
        with suppress(ContractError):  # an unknown format cannot be compared with
            runs.append(open_run(uri))
    return sorted(runs, key=lambda run: run.finished_at)


def open_scores(run_uri: str, *, allow_unfinished: bool = False) -> pyarrow.dataset.Dataset:
    """Open a run's results; every reader should use this function.

    Args:
        run_uri: the run's folder, <output.uri>/run_id=<id>.
        allow_unfinished: also read the results so far of a run without _SUCCESS.

    Returns:
        A dataset with the result columns.

    Raises:
        ContractError: there is no such run, it is unfinished, or it has no results yet.
    """
    if not allow_unfinished or not is_run(run_uri):
        return open_run(run_uri).scores
    folder = _open_folder(run_uri)
    if folder.state() == "finished":
        return open_run(run_uri).scores
    files = folder.score_files(attempt=1)
    if not files:
        raise ContractError(f"expected results at {folder.uri}, got a run without any yet")
    return _open_files(folder, [path.removeprefix(f"{folder.path}/") for path in files])


def open_newest(
    folder: RunFolder, attempts: Sequence[Sequence[str]], pair_id_column: str
) -> pyarrow.dataset.Dataset:
    """Open the newest result of each pair.

    Args:
        folder: the run's folder.
        attempts: each attempt's result files, relative to the folder, the oldest attempt first.
        pair_id_column: column with each pair's id.
    """
    rows = _open_files(folder, [name for files in attempts for name in files])
    is_newest = choose_newest(folder, attempts, pair_id_column)
    return rows if is_newest is None else rows.filter(is_newest)


def choose_newest(
    folder: RunFolder, attempts: Sequence[Sequence[str]], pair_id_column: str
) -> pc.Expression | None:
    """Return the condition that selects the newest result of each pair.

    Returns:
        A condition on the rows of all these files; None selects all rows.
    """
    if len(attempts) == 1:
        return None
    is_newest = pc.field("run_attempt") == len(attempts)
    for number, next_files in enumerate(attempts[1:], start=1):
        # Each attempt scores again a part of what the one before it scored.
        ids = _open_files(folder, next_files).to_table(columns=[pair_id_column]).column(0)
        is_newest |= (pc.field("run_attempt") == number) & ~pc.field(pair_id_column).isin(ids)
    return is_newest


def count_by_status(rows: pyarrow.dataset.Dataset) -> dict[str, int]:
    """Return the number of rows with each status, zeros included."""
    counts: Counter[str] = Counter()
    for batch in rows.to_batches(columns=["status"]):
        for entry in pc.value_counts(batch.column(0)).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return {status.value: counts[status.value] for status in Status}


def _open_folder(run_uri: str) -> RunFolder:
    fs, path = open_store(run_uri)
    return RunFolder(fs, path, redact(run_uri.rstrip("/")))


def _open_files(folder: RunFolder, names: Sequence[str]) -> pyarrow.dataset.Dataset:
    paths = [f"{folder.path}/{name}" for name in names]
    return pyarrow.dataset.dataset(paths, filesystem=arrow_filesystem(folder.fs), format="parquet")


def _unreadable(uri: str, error: Exception) -> ContractError:
    return ContractError(f"{redact(uri)} cannot be read: {describe(error)}")
