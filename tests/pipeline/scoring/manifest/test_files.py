import pytest

from tests.pipeline.scoring.manifest.manifests import encoded, names, pairs, problems_of, read, save


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


def test_a_single_file_may_be_renamed_and_a_folder_s_may_not(tmp_path):
    one, other = save(tmp_path / "a.parquet", pairs()), save(tmp_path / "z.parquet", pairs())
    assert read(one).fingerprint == read(other).fingerprint
    for folder, name in (("x", "b"), ("y", "c")):
        save(tmp_path / folder / "a.parquet", pairs(0, 2))
        save(tmp_path / folder / f"{name}.parquet", pairs(2, 4))
    assert read(tmp_path / "x").fingerprint != read(tmp_path / "y").fingerprint


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
