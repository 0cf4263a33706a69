"""What stores say of images, without reading them."""

import http.server
import logging
import os
import threading

import fsspec
import pytest

from pipeline.scoring.images import tags
from pipeline.scoring.images.tags import tags_of


def requests(caplog, method: str) -> list[str]:
    """Return the requests of one method that moto has got."""
    lines = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    return [line for line in lines if f'"{method} ' in line]


@pytest.fixture
def _settled(monkeypatch):
    monkeypatch.setattr(tags, "UNSETTLED_S", 0.0)


@pytest.mark.usefixtures("_settled")
def test_a_file_s_tag_changes_with_its_size_and_with_each_of_its_times(tmp_path):
    file = tmp_path / "a b.png"
    uri = f"file://{file}"
    seen = set()
    for change in (
        lambda: file.write_bytes(b"1"),
        lambda: file.write_bytes(b"22"),
        lambda: os.utime(file, ns=(1, 1)),
        lambda: file.chmod(0o600),  # changes the inode only
    ):
        change()
        found = tags_of([str(file), uri])
        assert found[str(file)] == found[uri]
        seen.add(found[uri])
    assert len(seen) == 4
    assert None not in seen
    assert tags_of([uri]) == tags_of([uri])


def test_a_file_that_was_changed_just_now_has_no_tag_yet(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(b"1")
    assert tags_of([str(file)]) == {str(file): None}
    monkeypatch.setattr(tags, "UNSETTLED_S", 0.0)
    assert tags_of([str(file)])[str(file)]


def test_what_is_no_file_or_has_secrets_has_no_tag(tmp_path):
    uris = [str(tmp_path), str(tmp_path / "absent"), "/a\0b", "nosuch://a/b", "memory://a",
            "https://user:password@127.0.0.1:9/a.png", "http://127.0.0.1:9/a.png"]  # fmt: skip
    assert tags_of(uris) == dict.fromkeys(uris)


@pytest.mark.parametrize("names", ["folder/{0:04}.png", "folder/{1}/{0:04}.png", "{0:04}"])
def test_tags_of_s3_come_from_a_few_listings(s3_store, caplog, monkeypatch, names):
    monkeypatch.setattr(tags, "KEYS_PER_PAGE", 50)
    caplog.set_level(logging.INFO, "werkzeug")
    fs = fsspec.filesystem("s3")
    keys = [names.format(i, i // 40) for i in range(160)]
    bucket = s3_store.bucket
    fs.pipe({f"{bucket}/{key}": key.encode() for key in keys})
    fs.pipe(f"{bucket}/folder/zebra-ä!.png", b"z")
    wanted = [f"{bucket}/{key}" for key in [*keys[:3], *keys[20:150], "folder/zebra-ä!.png"]]
    absent = f"{bucket}/{keys[30]}.absent"
    fs.ls(bucket)  # a listing that s3fs keeps, and that is old soon
    s3_store.server.others.pipe_file(wanted[5], b"other")
    caplog.clear()
    found = tags_of([*wanted, absent])
    sizes = [len(uri) - len(bucket) - 1 for uri in wanted[:-1]]
    sizes[5] = len(b"other")
    assert [int(found[uri].split()[0]) for uri in wanted] == [*sizes, 1]
    assert found[absent] is None
    assert len(set(found.values())) == len(found)
    alone = {uri: tags_of([uri])[uri] for uri in wanted[:9]}
    assert alone == {uri: found[uri] for uri in alone}
    if s3_store.server.name == "moto":
        assert 3 <= len(requests(caplog, "GET")) <= 6
        assert all("list-type=2" in line for line in requests(caplog, "GET"))
        assert len(requests(caplog, "HEAD")) <= 1 + len(alone)


def test_keys_far_apart_are_asked_for_one_by_one(s3_store, caplog, monkeypatch):
    monkeypatch.setattr(tags, "KEYS_PER_PAGE", 50)
    caplog.set_level(logging.INFO, "werkzeug")
    fs = fsspec.filesystem("s3")
    bucket = s3_store.bucket
    fs.pipe({f"{bucket}/{i:05}.png": b"1" for i in range(110)})
    wanted = [f"{bucket}/{i:05}.png" for i in range(0, 110, 10)]
    caplog.clear()
    assert set(tags_of(wanted).values()) != {None}
    if s3_store.server.name == "moto":
        assert (len(requests(caplog, "GET")), len(requests(caplog, "HEAD"))) == (1, 6)


def test_a_store_that_is_away_gives_no_tags_at_once(monkeypatch):
    uris = [f"s3://bucket/{i}.png" for i in range(3_000)]  # where nobody listens
    assert tags_of(uris) == dict.fromkeys(uris)


def test_an_http_server_s_strong_entity_tag_or_time_is_the_tag():
    answers = {
        "/strong": {"ETag": '"abc"', "Last-Modified": "Mon"},
        "/weak": {"ETag": 'W/"abc"', "Last-Modified": "Tue"},
        "/time": {"Last-Modified": "Wed"},
        "/none": {},
        "/gone": None,
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            headers = answers[self.path]
            self.send_response(404 if headers is None else 200)
            for name, value in {"Content-Length": "7", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        root = f"http://127.0.0.1:{server.server_port}"
        found = tags_of([f"{root}{path}" for path in answers])
        server.shutdown()
    assert list(found.values()) == ['7 "abc"', "7 Tue", "7 Wed", None, None]
