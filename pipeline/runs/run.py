"""A run's folder: plan.json before anything is scored, run.json and _SUCCESS after everything is.

<output.uri>/run_id=<id>/
    plan.json       resolved config, fingerprints, model: what this folder will hold
    scores/attempt-1/       results, Parquet; attempt-2 and on: of rows retried because they failed
    checkpoint/attempt-1/   Ray Data's record of the rows done, for resuming
    run.json        plan.json plus counts by status and the attempts with their files and timings
    _SUCCESS        empty, written last; without it the folder is unfinished
    lock.json       there while a process writes
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

import pyarrow.compute as pc
import pyarrow.dataset
from fsspec import AbstractFileSystem

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.records import Json, LockRecord, PlanRecord, RunRecord, parse_record
from pipeline.runs.schema import RESERVED_COLUMNS, Status
from pipeline.runs.storage import STORE_ERRORS, arrow_filesystem, describe, open_store, write_whole
from pipeline.runs.uris import redact


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        fs: its store.
        path: its path in the store.
        uri: its URI, without secrets, for people.
    """

    fs: AbstractFileSystem
    path: str
    uri: str

    def scores_path(self, attempt: int) -> str:
        """Return the folder of an attempt's result files."""
        return f"{self.path}/scores/attempt-{attempt}"

    def checkpoint_path(self, attempt: int) -> str:
        """Return the folder of an attempt's Ray Data checkpoint."""
        return f"{self.path}/checkpoint/attempt-{attempt}"

    def state(self) -> Literal["new", "unfinished", "finished"]:
        """Return how far the run is."""
        self.fs.invalidate_cache()  # other machines write there too
        if self.fs.exists(f"{self.path}/_SUCCESS"):
            return "finished"
        return "unfinished" if self.fs.exists(f"{self.path}/plan.json") else "new"

    def read_plan(self) -> PlanRecord:
        """Return plan.json; raises what `read` raises, and a ContractError for another format."""
        return parse_record(PlanRecord, self.read("plan.json"), f"{self.uri}/plan.json")

    def read_run(self) -> RunRecord:
        """Return run.json; raises what `read` raises, and a ContractError for another format."""
        return parse_record(RunRecord, self.read("run.json"), f"{self.uri}/run.json")

    def read_lock(self) -> LockRecord:
        """Return lock.json; raises what `read` raises, and a ContractError for another format."""
        return parse_record(LockRecord, self.read("lock.json"), f"{self.uri}/lock.json")

    def write_plan(self, record: PlanRecord) -> None:
        """Write plan.json; raises what `write` raises."""
        self.write("plan.json", record.model_dump(mode="json"))

    def write_run(self, record: RunRecord) -> None:
        """Write run.json; raises what `write` raises."""
        self.write("run.json", record.model_dump(mode="json"))

    def write_lock(self, record: LockRecord) -> None:
        """Write lock.json; raises what `write` raises."""
        self.write("lock.json", record.model_dump(mode="json"))

    def write_success(self) -> None:
        """Write _SUCCESS, which makes the run a finished one; raises what `write` raises."""
        self.write("_SUCCESS", None)

    def read(self, name: str) -> Json:
        """Return a JSON file of the folder.

        Raises:
            ContractError: the file is not JSON.
            OSError: the file does not exist or cannot be read; or another of STORE_ERRORS.
        """
        try:
            content: Json = json.loads(self.fs.cat_file(f"{self.path}/{name}"))
        except ValueError as error:
            raise ContractError(f"{self.uri}/{name}: expected JSON, got {error}") from error
        return content

    def write(self, name: str, content: Json | None) -> None:
        """Write a file of the folder whole; None writes an empty one.

        Raises:
            FaultError: the store does not take it.
        """
        text = "" if content is None else json.dumps(content, indent=2, allow_nan=False) + "\n"
        try:
            write_whole(self.fs, f"{self.path}/{name}", text.encode())
        except STORE_ERRORS as error:
            raise FaultError(f"{self.uri}/{name} cannot be written: {describe(error)}") from error

    def score_files(self, attempt: int) -> list[str]:
        """Return the result files of an attempt whose rows are recorded as done, sorted.

        What a killed process left half written is not recorded, and not returned.
        """
        self.fs.invalidate_cache()
        done = {PurePosixPath(path).stem for path in self._parquet(self.checkpoint_path(attempt))}
        files = self._parquet(self.scores_path(attempt))
        # Ray names <task>.parquet in the checkpoint, and <task>-<number>.parquet for each file.
        return [path for path in files if PurePosixPath(path).stem.rpartition("-")[0] in done]

    def _parquet(self, folder: str) -> list[str]:
        if not self.fs.exists(folder):
            return []
        return sorted(path for path in self.fs.find(folder) if path.endswith(".parquet"))


def fingerprint(content: Json) -> str:
    """Return the sha256 of a JSON value, the same whatever the order of its keys.

    Args:
        content: JSON data.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_run_folder(output_uri: str, run_id: str, fingerprints: dict[str, str]) -> RunFolder:
    """Return a run's folder after checking that it is free or holds the same run.

    Args:
        output_uri: folder of all runs.
        run_id: name of this one.
        fingerprints: of manifest, model and scoring settings, by name.

    Raises:
        ContractError: the folder cannot be read, or it holds something else.
    """
    try:
        fs, root = open_store(output_uri)
        folder = RunFolder(
            fs, f"{root}/run_id={run_id}", redact(f"{output_uri.rstrip('/')}/run_id={run_id}")
        )
        if folder.state() == "new":
            names = fs.ls(folder.path, detail=False) if fs.exists(folder.path) else []
            # What a process leaves that was killed before anything else was written.
            others = [name for name in names if "/lock.json" not in name and "partial" not in name]
            if others:
                got = f"other files in {folder.uri}, {others[0].rpartition('/')[2]} for one"
                raise ContractError(f"output.run_id: expected a free folder or a run, got {got}")
            return folder
        held = folder.read_plan().fingerprints
    except STORE_ERRORS as error:
        raise ContractError(
            f"output.uri: {redact(output_uri)} cannot be used: {describe(error)}"
        ) from error
    problems = [
        f"output.run_id: {folder.uri} holds another {name}: expected fingerprint {mine}, "
        f"got {held.get(name)}"
        for name, mine in fingerprints.items()
        if held.get(name) != mine
    ]
    if problems:
        raise ContractError(*problems)
    return folder


def choose_newest(
    folder: RunFolder, attempts: Sequence[Sequence[str]], pair_id_column: str
) -> pc.Expression | None:
    """Return what holds for the result that counts of each pair: the newest attempt's.

    Args:
        folder: of the run.
        attempts: each attempt's result files, relative to the folder, the oldest attempt first.
        pair_id_column: column with each pair's id.

    Returns:
        A condition on the rows of all these files; None when all of them count.
    """
    if len(attempts) == 1:
        return None
    is_newest = pc.field("run_attempt") == len(attempts)
    for number, later in enumerate(attempts[1:], start=1):  # which scored some of these again
        ids = _dataset(folder, later).to_table(columns=[pair_id_column]).column(0)
        is_newest |= (pc.field("run_attempt") == number) & ~pc.field(pair_id_column).isin(ids)
    return is_newest


def open_newest(
    folder: RunFolder, attempts: Sequence[Sequence[str]], pair_id_column: str
) -> pyarrow.dataset.Dataset:
    """Return the newest result of each pair.

    Args:
        folder: the run's folder.
        attempts: each attempt's result files, relative to the folder, the oldest attempt first.
        pair_id_column: column with each pair's id.
    """
    rows = _dataset(folder, [name for files in attempts for name in files])
    is_newest = choose_newest(folder, attempts, pair_id_column)
    return rows if is_newest is None else rows.filter(is_newest)


def count_by_status(rows: pyarrow.dataset.Dataset) -> dict[str, int]:
    """Return the number of rows with each status, statuses without rows included.

    Args:
        rows: results.
    """
    counts: Counter[str] = Counter()
    for batch in rows.to_batches(columns=["status"]):
        for entry in pc.value_counts(batch.column(0)).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return {status.value: counts[status.value] for status in Status}


@dataclass(frozen=True)
class FinishedRun:
    """A run with _SUCCESS.

    Attributes:
        folder: where it is.
        record: the content of run.json.
    """

    folder: RunFolder
    record: RunRecord

    @property
    def uri(self) -> str:
        """Its folder's URI, without secrets, for people."""
        return self.folder.uri

    @cached_property
    def scores(self) -> pyarrow.dataset.Dataset:
        """The results; raises an error of the store or of Arrow when a file is lost or damaged."""
        return open_newest(self.folder, self._files_by_attempt, self.pair_id_column)

    @cached_property
    def is_newest(self) -> pc.Expression | None:
        """What holds for the rows of `files` that count; None when all of them do."""
        return choose_newest(self.folder, self._files_by_attempt, self.pair_id_column)

    @property
    def files(self) -> list[str]:
        """Paths of all attempts' result files."""
        return [f"{self.folder.path}/{name}" for one in self.record.attempts for name in one.files]

    @property
    def num_attempts(self) -> int:
        """How many attempts were published: one, and one more each time that rows were retried."""
        return len(self.record.attempts)

    @property
    def _files_by_attempt(self) -> list[tuple[str, ...]]:
        return [attempt.files for attempt in self.record.attempts]

    @property
    def run_id(self) -> str:
        """Name of the run."""
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
    def pair_id_column(self) -> str:
        """Column with each pair's id."""
        return self.record.columns.pair_id

    @property
    def image_columns(self) -> tuple[str, str] | None:
        """Columns with the URIs of reference and distorted; None if the manifest held the bytes."""
        reference, distorted = self.record.columns.reference, self.record.columns.distorted
        own = self.pass_through_columns
        return (reference, distorted) if reference in own and distorted in own else None

    @property
    def pass_through_columns(self) -> list[str]:
        """The manifest's columns in the results."""
        return [name for name in self.scores.schema.names if name not in RESERVED_COLUMNS]


def open_run(run_uri: str) -> FinishedRun:
    """Open a finished run's record and results.

    Args:
        run_uri: the run's folder, <output.uri>/run_id=<id>.

    Raises:
        ContractError: there is no such run, or it is unfinished or empty, or its record has another
            format.
    """
    try:
        fs, path = open_store(run_uri)
        folder = RunFolder(fs, path, redact(run_uri.rstrip("/")))
        state = folder.state()
        if state != "finished":
            got = "no run" if state == "new" else "an unfinished one (no _SUCCESS)"
            raise ContractError(f"expected a finished run at {folder.uri}, got {got}")
        record = folder.read_run()
    except STORE_ERRORS as error:
        problem = f"{redact(run_uri)} cannot be read: {describe(error)}"
        raise ContractError(problem) from error
    if not record.num_rows:
        raise ContractError(f"expected a run with rows at {folder.uri}, got an empty one")
    return FinishedRun(folder, record)


def open_newest_run(uri: str) -> FinishedRun:
    """Open a finished run, or of a folder of runs the one finished last.

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

    Args:
        uri: the folder's.

    Raises:
        ContractError: it cannot be read.
    """
    try:
        fs, path = open_store(uri)
        return bool(fs.exists(f"{path}/plan.json") or fs.exists(f"{path}/_SUCCESS"))
    except STORE_ERRORS as error:
        raise ContractError(f"{redact(uri)} cannot be read: {describe(error)}") from error


def find_runs(output_uri: str) -> list[FinishedRun]:
    """Open the finished runs in a folder of runs, those finished last at the end.

    Runs that cannot be read by this version are left out.

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
        problem = f"{redact(output_uri)} cannot be read: {describe(error)}"
        raise ContractError(problem) from error
    runs = []
    for uri in finished:
        with suppress(ContractError):  # another version's, which cannot be compared
            runs.append(open_run(uri))
    return sorted(runs, key=lambda run: run.finished_at)


def open_scores(run_uri: str, *, allow_unfinished: bool = False) -> pyarrow.dataset.Dataset:
    """Open a run's results, the way every reader should.

    Args:
        run_uri: the run's folder, <output.uri>/run_id=<id>.
        allow_unfinished: read what there is of a run without _SUCCESS.

    Returns:
        A dataset with the result columns.

    Raises:
        ContractError: there is no such run, or it is unfinished, or has no results yet.
    """
    if not allow_unfinished or not is_run(run_uri):
        return open_run(run_uri).scores
    fs, path = open_store(run_uri)
    folder = RunFolder(fs, path, redact(run_uri.rstrip("/")))
    if folder.state() == "finished":
        return open_run(run_uri).scores
    files = folder.score_files(attempt=1)
    if not files:
        raise ContractError(f"expected results at {folder.uri}, got a run without any yet")
    return _dataset(folder, [path.removeprefix(f"{folder.path}/") for path in files])


def _dataset(folder: RunFolder, files: Sequence[str]) -> pyarrow.dataset.Dataset:
    paths = [f"{folder.path}/{name}" for name in files]
    return pyarrow.dataset.dataset(paths, filesystem=arrow_filesystem(folder.fs), format="parquet")
