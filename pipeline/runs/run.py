"""A run's folder: its paths, its state, and the files that are written into it.

<output.uri>/run-<id>/
    plan.json               written before scoring: resolved config, fingerprints, model
    scores/                 results as Parquet, one row for each row of the manifest
    retries/attempt-2/      the new results of retried rows, before they are merged into scores/
    superseded/attempt-2/   files of scores/ as they were before attempt 2 was merged into them
    checkpoint/attempt-1/   Ray Data's record of an attempt's finished rows, for resuming
    suspects/attempt-1/     rows that were alone in a scorer when it died
    metrics.prom            written after scoring: counts and figures for Prometheus
    run.json                written after scoring: plan.json plus counts, attempts and timings
    _SUCCESS                empty, written last; a folder without it is unfinished
    lock.json               exists while a process writes here

The name has no `=`: readers of Parquet take a folder run_id=2026-11-20 for a column of dates.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from fsspec import AbstractFileSystem

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.records import Json, LockRecord, PlanRecord, RunRecord, parse_record
from pipeline.runs.storage import STORE_ERRORS, describe, open_store, store_error, write_whole
from pipeline.runs.uris import redact

State = Literal["new", "unfinished", "finished"]
PREFIX = "run-"
OLD_PREFIX = "run_id="
"""Of the folders that earlier versions wrote. They are read and never written."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    The `read` methods raise a ContractError when a file is damaged or has an unknown format, and
    one of STORE_ERRORS when the store cannot give it. The `write` methods raise a FaultError when
    the store does not accept the file.

    Attributes:
        fs: its store.
        path: its path in the store.
        uri: its URI without secrets, for messages.
    """

    fs: AbstractFileSystem
    path: str
    uri: str

    def scores_path(self, attempt: int) -> str:
        """Return the folder into which an attempt writes its result files."""
        return f"{self.path}/{'scores' if attempt == 1 else f'retries/attempt-{attempt}'}"

    def superseded_path(self, attempt: int) -> str:
        """Return the folder of what an attempt's publication takes out of scores/."""
        return f"{self.path}/superseded/attempt-{attempt}"

    def checkpoint_path(self, attempt: int) -> str:
        """Return the folder of an attempt's Ray Data checkpoint."""
        return f"{self.path}/checkpoint/attempt-{attempt}"

    def suspects_path(self, attempt: int) -> str:
        """Return the folder of the rows that were alone in a scorer when it died."""
        return f"{self.path}/suspects/attempt-{attempt}"

    def has_suspects(self) -> bool:
        """Return whether a row was alone in a scorer when it died, in any attempt."""
        self.fs.invalidate_cache()
        return bool(self._find(f"{self.path}/suspects"))

    def is_locked(self) -> bool:
        """Return whether a process writes here, or has died here."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(f"{self.path}/lock.json"))

    def state(self) -> State:
        """Return how far the run is."""
        self.fs.invalidate_cache()  # other machines write here too
        if self.fs.exists(f"{self.path}/_SUCCESS"):
            return "finished"
        return "unfinished" if self.fs.exists(f"{self.path}/plan.json") else "new"

    def read_plan(self) -> PlanRecord:
        """Return plan.json."""
        return parse_record(PlanRecord, self.read("plan.json"), f"{self.uri}/plan.json")

    def read_run(self) -> RunRecord:
        """Return run.json."""
        return parse_record(RunRecord, self.read("run.json"), f"{self.uri}/run.json")

    def read_lock(self) -> LockRecord:
        """Return lock.json."""
        return parse_record(LockRecord, self.read("lock.json"), f"{self.uri}/lock.json")

    def write_plan(self, record: PlanRecord) -> None:
        """Write plan.json."""
        self.write("plan.json", record.model_dump(mode="json"))

    def write_run(self, record: RunRecord) -> None:
        """Write run.json."""
        self.write("run.json", record.model_dump(mode="json"))

    def write_lock(self, record: LockRecord) -> None:
        """Write lock.json."""
        self.write("lock.json", record.model_dump(mode="json"))

    def write_metrics(self, content: bytes) -> None:
        """Write metrics.prom."""
        self._write_whole("metrics.prom", content)

    def write_success(self) -> None:
        """Write _SUCCESS, which makes the run a finished one."""
        self.write("_SUCCESS", None)

    def read(self, name: str) -> Json:
        """Return a JSON file of the folder."""
        try:
            content: Json = json.loads(self.fs.cat_file(f"{self.path}/{name}"))
        except ValueError as error:
            raise ContractError(
                f"{self.uri}/{name}: expected JSON, got a damaged file: {error}"
            ) from error
        return content

    def write(self, name: str, content: Json | None) -> None:
        """Write a JSON file of the folder in one step; None writes an empty file."""
        text = "" if content is None else json.dumps(content, indent=2, allow_nan=False) + "\n"
        self._write_whole(name, text.encode())

    def _write_whole(self, name: str, content: bytes) -> None:
        try:
            write_whole(self.fs, f"{self.path}/{name}", content)
        except STORE_ERRORS as error:
            raise FaultError(f"{self.uri}/{name} cannot be written: {describe(error)}") from error

    def score_files(self, attempt: int) -> list[str]:
        """Return the paths of an attempt's complete result files, sorted.

        A killed process can leave half a file. The checkpoint does not record such a file, and this
        method does not return it.
        """
        self.fs.invalidate_cache()
        done = {PurePosixPath(path).stem for path in self._find(self.checkpoint_path(attempt))}
        files = [path for path in self.files(attempt) if path.endswith(".parquet")]
        # Ray names <task>.parquet in the checkpoint, and <task>-<number>.parquet for each file.
        return [path for path in files if PurePosixPath(path).stem.rpartition("-")[0] in done]

    def files(self, attempt: int) -> list[str]:
        """Return the paths of all files where an attempt writes its results, sorted."""
        return self._find(self.scores_path(attempt))

    def _find(self, folder: str) -> list[str]:
        return sorted(self.fs.find(folder)) if self.fs.exists(folder) else []


def fingerprint(content: Json) -> str:
    """Return the sha256 of JSON data; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_run_folder(output_uri: str, run_id: str, fingerprints: dict[str, str]) -> RunFolder:
    """Return a run's folder after checking that it is free or holds the same run.

    Raises:
        ContractError: the folder cannot be read, or it holds something else.
    """
    try:
        fs, root = open_store(output_uri)
        folder, old = (
            RunFolder(fs, f"{root}/{name}", redact(f"{output_uri.rstrip('/')}/{name}"))
            for name in (f"{PREFIX}{run_id}", f"{OLD_PREFIX}{run_id}")
        )
        if folder.state() == "new":
            if old.state() != "new":
                raise ContractError(
                    f"output.run_id: expected a new name, got that of {old.uri}, a run of an "
                    "earlier version of this project"
                )
            _check_is_free(folder)
            return folder
        held = folder.read_plan().fingerprints
    except STORE_ERRORS as error:
        raise store_error(f"output.uri: {redact(output_uri)} cannot be used", error) from error
    problems = [
        f"output.run_id: {folder.uri} holds a run with a different {name}: expected fingerprint "
        f"{fingerprints.get(name)}, got {held.get(name)}"
        for name in fingerprints | held
        if held.get(name) != fingerprints.get(name)
    ]
    if problems:
        raise ContractError(*problems)
    return folder


def _check_is_free(folder: RunFolder) -> None:
    names = folder.fs.ls(folder.path, detail=False) if folder.fs.exists(folder.path) else []
    # A process that was killed at its very start can leave lock.json and partial files.
    others = [name for name in names if "/lock.json" not in name and "partial" not in name]
    if others:
        example = others[0].rpartition("/")[2]
        raise ContractError(
            f"output.run_id: expected a free folder or a run at {folder.uri}, got other files, "
            f"for example {example}"
        )
