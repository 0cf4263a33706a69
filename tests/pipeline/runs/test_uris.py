"""What the text of a URI says: which folder it is in, and which parts are secret."""

import pytest

from pipeline.runs.storage import describe
from pipeline.runs.uris import explain_relative, is_allowed, is_relative, redact
from pipeline.scoring.images.fetch import fetch


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://a/b/c.png", "s3://a"),
        ("s3://a/b/c.png", "s3://a/"),
        ("s3://a/b/c.png", "s3://a/b"),
        ("s3://a/b/c.png", "s3://"),
        ("S3://a/b/c.png", "s3://a"),
        ("s3://a/b/..c..png", "s3://a/b"),
        ("s3://a/b/c.png?versionId=x", "s3://a/b"),
        ("https://host/a/c.png?size=1", "https://host/a"),
        ("/data/c.png", "/data"),
        ("/data/c.png", "/"),
        ("/data/b/../c.png", "/data/"),
        ("/data/c.png", "file:///data"),
        ("file:///data/c.png", "/data"),
        ("file:/data/c.png", "/data"),
        ("file://localhost/data/c.png", "/data"),
        ("/data/c.png", "file://localhost/data"),
        ("/data/c.png", "file:/data"),
        ("http://[::1]:80/a/c.png", "http://[::1]:80/a"),
        ("http://[0:0::1]/a/c.png", "http://[::1]/a"),
    ],
)
def test_a_uri_in_an_allowed_folder_is_allowed(uri, prefix):
    assert is_allowed(uri, [prefix])
    assert is_allowed(uri, ["gs://other", prefix])


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://ab/c.png", "s3://a"),
        ("s3://a/bc/d.png", "s3://a/b"),
        ("gs://a/b/c.png", "s3://a"),
        ("s3://a/B/c.png", "s3://a/b"),
        ("s3://a/b/../c.png", "s3://a/b"),
        ("s3://a/b/../../c/d.png", "s3://a"),
        ("s3://a//b/c.png", "s3://a/b"),
        ("https://host/a/%2e%2E/c.png", "https://host/a"),  # aiohttp asks for /c.png
        ("https://host/a/.\t./c.png", "https://host/a"),  # here too
        ("https://host/a/..\\c.png", "https://host/a"),
        ("https://host/c.png?/../a/d.png", "https://host/a"),
        ("https://host/c.png#/../a/d.png", "https://host/a"),
        ("https://host@elsewhere/a/c.png", "https://host"),
        ("https://host:81/a/c.png", "https://host"),
        ("simplecache::s3://a/c.png", "s3://a"),
        ("zip://c.png::s3://a/b.zip", "zip://c.png"),
        ("/data/../etc/hostname", "/data"),
        ("file:///data/../etc/hostname", "file:///data"),
        ("file:/data/../etc/hostname", "/data"),
        ("file://localhost/data/../etc/hostname", "/data"),
        ("file://localhost/../etc/hostname", "file://localhost/data"),
        ("file://elsewhere/data/c.png", "/data"),
        ("file:data/c.png", "/data"),
        ("http://[::1]:81/a/c.png", "http://[::1]:80/a"),
        ("http://[::2]/a/c.png", "http://[::1]/a"),
        ("http://[::1]/a/../c.png", "http://[::1]/a"),
        ("http://[::1]/a::s3://b/c.png", "http://[::1]/a"),
        ("http://h/[::1]/c.png", "http://h"),
        ("/database/c.png", "/data"),
        ("", "/data"),
    ],
)
def test_a_uri_outside_the_allowed_folders_is_not(uri, prefix):
    assert not is_allowed(uri, [prefix])
    assert not is_allowed(uri, [])


def test_a_link_is_judged_by_its_target(tmp_path):
    for name in ("allowed", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"A")
    (tmp_path / "allowed" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "in").symlink_to(tmp_path / "allowed")
    assert not is_allowed(f"{tmp_path}/allowed/out/a.png", [f"{tmp_path}/allowed"])
    assert is_allowed(f"{tmp_path}/elsewhere/in/a.png", [f"{tmp_path}/allowed"])
    assert is_allowed(f"{tmp_path}/allowed/a.png", [f"{tmp_path}/elsewhere/in"])


def test_a_path_is_judged_after_fsspec_expands_it(tmp_path, monkeypatch):
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(name.encode())
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    monkeypatch.chdir(tmp_path / "work")
    for uri in ("file://~/a.png", "~/a.png"):
        assert fetch([uri], max_bytes=10)[0].content == b"home"
        assert not is_allowed(uri, [f"{tmp_path}/work"])
        assert is_relative(uri)
    chain = (
        f"simplecache::{tmp_path}/home/a.png"  # read as a path, it would be in the working folder
    )
    assert fetch([chain], max_bytes=10)[0].content == b"home"
    assert not is_allowed(chain, [f"{tmp_path}/work"])


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("a.png", True),
        ("./a.png", True),
        ("file://a.png", True),
        ("", True),
        ("/a.png", False),
        ("file:///a.png", False),
        ("file:/a.png", False),
        ("file:a.png", True),
        ("file://localhost/a.png", False),
        ("http://[::1]/a.png", False),
        ("s3://bucket/a.png", False),
        ("zip://a.png::/b.zip", False),
    ],
)
def test_relative_paths_are_recognised(uri, expected):
    assert is_relative(uri) is expected


@pytest.mark.parametrize(
    ("uri", "got"),
    [
        ("file://otherhost/a.png", "host otherhost"),
        ("file://user:secret@otherhost/a.png", "host otherhost"),
        ("file://a.png", "a relative path"),
        ("file:a.png", "a relative path"),
    ],
)
def test_a_file_of_another_host_is_told_from_a_relative_path(uri, got):
    assert is_relative(uri)
    assert explain_relative(uri).endswith(f", got {got}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:password@host/a.png", "https://***@host/a.png"),
        ("s3://user@bucket/a", "s3://***@bucket/a"),
        ("https://h/a?X-Amz-Signature=0ab", "https://h/a?X-Amz-Signature=***"),
        ("https://h/a?sig=a%2Fb%3D&se=2030-01-01", "https://h/a?sig=***&se=***"),
        ("s3://b/k?versionId=3sL4", "s3://b/k?versionId=3sL4"),
        ("s3://b/k?versionId=3sL4&token=abc", "s3://b/k?versionId=3sL4&token=***"),
        ("simplecache::https://u:p@h/a?t=1", "simplecache::https://***@h/a?t=***"),
        (
            "404 for 'https://u:p@h/a?t=1' and s3://u:p@b",
            "404 for 'https://***@h/a?t=***' and s3://***@b",
        ),
        ("s3://bucket/icon@2x.png", "s3://bucket/icon@2x.png"),
        ("expected a = b, got what? c = d & e", "expected a = b, got what? c = d & e"),
        ("/data/a.png", "/data/a.png"),
        ("/img/a&b=c?d=e.png", "/img/a&b=c?d=e.png"),
        ("s3://b/k&v=1/dir#2/img.png", "s3://b/k&v=1/dir#2/img.png"),
        ("abfs://container@account/x", "abfs://container@account/x"),
        ("abfs://user:password@account/x", "abfs://***@account/x"),
        ("https://h/a?TOKEN", "https://h/a?***"),
        ("https://h/a#access_token=abc", "https://h/a#access_token=***"),
        ("https://h/a;sig=abc?x=1", "https://h/a;sig=***?x=***"),
        ("got 'https://h/a?sig=ab'cd' (x)", "got 'https://h/a?sig=***' (x)"),
    ],
)
def test_secrets_of_uris_are_hidden_and_nothing_else(text, expected):
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one line"), "ValueError: one line"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("\n  first\r\nsecond\n"), "ValueError: first"),
        (ValueError("cannot be opened:\n- method gz"), "ValueError: cannot be opened"),
        (TimeoutError(), "TimeoutError"),
        (OSError("https://u:p@h?t=1 fails"), "OSError: https://***@h?t=*** fails"),
    ],
)
def test_an_error_is_described_in_one_line_without_secrets(error, expected):
    assert describe(error) == expected
