import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(*contents: bytes | None, path: str | None = None) -> pa.Array:
    """Return images as Hugging Face's data sets hold them."""
    return pa.array([{"bytes": content, "path": path} for content in contents], IMAGE)


def save(folder: Path, *tables: pa.Table, **state) -> Path:
    """Write what `datasets.Dataset.save_to_disk` writes."""
    folder.mkdir()
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with (
            pa.OSFile(f"{folder}/{name}", "wb") as file,
            pa.ipc.new_stream(file, table.schema) as w,
        ):
            w.write_table(table)
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files} | state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def pairs(first: int, num: int) -> pa.Table:
    numbers = range(first, first + num)
    return pa.table(
        {
            "reference": images(*(b"r%d" % number for number in numbers)),
            "distorted": images(*(b"d%d" % number for number in numbers), path="x.png"),
            "label": list(numbers),
        }
    )


def write_parquet(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def check_pairs(rows: pa.Table, num: int) -> None:
    assert rows.column_names == ["pair_id", "reference_bytes", "distorted_bytes", "label"]
    assert rows.column("pair_id").to_pylist() == [f"{number:09d}" for number in range(num)]
    assert rows.column("reference_bytes").to_pylist() == [b"r%d" % n for n in range(num)]
    assert rows.column("distorted_bytes").to_pylist() == [b"d%d" % n for n in range(num)]
    assert rows.column("label").to_pylist() == list(range(num))


def test_a_saved_data_set_becomes_rows_with_encoded_images(tmp_path, make):
    folder = save(tmp_path / "saved", pairs(0, 100), pairs(100, 3))
    check_pairs(make(folder), 103)


def test_a_folder_of_parquet_files_becomes_rows_with_encoded_images(tmp_path, make):
    write_parquet(tmp_path / "set/data/train-0.parquet", pairs(0, 100))
    write_parquet(tmp_path / "set/data/train-1.parquet", pairs(100, 3))
    check_pairs(make(tmp_path / "set"), 103)
    check_pairs(make(tmp_path / "set/data/train-*.parquet"), 103)


def test_a_data_set_in_a_bucket_is_read(one_s3_store, tmp_path, make):
    save(tmp_path / "saved", pairs(0, 3))
    one_s3_store.server.others.put(f"{tmp_path}/saved", f"{one_s3_store.bucket}/", recursive=True)
    check_pairs(make(f"{one_s3_store.bucket}/saved"), 3)


def test_images_of_which_only_paths_were_saved_become_uris(tmp_path, make):
    table = pa.table(
        {"reference": images(None, path="/r.png"), "distorted": images(None, path="d.png")}
    )
    (row,) = make(save(tmp_path / "saved", table)).to_pylist()
    assert row["reference_uri"] == "/r.png"
    assert row["distorted_uri"] == f"{tmp_path}/saved/d.png"


def test_a_data_set_may_hold_uris(tmp_path, make):
    table = pa.table({"reference": ["r.png"], "distorted": ["d.png"], "id": [7]})
    (row,) = make(write_parquet(tmp_path / "a.parquet", table)).to_pylist()
    assert row == {
        "pair_id": "7",
        "reference_uri": f"{tmp_path}/r.png",
        "distorted_uri": f"{tmp_path}/d.png",
    }


def test_an_image_that_is_missing_stays_a_row(tmp_path, make):
    no_image = pa.array([None], IMAGE)
    table = pa.table(
        {
            "reference": pa.concat_arrays([images(b"r", None), no_image]),
            "distorted": images(b"d", b"e", b"f"),
        }
    )
    rows = make(write_parquet(tmp_path / "a.parquet", table))
    assert rows.column("reference_bytes").to_pylist() == [b"r", None, None]


def test_images_as_bytes_and_as_paths_in_one_column_are_refused(tmp_path, refused):
    mixed = pa.concat_arrays([images(b"r"), images(None, path="r.png")])
    table = pa.table({"reference": mixed, "distorted": images(b"d", b"e")})
    (problem,) = refused(write_parquet(tmp_path / "a.parquet", table))
    assert "expected bytes in every row of 'reference'" in problem
    assert "got only path in row 1" in problem


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"_data_files": None}, "state.json with _data_files"),
        ({"_data_files": []}, "expected rows, got none"),
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, "flatten_indices"),
        ({"_data_files": [{"filename": "lost.arrow"}]}, "lost.arrow"),
    ],
)
def test_a_saved_data_set_that_is_not_whole_is_refused(state, expected, tmp_path, refused):
    (problem,) = refused(save(tmp_path / "saved", pairs(0, 1), **state))
    assert expected in problem


def test_files_with_different_columns_are_refused(tmp_path, refused):
    other = pairs(1, 1).append_column("more", pa.array([1]))
    (problem,) = refused(save(tmp_path / "saved", pairs(0, 1), other))
    assert "expected the columns of" in problem
    write_parquet(tmp_path / "set/0.parquet", pairs(0, 1))
    write_parquet(tmp_path / "set/1.parquet", other)
    (problem,) = refused(tmp_path / "set")
    assert f"others in {tmp_path}/set/1.parquet" in problem


def test_a_file_that_is_damaged_later_leaves_nothing(tmp_path, refused):
    path = write_parquet(tmp_path / "set/0.parquet", pairs(0, 1))
    content = write_parquet(tmp_path / "set/1.parquet", pairs(1, 100)).read_bytes()
    (tmp_path / "set/1.parquet").write_bytes(
        b"\0" * (len(content) // 2) + content[len(content) // 2 :]
    )
    (problem,) = refused(path.parent)
    assert "cannot be read" in problem


def keyed(folder: Path, *names: str) -> Path:
    """Write a Parquet file of one pair into each of some folders."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        rows = {"pair_id": [f"p{number}"], "reference_uri": ["r.png"], "distorted_uri": ["d.png"]}
        pyarrow.parquet.write_table(pa.table(rows), folder / name / "a.parquet")
    return folder


def test_keys_of_folders_become_columns_of_texts(tmp_path, make):
    source = keyed(
        tmp_path / "in",
        "night=2026-11-20/model=a%2Fb",
        "night=2026-11-21/model=__HIVE_DEFAULT_PARTITION__",
    )
    manifest = make(source)
    assert manifest["night"].to_pylist() == ["2026-11-20", "2026-11-21"]
    assert manifest["model"].to_pylist() == ["a/b", None]
    assert manifest.num_rows == 2


def test_folders_of_different_keys_or_a_column_s_key_are_refused(tmp_path, refused):
    different = keyed(tmp_path / "a", "night=1", "day=1")
    assert "below folders named after the same keys" in refused(different)[0]
    assert "got it in both" in refused(keyed(tmp_path / "b", "pair_id=1"))[0]


def test_a_table_with_a_log_is_refused(tmp_path, refused):
    table = keyed(tmp_path / "in", "part")
    (table / "_delta_log").mkdir()
    assert "got the Delta table at" in refused(table)[0]
