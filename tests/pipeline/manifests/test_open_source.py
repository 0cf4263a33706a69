import json

import pytest


@pytest.mark.parametrize(
    ("names", "uri", "expected"),
    [
        ([], "none.csv", "got nothing at"),
        ([], "*.csv", "got no files at"),
        (["a.xlsx"], "a.xlsx", "expected a list (.csv .tsv .jsonl .ndjson), Parquet files"),
        (["set/a.csv", "set/b.csv"], "set", "expected one list, got 2"),
        (["set/a.parquet", "set/b.tar"], "set", "got 1 Parquet files and 1 tars"),
        (["set/a.png"], "set", "got images at"),
        (["set/_hidden.csv", "set/.hidden.csv"], "set", "got no files"),
    ],
)
def test_a_source_of_no_known_kind_is_refused(names, uri, expected, tmp_path, put, refused):
    put(tmp_path, *names)
    (problem,) = refused(tmp_path / uri)
    assert expected in problem
    assert str(tmp_path) in problem


def test_a_folder_of_splits_is_refused_with_their_names(tmp_path, refused):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    (problem,) = refused(tmp_path / "set")
    assert problem.endswith("train, test")


def test_a_folder_may_hold_one_list_beside_its_images(tmp_path, put, make):
    put(tmp_path, "set/r.png", "set/d.png")
    (tmp_path / "set/pairs.csv").write_text("reference,distorted\nr.png,d.png\n")
    (row,) = make(tmp_path / "set").to_pylist()
    assert row["distorted_uri"] == f"{tmp_path}/set/d.png"


def test_a_name_may_look_like_a_glob(tmp_path, make):
    (tmp_path / "list[1].csv").write_text("reference,distorted\nr.png,d.png\n")
    assert len(make(tmp_path / "list[1].csv")) == 1
