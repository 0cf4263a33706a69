"""Keep scores/ such that its files hold each row once: merge retried rows, set stray files aside.

A process can be killed at any point here: the next one does the same again, with the same outcome.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.runs.run import RunFolder
from pipeline.runs.storage import arrow_filesystem, write_whole
from pipeline.scoring.manifest import hash_array


def merge_retry(
    folder: RunFolder, attempt: int, files: Sequence[str], retried: Sequence[str], id_column: str
) -> None:
    """Replace the retried rows in the result files by their new results, in the same order.

    Each file is replaced in one step, so a reader finds each row once, old or new, at any moment.
    The old files are kept in superseded/. Memory holds one result file, its new rows, and about 30
    bytes for each retried row.

    Args:
        folder: the run's folder.
        attempt: number of the retry.
        files: paths of the run's result files.
        retried: paths of the retry's result files; each id in them is in one of `files`.
        id_column: column with each pair's id.
    """
    fs, arrow = folder.fs, arrow_filesystem(folder.fs)
    hashes, sources = _index(retried, id_column, arrow)
    for path in files:
        ids = pyarrow.parquet.read_table(path, columns=[id_column], filesystem=arrow).column(0)
        hashed = hash_array(ids)
        places = np.searchsorted(hashes, hashed).clip(max=len(hashes) - 1)
        chosen = np.unique(sources[places[hashes[places] == hashed]])
        if not len(chosen):
            continue
        content = fs.cat_file(path)
        kept = f"{folder.superseded_path(attempt)}/{PurePosixPath(path).name}"
        if not fs.exists(kept):  # else `content` can already have new rows
            write_whole(fs, kept, content)
        old = pyarrow.parquet.read_table(pa.BufferReader(content))
        rows = pyarrow.dataset.dataset([retried[i] for i in chosen], old.schema, filesystem=arrow)
        new = rows.to_table(filter=pc.field(id_column).isin(ids))
        order = np.arange(old.num_rows)
        order[pc.index_in(new[id_column], ids).to_numpy()] = old.num_rows + np.arange(new.num_rows)
        merged = pa.concat_tables([old, new.cast(old.schema)]).take(order)
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(merged, buffer)
        write_whole(fs, path, buffer.getvalue().to_pybytes())


def _index(
    paths: Sequence[str], id_column: str, arrow: pa.fs.FileSystem
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return the sorted hashes of the ids in files, and the number of each one's file."""
    hashes = [
        hash_array(
            pyarrow.parquet.read_table(path, columns=[id_column], filesystem=arrow).column(0)
        )
        for path in paths
    ]
    joined = np.concatenate(hashes)
    sources = np.repeat(np.arange(len(paths), dtype=np.int32), [len(part) for part in hashes])
    order = np.argsort(joined)
    return joined[order], sources[order]


def set_strays_aside(folder: RunFolder, attempt: int, files: Sequence[str]) -> None:
    """Move what a killed writer left in scores/ to superseded/.

    Args:
        folder: the run's folder.
        attempt: number of the attempt that is about to be published.
        files: paths of the run's result files, which stay.
    """
    for path in sorted(set(folder.files(attempt=1)) - set(files)):
        folder.fs.makedirs(folder.superseded_path(attempt), exist_ok=True)
        folder.fs.mv(path, f"{folder.superseded_path(attempt)}/{PurePosixPath(path).name}")
