import os
import unicodedata

import pyarrow as pa
import pytest

from pipeline.manifests.config import FoldersConfig
from pipeline.manifests.folders import pair_folders
from pipeline.runs.errors import ContractError


def pair(references, *candidates, match=None) -> tuple[pa.Table, list[str]]:
    config = FoldersConfig(references=str(references), candidates=candidates, match=match)
    return pair_folders(config)


def test_images_of_equal_paths_without_suffix_are_pairs_next_to_their_reference(folder, put):
    put(f"{folder}/gt", "a.png", "sub/b.png")
    put(f"{folder}/one", "sub/b.JPG", "a.webp")
    put(f"{folder}/two", "a.png", "sub/b.png")
    rows, notes = pair(f"{folder}/gt", f"{folder}/one/", f"2nd={folder}/two")
    assert rows.to_pylist() == [
        {
            "pair_id": f"{model}/{key}",
            "reference_uri": f"{folder}/gt/{key}.png",
            "distorted_uri": f"{folder}/{path}",
            "model": model,
        }
        for model, key, path in (
            ("one", "a", "one/a.webp"),
            ("2nd", "a", "two/a.png"),
            ("one", "sub/b", "one/sub/b.JPG"),
            ("2nd", "sub/b", "two/sub/b.png"),
        )
    ]
    assert notes == []


def test_files_without_a_partner_and_other_files_are_counted_and_named(tmp_path, put):
    put(tmp_path / "gt", "a.png", "b.png", "c.png", "notes.txt", "._a.png", ".cache/a.png")
    put(tmp_path / "out", "a.png", "z.png")
    rows, notes = pair(tmp_path / "gt", f"{tmp_path}/out")
    assert rows.column("pair_id").to_pylist() == ["out/a"]
    assert notes == [
        "references: 3 files left out, not named as images are: ._a.png, .cache/a.png, notes.txt",
        "out: 2 files of references left out, without a partner here: b.png, c.png",
        "out: 1 file left out, without a reference: z.png",
    ]


def test_accents_of_one_character_and_of_two_are_the_same(tmp_path, put):
    one, two = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    put(tmp_path / "gt", two)
    put(tmp_path / "out", one)
    rows, notes = pair(tmp_path / "gt", f"{tmp_path}/out")
    assert notes == []
    assert rows.to_pylist() == [
        {
            "pair_id": "out/café", "reference_uri": f"{tmp_path}/gt/{two}",
            "distorted_uri": f"{tmp_path}/out/{one}", "model": "out",
        }
    ]  # fmt: skip
    put(tmp_path / "out", two)
    with pytest.raises(ContractError, match="expected one image for 'café', got"):
        pair(tmp_path / "gt", f"{tmp_path}/out")


def test_groups_of_an_expression_say_which_images_are_pairs_and_are_columns(tmp_path, put):
    put(tmp_path / "gt", "kyoto_1_gt.png", "kyoto_2_gt.png", "cover.png")
    put(tmp_path / "out", "x4-kyoto_2.png", "x4-kyoto_1.png")
    match = r"(?P<scene>[a-z]+)_(?P<frame>\d+)"
    rows, notes = pair(tmp_path / "gt", f"{tmp_path}/out", match=match)
    assert rows.column("pair_id").to_pylist() == ["out/kyoto/1", "out/kyoto/2"]
    assert rows.column("scene").to_pylist() == ["kyoto", "kyoto"]
    assert rows.column("frame").to_pylist() == ["1", "2"]
    assert rows.column("distorted_uri").to_pylist()[0].endswith("/x4-kyoto_1.png")
    assert notes == ["references: 1 file left out, where folders.match finds nothing: cover.png"]


@pytest.mark.parametrize("candidate", [".", "..", "../../out"])
def test_a_model_has_the_name_of_its_folder(candidate, tmp_path, put, monkeypatch):
    put(tmp_path / "gt", "a.png")
    put(tmp_path / "out", "a.png")
    (tmp_path / "out/sub").mkdir()
    monkeypatch.chdir(tmp_path / ("out" if candidate == "." else "out/sub"))
    assert pair(tmp_path / "gt", candidate)[0].column("model").to_pylist() == ["out"]


def test_a_folder_may_have_an_equals_sign_behind_its_slash(tmp_path, put, monkeypatch):
    put(tmp_path / "gt", "a.png")
    put(tmp_path / "lr=1", "a.png")
    monkeypatch.chdir(tmp_path)
    assert pair("gt", "./lr=1")[0].column("model").to_pylist() == ["lr=1"]


def test_every_wrong_folder_is_named_at_once(tmp_path, put, refused):
    put(tmp_path / "gt", "a.png", "sub/b.png")
    put(tmp_path / "twice", "a.png", "a.jpg")
    put(tmp_path / "others", "a.txt")
    (tmp_path / "empty").mkdir()
    names = ("twice", "others", "empty", "none", "gt/a.png")
    candidates = [f"{tmp_path}/{name}" for name in names]
    problems = refused(folders={"references": f"{tmp_path}/gt", "candidates": candidates})
    for problem, name, expected in zip(
        problems,
        names,
        ("one image for 'a', got a.jpg, a.png", "got only a.txt", "got none", "nothing", "a file"),
        strict=True,
    ):
        assert problem.startswith("folders.candidates: expected ")
        assert problem.endswith(f"at {tmp_path}/{name}")
        assert expected in problem


def test_many_repeated_names_are_counted(tmp_path, put, refused):
    names = [f"{number}.{suffix}" for number in range(9) for suffix in ("png", "jpg")]
    put(tmp_path / "gt", *names)
    put(tmp_path / "out", "1.png")
    problems = refused(folders={"references": f"{tmp_path}/gt", "candidates": [f"{tmp_path}/out"]})
    assert len(problems) == 6
    assert "for 9 names" in problems[-1]


@pytest.mark.parametrize(
    ("candidates", "match", "expected"),
    [
        (["other"], None, "such as 'a', got none at {0}/other, but 'z'"),
        (["out", "x/out"], None, "got 'out' 2 times; write NAME=FOLDER"),
        (["same=gt"], None, "other folders than the references', got {0}/gt"),
        (["out"], "(?P<key>[0-9]+)", "that folders.match describes, got none among a.png"),
    ],
)
def test_folders_that_make_no_pairs_are_refused(
    candidates, match, expected, tmp_path, put, refused, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("gt", "out", "x/out"):
        put(tmp_path / name, "a.png")
    put(tmp_path / "other", "z.png")
    problems = refused(folders={"references": "gt", "candidates": candidates, "match": match})
    assert any(expected.format(tmp_path) in problem for problem in problems)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path, put, refused):
    put(tmp_path / "gt", "a.png")
    put(tmp_path / "out", "a.png")
    with open(os.fsencode(tmp_path / "out") + b"/\xff.png", "wb"):
        pass
    folders = {"references": f"{tmp_path}/gt", "candidates": [f"{tmp_path}/out"]}
    (problem,) = refused(folders=folders)
    assert r"expected names in UTF-8, got b'\xff.png'" in problem
