"""The only file that knows stores: local disks, S3, and everything else that fsspec can open.

fsspec's drivers read credentials and endpoints from the environment or the standard AWS files.
This project never reads them from a manifest or a config, and `redact` removes them from messages.
"""

import errno
import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import IncompleteRead
from pathlib import Path
from typing import IO, Any

import pyarrow.fs
from aiohttp import (
    ClientConnectionError,
    ClientConnectorDNSError,
    ClientError,
    ClientPayloadError,
)
from botocore.exceptions import BotoCoreError, ChecksumError, FlexibleChecksumError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.uris import explain_relative, file_host, plain_uri, redact

CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spips"
STORE_ERRORS = (OSError, ValueError, ImportError, BotoCoreError, ClientError)
"""What drivers raise when a store cannot be reached, read or written. BotoCoreError comes from S3
(for example without keys), ClientError from HTTP servers."""

TRANSIENT_STATUSES = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
TRANSIENT_S3_CODES = frozenset(
    {
        "BadDigest", "BandwidthLimitExceeded", "ExpiredToken", "ExpiredTokenException",
        "IncompleteBody", "OperationAborted", "PriorRequestNotComplete", "RequestExpired",
        "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "RequestTimeout",
        "RequestTimeoutException", "RequestTimeTooSkewed", "SlowDown", "ThrottledException",
        "Throttling", "ThrottlingException", "TokenRefreshRequired", "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip
"""Whatever the HTTP status: credentials that expired and are being renewed, and what botocore
retries."""
TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
TRANSIENT_ERRORS = (
    TimeoutError, ConnectionError, BotoConnectionError, HTTPClientError, IncompleteRead,
    ChecksumError, FlexibleChecksumError,
)  # fmt: skip


def check_writable(uri: str) -> None:
    """Check that a local folder can be written; other stores fail at the first write.

    Raises:
        OSError: the path is a file, or its nearest existing parent is not writable.
        ValueError: other processes cannot read what is written to this store.
    """
    fs, path = open_store(uri)
    if fs.protocol == "memory" or "http" in fs.protocol:
        raise ValueError(f"expected a store that every process can write, got {redact(uri)}")
    if isinstance(fs, LocalFileSystem):
        existing = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"expected a writable folder, got {existing}")
        if not os.access(existing, os.W_OK):
            is_read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
            reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
            raise PermissionError(f"expected a writable folder, got {existing}: {reason}")


def open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI and the path inside it.

    Raises:
        ValueError: the scheme is unknown.
        ImportError: the scheme's driver is not installed.
        OSError: the driver cannot reach the store.
    """
    fs, path = open_fs(uri)
    fs.invalidate_cache()  # other machines write here too
    return fs, path.rstrip("/")


def open_fs(uri: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI and the path inside it, unchanged from the driver.

    Raises:
        ValueError, ImportError, OSError: as in `open_store`.
    """
    if file_host(uri) is not None:
        raise ValueError(f"{explain_relative(uri)}: {redact(uri)}")
    try:
        return url_to_fs(plain_uri(uri), **options)  # type: ignore[no-any-return]
    except STORE_ERRORS:
        raise
    except Exception as error:  # drivers raise anything for incomplete URIs
        raise ValueError(f"expected a URI that can be opened, got {describe(error)}") from error


def find_files(fs: AbstractFileSystem, folder: str) -> list[str]:
    """Return the paths of all files below a folder. Links to local folders are followed."""
    if not isinstance(fs, LocalFileSystem):
        return list(fs.find(folder))

    def walk(path: str, above: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(path)
        if real in above:  # a link that leads back
            return
        for entry in os.scandir(path):
            if entry.is_dir():
                yield from walk(entry.path, (*above, real))
            else:
                yield entry.path

    return list(walk(folder, ()))


def is_broken_link(fs: AbstractFileSystem, path: str) -> bool:
    """Return whether a local path is a link to nothing."""
    return isinstance(fs, LocalFileSystem) and Path(path).is_symlink() and not Path(path).exists()


def is_inside(uri: str, fs: AbstractFileSystem, folder: str) -> bool:
    """Return whether a URI is a folder or inside it. Links of local paths are resolved."""
    other_fs, path = open_store(uri)
    if isinstance(fs, LocalFileSystem):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    return type(other_fs) is type(fs) and f"{path}/".startswith(f"{folder}/")


def arrow_filesystem(fs: AbstractFileSystem) -> pyarrow.fs.FileSystem:
    """Return the file system for pyarrow and Ray Data.

    It wraps fsspec's S3 client, because many S3 servers refuse the checksums that pyarrow's own S3
    client streams.
    """
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem()
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


def deltalake_options() -> dict[str, str]:
    """Return what deltalake's own stores need beside the environment, which they read, too."""
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"AWS_ALLOW_HTTP": "true"} if is_plain else {}


def content_id(fs: AbstractFileSystem, path: str) -> str:
    """Return a text that changes with a file's content: the store's ETag, else the sha256."""
    if etag := etag_of(fs.info(path)):
        return etag
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def etag_of(info: dict[str, Any]) -> str | None:
    """Return size and ETag, or the checksum, of what fsspec says of an object, if it has one."""
    keys = ("ETag", "etag", "md5Hash", "content_md5")
    return next((f"{info['size']} {info[key]}" for key in keys if info.get(key)), None)


def write_whole(fs: AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a small file so that a reader sees either all of it or nothing."""
    if not isinstance(fs, LocalFileSystem):  # object stores show only complete objects
        fs.pipe_file(path, content)
        return
    with open_whole(fs, path) as file:
        file.write(content)


@contextmanager
def open_whole(fs: AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """Open a file to write, of which a reader sees nothing unless the block ends without error."""
    if isinstance(fs, LocalFileSystem):
        # Readers of a whole folder ignore names that begin with a dot.
        partial = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as local_file:
                yield local_file
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return
    file = fs.open(path, "wb", autocommit=False)
    try:
        yield file
        file.close()  # sends what is left
    except BaseException:
        file.discard()
        file.closed = True  # else it would be sent when Python frees the object
        raise
    file.commit()


def local_copy(uri: str, sha256: str | None) -> Path:
    """Return a local path of a file, which is fetched once per machine and checked.

    Args:
        uri: a local path or fsspec URI.
        sha256: expected digest; None only for a local path.

    Raises:
        ContractError: there is no such file, or it cannot be read, or its digest differs.
        FaultError: its store is away.
    """
    try:
        fs, path = open_store(uri)
        is_local = isinstance(fs, LocalFileSystem)
        file = Path(path) if is_local else CACHE_FOLDER / str(sha256) / posixpath.basename(path)
        is_here = is_local or file.is_file()
        content = file.read_bytes() if is_here else fs.cat_file(path)
        got = hashlib.sha256(content).hexdigest()
        if sha256 not in (None, got):
            raise ContractError(f"{redact(uri)}: expected sha256 {sha256}, got {got}")
        if not is_here:
            write_whole(LocalFileSystem(), str(file), content)
    except STORE_ERRORS as error:
        raise store_error(f"{redact(uri)}: cannot be read", error) from error
    return file


def describe(error: Exception) -> str:
    """Return an exception as one line without secrets."""
    lines = str(error).strip().splitlines()
    if lines == ["None"] and isinstance(error.__cause__, Exception):
        return describe(error.__cause__)  # some stores keep the reason only there
    return redact(
        f"{type(error).__name__}: {lines[0].rstrip(':')}" if lines else type(error).__name__
    )


def is_transient(content: bytes | Exception) -> bool:
    """Return whether fetching failed in a way that passes: a store that is busy, away or slow."""
    if isinstance(content, bytes):
        return False
    causes = list(_causes(content))
    if any(isinstance(cause, TRANSIENT_ERRORS) or _is_lost_connection(cause) for cause in causes):
        return True
    if any(s3_code(cause) in TRANSIENT_S3_CODES for cause in causes):
        return True
    for status in (_http_status(cause) for cause in causes):
        if status is not None:
            return status in TRANSIENT_STATUSES or (
                status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED
            )
    return any(getattr(cause, "errno", None) in TRANSIENT_ERRNOS for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status in an exception of botocore, aiohttp or Google's driver."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    for name in ("status", "code"):  # in this order: reading aiohttp's code gives a warning
        if isinstance(getattr(error, name, None), int):
            return int(getattr(error, name))
    return None


def s3_code(error: BaseException | None) -> str:
    """Return S3's name for an error, such as "SlowDown"; "" if it has none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether aiohttp lost a connection, or could not connect to a host that exists."""
    return isinstance(error, (ClientConnectionError, ClientPayloadError)) and not isinstance(
        error, ClientConnectorDNSError
    )


def store_error(what: str, error: Exception) -> ContractError | FaultError:
    """Return what to raise when a store fails: a fault if it may work later.

    Args:
        what: the setting or the URI, without secrets, and what cannot be done.
        error: one of STORE_ERRORS, or Arrow's.
    """
    kind = FaultError if is_transient(error) else ContractError
    return kind(f"{what}: {describe(error)}")
