import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.runs.schema import pass_through_schema
from pipeline.scoring.config import ImagesConfig, ManifestConfig
from pipeline.scoring.manifest.opening import open_manifest
from pipeline.scoring.stages.sample import load_sample


def sample(uri: Path) -> list[tuple[str, str]]:
    manifest = open_manifest(ManifestConfig(uri=str(uri)))
    pass_through = pass_through_schema(manifest.schema, manifest.image_columns)
    return load_sample(manifest, ImagesConfig(), pass_through).outcomes


def write(folder: Path, lengths: list[int]) -> None:
    folder.mkdir()
    for number, length in enumerate(lengths):
        ids = pa.array([f"{number}-{i}" for i in range(length)], pa.string())
        rows = pa.table({"pair_id": ids, "reference_uri": ids, "distorted_uri": ids})
        pq.write_table(rows, folder / f"{number}.parquet", row_group_size=3)


def test_a_sample_holds_different_rows_of_several_files(tmp_path):
    write(tmp_path / "many", [10, 0, 5, 40, 7])
    errors = [error for _, error in sample(tmp_path / "many")]
    assert 4 <= len(errors) <= 8
    write(tmp_path / "few", [1, 2])
    assert 1 <= len(sample(tmp_path / "few")) <= 3
    assert {status for status, _ in sample(tmp_path / "few")} == {"unreadable"}


def test_a_sample_does_not_read_the_whole_manifest(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (96, 96)).save(buffer, "PNG")
    content = buffer.getvalue() + bytes(1 << 20)
    num_groups, group = 24, ["a", "b", "c", "d", "e", "f", "g", "h"]
    columns = {"reference_bytes": [content] * 8, "distorted_bytes": [content] * 8}
    rows = [pa.table({"pair_id": [f"{i}{j}" for j in group], **columns}) for i in range(num_groups)]
    path = tmp_path / "pairs.parquet"
    with pq.ParquetWriter(path, rows[0].schema, compression="none", use_dictionary=False) as file:
        for some in rows:
            file.write_table(some)
    script = f"""
import resource
from pathlib import Path
from tests.pipeline.scoring.stages.test_sample import sample, write
write(Path({str(tmp_path / "small")!r}), [8])
sample(Path({str(tmp_path / "small")!r}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sample(Path({str(path)!r}))[0] == ("ok", "")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 24 * 8 * (2 << 20)
    assert int(printed.stdout) < 4 * 8 * (2 << 20)


def test_rows_with_images_are_read_in_smaller_tables(tmp_path):
    for name, num_bytes, lengths in (("few", 10, [64, 36]), ("images", 1 << 22, [15] * 6 + [10])):
        columns = {"reference_bytes": [bytes(num_bytes)] * 100, "distorted_bytes": [b""] * 100}
        rows = pa.table({"pair_id": [str(i) for i in range(100)], **columns})
        pq.write_table(rows, tmp_path / name, compression="none", use_dictionary=False)
        manifest = open_manifest(ManifestConfig(uri=str(tmp_path / name)))
        tables = list(manifest.read(64))
        assert [table.num_rows for table in tables] == lengths
        assert pa.concat_tables(tables).equals(rows)
