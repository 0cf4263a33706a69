import json

import pytest

from pipeline.manifests import lists
from pipeline.runs.storage import open_store, write_whole


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("TSV", "\t")])
def test_a_list_with_a_bom_crlf_and_newlines_in_quotes_is_read(suffix, delimiter, tmp_path, make):
    path = tmp_path / f"list.{suffix}"
    lines = ["id,reference,distorted,prompt", '001,r.png,./d.png,"two\r\nlines"', '002,r.png,,""']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", delimiter).encode())
    rows = make(path)
    assert rows.to_pylist() == [
        {
            "pair_id": "001",
            "reference_uri": f"{tmp_path}/r.png",
            "distorted_uri": f"{tmp_path}/d.png",
            "prompt": "two\r\nlines",
        },
        {
            "pair_id": "002",
            "reference_uri": f"{tmp_path}/r.png",
            "distorted_uri": "",
            "prompt": "",
        },
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-2", "9223372036854775807"], [1, -2, 2**63 - 1]),
        (["1", "", "3"], [1, None, 3]),
        (["0.5", "1.0", "1e-05", "2", ""], [0.5, 1.0, 1e-05, 2.0, None]),
        (["001", "2"], ["001", "2"]),
        (["0.50", "1.5"], ["0.50", "1.5"]),
        (["1e3", "1"], ["1e3", "1"]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["+1"], ["+1"]),
        ([" 1"], [" 1"]),
        (["0x1f"], ["0x1f"]),
        (["nan", "inf"], ["nan", "inf"]),
        (["2026-11-20", "true"], ["2026-11-20", "true"]),
        (["", ""], ["", ""]),
    ],
)
def test_a_column_is_numbers_only_if_no_text_is_lost(texts, expected, tmp_path, make):
    path = tmp_path / "list.csv"
    rows = [f'r.png,{number}.png,"{text}"' for number, text in enumerate(texts)]
    path.write_text("\n".join(["reference,distorted,value", *rows]))
    assert make(path).column("value").to_pylist() == expected


def test_a_newline_in_quotes_may_be_where_arrow_divides_a_list(tmp_path, make, monkeypatch):
    monkeypatch.setattr(lists, "BLOCK_BYTES", 60)
    path = tmp_path / "list.csv"
    rows = [f'r.png,{number}.png,"a\nb\nc"' for number in range(50)]
    path.write_text("\n".join(["reference,distorted,prompt", *rows]))
    assert make(path).column("prompt").to_pylist() == ["a\nb\nc"] * 50


def test_ids_that_are_numbers_stay_texts(tmp_path, make):
    path = tmp_path / "list.csv"
    path.write_text("id,reference,distorted\n1.0,r,d\n2.5,r,d\n")
    assert make(path).column("pair_id").to_pylist() == ["1.0", "2.5"]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines_keep_their_types_and_texts(suffix, tmp_path, make):
    path = tmp_path / f"list.{suffix}"
    rows = [
        {"pair_id": "001", "reference": "r.png", "distorted": "d.png", "night": "2026-11-20",
         "step": 3, "cfg": 7.5, "tags": ["2026-11-20"], "at": {"time": "2026-11-20"}, "note": None},
        {"pair_id": "002", "reference": "r.png", "distorted": "/d.png", "step": 4},
    ]  # fmt: skip
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in rows))
    first, second = make(path).to_pylist()
    expected = rows[0] | {
        "reference_uri": f"{tmp_path}/r.png",
        "distorted_uri": f"{tmp_path}/d.png",
    }
    del expected["reference"], expected["distorted"]
    assert first == expected
    assert (second["step"], second["night"], second["distorted_uri"]) == (4, None, "/d.png")


def test_a_list_in_a_bucket_is_read(folder, put, make, tmp_path):
    write_whole(*open_store(f"{folder}/lists/a.csv"), b"reference,distorted\n../r.png,d.png\n")
    (row,) = make(f"{folder}/lists/a.csv").to_pylist()
    assert row["distorted_uri"] == f"{folder}/lists/d.png"
    if folder.startswith("s3://"):
        assert row["reference_uri"] == f"{folder}/r.png"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "expected rows, got an empty file"),
        ("a.csv", b"reference,distorted\n", "source.uri: expected rows, got none at "),
        ("a.csv", b"reference,distorted\na,b\n" * 9 + b"a\n",
         "/a.csv, got ArrowInvalid: CSV parse error: Expected 2 columns, got 1: a"),
        ("a.csv", b"reference,distorted\na,b,c\n",
         "/a.csv, got ArrowInvalid: CSV parse error: Expected 2 columns, got 3: a,b,c"),
        ("a.csv", b"reference,distorted\na,b\n\xff,b\n",
         "expected UTF-8, got another encoding in line 3 of /"),
        ("a.jsonl", b'{"reference": "r", "distorted": "d", "prompt": "caf\xe9"}',
         "expected UTF-8, got another encoding in line 1 of /"),
        ("a.csv", b"reference;distorted\na;0,5\n", "expected commas between the columns of a .csv "
                                                   "file, got semicolons at"),
        ("a.TSV", b"\xef\xbb\xbfreference,distorted\na,b\n", "expected tabs between the columns"),
        ("a.csv", "reference,distorted\na,b\n".encode("utf-16"), "expected UTF-8, got UTF-16"),
        ("a.csv", "reference,distorted\na,b\n".encode("utf-16-be"), "expected UTF-8, got UTF-16"),
        ("a.jsonl", '{"reference": "r"}'.encode("utf-16-le"), "expected UTF-8, got UTF-16"),
        ("a.csv", b"reference,distorted,distorted\na,b,c\n", "one column 'distorted', got several"),
        ("a.jsonl", b"\n", "expected rows, got an empty file"),
        ("a.jsonl", b'[{"reference": "a"}]', "got a JSON array"),
        ("a.jsonl", b'\xef\xbb\xbf{"reference": "a"}\n\n{"reference": "b',
         "/a.jsonl, with values of one type for each key, got something else in line 3"),
        ("a.jsonl", b'{"reference": "a"}\n{"reference": 1}',
         "got ArrowInvalid: JSON parse error: Column(/reference) changed from string to number"),
        ("a.jsonl", b'{"reference": 1, "distorted": "d"}', "got int64"),
        ("a.jsonl", b'{"reference": "r", "distorted": "d", "meta": {}}', "Parquet can hold"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_refused(name, content, expected, tmp_path, refused):
    (tmp_path / name).write_bytes(content)
    assert any(expected in problem for problem in refused(tmp_path / name))
