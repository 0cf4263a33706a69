import json
import tarfile
from pathlib import Path

import pytest


def sample(key: str, **values) -> list[tuple[str, bytes]]:
    """Return the files of a pair, and a .json file of values."""
    files = [
        (f"{key}.distorted.JPG", f"d{key}".encode()),
        (f"{key}.reference.png", f"r{key}".encode()),
    ]
    return files + ([(f"{key}.json", json.dumps(values).encode())] if values else [])


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")]
)
def test_the_files_of_a_key_become_a_row(name, mode, tmp_path, make, write_tar):
    files = sample("000", step=1, cfg=7.5) + sample("sub/001", step=2, note="x")
    files += [
        ("000.prompt.txt", b"a house\n"),
        ("./002.reference.png", b"r"),
        ("002.distorted.png", b"d"),
    ]
    rows = make(write_tar(tmp_path / name, files, mode))
    assert rows.to_pylist() == [
        {
            "pair_id": f"a/{key}",
            "reference_bytes": reference,
            "distorted_bytes": distorted,
            "step": step,
            "cfg": cfg,
            "note": note,
            "prompt": prompt,
        }
        for key, reference, distorted, step, cfg, note, prompt in (
            ("000", b"r000", b"d000", 1, 7.5, None, "a house"),
            ("sub/001", b"rsub/001", b"dsub/001", 2, None, "x", None),
            ("002", b"r", b"d", None, None, None, None),
        )
    ]


def test_the_tars_of_a_folder_or_glob_are_read_in_order(tmp_path, make, write_tar):
    for shard in range(2):
        files = [
            file for number in range(70) for file in sample(f"{shard}-{number:03d}", shard=shard)
        ]
        write_tar(tmp_path / f"tars/{shard}.tar", files)
    rows = make(tmp_path / "tars")
    assert rows.column("pair_id").to_pylist()[69:71] == ["0/0-069", "1/1-000"]
    assert rows.column("shard").to_pylist() == [0] * 70 + [1] * 70
    assert rows.column("distorted_bytes").to_pylist()[69:71] == [b"d0-069", b"d1-000"]
    assert make(tmp_path / "tars/*.tar").equals(rows)


def test_a_tar_in_a_bucket_is_read(one_s3_store, tmp_path, make, write_tar):
    path = write_tar(tmp_path / "a.tar", sample("000", step=1))
    one_s3_store.server.others.put(path, f"{one_s3_store.bucket}/tars/a.tar")
    assert make(f"{one_s3_store.bucket}/tars").column("pair_id").to_pylist() == ["a/000"]


def test_columns_are_chosen_by_what_follows_the_key(tmp_path, make, write_tar):
    files = [("0.png", b"d"), ("0.gt.png", b"r"), ("0.mask.png", b"m"), ("0.id.txt", b"seven")]
    columns = {"reference_column": "gt", "distorted_column": "png", "pair_id_column": "id"}
    rows = make(write_tar(tmp_path / "a.tar", files), **columns)
    assert rows.to_pylist() == [
        {"pair_id": "seven", "reference_bytes": b"r", "distorted_bytes": b"d"}
    ]


def test_values_of_several_types_become_texts(tmp_path, make, write_tar):
    files = sample("0", seed=1) + sample("1", seed="a") + sample("2", seed=[1], none=None)
    rows = make(write_tar(tmp_path / "a.tar", files))
    assert rows.column("seed").to_pylist() == ["1", "a", "[1]"]
    assert rows.column("none").to_pylist() == [None] * 3


def test_a_file_apart_from_its_sample_is_still_in_its_row(tmp_path, make, write_tar):
    first, second = sample("0")
    rows = make(write_tar(tmp_path / "a.tar", [first, *sample("1"), second]))
    assert rows.column("reference_bytes").to_pylist() == [b"r0", b"r1"]


def test_every_half_of_a_pair_is_named(tmp_path, refused, write_tar):
    write_tar(tmp_path / "tars/0.tar", [*sample("0"), *sample("1")[:1]])
    write_tar(tmp_path / "tars/1.tar", [*sample("0"), *sample("1")[1:]])
    (problem,) = refused(tmp_path / "tars")
    assert f"'1' of {tmp_path}/tars/0.tar has no 'reference'" in problem
    assert f"'1' of {tmp_path}/tars/1.tar has no 'distorted'" in problem


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([*sample("0"), ("0.reference.jpg", b"")], "one 'reference' in sample '0'"),
        ([*sample("0"), ("0.json", b"[1]")], "expected a JSON object in 0.json"),
        ([*sample("0"), ("0.json", b"{")], "expected UTF-8 JSON in 0.json"),
        ([*sample("0"), ("0.a.txt", b"\xff")], "expected UTF-8 in 0.a.txt"),
        ([*sample("0"), ("0.json", b'{"status": 1}')], "no columns of results, got status"),
        ([*sample("0"), ("1.json", b'{"reference": 1}')], "one column 'reference', got two"),
        ([("0.a.png", b"a"), ("0.b.png", b"b")], "got a, b, pair_id at"),
        ([("0.cls", b"1")], "expected images in tars, got none"),
        ([], "expected images in tars, got none"),
    ],
)
def test_a_tar_that_holds_no_pairs_is_refused(files, expected, tmp_path, refused, write_tar):
    problems = refused(write_tar(tmp_path / "a.tar", files))
    assert any(expected in problem for problem in problems)


@pytest.mark.parametrize("length", [1000, 1024, 1100, 2000])
def test_a_tar_that_was_cut_off_is_refused(length, tmp_path, refused, write_tar):
    path = Path(write_tar(tmp_path / "a.tar", sample("0")))
    path.write_bytes(path.read_bytes()[:length])
    (problem,) = refused(path)
    assert "expected a whole tar" in problem


def test_a_tar_with_a_damaged_header_is_refused(tmp_path, refused, write_tar):
    path = Path(write_tar(tmp_path / "a.tar", [*sample("0"), *sample("1")]))
    content = bytearray(path.read_bytes())
    content[4 * tarfile.BLOCKSIZE] ^= 1  # of the third file
    path.write_bytes(content)
    (problem,) = refused(path)
    assert "damaged header" in problem


@pytest.mark.parametrize("content", [b"", b"no tar"])
def test_a_file_that_is_no_tar_is_refused(content, tmp_path, refused):
    (tmp_path / "a.tar").write_bytes(content)
    (problem,) = refused(tmp_path / "a.tar")
    assert problem.endswith("a.tar, got ReadError: file could not be opened successfully")


def test_a_damaged_compressed_tar_is_refused(tmp_path, refused, write_tar):
    path = Path(write_tar(tmp_path / "a.tgz", sample("0"), "w:gz"))
    path.write_bytes(path.read_bytes()[:100])
    (problem,) = refused(path)
    assert "expected a whole tar" in problem
