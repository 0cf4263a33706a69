import hashlib
import os
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem

from pipeline.runs import storage
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import (
    arrow_filesystem,
    check_writable,
    content_id,
    local_copy,
    open_store,
    open_whole,
    write_whole,
)


def put(uri: str, content: bytes) -> str:
    write_whole(*open_store(uri), content)
    return uri


def test_parquet_written_through_a_store_is_read_back(folder):
    fs, path = open_store(f"{folder}/tables/")
    assert not path.endswith("/")
    table = pa.table({"pair_id": ["a", "b"], "spips_score": [0.5, None]})
    fs.makedirs(path, exist_ok=True)
    pyarrow.parquet.write_table(table, f"{path}/t.parquet", filesystem=arrow_filesystem(fs))
    (file,) = arrow_filesystem(fs).get_file_info(pa.fs.FileSelector(path))
    assert pyarrow.parquet.read_table(file.path, filesystem=arrow_filesystem(fs)) == table


@pytest.mark.parametrize("uri", ["https://host/folder/", "/folder/", "s3://bucket/folder/"])
def test_a_path_ends_without_a_slash(uri):
    assert open_store(uri)[1].endswith("/folder")


def test_a_file_uri_with_a_host_is_no_relative_path():
    with pytest.raises(ValueError, match=r"expected file:///path .*, got host there: file://there"):
        open_store("file://there/folder")


@pytest.mark.parametrize("uri", ["nosuchscheme://bucket/key", "S3://bucket/key", "github://x"])
def test_a_uri_without_a_driver_is_a_value_error(uri):
    with pytest.raises(ValueError, match=r"not known|opened"):
        open_store(uri)


def test_a_content_id_is_the_same_for_copies_and_differs_for_changed_files(folder):
    def id_of(name: str, content: bytes) -> str:
        return content_id(*open_store(put(f"{folder}/{name}", content)))

    first = id_of("a", b"one")
    assert id_of("copies/b", b"one") == first
    assert id_of("a", b"two") != first
    assert id_of("a", b"one") == first


def test_a_file_is_replaced_in_one_step_and_no_partial_file_is_left(folder):
    for content in (b"first", b"second, longer", b""):
        put(f"{folder}/new/a.json", content)
        fs, path = open_store(f"{folder}/new")
        assert fs.cat_file(f"{path}/a.json") == content
    assert [name.rpartition("/")[2] for name in fs.find(path)] == ["a.json"]


def test_a_reader_of_the_old_file_can_finish_reading_it(tmp_path):
    uri = put(f"{tmp_path}/a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        put(uri, b"new")
        assert reader.read() == b"old"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(LocalFileSystem(), f"{tmp_path}/taken", b"content")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_a_local_file_is_used_without_a_copy(tmp_path):
    uri = put(f"{tmp_path}/model", b"model")
    sha256 = hashlib.sha256(b"model").hexdigest()
    assert local_copy(uri, sha256) == local_copy(uri, None) == tmp_path / "model"


def test_a_remote_file_is_fetched_once(s3_store, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHE_FOLDER", tmp_path)
    uri = put(f"{s3_store.bucket}/model.safetensors", b"model")
    sha256 = hashlib.sha256(b"model").hexdigest()
    copy = local_copy(uri, sha256)
    assert copy.read_bytes() == b"model"
    assert copy.is_relative_to(tmp_path)
    assert copy.name == "model.safetensors"
    s3_store.server.others.rm(uri)
    assert local_copy(uri, sha256) == copy
    with pytest.raises(ContractError, match="FileNotFoundError"):
        local_copy(uri, "0" * 64)


def test_a_remote_file_with_a_wrong_sha256_is_refused_and_not_kept(s3_store, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHE_FOLDER", tmp_path)
    uri = put(f"{s3_store.bucket}/model", b"wrong")
    right, wrong = (hashlib.sha256(content).hexdigest() for content in (b"right", b"wrong"))
    with pytest.raises(ContractError, match=f"model: expected sha256 {right}, got {wrong}"):
        local_copy(uri, right)
    put(uri, b"right")
    assert local_copy(uri, right).read_bytes() == b"right"


@pytest.mark.parametrize(
    ("flags", "reason"), [(0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")]
)
def test_a_folder_that_cannot_be_written_says_why(flags, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can write everywhere
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with pytest.raises(PermissionError, match=f"got {tmp_path}: {reason}$"):
        check_writable(f"{tmp_path}/below")


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_a_local_file_that_is_missing_or_has_a_wrong_sha256_is_an_error(tmp_path, sha256):
    with pytest.raises(ContractError, match=r"model: cannot be read: FileNotFoundError"):
        local_copy(f"{tmp_path}/model", sha256)
    put(f"{tmp_path}/model", b"model")
    with pytest.raises(ContractError, match=r"expected sha256 1{64}, got"):
        local_copy(f"{tmp_path}/model", "1" * 64)


@pytest.mark.parametrize("uri", ["nosuchscheme://user:secret@host/model", "dir://user:secret@a"])
def test_an_error_does_not_show_the_secret_in_its_uri(uri):
    with pytest.raises(ContractError) as caught:
        local_copy(uri, "0" * 64)
    assert "secret" not in str(caught.value)


def test_a_store_without_keys_is_an_error(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    with pytest.raises(ContractError, match="cannot be read: NoCredentialsError"):
        local_copy("s3://bucket/model", "0" * 64)


def test_a_file_is_seen_when_its_writing_ends_and_not_if_that_fails(folder):
    fs, path = open_store(f"{folder}/new/file")
    with open_whole(fs, path) as file:
        file.write(b"first")
        assert not fs.exists(path)

    def fail() -> None:
        with open_whole(fs, path) as file:
            file.write(b"second")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    fs.invalidate_cache()
    assert fs.cat_file(path) == b"first"
    assert [found.rpartition("/")[2] for found in fs.find(path.rpartition("/")[0])] == ["file"]
