"""S3 stores for tests: moto always, a real gateway where one is given; and never anybody's own.

Imports of what only S3 needs stand inside the fixtures: the tests of spips_core also run where
nothing but torch is installed.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NOBODY_LISTENS = "http://127.0.0.1:9"
S3_SERVERS = ("moto", pytest.param("gateway", marks=pytest.mark.s3))


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        name: "moto" or "gateway".
        environment: variables that lead s3fs to it.
        others: a client that shares no cache with the code under test, as if on another machine.
        instances: s3fs's own cache of file systems, each with the keys that it was made with.
    """

    name: str
    environment: dict[str, str]
    others: Any
    instances: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class S3Store:
    """A bucket, empty at first.

    Attributes:
        bucket: its URI.
        server: where it is.
    """

    bucket: str
    server: S3Server


def s3_environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def connect(name: str, endpoint: str, access_key: str, secret_key: str) -> S3Server:
    from s3fs import S3FileSystem

    others = S3FileSystem(
        endpoint_url=endpoint,
        key=access_key,
        secret=secret_key,
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    return S3Server(name, s3_environment(endpoint, access_key, secret_key), others)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield connect("moto", f"http://{host}:{port}", "moto", "moto")
    server.stop()


@pytest.fixture(scope="session")
def gateway_server() -> S3Server:
    names = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")
    return connect("gateway", *(os.environ[f"SPIPS_TEST_S3_{name}"] for name in names))


@pytest.fixture(params=S3_SERVERS)
def s3_store(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    """An empty bucket that s3fs, and Ray workers started later, find by themselves."""
    with open_bucket(request, request.param) as store:
        yield store


@pytest.fixture
def one_s3_store(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    """As `s3_store`, for tests that take long: on the gateway where one is given, else on moto."""
    name = "gateway" if "SPIPS_TEST_S3_ENDPOINT" in os.environ else "moto"
    with open_bucket(request, name) as store:
        yield store


@pytest.fixture(params=("local", *S3_SERVERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URI of an empty folder, of each kind of store in turn."""
    if request.param == "local":
        yield str(tmp_path)
    else:
        with open_bucket(request, request.param) as store:
            yield f"{store.bucket}/folder"


@contextlib.contextmanager
def open_bucket(request: pytest.FixtureRequest, name: str) -> Iterator[S3Store]:
    from s3fs import S3FileSystem

    server: S3Server = request.getfixturevalue(f"{name}_server")
    bucket = f"spips-{uuid.uuid4().hex}"
    server.others.mkdir(bucket)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(S3FileSystem, "_cache", server.instances)
        yield S3Store(f"s3://{bucket}", server)
    server.others.rm(bucket, recursive=True)
