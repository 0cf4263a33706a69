"""Manifests for tests: written anywhere, and opened as the job does."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from pipeline.runs.errors import ContractError
from pipeline.runs.storage import open_store, write_whole
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import Manifest, open_manifest


def pairs(first: int = 0, last: int = 4, **columns) -> pa.Table:
    """Return rows with ids p<first> to p<last - 1>; columns replace or extend the defaults."""
    ids = [f"p{number}" for number in range(first, last)]
    return pa.table(
        {
            "pair_id": ids,
            "reference_uri": [f"/images/{id_}-r.png" for id_ in ids],
            "distorted_uri": [f"/images/{id_}-d.png" for id_ in ids],
        }
        | columns
    )


def encoded(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(rows, buffer)
    return buffer.getvalue()


def save(uri: str | Path, rows: pa.Table | bytes) -> str:
    write_whole(*open_store(str(uri)), rows if isinstance(rows, bytes) else encoded(rows))
    return str(uri)


def read(uri: str | Path, **columns) -> Manifest:
    return open_manifest(ManifestConfig(uri=str(uri), **columns))


def problems_of(uri: str | Path, **columns) -> list[str]:
    with pytest.raises(ContractError) as caught:
        read(uri, **columns)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def problem_of(uri: str | Path, **columns) -> str:
    (problem,) = problems_of(uri, **columns)
    return problem


def names(manifest: Manifest) -> list[str]:
    return [path.rpartition("/")[2] for path in manifest.paths]
