import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from pipeline.runs.errors import ContractError
from pipeline.runs.schema import RESERVED_COLUMNS
from pipeline.runs.storage import open_store, write_whole
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import Manifest, hash_ids, open_manifest


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


def names(manifest: Manifest) -> list[str]:
    return [path.rpartition("/")[2] for path in manifest.paths]


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


@pytest.mark.parametrize("pattern", ["", "/", "/*.parquet", "/[ab].parquet", "/?.parquet"])
def test_a_folder_and_a_glob_name_the_same_files_in_one_order(folder, pattern):
    for name, start in (("b", 2), ("a", 0)):
        save(f"{folder}/m/{name}.parquet", pairs(start, start + 2))
    save(f"{folder}/m/notes.txt", b"not a table")
    manifest = read(f"{folder}/m{pattern}")
    assert names(manifest) == ["a.parquet", "b.parquet"]
    assert manifest.num_rows == 4
    assert manifest.fingerprint == read(f"{folder}/m").fingerprint


def test_a_folder_is_read_with_its_subfolders_except_hidden_ones(folder):
    save(f"{folder}/m/deep/er/a.parquet", pairs())
    for name in ("_b.parquet", ".c.parquet", "_tmp/d.parquet", "deep/.tmp/e.parquet"):
        save(f"{folder}/m/{name}", pairs())
    assert names(read(f"{folder}/m")) == ["a.parquet"]
    assert names(read(f"{folder}/m/*/*/*.parquet")) == ["a.parquet"]


def test_every_usual_name_of_a_parquet_file_is_read_and_other_files_are_named(folder):
    for number, name in enumerate(("a.parquet", "b.PARQUET", "c.parq", "d.pq", "x/e.Parquet")):
        save(f"{folder}/m/{name}", pairs(number, number + 1))
    others = ["f.parquet.gz", "g.csv", "x/h.json"]
    for name in (*others, "_SUCCESS", ".h.parquet", "_temporary/i.parquet"):
        save(f"{folder}/m/{name}", b"something else")
    manifest = read(f"{folder}/m")
    assert (manifest.num_rows, len(manifest.paths)) == (5, 5)
    assert [path.removeprefix(f"{manifest.folder}/") for path in manifest.left_out] == others


def test_linked_folders_are_read_once_and_a_link_that_leads_back_is_not_followed(tmp_path):
    save(tmp_path / "m/a.parquet", pairs(0, 2))
    save(tmp_path / "other/deep/b.parquet", pairs(2, 4))
    (tmp_path / "m/link").symlink_to(tmp_path / "other")
    (tmp_path / "m/c.parquet").symlink_to(save(tmp_path / "single", pairs(4, 5)))
    (tmp_path / "other/deep/back").symlink_to(tmp_path / "m")
    (tmp_path / "m/self").symlink_to(tmp_path / "m")
    assert names(read(tmp_path / "m")) == ["a.parquet", "c.parquet", "b.parquet"]
    (tmp_path / "m/twice").symlink_to(tmp_path / "other")
    assert "got 2 more than once: 'p2', 'p3'" in problems_of(tmp_path / "m")[0]


def test_a_manifest_covers_its_folder_under_every_name(tmp_path):
    save(tmp_path / "m/a.parquet", pairs(0, 2))
    save(tmp_path / "other/deep/b.parquet", pairs(2, 4))
    (tmp_path / "m/link").symlink_to(tmp_path / "other")
    (tmp_path / "alias").symlink_to(tmp_path / "m")
    (tmp_path / "m/away").symlink_to(tmp_path / "elsewhere")
    manifest = read(tmp_path / "m")
    for inside in ("m", "m/new", "/m//new", "alias/new", "other", "other/new", "other/deep/new",
                   "elsewhere/../m/new"):  # fmt: skip
        assert manifest.covers(f"{tmp_path}/{inside}"), inside
        assert manifest.covers(f"file://{tmp_path}/{inside}"), inside
    for outside in ("mm", "elsewhere", "m/away", "m/../new"):
        assert not manifest.covers(f"{tmp_path}/{outside}"), outside
    assert not manifest.covers(f"memory://{tmp_path}/m")
    (tmp_path / "again").symlink_to(tmp_path / "m")
    assert read(tmp_path / "again").covers(f"{tmp_path}/m/new")


def test_hidden_parents_of_the_manifest_do_not_hide_it(tmp_path):
    save(tmp_path / "_work/.m/a.parquet", pairs())
    assert read(tmp_path / "_work/.m").num_rows == 4


@pytest.mark.parametrize("name", ["pairs[1].parquet", "pairs*.parquet", "_pairs.parquet", "pairs"])
def test_a_single_file_can_have_any_name(tmp_path, name):
    uri = save(tmp_path / name, pairs())
    save(tmp_path / "pairs1.parquet", pairs(4, 5))
    assert read(uri).paths == [uri]


def test_files_that_another_machine_adds_or_changes_are_seen(s3_store):
    others, bucket = s3_store.server.others, s3_store.bucket
    seen = []
    for name, start in (("a", 0), ("b", 10), ("a", 20)):
        others.pipe_file(f"{bucket}/m/{name}.parquet", encoded(pairs(start, start + 2)))
        seen.append(read(f"{bucket}/m"))
    assert [manifest.num_rows for manifest in seen] == [2, 4, 4]
    assert len({manifest.fingerprint for manifest in seen}) == 3


def test_a_copy_has_the_same_fingerprint_and_a_changed_cell_changes_it(folder):
    for place in ("one", "copy/of"):
        for name, start in (("a", 0), ("b", 2)):
            save(f"{folder}/{place}/{name}.parquet", pairs(start, start + 2))
    original = read(f"{folder}/one").fingerprint
    assert read(f"{folder}/copy/of").fingerprint == original
    changed = pairs(2, 4, distorted_uri=["/images/p2-d.png", "/images/p3-D.png"])
    save(f"{folder}/copy/of/b.parquet", changed)
    assert read(f"{folder}/copy/of").fingerprint != original


def test_a_single_file_may_be_renamed_and_a_folder_s_may_not(tmp_path):
    one, other = save(tmp_path / "a.parquet", pairs()), save(tmp_path / "z.parquet", pairs())
    assert read(one).fingerprint == read(other).fingerprint
    for folder, name in (("x", "b"), ("y", "c")):
        save(tmp_path / folder / "a.parquet", pairs(0, 2))
        save(tmp_path / folder / f"{name}.parquet", pairs(2, 4))
    assert read(tmp_path / "x").fingerprint != read(tmp_path / "y").fingerprint


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


def test_keys_of_folders_are_columns_below_the_manifest_only(tmp_path):
    save(tmp_path / "date=2026-01-01/model=x/a.parquet", pairs())
    assert "model" not in read(tmp_path / "date=2026-01-01/model=x").schema.names
    manifest = read(tmp_path / "date=2026-01-01")
    assert manifest.schema.names[3:] == ["model"]
    assert read(tmp_path / "*/*/*.parquet").schema.names[3:] == ["date", "model"]
    (tmp_path / "date=2026-01-01/model=x").rename(tmp_path / "date=2026-01-01/model=y")
    assert read(tmp_path / "date=2026-01-01").fingerprint != manifest.fingerprint


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ("model=x/day=1", "below folders named after the same keys, day=, model= each once, got "
                          "model=, day= in"),
        ("day=2", "got day= in"),
        ("plain", "got none in"),
        ("day=1/model=x/day=2", "got day=, model=, day= in"),
    ],
)  # fmt: skip
def test_folders_of_different_keys_are_refused(tmp_path, others, expected):
    save(tmp_path / "m/day=1/model=x/a.parquet", pairs(0, 2))
    save(tmp_path / "m" / others / "b.parquet", pairs(2, 4))
    (problem,) = problems_of(tmp_path / "m")
    assert expected in problem
    assert problem.endswith(f"{tmp_path}/m/{others}/b.parquet")


def test_a_key_that_is_a_column_is_refused_and_one_of_the_results_too(tmp_path):
    path = save(tmp_path / "m/level=1/status=x/a.parquet", pairs(level=[1] * 4))
    assert problems_of(tmp_path / "m") == [
        f"manifest.uri: expected column 'level' in the names of folders or in the files, got it in "
        f"both: {path}",
        "manifest: column 'status' is reserved for the results; rename it",
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
