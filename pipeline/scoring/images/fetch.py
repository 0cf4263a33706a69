"""Fetch the images that a manifest names; retry transient errors and count the retries."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import ClientResponse, ClientSession, ClientTimeout, TraceConfig
from aiohttp import TraceRequestRedirectParams as Redirect
from fsspec import AbstractFileSystem
from fsspec.config import conf
from fsspec.implementations.local import LocalFileSystem
from yarl import URL

from pipeline.runs.storage import STORE_ERRORS, describe, is_transient, open_fs, s3_code
from pipeline.scoring.resources import (
    FETCH_FIRST_WAIT_S,
    FETCH_PATIENCE_S,
    FETCH_TRIES,
    HTTP_CHUNK_BYTES,
    HTTP_CONNECT_S,
    HTTP_OBJECT_S,
    HTTP_READ_S,
)

_waited_s: dict[str, float] = {}  # by store, in this process, since the store's last answer


@dataclass(frozen=True)
class Fetched:
    """The outcome of fetching an object.

    Attributes:
        content: its bytes, or the exception that says why there are none.
        num_retries: number of fetches after the first.
    """

    content: bytes | Exception
    num_retries: int


def fetch(uris: Sequence[str], max_bytes: int) -> list[Fetched]:
    """Fetch objects, those of one store concurrently; wait and retry after transient errors.

    `pipeline.runs.storage` says which errors are transient.

    Args:
        uris: local paths or fsspec URIs.
        max_bytes: at most one byte more than this is fetched of each object.
    """
    fetched = [Fetched(FileNotFoundError(), 0)] * len(uris)
    wanted = list(range(len(uris)))
    for num_retries in range(FETCH_TRIES):
        start_s = time.monotonic()
        contents = _fetch_once([uris[index] for index in wanted], max_bytes)
        for index, content in zip(wanted, contents, strict=True):
            fetched[index] = Fetched(content, num_retries)
            if not is_transient(content):
                _waited_s.pop(_store(uris[index]), None)
        wanted = [
            index
            for index in wanted
            if is_transient(fetched[index].content)
            and _waited_s.get(_store(uris[index]), 0) < FETCH_PATIENCE_S
        ]
        if not wanted or num_retries == FETCH_TRIES - 1:
            break
        # The random factor keeps processes from retrying all at the same moment.
        time.sleep(FETCH_FIRST_WAIT_S * 2**num_retries * random.uniform(0.5, 1.5))
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
            fs, path = open_image(uri)
            if isinstance(fs, LocalFileSystem):
                _check_is_file(Path(path))
        except STORE_ERRORS as error:
            results[index] = error
        else:
            stores.setdefault(id(fs), (fs, []))[1].append((index, path))
    for fs, entries in stores.values():
        paths = [path for _, path in entries]
        try:
            fetched = fs.cat_ranges(paths, 0, max_bytes + 1, on_error="return")
        except Exception as error:  # noqa: BLE001 - some drivers raise errors instead of returning
            fetched = [error] * len(paths)
        for (index, _), content in zip(entries, fetched, strict=True):
            results[index] = b"" if _is_empty_object(content) else _translate(content)
    return results


def open_image(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of an image, which asks its store only once, and the path inside it.

    Raises:
        ValueError, ImportError, OSError: as in `pipeline.runs.storage.open_store`.
    """
    fs, path = open_fs(uri, **_driver_options(uri))
    if hasattr(fs, "retries"):
        fs.retries = 1  # s3fs's own retries would not be counted
    return fs, path


def _check_is_file(path: Path) -> None:
    """Check that a path is no folder, device or pipe; reading a pipe would wait forever."""
    if not path.is_file() and path.exists():
        raise OSError(f"expected a file, got {'a folder' if path.is_dir() else 'a device or pipe'}")


def _driver_options(uri: str) -> dict[str, Any]:
    """Return the keyword arguments of a store's driver, in addition to the user's settings."""
    scheme = uri.partition("://")[0]
    if scheme in ("s3", "s3a"):
        once = {"retries": {"total_max_attempts": 1}}  # botocore's retries would not be counted
        return {"config_kwargs": conf.get("s3", {}).get("config_kwargs", {}) | once}
    if scheme in ("http", "https"):
        return {"get_client": _open_session}
    return {}


def _is_empty_object(result: bytes | Exception) -> bool:
    """Return whether S3 refused the range because the object has no bytes."""
    return isinstance(result, Exception) and s3_code(result.__cause__) == "InvalidRange"


def _translate(result: bytes | Exception) -> bytes | Exception:
    """Return an HTTP server's refusal as the exception that other stores raise."""
    kind = {401: PermissionError, 403: PermissionError, 410: FileNotFoundError}.get(
        getattr(result, "status", 0)
    )
    return kind(describe(result)) if kind and isinstance(result, Exception) else result


class RangeResponse(ClientResponse):
    """An HTTP response that is not read beyond the requested range.

    A server may ignore the range and send the whole object, which has no bound.
    """

    async def read(self) -> bytes:
        """Return the body, cut at the end of the range."""
        wanted = self.request_info.headers.get("Range", "").rpartition("-")[2]
        if not wanted.isdigit() or self._body is not None:
            return await super().read()
        max_bytes, body = int(wanted) + 1, bytearray()
        async for chunk in self.content.iter_chunked(HTTP_CHUNK_BYTES):
            body += chunk
            if len(body) >= max_bytes:
                self.close()
                break
        self._body = bytes(body[:max_bytes])
        return self._body


async def _open_session(**settings: Any) -> ClientSession:
    """Return a session for fsspec's HTTP file system.

    Args:
        settings: aiohttp's, which fsspec passes.
    """
    trace = TraceConfig()
    trace.on_request_redirect.append(_stay_on_host)
    timeout = ClientTimeout(total=HTTP_OBJECT_S, sock_connect=HTTP_CONNECT_S, sock_read=HTTP_READ_S)
    return ClientSession(
        **{"timeout": timeout, **settings}, trace_configs=[trace], response_class=RangeResponse
    )


async def _stay_on_host(_session: ClientSession, _context: SimpleNamespace, move: Redirect) -> None:
    """Refuse a redirect to another host, port or less safe scheme.

    Raises:
        PermissionError: the redirect leads to another host or port.
    """
    headers = move.response.headers
    # As in aiohttp, URI replaces a missing Location.
    target = move.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
    is_upgrade = (move.url.scheme, target.scheme) == ("http", "https") and (
        target.is_default_port() and move.url.is_default_port()
    )
    same_place = move.url.origin() == target.origin()
    if move.url.host != target.host or not (same_place or is_upgrade):
        raise PermissionError(
            f"expected no redirect to another host or port, got one to {target.host}:{target.port}"
        )
