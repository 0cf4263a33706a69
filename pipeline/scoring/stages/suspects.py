"""Rows that may have killed their scorer: each is tried alone, and given up after some tries."""

import hashlib
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from fsspec import AbstractFileSystem

from pipeline.runs.schema import Status

MAX_DEATHS = 2
"""Scorers that a row may kill while it is alone in them; one can also die for another reason."""


def is_repeated() -> bool:
    """Return whether Ray runs this task again because the process that had it before has died.

    A scorer is asked while it starts: Ray Data scores in a thread, which has no task.
    """
    ray = sys.modules.get("ray")  # who loads or scores without Ray need not wait for its import
    if ray is None or not ray.is_initialized():
        return False
    worker = ray.get_runtime_context().worker
    return bool(worker.core_worker.get_current_task_attempt_number() > 0)


@dataclass(frozen=True)
class Suspects:
    """Rows that were alone in a scorer when it died, one empty file for each death.

    Files, because they survive the scorer and the machine, and the run that resumes finds them.

    Attributes:
        fs: the store of the run's folder.
        path: the folder of these files.
        pair_id_column: name of the column with the pairs' ids.
    """

    fs: AbstractFileSystem
    path: str
    pair_id_column: str

    def try_each(self, rows: pa.Table, score: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """Score each of some loaded rows alone, as `try_alone` does."""
        each = (rows.slice(index, 1) for index in range(rows.num_rows))
        return pa.concat_tables([self.try_alone(row, score) for row in each])

    def try_alone(self, row: pa.Table, score: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """Score one loaded row, or, when it has killed MAX_DEATHS scorers, call it crashed.

        Args:
            row: as the load stage makes it.
            score: function that scores loaded rows.
        """
        if not row.column("reference_pixels")[0].is_valid:  # it needs no scorer
            return score(row)
        pair_id = row.column(self.pair_id_column)[0].as_py()
        path = f"{self.path}/{hashlib.sha256(pair_id.encode()).hexdigest()}"
        self.fs.invalidate_cache()
        if len(self.fs.glob(f"{path}.*")) >= MAX_DEATHS:
            return score(_crashed(row))
        self.fs.makedirs(self.path, exist_ok=True)
        death = f"{path}.{uuid.uuid4().hex}"
        self.fs.pipe_file(death, b"")
        scored = score(row)
        self.fs.rm_file(death)
        return scored


def _crashed(row: pa.Table) -> pa.Table:
    """Return a loaded row without its pixels."""
    error = (
        f"pair: expected a score, got a scorer that died {MAX_DEATHS} times with only this pair; "
        "it may need more memory than the machine has"
    )
    columns = {name: row.column(name) for name in row.column_names}
    columns |= {name: pa.nulls(1, row.schema.field(name).type) for name in _PIXELS_AND_SIZE}
    columns |= {"status": pa.array([Status.CRASHED.value]), "error": pa.array([error])}
    return pa.table(columns, schema=row.schema)


_PIXELS_AND_SIZE = ("height_px", "width_px", "reference_pixels", "distorted_pixels")
