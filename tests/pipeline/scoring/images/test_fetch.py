import contextlib
import http.server
import os
import re
import socket
import socketserver
import threading
import time

import pytest
from s3fs import S3FileSystem

from pipeline.runs.storage import describe, open_store, write_whole
from pipeline.scoring.images import fetch as fetching
from pipeline.scoring.images.fetch import Fetched, fetch
from pipeline.scoring.resources import FETCH_TRIES

TEN = b"0123456789"
NOBODY = 65_534


def put(uri: str, content: bytes) -> str:
    write_whole(*open_store(uri), content)
    return uri


def contents(uris: list[str], max_bytes: int) -> list[bytes | Exception]:
    return [one.content for one in fetch(uris, max_bytes)]


@contextlib.contextmanager
def unknown_keys(store):
    """Fetch with keys that the store does not know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "stranger")
        if store.server.name == "moto":  # by default it accepts any keys
            patch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
        patch.setattr(S3FileSystem, "_cache", {})
        yield


def test_objects_come_in_the_order_of_their_uris_and_missing_ones_are_errors(folder):
    a, b = put(f"{folder}/a", b"A"), put(f"{folder}/b", b"B")
    empty, absent = put(f"{folder}/empty", b""), f"{folder}/absent"
    results = contents([b, absent, a, empty, b], max_bytes=10)
    assert [results[0], *results[2:]] == [b"B", b"A", b"", b"B"]
    assert isinstance(results[1], FileNotFoundError)


def test_a_bucket_that_does_not_exist_is_missing(s3_store):
    (result,) = contents([f"{s3_store.bucket}-absent/key"], max_bytes=10)
    assert isinstance(result, FileNotFoundError)


def test_a_folder_is_not_an_object(folder):
    put(f"{folder}/inside/a", b"A")
    (result,) = contents([f"{folder}/inside"], max_bytes=10)
    assert isinstance(result, OSError)


@pytest.mark.parametrize(("max_bytes", "expected"), [(11, TEN), (10, TEN), (9, TEN), (4, TEN[:5])])
def test_at_most_one_byte_above_the_limit_is_fetched(folder, max_bytes, expected):
    assert contents([put(f"{folder}/ten", TEN)], max_bytes) == [expected]


def test_one_call_may_mix_stores_and_an_error_in_one_affects_no_other(s3_store, tmp_path):
    local, remote = put(f"{tmp_path}/a", b"local"), put(f"{s3_store.bucket}/a", b"remote")
    uris = [remote, "nosuchscheme://a", local, "dir://a", f"{s3_store.bucket}", f"file://{local}"]
    results = contents(uris, max_bytes=10)
    assert [results[0], results[2], results[5]] == [b"remote", b"local", b"local"]
    assert all(isinstance(results[index], Exception) for index in (1, 3, 4))
    assert contents([], max_bytes=10) == []


def test_a_client_without_access_is_forbidden_and_the_error_says_why(s3_store):
    uri = put(f"{s3_store.bucket}/a", b"A")
    with unknown_keys(s3_store):
        (result,) = contents([uri], max_bytes=10)
    assert isinstance(result, PermissionError)
    assert re.search("Access ?Key", describe(result)), describe(result)


def test_a_local_file_without_read_permission_is_forbidden(tmp_path):
    uri = put(f"{tmp_path}/a", b"A")
    (tmp_path / "a").chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read every file
        os.seteuid(NOBODY)
    try:
        (result,) = contents([uri], max_bytes=10)
    finally:
        os.seteuid(user)
    assert isinstance(result, PermissionError)


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers the requests of each path with the scripts of its list; the last one repeats."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        scripts = self.server.scripts[self.path.split("?")[0]]
        self.server.asked.append((self.path, self.headers.get("Range")))
        (scripts.pop(0) if len(scripts) > 1 else scripts[0])(self)

    def log_message(self, *_) -> None:
        pass


def status(code: int, body: bytes = b"", **headers: str):
    def answer(request) -> None:
        request.send_response(code)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        with contextlib.suppress(OSError):  # the client may hang up
            request.wfile.write(body)

    return answer


def truncated(request) -> None:
    status(200, TEN[:4], Content_Length="10")(request)
    request.close_connection = True


def reset(request) -> None:
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # an RST, no FIN
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.connection.close()
    request.close_connection = True


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        pass  # the test cuts connections


class Server6(Server):
    address_family = socket.AF_INET6


@pytest.fixture
def web(monkeypatch):
    """A server on loopback: web(scripts by path) returns its address."""
    monkeypatch.setattr(fetching, "FETCH_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(fetching, "_waited_s", {})
    servers = []

    def start(scripts, host="127.0.0.1"):
        server = (Server6 if ":" in host else Server)((host.strip("[]"), 0), Answers)
        server.scripts, server.asked = scripts, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        server.address = f"http://{host}:{server.server_port}"
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        *((status(code), 2) for code in (408, 429, 500, 503, 504)),
        (truncated, 2),
        (reset, 1),  # aiohttp itself retries once
    ],
    ids=["408", "429", "500", "503", "504", "truncated", "reset"],
)
def test_transient_errors_are_retried_and_counted(web, fault, expected):
    server = web({"/a": [fault, fault, status(200, TEN)], "/b": [status(200, b"B")]})
    uris = [f"{server.address}/a", f"{server.address}/b"]
    assert fetch(uris, 100) == [Fetched(TEN, expected), Fetched(b"B", 0)]
    assert sorted(path for path, _ in server.asked) == ["/a", "/a", "/a", "/b"]


@pytest.mark.parametrize(("code", "kind"), [(404, FileNotFoundError), (403, PermissionError),
                                            (410, FileNotFoundError), (400, Exception),
                                            (501, Exception)])  # fmt: skip
def test_permanent_errors_are_not_retried(web, code, kind):
    server = web({"/a": [status(code)]})
    (result,) = fetch([f"{server.address}/a"], 100)
    assert isinstance(result.content, kind)
    assert (result.num_retries, len(server.asked)) == (0, 1)


def test_after_the_last_try_the_last_answer_is_the_error(web):
    server = web({"/a": [status(503)]})
    (result,) = fetch([f"{server.address}/a"], 100)
    assert "503" in describe(result.content)
    assert result.num_retries == FETCH_TRIES - 1 == len(server.asked) - 1


def test_a_dead_store_is_not_retried_until_it_answers(web, monkeypatch):
    monkeypatch.setattr(fetching, "FETCH_PATIENCE_S", 0.0)
    server = web({"/a": [status(503)], "/b": [status(503), status(200, b"B")]})
    uri = f"{server.address}/a"
    assert fetch([uri], 100)[0].num_retries == 0
    monkeypatch.setattr(fetching, "FETCH_PATIENCE_S", 0.05)
    monkeypatch.setattr(fetching, "_waited_s", {server.address: 0.06})
    assert fetch([uri], 100)[0].num_retries == 0
    assert fetch([f"{server.address}/b"], 100)[0].num_retries == 0
    assert fetch([f"{server.address}/b"], 100)[0].content == b"B"
    assert fetch([f"{server.address}/a"], 100)[0].num_retries > 0


def test_retries_of_s3_are_counted_too(web, monkeypatch):
    empty = b"<Error><Code>SlowDown</Code><Message>x</Message></Error>"
    server = web({"/bucket/a": [status(503, empty), status(500), truncated, status(206, TEN)]})
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    assert fetch(["s3://bucket/a"], 100) == [Fetched(TEN, 3)]


def s3_error(code: int, name: str):
    return status(code, f"<Error><Code>{name}</Code><Message>x</Message></Error>".encode())


@pytest.mark.parametrize(
    "fault",
    [
        s3_error(400, "ExpiredToken"),
        s3_error(400, "RequestTimeout"),
        s3_error(400, "IncompleteBody"),
        s3_error(400, "ThrottlingException"),
        s3_error(403, "RequestTimeTooSkewed"),
        status(206, TEN, x_amz_checksum_crc32="AAAAAA=="),
    ],
    ids=["expired", "timeout", "incomplete", "throttled", "skewed", "checksum"],
)
def test_s3_s_passing_refusals_and_damaged_bodies_are_retried(web, monkeypatch, fault):
    server = web({"/bucket/a": [fault, fault, status(206, TEN)]})
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    assert fetch(["s3://bucket/a"], 100) == [Fetched(TEN, 2)]


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_s3_s_lasting_refusals_are_not_retried(web, monkeypatch, code):
    server = web({"/bucket/a": [s3_error(403, code)]})
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    (result,) = fetch(["s3://bucket/a"], 100)
    assert isinstance(result.content, PermissionError)
    assert (result.num_retries, len(server.asked)) == (0, 1)


def test_an_s3_server_that_is_down_is_retried(web, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # no server listens here
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    (result,) = fetch(["s3://bucket/a"], 100)
    assert "EndpointConnectionError" in describe(result.content)
    assert result.num_retries == FETCH_TRIES - 1


def test_a_host_that_does_not_exist_is_not_retried():
    start_s = time.monotonic()
    (result,) = fetch(["http://nosuchhost.invalid/a"], 100)
    assert isinstance(result.content, Exception)
    assert result.num_retries == 0
    assert time.monotonic() - start_s < 30


def test_a_redirect_is_followed_only_on_its_own_host(web):
    other = web({"/secret": [status(200, b"secret")]})
    server = web({"/here": [status(302, Location="/there")], "/there": [status(200, TEN)],
                  "/away": [status(302, Location=f"{other.address}/secret")],
                  "/by_uri": [status(302, URI=f"{other.address}/secret")]})  # fmt: skip
    names = ("here", "away", "by_uri")
    here, *aways = contents([f"{server.address}/{name}" for name in names], 100)
    assert here == TEN
    for away in aways:
        assert isinstance(away, PermissionError)
        assert f"expected no redirect to another host or port, got one to {other.address[7:]}" in (
            str(away)
        )
    assert other.asked == []


def test_a_host_may_be_an_ipv6_address(web):
    try:
        server = web({"/a": [status(302, Location="/b")], "/b": [status(200, TEN)]}, "[::1]")
    except OSError:
        pytest.skip("this machine has no IPv6")
    server.scripts["/c"] = [status(302, Location=f"{server.address}/b")]
    assert contents([f"{server.address}/{name}" for name in "ac"], 100) == [TEN, TEN]


def test_a_local_file_may_have_a_uri_of_any_form(tmp_path):
    path = put(f"{tmp_path}/a", TEN)
    uris = [f"file://{path}", f"file://localhost{path}", f"file:{path}", f"local://{path}"]
    assert contents(uris, 100) == [TEN] * 4


def test_a_server_that_ignores_ranges_is_not_read_beyond_the_range(web):
    server = web({"/a": [status(200, bytes(50_000_000))]})
    start_s = time.monotonic()
    (result,) = fetch([f"{server.address}/a"], 1000)
    assert result == Fetched(bytes(1001), 0)
    assert server.asked == [("/a", "bytes=0-1000")]
    assert time.monotonic() - start_s < 20


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (result,) = fetch([f"{tmp_path}/pipe"], 100)
    assert "expected a file, got a device or pipe" in str(result.content)
