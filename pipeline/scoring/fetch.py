"""Fetch the images that a manifest names: what may pass is asked for again, and counted."""

import errno
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectionError, ClientConnectorDNSError, ClientPayloadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError
from fsspec import AbstractFileSystem
from fsspec.config import conf
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.storage import STORE_ERRORS, describe, open_fs
from pipeline.scoring.http_session import open_session

TRIES = 7
"""How often an object is asked for while its store says that it might come later."""
FIRST_WAIT_S = 0.5
"""Wait before the second try; it doubles from try to try, to 31 s together."""
PATIENCE_S = 600.0
"""A process that has waited so long for a store that gives nothing asks it only once, until it
answers: else each few rows of a store that is gone for good would take half a minute."""

PASSING_STATUSES = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
PASSING_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
PASSING_ERRORS = (
    TimeoutError, ConnectionError, BotoConnectionError, HTTPClientError, IncompleteRead,
)  # fmt: skip

_waited_s: dict[str, float] = {}  # for stores that have given nothing since, in this process


@dataclass(frozen=True)
class Fetched:
    """What came of an object.

    Attributes:
        content: its bytes, or the exception that says why there are none.
        num_retries: how often it was asked for again.
    """

    content: bytes | Exception
    num_retries: int


def fetch(uris: Sequence[str], max_bytes: int) -> list[Fetched]:
    """Fetch objects, those of one store concurrently; wait and ask again for what may pass.

    Timeouts, lost connections, truncated answers, and HTTP's 408, 425, 429 and 5xx may pass.

    Args:
        uris: local paths or fsspec URIs.
        max_bytes: no more than one byte above this is fetched of any object.
    """
    fetched = [Fetched(FileNotFoundError(), 0)] * len(uris)
    wanted = list(range(len(uris)))
    for num_retries in range(TRIES):
        start_s = time.monotonic()
        contents = _fetch_once([uris[index] for index in wanted], max_bytes)
        for index, content in zip(wanted, contents, strict=True):
            fetched[index] = Fetched(content, num_retries)
            if not _may_pass(content):
                _waited_s.pop(_store(uris[index]), None)
        wanted = [
            index
            for index in wanted
            if _may_pass(fetched[index].content)
            and _waited_s.get(_store(uris[index]), 0) < PATIENCE_S
        ]
        if not wanted or num_retries == TRIES - 1:
            break
        time.sleep(FIRST_WAIT_S * 2**num_retries * random.uniform(0.5, 1.5))  # not all at once
        for store in {_store(uris[index]) for index in wanted}:
            _waited_s[store] = _waited_s.get(store, 0) + time.monotonic() - start_s
    return fetched


def _store(uri: str) -> str:
    """Return scheme and host or bucket."""
    return "/".join(uri.split("/", 3)[:3])


def _fetch_once(uris: Sequence[str], max_bytes: int) -> list[bytes | Exception]:
    results: list[bytes | Exception] = [FileNotFoundError()] * len(uris)
    stores: dict[int, tuple[AbstractFileSystem, list[tuple[int, str]]]] = {}
    for index, uri in enumerate(uris):
        try:
            fs, path = open_fs(uri, **_options(uri))
            if isinstance(fs, LocalFileSystem):
                _check_is_file(Path(path))
            if hasattr(fs, "retries"):  # s3fs's own, which nobody would count
                fs.retries = 1
        except STORE_ERRORS as error:
            results[index] = error
        else:
            stores.setdefault(id(fs), (fs, []))[1].append((index, path))
    for fs, entries in stores.values():
        paths = [path for _, path in entries]
        try:
            fetched = fs.cat_ranges(paths, 0, max_bytes + 1, on_error="return")
        except Exception as error:  # noqa: BLE001 - some drivers raise what they should return
            fetched = [error] * len(paths)
        for (index, _), content in zip(entries, fetched, strict=True):
            results[index] = b"" if _is_empty_object(content) else _named(content)
    return results


def _check_is_file(path: Path) -> None:
    """Raise for what is there and no file: reading a pipe, say, would wait forever."""
    if not path.is_file() and path.exists():
        raise OSError(f"expected a file, got {'a folder' if path.is_dir() else 'a device or pipe'}")


def _options(uri: str) -> dict[str, Any]:
    """Return what a store's driver is told beyond its own settings."""
    scheme = uri.partition("://")[0]
    if scheme in ("s3", "s3a"):
        mine = {"retries": {"total_max_attempts": 1}}  # likewise
        return {"config_kwargs": conf.get("s3", {}).get("config_kwargs", {}) | mine}
    if scheme in ("http", "https"):
        return {"get_client": open_session}
    return {}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _may_pass(content: bytes | Exception) -> bool:
    """Return whether asking again may help."""
    if isinstance(content, bytes):
        return False
    causes = list(_chain(content))
    if any(isinstance(cause, PASSING_ERRORS) or _is_lost_connection(cause) for cause in causes):
        return True
    for status in (_http_status(cause) for cause in causes):
        if status is not None:
            return status in PASSING_STATUSES or (
                status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
            )
    return any(getattr(cause, "errno", None) in PASSING_ERRNOS for cause in causes)


def _http_status(error: BaseException) -> int | None:
    """Return the status that a driver's exception carries: botocore's, aiohttp's, or Google's."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    for name in ("status", "code"):  # in this order: aiohttp warns of its code
        if isinstance(getattr(error, name, None), int):
            return int(getattr(error, name))
    return None


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether aiohttp lost a connection, or could not make one to a host that exists."""
    return isinstance(error, (ClientConnectionError, ClientPayloadError)) and not isinstance(
        error, ClientConnectorDNSError
    )


def _is_empty_object(result: bytes | Exception) -> bool:
    """Return whether S3 refused a range because the object has no bytes at all."""
    response: dict[str, Any] = getattr(getattr(result, "__cause__", None), "response", {})
    return bool(response.get("Error", {}).get("Code") == "InvalidRange")


def _named(result: bytes | Exception) -> bytes | Exception:
    """Return an HTTP server's refusal as the error that other stores raise."""
    kind = {401: PermissionError, 403: PermissionError, 410: FileNotFoundError}.get(
        getattr(result, "status", 0)
    )
    return kind(describe(result)) if kind and isinstance(result, Exception) else result
