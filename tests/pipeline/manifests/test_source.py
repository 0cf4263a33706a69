import pytest

from pipeline.manifests.source import absolute_uri, list_first, open_place
from pipeline.runs.errors import ContractError


@pytest.mark.parametrize(
    ("base", "uri", "expected"),
    [
        ("/data", "a/b.png", "/data/a/b.png"),
        ("/data", "./b.png", "/data/b.png"),
        (
            "/data/lists",
            "../b.png",
            "/data/lists/../b.png",
        ),  # which the system resolves, with links
        ("/data", "/b.png", "/b.png"),
        ("/data", "s3://bucket/b.png", "s3://bucket/b.png"),
        ("/data", "file:///b.png", "file:///b.png"),
        ("/data", "", ""),
        ("s3://bucket", "b.png", "s3://bucket/b.png"),
        ("s3://bucket/lists", "./b.png", "s3://bucket/lists/b.png"),
        ("s3://bucket/lists", "../b.png", "s3://bucket/b.png"),
        ("s3://bucket/lists", "../../../other/b.png", "s3://bucket/other/b.png"),
        ("s3://bucket/lists", "/b.png", "/b.png"),
    ],
)
def test_a_relative_path_begins_at_the_folder_of_its_list(base, uri, expected):
    assert absolute_uri(base, uri) == expected


def test_a_local_place_is_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_place("source.uri", "images/")[1:] == (f"{tmp_path}/images", f"{tmp_path}/images")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://key:secret@bucket/a", "without user info and query"),
        ("https://host/a.csv?token=secret", "without user info and query"),
        ("zip://a.csv::s3://bucket/a.zip", "one store"),
        ("nosuchscheme://a", "not known"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_without_its_secret(uri, expected):
    with pytest.raises(ContractError, match=rf"^source\.uri: .*{expected}") as caught:
        open_place("source.uri", uri)
    assert "secret" not in str(caught.value)


def test_only_the_first_names_are_listed_and_each_can_be_printed():
    assert list_first(["a", "b\nc"]) == r"a, b\nc"
    assert list_first("abcdefg") == "a, b, c, d, e, ..."
    list_first([b"\xff.png".decode(errors="surrogateescape")]).encode()
