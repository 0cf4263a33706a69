"""Read finished runs: open one, find the newest, and read its results."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, reduce
from operator import and_
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.records import AttemptRecord, RunRecord
from pipeline.runs.run import OLD_PREFIX, PREFIX, RunFolder
from pipeline.runs.schema import SCORE_FIELDS, Status
from pipeline.runs.storage import STORE_ERRORS, arrow_filesystem, open_store, store_error
from pipeline.runs.uris import redact

FIRST_SCORE = SCORE_FIELDS[0].name


@dataclass(frozen=True)
class FinishedRun:
    """A run with _SUCCESS.

    Attributes:
        folder: its folder.
        record: the content of run.json.
        notes: lines for people on how `open_newest_run` chose it.
    """

    folder: RunFolder
    record: RunRecord
    notes: tuple[str, ...] = ()

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
    def place(self) -> tuple[str, str]:
        """Its place among runs: its night, then when it started; retries do not change it.

        Without a given night, that is the day (UTC) on which it started.
        """
        started_at = self.record.attempts[0].started_at
        return self.record.night or started_at[:10], started_at

    @property
    def num_attempts(self) -> int:
        """Number of published attempts: 1, plus 1 for each retry of its failed rows."""
        return len(self.record.attempts)

    @property
    def files(self) -> list[str]:
        """Paths of its result files."""
        attempts = self.record.attempts[: None if self._has_old_results else 1]
        return [path for attempt in attempts for path in self._paths(attempt)]

    def _paths(self, attempt: AttemptRecord) -> list[str]:
        return [f"{self.folder.path}/{name}" for name in attempt.files]

    @property
    def _has_old_results(self) -> bool:
        """Whether its files also hold results that a retry replaced, as of earlier versions."""
        return self.record.version < 3 and self.num_attempts > 1

    @cached_property
    def is_newest(self) -> pc.Expression | None:
        """Condition that selects each pair's newest result from `files`; None selects all rows."""
        if not self._has_old_results:
            return None
        pair_id, attempt = pc.field(self.pair_id_column), pc.field("run_attempt")
        is_newest = attempt == self.num_attempts
        for number, later in enumerate(self.record.attempts[1:], start=1):
            # Each attempt scores again a part of what the one before it scored.
            rows = _open_files(self.folder.fs, self._paths(later))
            ids = rows.to_table(columns=[self.pair_id_column]).column(0)
            is_newest |= (attempt == number) & ~pair_id.isin(ids)
        return is_newest

    @cached_property
    def _rows(self) -> pyarrow.dataset.Dataset:
        lost = sorted(set(self.files) - set(self.folder.files(attempt=1)))
        remedy = "restore them, or score the manifest again with another output.run_id"
        if lost:
            got = f"{len(lost)} lost, for example {lost[0].removeprefix(f'{self.folder.path}/')}"
            raise FileNotFoundError(f"{self.uri}: expected all result files, got {got}; {remedy}")
        rows, expected = _open_files(self.folder.fs, self.files), self.record.num_rows
        num_rows = rows.count_rows() if FIRST_SCORE in rows.schema.names else 0
        if num_rows != expected and not self._has_old_results:
            got = f"{num_rows} in them; {remedy}"
            raise OSError(f"{self.uri}: expected result files with {expected} rows, got {got}")
        return rows

    @property
    def scores(self) -> pyarrow.dataset.Dataset:
        """The newest result of each pair.

        Raises:
            OSError, or another of STORE_ERRORS: a file or a row is lost, or the store fails.
            pyarrow.ArrowException: a file is damaged.
        """
        return self._rows if self.is_newest is None else self._rows.filter(self.is_newest)

    def scan(
        self, columns: Sequence[str], where: pc.Expression | None, batch_size: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows of `scores`, file by file.

        Raises: as `scores` does.
        """
        given = [condition for condition in (where, self.is_newest) if condition is not None]
        return scan_by_file(self._rows, columns, reduce(and_, given) if given else None, batch_size)

    def read_files(self, paths: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Return columns of files in the run's folder."""
        return _open_files(self.folder.fs, paths).to_table(columns=list(columns))

    @property
    def pair_id_column(self) -> str:
        """Name of the column with each pair's id."""
        return self.record.columns.pair_id

    @property
    def pass_through_columns(self) -> list[str]:
        """Names of the manifest's columns in the results."""
        # They come first. One can have a name that only a later version reserves.
        names: list[str] = self.scores.schema.names
        return names[: names.index(FIRST_SCORE)]

    @property
    def score_columns(self) -> list[str]:
        """Names of the score columns in the results; earlier versions wrote fewer."""
        own = self.scores.schema.names[len(self.pass_through_columns) :]
        return [field.name for field in SCORE_FIELDS if field.name in own]

    def why_empty(self, column: str) -> str:
        """Return why no row has a value in a score column, as far as the record tells."""
        if column not in self.score_columns:
            return f"{self.uri} has no {column}: a version of this project before 0.5 scored it"
        if not self.record.counts_by_status.get(Status.OK):
            return "no row is ok"
        if column == "expected_dmos" and self.record.model.dmos_scale is None:
            checkpoint = self.record.config["model"]["checkpoint"]
            return f"checkpoint {checkpoint} has no scale for it"
        if column == "lpips":
            return "the run was scored without model.lpips"
        return "the run's model does not fill it"

    @property
    def image_columns(self) -> tuple[str, str] | None:
        """Names of the columns with the images' URIs; None if the manifest held encoded images."""
        names = self.record.columns.reference, self.record.columns.distorted
        return names if set(names) <= set(self.pass_through_columns) else None


def open_run(run_uri: str) -> FinishedRun:
    """Open a finished run's record and results.

    Args:
        run_uri: the run's folder, <output.uri>/run-<id>.

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
        uri: a run's folder, or the folder that holds run-<id> folders.

    Raises:
        ContractError: there is no finished run; the error names the runs that were left out.
    """
    if is_run(uri):
        return open_run(uri)
    runs, notes = find_runs(uri)
    return replace(runs[-1], notes=tuple(notes))


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


def find_run_around(uri: str, *, or_it: bool = True) -> str | None:
    """Return the path of the folder, of a run or a filtering, that a URI is inside, or is (or_it).

    Links of local paths are resolved. None if there is no such folder.
    """
    fs, path = open_store(uri)
    if isinstance(fs, LocalFileSystem):
        path = os.path.realpath(path)
    above = map(str, PurePosixPath(path).parents)
    for folder in (path, *above) if or_it else above:
        for name in () if folder == "." else ("plan.json", "run.json"):
            with suppress(OSError):  # Not there, or not ours to read.
                # Programs of others write files of these names, too.
                if b'"fingerprints"' in fs.cat_file(f"{folder}/{name}"):
                    return folder
    return None


def check_outside_runs(output_uri: str, *, or_it: bool = True) -> None:
    """Check that an output is not inside the folder of a run or a filtering, nor is one (or_it).

    Raises:
        ContractError: it is.
    """
    if around := find_run_around(output_uri, or_it=or_it):
        raise ContractError(
            f"output.uri: expected a folder outside of runs, got {redact(output_uri.rstrip('/'))} "
            f"in the folder of a run or a filtering, {around}"
        )


def find_runs(output_uri: str) -> tuple[list[FinishedRun], list[str]]:
    """Open the finished runs in a folder of runs.

    Args:
        output_uri: the folder that holds run-<id> folders.

    Returns:
        The runs in the order of their `place`, at least one; and notes for people on runs that are
        left out and on runs from the future.

    Raises:
        ContractError: the folder cannot be read or has no finished run.
    """
    root = output_uri.rstrip("/")
    try:
        fs, path = open_store(root)
        names = [PurePosixPath(entry).name for entry in fs.ls(path, detail=False)]
        uris = [f"{root}/{name}" for name in names if name.startswith((PREFIX, OLD_PREFIX))]
        started = [uri for uri in sorted(uris) if is_run(uri)]
    except STORE_ERRORS as error:
        raise _unreadable(output_uri, error) from error
    runs, notes = [], []
    for uri in started:
        try:
            runs.append(open_run(uri))
        except ContractError as error:
            name = PurePosixPath(uri).name
            notes += [f"{name} was left out: {problem}" for problem in error.problems]
    if not runs:
        expected = "expected a finished run or a folder with one"
        raise ContractError(f"{expected}, got none at {redact(output_uri)}", *notes)
    runs.sort(key=lambda run: run.place)
    now = datetime.now(UTC)
    latest = (now + timedelta(days=1)).date().isoformat(), now.isoformat(timespec="seconds")
    notes += [
        f"run {run.run_id} is from the future: its night is {run.place[0]}, it started at "
        f"{run.place[1]}, and now it is {latest[1]}; check the clocks and output.night"
        for run in runs
        if run.place[0] > latest[0] or run.place[1] > latest[1]
    ]
    return runs, notes


def open_scores(run_uri: str, *, allow_unfinished: bool = False) -> pyarrow.dataset.Dataset:
    """Open a run's results; every reader should use this function.

    Args:
        run_uri: the run's folder, <output.uri>/run-<id>.
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
    return _open_files(folder.fs, files)


def _open_folder(run_uri: str) -> RunFolder:
    fs, path = open_store(run_uri)
    return RunFolder(fs, path, redact(run_uri.rstrip("/")))


def scan_by_file(
    rows: pyarrow.dataset.Dataset,
    columns: Sequence[str],
    where: pc.Expression | None,
    batch_size: int,
) -> Iterator[pa.RecordBatch]:
    """Yield rows file by file; by default Arrow reads 16 batches of each of four files ahead.

    Raises: as `FinishedRun.scores` does.
    """
    for file in rows.get_fragments():
        yield from file.to_batches(rows.schema, list(columns), where, batch_size)


def _open_files(fs: AbstractFileSystem, paths: Sequence[str]) -> pyarrow.dataset.Dataset:
    return pyarrow.dataset.dataset(list(paths), filesystem=arrow_filesystem(fs), format="parquet")


def _unreadable(uri: str, error: Exception) -> ContractError | FaultError:
    return store_error(f"{redact(uri)} cannot be read", error)
