import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from pipeline.runs.schema import RESERVED_COLUMNS
from pipeline.scoring.manifest.opening import hash_ids
from tests.pipeline.scoring.manifest.manifests import encoded, names, pairs, problems_of, read, save


def test_a_manifest_knows_its_files_columns_rows_and_ids(folder):
    rows = pairs(model=pa.array(["x", None, "y", "z"]))
    uri = save(f"{folder}/pairs.parquet", rows.replace_schema_metadata({"pandas": "{}"}))
    manifest = read(uri)
    assert names(manifest) == ["pairs.parquet"]
    assert manifest.schema.equals(rows.schema, check_metadata=True)
    assert manifest.num_rows == 4
    assert manifest.pair_id_column == "pair_id"
    assert manifest.image_columns == ("reference_uri", "distorted_uri")
    assert len(np.unique(manifest.id_hashes)) == 4
    assert (np.diff(manifest.id_hashes.astype(float)) > 0).all()


def test_a_copy_has_the_same_fingerprint_and_a_changed_cell_changes_it(folder):
    for place in ("one", "copy/of"):
        for name, start in (("a", 0), ("b", 2)):
            save(f"{folder}/{place}/{name}.parquet", pairs(start, start + 2))
    original = read(f"{folder}/one").fingerprint
    assert read(f"{folder}/copy/of").fingerprint == original
    changed = pairs(2, 4, distorted_uri=["/images/p2-d.png", "/images/p3-D.png"])
    save(f"{folder}/copy/of/b.parquet", changed)
    assert read(f"{folder}/copy/of").fingerprint != original


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_a_manifest_may_hold_encoded_images(tmp_path, type_):
    images = pa.array([b"image"] * 4, type_)
    rows = pa.table({"pair_id": pairs()["pair_id"], "reference_bytes": images})
    rows = rows.append_column("distorted_bytes", images)
    assert read(save(tmp_path / "a", rows)).image_columns == ("reference_bytes", "distorted_bytes")
    mixed = pairs(reference_bytes=images).drop_columns("reference_uri")
    assert read(save(tmp_path / "b", mixed)).image_columns == ("reference_bytes", "distorted_uri")


def test_columns_may_have_other_names_and_large_types(tmp_path):
    schema = pa.schema([(name, pa.large_string()) for name in ("key.id", "before", "after")])
    uri = save(tmp_path / "a.parquet", pairs().rename_columns(schema.names).cast(schema))
    named = {"pair_id_column": "key.id", "reference_column": "before", "distorted_column": "after"}
    manifest = read(uri, **named)
    assert (manifest.pair_id_column, *manifest.image_columns) == ("key.id", "before", "after")
    usual = read(save(tmp_path / "b.parquet", pairs()))
    assert (manifest.id_hashes == usual.id_hashes).all()


def test_the_config_chooses_between_two_image_columns(tmp_path):
    uri = save(tmp_path / "a", pairs(reference_bytes=[b"image"] * 4))
    (problem,) = problems_of(uri)
    assert problem == (
        "manifest.reference_column: expected reference_uri or reference_bytes, got both; "
        "choose one with this setting"
    )
    manifest = read(uri, reference_column="reference_bytes")
    assert manifest.image_columns == ("reference_bytes", "distorted_uri")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            pairs().drop_columns("pair_id"),
            "pair_id_column: expected a column 'pair_id', got reference_uri, distorted_uri",
        ),
        (
            pairs().drop_columns("distorted_uri"),
            "distorted_column: expected a column 'distorted_uri', got pair_id, reference_uri",
        ),
        (pairs(pair_id=[1, 2, 3, 4]), "pair_id_column: expected 'pair_id' to be string, got int64"),
        (
            pairs(pair_id=pairs()["pair_id"].dictionary_encode()),
            "pair_id_column: expected 'pair_id' to be string, got dictionary",
        ),
        (
            pairs(reference_uri=[["/a"], ["/b"], ["/c"], ["/d"]]),
            "reference_column: expected 'reference_uri' to be string or binary, got list",
        ),
        (pairs(pair_id=["a", None, "b", None]), "expected no null 'pair_id', got 2"),
        (pairs(0, 0).cast(pairs().schema), "expected at least one row, got an empty manifest at"),
        (pairs(ssim=[0.5] * 4), "column 'ssim' is reserved for the results; rename it"),
        (
            pairs().append_column("pair_id", pairs()["pair_id"]),
            "expected one column 'pair_id', got several",
        ),
        (
            pairs().append_column("reference_uri", pairs()["pair_id"]),
            "expected one column 'reference_uri', got several",
        ),
    ],
)
def test_each_problem_of_a_manifest_is_one_line(tmp_path, rows, expected):
    (problem,) = problems_of(save(tmp_path / "a.parquet", rows))
    assert problem.startswith("manifest")
    assert expected in problem


def test_one_column_cannot_be_both_images(tmp_path):
    (problem,) = problems_of(save(tmp_path / "a", pairs()), reference_column="distorted_uri")
    assert "expected three different columns" in problem


def test_every_reserved_name_is_refused(tmp_path):
    uri = save(tmp_path / "a", pairs(**dict.fromkeys(RESERVED_COLUMNS, [1] * 4)))
    assert len(problems_of(uri)) == len(RESERVED_COLUMNS)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (7, "got 5 more than once: 'p2', 'p3', 'p4', 'p5', 'p6'"),
        (9, "got 7 more than once: 'p2', 'p3', 'p4', 'p5', 'p6', ..."),
    ],
)
def test_repeated_ids_are_found_across_files_and_five_are_listed(tmp_path, last, expected):
    save(tmp_path / "a.parquet", pairs(0, last))
    save(tmp_path / "b.parquet", pairs(2, 12))
    assert problems_of(tmp_path) == [f"manifest: expected unique 'pair_id', {expected}"]


def test_everything_wrong_with_the_columns_is_listed_at_once(tmp_path):
    types = {"pair_id": pa.int64(), "reference_uri": pa.string(), "status": pa.string()}
    problems = problems_of(save(tmp_path / "a.parquet", pa.schema(types).empty_table()))
    assert len(problems) == 4
    for expected in ("pair_id_column", "distorted_column", "'status' is reserved", "one row"):
        assert sum(expected in problem for problem in problems) == 1


def test_everything_wrong_with_the_ids_is_listed_at_once(tmp_path):
    problems = problems_of(save(tmp_path / "a", pairs(pair_id=["a", None, "a", "b"])))
    assert len(problems) == 2


def test_problems_of_columns_ids_and_folders_are_listed_together(tmp_path):
    first = save(
        tmp_path / "m/day=1/a.parquet", pairs(status=["ok"] * 4, level=[1] * 4, day=[1] * 4)
    )
    ids = ["p0", None, "p9", "p9"]
    save(
        tmp_path / "m/day=1/b.parquet",
        pairs(pair_id=ids, status=["ok"] * 4, level=["x"] * 4, day=[1] * 4),
    )
    problems = problems_of(tmp_path / "m")
    for expected in ("in the names of folders or in", "'status' is reserved",
                     f"'level' as int64 (as in {first})", "no null 'pair_id', got 1",
                     "got 2 more than once: 'p0', 'p9'"):  # fmt: skip
        assert sum(expected in problem for problem in problems) == 1, expected
    assert len(problems) == 5


def test_files_of_one_manifest_have_the_same_columns(tmp_path):
    first = save(tmp_path / "m/a.parquet", pairs(0, 2, level=[1, 2]))
    second = save(tmp_path / "m/b.parquet", pairs(2, 4, level=["1", "2"], extra=[1, 2]))
    assert problems_of(tmp_path / "m") == [
        f"manifest: expected column 'level' as int64 (as in {first}), got string in {second}",
        f"manifest: expected column 'extra' as absent (as in {first}), got int64 in {second}",
    ]


@pytest.mark.parametrize("name", ["", "/absent.parquet", "/absent/", "/*.parquet"])
def test_a_missing_manifest_is_refused(folder, name):
    save(f"{folder}/m/notes.txt", b"not a table")
    (problem,) = problems_of(f"{folder}/m{name}")
    assert problem.startswith("manifest.uri: ")
    assert f"{folder}/m{name.rstrip('/')}" in problem


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "pages", "footer"])
def test_a_damaged_parquet_file_is_refused(tmp_path, damage):
    whole = encoded(pairs(0, 500))
    contents = {
        "text": b"pair_id,reference_uri,distorted_uri\n",
        "empty": b"",
        "truncated": whole[:-50],
        "pages": whole[:4] + b"\xff" * 2_000 + whole[2_004:],
        "footer": whole[:-400] + bytes(300) + whole[-100:],
    }
    save(tmp_path / "a.parquet", pairs(500, 501))
    save(tmp_path / "b.parquet", contents[damage])
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"manifest.uri: {tmp_path} cannot be read: ")


def test_an_unreachable_store_is_refused_without_its_secret():
    (problem,) = problems_of("nosuchscheme://user:secret@host/m.parquet?token=secret")
    assert problem.startswith("manifest.uri: nosuchscheme://***@host/m.parquet?token=*** cannot")
    assert "secret" not in problem


def test_the_hashes_of_ids_depend_neither_on_order_nor_on_files(tmp_path):

    ids = [f"id-{number}" for number in range(1000)] + ["", "ünïcode", "a" * 5000]
    shuffled = list(np.random.default_rng(0).permutation(ids))
    one = [save(tmp_path / "one", pa.table({"id": ids}))]
    two = [
        save(tmp_path / f"two-{index}", pa.table({"id": shuffled[cut]}))
        for index, cut in enumerate((slice(700), slice(700, None)))
    ]
    hashes, num_null = hash_ids(pyarrow.dataset.dataset(one), "id")
    assert (num_null, len(np.unique(hashes))) == (0, len(ids))
    assert (hash_ids(pyarrow.dataset.dataset(two), "id")[0] == hashes).all()
    other = [save(tmp_path / "other", pa.table({"id": [*ids[:-1], None]}))]
    hashes_of_other, num_null = hash_ids(pyarrow.dataset.dataset(other), "id")
    assert (num_null, len(hashes_of_other)) == (1, len(ids) - 1)
    assert np.isin(hashes_of_other, hashes).all()
